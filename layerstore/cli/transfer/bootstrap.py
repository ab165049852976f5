"""The command bootstrap: Debian's base images, made from packages."""

from __future__ import annotations

from typing import Annotated

import typer

from layerstore.cli.clock import now_rfc3339
from layerstore.cli.common import Json, Quiet, settings_of
from layerstore.cli.output import write_note
from layerstore.cli.progress import terminal_progress
from layerstore.cli.transfer.importing import full_names, tell_new_image
from layerstore.cli.warm import fresh_images

_Names = Annotated[
    list[str] | None,
    typer.Option("--tag", "-t", metavar="NAME", help="Name of the image; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bootstrap")(bootstrap_base)


def bootstrap_base(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="debian:SUITE", help="For example debian:bookworm.")
    ],
    *,
    names: _Names = None,
    variant: Annotated[
        str, typer.Option(metavar="NAME", help="mmdebstrap's package set.")
    ] = "minbase",
    include: Annotated[
        str, typer.Option(metavar="PKG,PKG", help="Packages on top, separated by commas.")
    ] = "",
    mirror: Annotated[
        str, typer.Option(metavar="URL", help="Where from; by default as mmdebstrap decides.")
    ] = "",
    components: Annotated[
        str, typer.Option(metavar="NAME,NAME", help="Components of the archive.")
    ] = "main",
    force: Annotated[
        bool, typer.Option("--force", "--pull", help="Make it again if the name is taken.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make a Debian base image from packages."""
    from layerstore.image.bootstrap import BootstrapSpec, bootstrap

    spec = BootstrapSpec(
        source=source,
        variant=variant,
        include=_comma_list(include),
        mirror=mirror,
        components=_comma_list(components),
    )
    created = now_rfc3339()
    settings = settings_of(context)
    with (
        settings.open_store(create=True) as store,
        terminal_progress(quiet=quiet) as progress,
    ):
        result = bootstrap(
            store,
            spec,
            created=created,
            names=full_names(names),
            replace=force,
            progress=progress,
        )
    if result.stats is None:
        write_note(f"{result.names[0]} exists and is kept; --force makes it again")
    tell_new_image(result.image, result.stats, result.names, quiet=quiet, as_json=as_json)
    if result.stats is not None:
        fresh_images.tell(settings.root, [result.image.image_id])


def _comma_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
