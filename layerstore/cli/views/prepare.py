"""The command prepare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import settings_of
from layerstore.cli.failure import tell_all
from layerstore.cli.output import write_line

if TYPE_CHECKING:
    from layerstore.progress import Progress
    from layerstore.store.store import Store

_Images = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names or ids.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("prepare")(prepare)


def prepare(context: typer.Context, images: _Images) -> None:
    """Unpack what images need for their first start or mount, which then is as quick as any.

    Their files lie on the disk a second time until nothing needed them for a week, and gc
    removes them then. Needs root, for whom the kernel shows images; others need nothing of it.
    """
    from layerstore.cli.progress import terminal_progress
    from layerstore.errors import LayerstoreError

    failures: list[LayerstoreError] = []
    with settings_of(context).open_store() as store, terminal_progress() as progress:
        for image in images:
            try:
                _prepare(store, image, progress)
            except LayerstoreError as err:
                failures.append(err)
            else:
                write_line(f"Prepared: {image}")
    tell_all(failures)


def _prepare(store: Store, reference: str, progress: Progress) -> None:
    from fuse_mount import kernel_lowers

    image = store.resolve(reference)
    with store.begin(f"prepare {reference}") as session:
        session.hold_images([image.image_id])
        kernel_lowers.prepare(store, image.layers, progress)
