"""The diff command: what was written into a view or a container, or what two images differ in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, settings_of
from layerstore.cli.output import write_json, write_line
from layerstore.cli.views.commit import written
from layerstore.errors import InputError, LayerstoreError, NotFoundError

if TYPE_CHECKING:
    from layerstore.store.store import Store

ROWS_SHOWN = 20
"""Rows of a table when nobody said how many."""

EXIT_DIFFERENT = 1
"""As of diff(1) and ``git diff --exit-code``."""


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("diff")(diff)


def diff(
    context: typer.Context,
    first: Annotated[
        str,
        typer.Argument(
            metavar="VIEW|IMAGE",
            help="Directory or id of a writable view, or a container; with a second word an image.",
        ),
    ],
    second: Annotated[
        str | None, typer.Argument(metavar="[IMAGE]", help="The image to compare with.")
    ] = None,
    *,
    packages: Annotated[
        bool, typer.Option("--packages", help="Of images: packages and their versions alone.")
    ] = False,
    files: Annotated[bool, typer.Option("--files", help="Of images: files alone.")] = False,
    times: Annotated[
        bool, typer.Option("--times", help="Of images: list what differs in its time only, too.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help=f"At most so many rows of each kind, 0 for all; {ROWS_SHOWN} in tables.",
        ),
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Of images: exit with 1 if anything is listed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List what was written into a view or a container, or what two images have differently.

    One word: A added, C changed, D deleted. Two images: config, packages, files, largest change
    first, and the bytes that a host with the first one lacks of the second.
    """
    if second is None:
        if packages or files or times or exit_code or limit is not None:
            raise InputError(
                "these options compare two images, and one was named",
                hint="layerstore diff OLD_IMAGE NEW_IMAGE",
            )
        _diff_view(context, first, as_json=as_json)
        return
    from layerstore.cli.measure.diff_report import diff_to_json, print_diff
    from layerstore.measure.image_diff import diff_images

    both = packages == files
    with settings_of(context).open_store() as store:
        old, new = store.resolve(first), store.resolve(second)
        found = diff_images(store, old, new, packages=packages or both)
    of_time = 0 if times else sum(each.is_of_time for each in found.files)
    if of_time:
        found = found._replace(files=[each for each in found.files if not each.is_of_time])
    if not both:
        # What is asked for alone is listed alone, and is what the exit code is about.
        found = found._replace(config=[], files=found.files if files else [])
    if as_json:
        write_json(diff_to_json(found, limit or None))
    else:
        rows = ROWS_SHOWN if limit is None else limit
        print_diff(found, (first, second), rows or None, of_time=of_time if both or files else 0)
    if exit_code and not found.is_empty:
        raise typer.Exit(EXIT_DIFFERENT)


def _diff_view(context: typer.Context, view: str, *, as_json: bool) -> None:
    from fuse_mount.committing import changes_in
    from layerstore.cli.rootless.containers_namespace import join_for

    settings = settings_of(context)
    if "/" not in view:
        join_for(settings)
    with settings.open_store() as store:
        try:
            source = written(settings.root, view)
        except NotFoundError as err:
            if _is_image(store, view):
                raise InputError(
                    f"{view!r} is an image, and to compare it takes another one",
                    hint=f"layerstore diff {view} OTHER_IMAGE",
                ) from err
            raise
        found = changes_in(store, source)
    paths = [(change.kind.value, "/" + os.fsdecode(change.path)) for change in found]
    if as_json:
        write_json([{"kind": kind, "path": path} for kind, path in paths])
        return
    for kind, path in paths:
        write_line(f"{kind} {path}")


def _is_image(store: Store, word: str) -> bool:
    try:
        store.resolve(word)
    except LayerstoreError:
        return False
    return True
