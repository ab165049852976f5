"""Dockerfile text to instructions: pure passes, no I/O."""
