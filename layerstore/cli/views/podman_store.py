"""The command that lets podman run images of the store in place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, Quiet, settings_of
from layerstore.cli.output import short_id, write_json, write_line, write_note, write_table
from layerstore.errors import ConflictError, InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.peers.podman_store import Report, Wanted
    from layerstore.store.store import Store


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("podman-store")(podman_store)


def podman_store(
    context: typer.Context,
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="Made if absent; nothing else may be in it.")
    ],
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE...]", help="Names or ids to add.")
    ] = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Show every image that has a name, now and later.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--rm", help="Show these images no more; without any, take all away.")
    ] = False,
    idmap: Annotated[
        list[str] | None,
        typer.Option(
            "--idmap",
            metavar="CONTAINER:HOST:SIZE",
            help="Show owners under other ids: the subordinate ids of a user whose podman is "
            "rootless. Only when DIR is made; may be repeated.",
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option("--for", metavar="USER", help="The same for this user's ids of /etc/subuid."),
    ] = None,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="Of the views, as for mount.")
    ] = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Let podman run images in place: DIR is an additional image store for it.

    Without IMAGE and --all: follow names that moved, and mend what a restart took away.
    """
    from layerstore.cli.progress import terminal_progress
    from layerstore.peers import podman_store as peer

    if user is not None:
        if idmap:
            raise InputError("give either --idmap or --for")
        from fuse_mount.unshare import map_of_rootless

        idmap = [str(mapping) for mapping in map_of_rootless(user)]
    with settings_of(context).open_store() as store, terminal_progress(quiet=quiet) as progress:
        before = peer.read_wanted(directory)
        if remove and not images:
            peer.remove(store, directory)
            return
        wanted = _wanted(before, images or [], idmap, directory, every=every, remove=remove)
        _require_images(store, images or [], remove=remove)
        report = peer.update(
            store,
            directory,
            wanted,
            backend=backend,
            progress=progress,
            tell=lambda became, err: write_note(f"note: shown by {became}: {err.message}"),
        )
    _tell(report, os.path.realpath(directory), is_new=before is None, quiet=quiet, as_json=as_json)


def _wanted(
    before: Wanted | None,
    images: Sequence[str],
    idmap: Sequence[str] | None,
    directory: str,
    *,
    every: bool,
    remove: bool,
) -> Wanted:
    from layerstore.peers.podman_store import Wanted

    if before is None:
        if remove:
            raise NotFoundError(f"{directory} is no image store that layerstore made for podman")
        if not images and not every:
            raise InputError("name images to show, or --all", hint="layerstore images")
        return Wanted(tuple(images), every, tuple(idmap or ()))
    if idmap and tuple(idmap) != before.idmap:
        raise ConflictError(
            f"{directory} shows owners under other ids",
            hint="use another directory, or take it away first: "
            f"layerstore podman-store {directory} --rm",
        )
    if remove:
        unknown = [name for name in images if name not in before.names]
        if unknown:
            shown = "every image (--all)" if before.every else ", ".join(before.names) or "none"
            raise NotFoundError(f"{unknown[0]} was not asked for: {directory} shows {shown}")
        names = tuple(name for name in before.names if name not in images)
        return before._replace(names=names)
    names = tuple(dict.fromkeys([*before.names, *images]))
    return before._replace(names=names, every=every or before.every)


def _require_images(store: Store, images: Sequence[str], *, remove: bool) -> None:
    """Refuse names that are no images before anything is made for the others."""
    for name in images if not remove else ():
        store.resolve(name)


def _tell(report: Report, directory: str, *, is_new: bool, quiet: bool, as_json: bool) -> None:
    for name in report.missing:
        write_note(f"note: {name} is not in the store (any more); it is shown again when it is")
    for image_id in report.busy:
        write_note(f"note: {short_id(image_id)} stays without a name: containers run on it")
    if as_json:
        write_json(
            {
                "directory": directory,
                "images": [image._asdict() for image in report.shown],
                "missing": list(report.missing),
                "backends": list(report.backends),
            }
        )
    elif quiet:
        for image in report.shown:
            write_line(image.image_id)
    else:
        write_table(
            ["NAME", "IMAGE ID", "LAYERS"],
            [
                [name, short_id(image.image_id), str(len(image.layers))]
                for image in report.shown
                for name in image.names or ("<none>",)
            ],
        )
    if is_new and not quiet:
        write_note(f"podman --storage-opt additionalimagestore={directory} images")
