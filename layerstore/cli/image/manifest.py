"""``manifest``: indexes of several images made, extended and shown, in podman's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import settings_of
from layerstore.cli.output import write_line
from layerstore.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.image.exchange.exchange import Document
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store


_INSTEAD = {
    "annotate": "what an image is for stands in its config: layerstore build --platform",
    "exists": "layerstore manifest inspect NAME >/dev/null, whose status tells",
    "push": "layerstore push NAME, which takes all that the name means",
    "remove": "layerstore manifest create NAME IMAGE..., with those that stay",
    "rm": "layerstore rm NAME",
}
"""What does the like of docker's and podman's other verbs."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("manifest")(manifest)


def manifest(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(metavar="create|add|inspect", help="What to do.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the index.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE...]", help="create, add: images of the store, one for each platform."
        ),
    ] = None,
) -> None:
    """Make an index of images of the store, add images to one, or print one.

    The name then means all of them for push, save, tag and rm, and where one image is asked for
    that of this host. An image in it that is an index itself counts as all of its images.
    """
    with settings_of(context).open_store() as store:
        match verb:
            case "create" | "add":
                if not images:
                    raise InputError(f"manifest {verb} takes the images that the index is to have")
                write_line(_make(store, name, images, is_new=verb == "create").digest)
            case "inspect":
                if images:
                    raise InputError("manifest inspect takes one name")
                _inspect(store, name)
            case _:
                hint = _INSTEAD.get(verb, "create, add or inspect")
                raise InputError(f"{verb!r} is no verb of manifest", hint=hint)


def _make(store: Store, name: str, references: Sequence[str], *, is_new: bool) -> Document:
    from layerstore.cli.transfer.copy_images import serving
    from layerstore.formats.reference import parse_tag_name
    from layerstore.image.exchange.indexes import find_index, make_index

    full_name = parse_tag_name(name)
    before = None if is_new else find_index(store, full_name)
    if before is None and not is_new:
        raise NotFoundError(
            f"{full_name} means no index", hint=f"layerstore manifest create {name} IMAGE..."
        )
    images: list[ImageRecord] = []
    for reference in references:
        index = find_index(store, reference)
        images += index.images.values() if index else [store.resolve(reference)]
    with store.begin("manifest") as session:
        session.hold_images([image.image_id for image in images])
        return make_index(store, [full_name], images, serving(""), like=before)


def _inspect(store: Store, name: str) -> None:
    from layerstore.image.exchange.indexes import find_index

    index = find_index(store, name)
    if index is None:
        store.resolve(name)
        raise NotFoundError(
            f"{name} means one image and no index", hint=f"layerstore inspect {name}"
        )
    write_line(index.document.raw.decode())
