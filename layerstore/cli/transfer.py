"""Commands that bring images in and take them out: import, bootstrap, export, save."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, Quiet, now_rfc3339, resolve_image, settings_of
from layerstore.cli.output import write_json, write_line, write_note
from layerstore.cli.progress import terminal_progress
from layerstore.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.formats.oci_config import ContainerConfig
    from layerstore.image.importing import ImportedImage, ImportSpec
    from layerstore.image.layout import Compression, NamedImage
    from layerstore.progress import Progress
    from layerstore.store.catalog import ImageRecord
    from layerstore.store.session import SessionStats
    from layerstore.store.store import Store

STDIO = "-"
COMPRESSIONS = ("gzip", "zstd", "none")

_Names = Annotated[
    list[str] | None,
    typer.Option("--tag", "-t", metavar="NAME", help="Name of the image; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("import")(import_rootfs)
    app.command("bootstrap")(bootstrap_base)
    app.command("export")(export)
    app.command("save")(save)


def import_rootfs(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|DIR|-",
            help="A tar (gzip, zstd, xz, bzip2 or plain), a directory, or stdin.",
        ),
    ],
    *,
    names: _Names = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--change",
            "-c",
            metavar="INSTRUCTION",
            help="Dockerfile instruction, such as 'CMD [\"bash\"]'; may be repeated.",
        ),
    ] = None,
    message: Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="Comment for the history.")
    ] = "",
    reread: Annotated[
        bool,
        typer.Option(
            "--reread",
            help="Read every file, even if the directory did not change since last time.",
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Make an image from a root file system."""
    from layerstore.image.importing import ImportSpec

    spec = ImportSpec(
        names=_full_names(names),
        config=_config_of(changes or ()),
        message=message,
        created=now_rfc3339(),
    )
    if source == STDIO and sys.stdin.isatty():
        raise InputError("stdin is a terminal, expected a tar", hint="layerstore import - < FILE")
    _refuse_missing(source)
    with (
        settings_of(context).open_store(create=True) as store,
        terminal_progress(quiet=quiet) as progress,
    ):
        image, stats = _import_from(store, source, spec, progress, reread=reread)
    _tell_new_image(image, stats, spec.names, quiet=quiet, as_json=as_json)


def _config_of(changes: Sequence[str]) -> ContainerConfig:
    from layerstore.formats.oci_config import ContainerConfig

    if not changes:
        return ContainerConfig()
    # The builder's parser costs 20 ms to import: only who uses it pays.
    from layerstore.cli.changes import apply_changes

    return apply_changes(changes)


def _refuse_missing(source: str) -> None:
    """Refuse a source that is not there before a store is made for it."""
    if source != STDIO and not os.path.exists(source):
        raise NotFoundError(f"{source} does not exist", hint="name a tar, a directory, or -")


def _import_from(
    store: Store, source: str, spec: ImportSpec, progress: Progress, *, reread: bool
) -> ImportedImage:
    from layerstore.image.importing import import_directory, import_tar

    if source == STDIO:
        return import_tar(store, sys.stdin.buffer, STDIO, spec, progress=progress)
    if os.path.isdir(source):
        return import_directory(
            store,
            Path(source),
            spec,
            progress=progress,
            on_skip=_tell_skipped,
            reread=reread,
        )
    with open(source, "rb") as stream:
        return import_tar(store, stream, os.path.basename(source), spec, progress=progress)


def _tell_skipped(path: bytes, why: str) -> None:
    write_note(f"skipped {os.fsdecode(path)}: {why}")


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
    with (
        settings_of(context).open_store(create=True) as store,
        terminal_progress(quiet=quiet) as progress,
    ):
        result = bootstrap(
            store,
            spec,
            created=created,
            names=_full_names(names),
            replace=force,
            progress=progress,
        )
    if result.stats is None:
        write_note(f"{result.names[0]} exists and is kept; --force makes it again")
    _tell_new_image(result.image, result.stats, result.names, quiet=quiet, as_json=as_json)


def export(
    context: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="The tar to write; - for stdout.")
    ] = STDIO,
) -> None:
    """Write an image's root file system as one tar."""
    from layerstore.cli.outfile import output_stream
    from layerstore.image.export_layer import export_rootfs
    from layerstore.store.usage import note_image_use

    with settings_of(context).open_store() as store:
        found = resolve_image(store, image)
        note_image_use(store.paths, found.image_id)
        with output_stream(output) as stream:
            export_rootfs(store, found.layers, stream)


def save(
    context: typer.Context,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names or ids.")],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR|FILE.tar",
            help="OCI layout to write or add to, or an archive of one.",
        ),
    ],
    *,
    compression: Annotated[
        str, typer.Option(metavar="|".join(COMPRESSIONS), help="Of the layers.")
    ] = "gzip",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write images as an OCI image layout."""
    from layerstore.image.layout import save_oci_archive, save_oci_layout

    chosen = _compression(compression)
    is_archive = output.endswith(".tar")
    write = save_oci_archive if is_archive else save_oci_layout
    with (
        settings_of(context).open_store() as store,
        terminal_progress(quiet=quiet) as progress,
    ):
        named = [_named(store, image) for image in images]
        report = write(store, named, Path(output), compression=chosen, progress=progress)
    transport = "oci-archive" if is_archive else "oci"
    places = [
        f"{transport}:{output}" + (f":{reference}" if reference else "")
        for reference in report.references
    ]
    if as_json:
        write_json({"index_digest": report.index_digest, "images": places})
    elif not quiet:
        for place in places:
            write_line(place)


def _named(store: Store, text: str) -> NamedImage:
    """Return an image with the name to save it under: the one it was asked for by, or its first."""
    from layerstore.image.layout import NamedImage
    from layerstore.image.reference import lookup_form
    from layerstore.store.usage import note_image_use

    image = resolve_image(store, text)
    note_image_use(store.paths, image.image_id)
    names = [name for name, image_id in store.tags().items() if image_id == image.image_id]
    form = lookup_form(text)
    return NamedImage(form if form in names else names[0] if names else None, image)


def _compression(text: str) -> Compression:
    match text:
        case "gzip" | "zstd" | "none":
            return text
        case _:
            raise InputError(
                f"{text!r} is not a compression", hint="one of " + ", ".join(COMPRESSIONS)
            )


def _comma_list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _full_names(names: list[str] | None) -> tuple[str, ...]:
    from layerstore.image.reference import parse_tag_name

    return tuple(parse_tag_name(name) for name in names or ())


def _tell_new_image(
    image: ImageRecord,
    stats: SessionStats | None,
    names: tuple[str, ...],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    from layerstore.units import format_size

    if as_json:
        sizes = stats._asdict() if stats else {}
        write_json({"id": image.image_id, "names": list(names), "size": image.size, **sizes})
        return
    write_line(image.image_id)
    if quiet or stats is None:
        return
    what = ", ".join(names) or "an image without a name (the next gc removes it)"
    write_note(
        f"{what}: {format_size(image.size)} of files, "
        f"{format_size(stats.new_bytes)} new here, {format_size(stats.stored_bytes)} on disk"
    )
    if stats.healed_chunks:
        write_note(f"{stats.healed_chunks} chunks were damaged in the store and are whole again")
