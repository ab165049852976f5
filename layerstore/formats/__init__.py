"""Pure translations between bytes and frozen values; no I/O, no store."""
