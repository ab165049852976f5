"""Commands about what was written into views: commit and diff."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, Quiet, settings_of
from layerstore.cli.output import write_json, write_line, write_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.formats.oci_config import ContainerConfig

_View = Annotated[str, typer.Argument(metavar="VIEW", help="Directory or id of a writable view.")]


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("commit")(commit)
    app.command("diff")(diff)


def commit(
    context: typer.Context,
    view: _View,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Name of the image, as with --tag.")
    ] = None,
    *,
    names: Annotated[
        list[str] | None,
        typer.Option("--tag", "-t", metavar="NAME", help="Name of the image; may be repeated."),
    ] = None,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="Comment for the history.")
    ] = "",
    author: Annotated[
        str, typer.Option("--author", "-a", metavar="WHO", help="Author of the image.")
    ] = "",
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--change",
            "-c",
            metavar="INSTRUCTION",
            help="Dockerfile instruction, such as 'CMD [\"bash\"]'; may be repeated.",
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make an image of a writable view: what was written becomes a layer over its image."""
    from fuse_mount.committing import CommitSpec, commit_view
    from fuse_mount.mounts import find_view
    from layerstore.cli.clock import now_rfc3339
    from layerstore.cli.importing import full_names, tell_new_image
    from layerstore.cli.progress import terminal_progress

    spec = CommitSpec(
        names=full_names([*([name] if name is not None else []), *(names or ())]),
        message=message,
        author=author,
        created=now_rfc3339(),
        configure=lambda config: _configured(config, changes or ()),
    )
    settings = settings_of(context)
    with settings.open_store() as store, terminal_progress(quiet=quiet) as progress:
        made = commit_view(store, find_view(settings.root, view), spec, progress=progress)
    for path, why in made.skipped:
        write_note(f"not in the image: /{os.fsdecode(path)} ({why})")
    tell_new_image(made.image, made.stats, spec.names, quiet=quiet, as_json=as_json)


def _configured(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    if not changes:
        return config
    from layerstore.cli.changes import apply_changes

    return apply_changes(changes, config)


def diff(context: typer.Context, view: _View, *, as_json: Json = False) -> None:
    """List what was written into a view: A for added, C for changed, D for deleted."""
    from fuse_mount.committing import view_changes
    from fuse_mount.mounts import find_view

    settings = settings_of(context)
    with settings.open_store() as store:
        found = view_changes(store, find_view(settings.root, view))
    paths = [(change.kind.value, "/" + os.fsdecode(change.path)) for change in found]
    if as_json:
        write_json([{"kind": kind, "path": path} for kind, path in paths])
        return
    for kind, path in paths:
        write_line(f"{kind} {path}")
