"""Reads through every way to show one root file system, here and by others, interleaved."""
