"""The commands pin and unpin."""

from __future__ import annotations

from typing import Annotated

import typer

from layerstore.cli.common import settings_of
from layerstore.cli.failure import tell_all
from layerstore.cli.output import write_line

_Images = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names or ids.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("pin")(pin)
    app.command("unpin")(unpin)


def pin(context: typer.Context, images: _Images) -> None:
    """Keep names or images from every rule of gc, and from rm without --force.

    A name stays pinned when it moves to another image; an id pins that image,
    named or not.
    """
    _each(context, images, pinned=True)


def unpin(context: typer.Context, images: _Images) -> None:
    """Take pins away."""
    _each(context, images, pinned=False)


def _each(context: typer.Context, images: list[str], *, pinned: bool) -> None:
    from layerstore.errors import LayerstoreError

    failures: list[LayerstoreError] = []
    with settings_of(context).open_store() as store:
        for image in images:
            try:
                target = store.pin(image) if pinned else store.unpin(image)
            except LayerstoreError as err:
                failures.append(err)
            else:
                write_line(f"{'Pinned' if pinned else 'Unpinned'}: {target}")
    tell_all(failures)
