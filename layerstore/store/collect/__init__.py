"""Garbage collection: what must be kept, what may go, and how it goes."""
