"""Deflate exactly as Go's compress/flate makes it, which most tools for containers are built on."""
