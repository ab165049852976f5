"""The commands that look and count: df, savings, fleet, waste, find, diff, suggest."""
