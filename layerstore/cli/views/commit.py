"""What was written into views and containers: commit, and what diff lists of one."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, Quiet, settings_of
from layerstore.cli.output import write_note
from layerstore.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fuse_mount.committing import Written
    from layerstore.formats.oci_config import ContainerConfig

_View = Annotated[
    str, typer.Argument(metavar="VIEW", help="Directory or id of a writable view, or a container.")
]


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("commit")(commit)


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
    """Make an image of what was written into a view or a container: a layer over its image."""
    from fuse_mount.committing import CommitSpec
    from fuse_mount.committing import commit as make_image
    from layerstore.cli.clock import now_rfc3339
    from layerstore.cli.progress import terminal_progress
    from layerstore.cli.rootless.containers_namespace import join_for
    from layerstore.cli.transfer.importing import full_names, tell_new_image
    from layerstore.cli.warm import fresh_images

    spec = CommitSpec(
        names=full_names([*([name] if name is not None else []), *(names or ())]),
        message=message,
        author=author,
        created=now_rfc3339(),
        configure=lambda config: _configured(config, changes or ()),
    )
    settings = settings_of(context)
    if "/" not in view:
        join_for(settings)
    with settings.open_store() as store, terminal_progress(quiet=quiet) as progress:
        made = make_image(store, written(settings.root, view), spec, progress=progress)
    for path, why in made.skipped:
        write_note(f"not in the image: /{os.fsdecode(path)} ({why})")
    tell_new_image(made.image, made.stats, spec.names, quiet=quiet, as_json=as_json)
    fresh_images.tell(settings.root, [made.image.image_id])


def written(root: str, word: str) -> Written:
    """Return what was written into the view or the container that is meant.

    Raises:
        NotFoundError: Neither is there.
    """
    from fuse_mount.committing import written_in_view
    from fuse_mount.mounts import find_view

    if "/" not in word and os.path.isdir(f"{root}/containers"):
        from layerstore.containers.records import find
        from layerstore.containers.written import written_in_container

        with contextlib.suppress(NotFoundError):
            return written_in_container(root, find(root, word))
    return written_in_view(find_view(root, word))


def _configured(config: ContainerConfig, changes: Sequence[str]) -> ContainerConfig:
    if not changes:
        return config
    from layerstore.cli.parsing.changes import apply_changes

    return apply_changes(changes, config)
