"""containerd's snapshots service: its definition, and the modules that ``make protos`` generates.

The generated modules are not ours to format or to type: ruff and mypy pass over them, and
their ``.pyi`` twins tell mypy what they hold.
"""
