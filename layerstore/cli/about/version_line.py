"""The line of ``--version``: asked by scripts all the time, so without typer."""

from __future__ import annotations

from layerstore.cli.output import write_line


def write_version() -> None:
    """Print name and version of what is installed."""
    from importlib import metadata

    write_line(f"layerstore {metadata.version('layerstore')}")
