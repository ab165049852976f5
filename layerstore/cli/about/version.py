"""The command version."""

from __future__ import annotations

import typer

from layerstore.cli.about.version_line import write_version
from layerstore.cli.common import Json  # noqa: TC001 -- typer evaluates annotations
from layerstore.cli.output import write_json, write_line


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("version")(version)


def print_version(wanted: bool) -> None:
    """Print the version and end, for ``--version``."""
    if wanted:
        write_version()
        raise typer.Exit


def version(*, as_json: Json = False) -> None:
    """Print versions."""
    import platform
    import sqlite3
    from importlib import metadata

    from layerstore.store.config import FORMAT_VERSION

    versions: dict[str, object] = {
        "layerstore": metadata.version("layerstore"),
        "store_format": FORMAT_VERSION,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "kernel": platform.release(),
    }
    if as_json:
        write_json(versions)
        return
    for name, value in versions.items():
        write_line(f"{name.replace('_', ' ')} {value}")
