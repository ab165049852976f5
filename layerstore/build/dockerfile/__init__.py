"""Dockerfile text to instructions: pure passes, no I/O.

`parser` gives the tree of `syntax`; `expand` applies variables to its instructions.
"""
