"""The life cycle of writable root file systems."""
