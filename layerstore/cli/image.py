"""Commands about images that exist: inspect, history, tag, rm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from layerstore.cli.common import (
    DryRun,
    Json,
    NoTrunc,
    Quiet,
    resolve_image,
    settings_of,
)
from layerstore.cli.failure import tell_all
from layerstore.cli.output import age, short_id, shorten, write_json, write_line, write_table

if TYPE_CHECKING:
    from layerstore.errors import LayerstoreError
    from layerstore.image.images import HistoryRow
    from layerstore.store.catalog import ImageRecord
    from layerstore.store.store import Store

COMMAND_WIDTH = 45
"""Characters of a step's command that docker's table shows."""

_Images = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names or ids.")]


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("inspect")(inspect_images)
    app.command("history")(show_history)
    app.command("tag")(tag)
    app.command("rm")(remove)
    app.command("rmi", hidden=True)(remove)


def inspect_images(context: typer.Context, images: _Images) -> None:
    """Print everything about images, as docker's JSON."""
    from layerstore.image.images import inspect

    with settings_of(context).open_store() as store:
        write_json([inspect(store, resolve_image(store, image)) for image in images])


def show_history(
    context: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.")],
    *,
    no_trunc: NoTrunc = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show the steps that made an image, newest first."""
    from layerstore.image.images import history

    with settings_of(context).open_store() as store:
        rows = history(store, resolve_image(store, image))
    if as_json:
        write_json([_step_to_json(row) for row in rows])
    elif quiet:
        for row in rows:
            write_line(_step_id(row, no_trunc=no_trunc))
    else:
        _print_history(rows, no_trunc=no_trunc)


def _print_history(rows: list[HistoryRow], *, no_trunc: bool) -> None:
    import time

    from layerstore.units import format_size

    now_s = time.time()
    write_table(
        ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"],
        [
            [
                _step_id(row, no_trunc=no_trunc),
                age(row.created, now_s),
                row.created_by if no_trunc else shorten(row.created_by, COMMAND_WIDTH),
                format_size(row.size),
                row.comment,
            ]
            for row in rows
        ],
    )


def _step_id(row: HistoryRow, *, no_trunc: bool) -> str:
    if row.image_id is None:
        return "<missing>"  # docker's word for steps that have no image of their own
    return row.image_id if no_trunc else short_id(row.image_id)


def _step_to_json(row: HistoryRow) -> dict[str, object]:
    return {
        "id": row.image_id,
        "created": row.created,
        "created_by": row.created_by,
        "comment": row.comment,
        "diff_id": row.diff_id,
        "size": row.size,
    }


def tag(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new name, NAME[:TAG].")],
) -> None:
    """Give an image one more name; a name that exists moves."""
    from layerstore.image.reference import parse_tag_name

    full_name = parse_tag_name(name)
    with settings_of(context).open_store() as store:
        store.tag(full_name, resolve_image(store, source).image_id)


def remove(
    context: typer.Context,
    images: _Images,
    *,
    force: Annotated[
        bool,
        typer.Option("--force", "-f", help="Remove all names of an image given by its id."),
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Remove names of images, and images without names.

    The bytes go with the next gc.
    """
    from layerstore.errors import LayerstoreError

    failures: list[LayerstoreError] = []
    with settings_of(context).open_store() as store:
        gone: set[str] = set()
        for reference in images:
            try:
                removal = _plan_removal(store, reference, gone, force=force)
            except LayerstoreError as err:
                failures.append(err)
                continue
            gone.update(removal.names)
            if not dry_run:
                _execute_removal(store, removal)
            for name in removal.names:
                write_line(f"Untagged: {name}")
            if removal.is_last:
                write_line(f"Deleted: {removal.image.image_id}")
        if dry_run:
            _tell_freed(store, gone)
    tell_all(failures)


class _Removal(NamedTuple):
    """Names to take from an image; with the last one the image goes."""

    image: ImageRecord
    names: list[str]
    is_last: bool


def _plan_removal(store: Store, reference: str, gone: set[str], *, force: bool) -> _Removal:
    """Return what removing ``reference`` means once the names in ``gone`` are gone."""
    image = resolve_image(store, reference)
    names = [
        name
        for name, image_id in store.tags().items()
        if image_id == image.image_id and name not in gone
    ]
    doomed = _doomed_names(reference, image, names, force=force)
    is_last = len(doomed) == len(names)
    if is_last:
        _refuse_mounted(store, image)
    return _Removal(image, doomed, is_last)


def _execute_removal(store: Store, removal: _Removal) -> None:
    if removal.is_last:
        store.remove_image(removal.image.image_id)
        return
    for name in removal.names:
        store.untag(name)


def _tell_freed(store: Store, gone: set[str]) -> None:
    """Print what the next gc could free if these names were gone."""
    from layerstore.measure.attribution import attribute
    from layerstore.measure.inventory import take_inventory
    from layerstore.measure.ledger import ChunkReader, freed_by_removing
    from layerstore.units import format_size

    tags = store.tags()
    nameless = {tags[name] for name in gone if name in tags} - {
        image_id for name, image_id in tags.items() if name not in gone
    }
    inventory = take_inventory(store)
    attribution = attribute(inventory, ChunkReader(store, inventory))
    freed = freed_by_removing(inventory, attribution, nameless)
    write_line(f"gc would then free {format_size(freed)} ({freed} bytes) more")


def _doomed_names(
    reference: str, image: ImageRecord, names: list[str], *, force: bool
) -> list[str]:
    """Return the names that removing ``reference`` takes away."""
    from layerstore.errors import ConflictError
    from layerstore.image.reference import lookup_form

    form = lookup_form(reference)
    if form in names or f"{form}:latest" in names:
        return [form if form in names else f"{form}:latest"]
    if len(names) > 1 and not force:
        raise ConflictError(
            f"image {short_id(image.image_id)} has {len(names)} names: {', '.join(names)}",
            hint="remove them by name, or pass --force to remove all of them",
        )
    return names


def _refuse_mounted(store: Store, image: ImageRecord) -> None:
    from fuse_mount.mounts import mounts
    from layerstore.errors import ConflictError

    for view in mounts(str(store.root)):
        if view.record.image_id == image.image_id:
            raise ConflictError(
                f"image {short_id(image.image_id)} is mounted at {view.record.target}",
                hint=f"layerstore umount {view.record.target}",
            )
