"""Commands about images that exist: history, tag, and whether one does."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import (
    Json,
    NoTrunc,
    Quiet,
    settings_of,
)
from layerstore.cli.output import (
    age,
    short_id,
    shorten,
    write_json,
    write_line,
    write_note,
    write_table,
)
from layerstore.errors import LayerstoreError, NotFoundError

if TYPE_CHECKING:
    from layerstore.image.images import HistoryRow
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

_ABSENT = 1
"""podman's status of ``exists``."""

COMMAND_WIDTH = 45
"""Characters of a step's command that docker's table shows."""


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("history")(show_history)
    app.command("tag")(tag)
    app.command("exists", hidden=True)(exists)


def show_history(
    context: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.")],
    *,
    no_trunc: NoTrunc = False,
    quiet: Quiet = False,
    as_json: Json = False,
    template: Annotated[
        str,
        typer.Option(
            "--template",
            metavar="TEMPLATE",
            help="Print so: '{{.CreatedBy}}'; also --format TEMPLATE.",
        ),
    ] = "",
    _human: Annotated[bool, typer.Option("--human", "-H", hidden=True)] = True,
) -> None:
    """Show the steps that made an image, newest first."""
    from layerstore.image.images import history

    is_table = not (as_json or template or quiet)
    with settings_of(context).open_store() as store:
        record = store.resolve(image)
        rows = history(store, record)
        is_told = is_table and _is_dated(store, record)
    if as_json:
        write_json([_step_to_json(row) for row in rows])
    elif template:
        from layerstore.cli.parsing.templates import print_rows

        titles = {"ID": "IMAGE", "CreatedSince": "CREATED"}
        print_rows(template, [_step_fields(row, no_trunc=no_trunc) for row in rows], titles)
    elif quiet:
        for row in rows:
            write_line(_step_id(row, no_trunc=no_trunc))
    else:
        _print_history(rows, no_trunc=no_trunc)
    if is_told:
        write_note(
            "note: these dates were given to the build (SOURCE_DATE_EPOCH); 'layerstore why' says "
            "when the steps ran"
        )


def _is_dated(store: Store, image: ImageRecord) -> bool:
    """Return whether a build that is remembered gave an image's steps a date that it was told."""
    if not os.path.isdir(store.paths.builds):
        return False
    from layerstore.build.why import is_dated

    with contextlib.suppress(LayerstoreError):  # damage elsewhere: the history is whole
        return is_dated(store, image.image_id)
    return False


def _print_history(rows: list[HistoryRow], *, no_trunc: bool) -> None:
    columns = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")
    fields = [_step_fields(row, no_trunc=no_trunc) for row in rows]
    write_table(
        ["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"],
        [[found[column] for column in columns] for found in fields],
    )


def _step_fields(row: HistoryRow, *, no_trunc: bool) -> dict[str, str]:
    """Return what is shown of a step, by docker's names."""
    import time

    from layerstore.units import format_size

    return {
        "ID": _step_id(row, no_trunc=no_trunc),
        "CreatedSince": age(row.created, time.time()),
        "CreatedAt": row.created,
        "CreatedBy": row.created_by if no_trunc else shorten(row.created_by, COMMAND_WIDTH),
        "Size": format_size(row.size),
        "Comment": row.comment,
    }


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
    """Give an image, or an index, one more name; a name that exists moves."""
    from layerstore.formats.reference import parse_tag_name
    from layerstore.image.exchange.indexes import find_index, name_again

    full_name = parse_tag_name(name)
    with settings_of(context).open_store() as store:
        index = find_index(store, source)
        if index is not None:
            name_again(store, index, full_name)
        else:
            store.tag(full_name, store.resolve(source).image_id)


def exists(
    context: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.")],
) -> None:
    """Say by the status whether there is an image: 0, or 1; typed as ``image exists``."""
    try:
        with settings_of(context).open_store() as store:
            store.resolve(image)
    except NotFoundError as err:
        raise typer.Exit(_ABSENT) from err
