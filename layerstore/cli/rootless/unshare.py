"""The unshare command: a namespace in which a user without privileges may mount writable views."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from layerstore.cli.common import settings_of
from layerstore.cli.failure import describe, show


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("unshare", context_settings={"ignore_unknown_options": True})(enter)


def enter(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[COMMAND [ARGUMENT]...]", help="by default your shell"),
    ] = None,
) -> None:
    """Run a command as root in a namespace of your own.

    There, writable views need no privileges. Your subordinate ids (/etc/subuid,
    /etc/subgid) stand for the other users in it. Views of the store that were mounted inside
    end with the command, unless another process uses them.
    """
    from fuse_mount import unshare

    # Inside, the user is root: without this the store would be the system's.
    os.environ["LAYERSTORE_ROOT"] = str(settings_of(context).root)
    status = unshare.run(words or [os.environ.get("SHELL") or "/bin/sh"])
    from fuse_mount.recovering import unmount_all_here

    for failure in unmount_all_here(os.environ["LAYERSTORE_ROOT"]):
        show(describe(failure))  # the exit status is the command's
    raise typer.Exit(status)
