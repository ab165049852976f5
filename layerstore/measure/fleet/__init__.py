"""Many stores at once: what they hold, and what they would hold as one."""
