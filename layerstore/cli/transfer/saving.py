"""Commands that take images out: export and save."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from layerstore.cli.common import Json, Quiet, settings_of
from layerstore.cli.output import write_json, write_line, write_note
from layerstore.cli.progress import terminal_progress
from layerstore.cli.transfer.engines import EngineHost  # noqa: TC001 - typer reads it
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.digest import Digest
    from layerstore.image.exchange.blob_files import Compression
    from layerstore.image.exchange.sending import Policy
    from layerstore.image.layouts.layout import NamedImage, SaveReport
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

STDIO = "-"
FORMS = ("original", "gzip", "zstd", "none")
FORMATS = ("docker-archive", "oci-archive", "oci-dir")
_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.zstd")
"""How names of archives end that are compressed as a whole."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("export")(export)
    app.command("save")(save)


def export(
    context: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.")],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR/|-",
            help="The tar to write, or a directory that is new or empty; - for stdout.",
        ),
    ] = STDIO,
    *,
    compression: Annotated[
        str,
        typer.Option(metavar="gzip|zstd|none", help="Of the tar; by default as its name says."),
    ] = "",
) -> None:
    """Write an image's root file system as one tar, or into a directory.

    As root a directory gets owners, all modes, attributes and devices of the image.
    """
    from layerstore.cli.outfile import output_stream
    from layerstore.image.trees.export_layer import export_rootfs
    from layerstore.store.names.usage import note_image_use

    is_directory = output.endswith("/") or os.path.isdir(output)
    if is_directory and compression:
        raise InputError("a directory is not compressed", hint="name a file")
    packing = _packing(compression, output)
    with settings_of(context).open_store() as store:
        found = store.resolve(image)
        note_image_use(store.paths, found.image_id)
        if is_directory:
            _export_directory(store, found, Path(output))
            return
        with output_stream(output) as stream:
            if packing == "none":
                export_rootfs(store, found.layers, stream)
                return
            from layerstore.image.exchange.blob_files import CompressedStream

            packed = CompressedStream(stream, packing)
            export_rootfs(store, found.layers, cast("BinaryIO", packed))
            packed.finish()


def _packing(compression: str, output: str) -> Compression:
    match compression:
        case "" if output.endswith((".gz", ".tgz")):
            return "gzip"
        case "" if output.endswith((".zst", ".zstd")):
            return "zstd"
        case "" | "none":
            return "none"
        case "gzip" | "zstd":
            return compression
        case _:
            raise InputError(f"{compression!r} is not a compression", hint="gzip, zstd or none")


def _export_directory(store: Store, image: ImageRecord, out: Path) -> None:
    from layerstore.image.checkout import checkout, export_directory
    from layerstore.image.trees.stack import load_root

    root = load_root(store, image.layers)
    if os.geteuid() == 0:
        export_directory(store, root, out)
        return
    skipped: list[bytes] = []
    checkout(store, root, out, on_skip=lambda path, _why: skipped.append(path))
    write_note("owners, set-user-ID bits and attributes are kept for root alone")
    if skipped:
        write_note(f"{len(skipped)} devices and fifos are left out, for root alone may make them")


def save(
    context: typer.Context,
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Names or ids.")],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR|-",
            help="An archive to write, compressed as its name says, an OCI layout to write or add "
            "to, or stdout; with --since or --have a bundle.",
        ),
    ] = STDIO,
    *,
    engine: Annotated[
        str | None,
        typer.Option("--to", metavar="docker|podman", help="Give images to a running engine."),
    ] = None,
    host: EngineHost = None,
    since: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGE",
            help="Write a bundle of only what somebody lacks who has this image; repeatable.",
        ),
    ] = None,
    have: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="The same for what 'layerstore have' wrote there."),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option("--compression-level", metavar="N", help="Of a bundle, 1 to 22; else 19."),
    ] = None,
    archive_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="|".join(FORMATS),
            help="By default docker-archive for stdout and files, oci-dir for directories and "
            "for new names that do not end in .tar, .tar.gz, .tgz or .tar.zst.",
        ),
    ] = "",
    compression: Annotated[
        str,
        typer.Option(
            metavar="|".join(FORMS),
            help="Of the layers; original: as they came where that is known, else gzip, or none "
            "in a docker-archive.",
        ),
    ] = "original",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write images as an archive, an OCI layout or a bundle, or give them to docker or podman."""
    if engine is not None or host is not None:
        if output != STDIO or since or have is not None:
            raise InputError("--to excludes --output, --since and --have")
        from layerstore.cli.transfer.engines import save_to_engine

        with settings_of(context).open_store() as store:
            save_to_engine(store, engine, host, images, quiet=quiet, as_json=as_json)
        return
    if since or have is not None:
        from layerstore.cli.transfer.bundles import save_as_bundle

        with settings_of(context).open_store() as store:
            save_as_bundle(
                store,
                [_named(store, image) for image in images],
                output,
                since=since or (),
                have_list=have,
                level=level,
                quiet=quiet,
                as_json=as_json,
            )
        return
    chosen = _format(archive_format, output)
    policy = _policy(compression, chosen)
    if output == STDIO and as_json:
        raise InputError("the archive goes to stdout, and so would the JSON", hint="name a file")
    with (
        settings_of(context).open_store() as store,
        terminal_progress(quiet=quiet) as progress,
    ):
        named = [_named(store, image) for image in images]
        policy = policy._replace(prefer=_digests_in(images))
        report = _write(store, named, output, chosen, policy, progress)
    if output == STDIO:
        return
    places = [_place(chosen, output, *each) for each in zip(named, report.references, strict=True)]
    if as_json:
        digests = [each.digest for each in report.descriptors]
        write_json({"index_digest": report.index_digest, "images": places, "digests": digests})
    elif not quiet:
        for place in places:
            write_line(place)


def _write(
    store: Store,
    images: list[NamedImage],
    output: str,
    chosen: str,
    policy: Policy,
    progress: Progress,
) -> SaveReport:
    from layerstore.cli.outfile import output_stream
    from layerstore.image.layouts.layout import save_layout, writing
    from layerstore.image.layouts.layout_archive import save_archive

    if chosen == "oci-dir":
        return save_layout(store, images, Path(output), policy, progress=progress)
    for_docker = chosen == "docker-archive"
    with (
        contextlib.nullcontext() if output == STDIO else writing(Path(output)),
        output_stream(output) as stream,
        _packed(stream, output) as archive,
    ):
        return save_archive(
            store, images, archive, policy, for_docker=for_docker, progress=progress
        )


@contextlib.contextmanager
def _packed(stream: BinaryIO, output: str) -> Iterator[BinaryIO]:
    """Give what a whole archive is written to: compressed, if its name says so."""
    packing = _packing("", output)
    if packing == "none":
        yield stream
        return
    from layerstore.image.exchange.blob_files import CompressedStream

    packed = CompressedStream(stream, packing)
    yield cast("BinaryIO", packed)
    packed.finish()


def _format(text: str, output: str) -> str:
    """Return the format that is asked for, or what users of docker expect of such a name."""
    if not text:
        is_packed = output.endswith(_PACKED) and not os.path.isdir(output)
        is_file = output.endswith(".tar") or is_packed or os.path.isfile(output)
        return "docker-archive" if output == STDIO or is_file else "oci-dir"
    if text not in FORMATS:
        raise InputError(f"{text!r} is no format of archives", hint="one of " + ", ".join(FORMATS))
    if text == "oci-dir" and output == STDIO:
        raise InputError("a directory cannot be written to stdout", hint="name one with --output")
    return text


def _policy(compression: str, chosen: str) -> Policy:
    from layerstore.image.exchange.sending import Policy

    match compression:
        case "original" if chosen == "docker-archive":
            return Policy("original", "none", takes_zstd=False)
        case "original":
            return Policy()
        case "gzip" | "zstd" | "none":
            return Policy(compression, compression)
        case _:
            raise InputError(
                f"{compression!r} is not a compression", hint="one of " + ", ".join(FORMS)
            )


def _digests_in(references: list[str]) -> frozenset[Digest]:
    """Return the digests that images are asked for by: they leave under these if they can."""
    from layerstore.formats.reference import is_id, lookup_form, parse_reference

    forms = [lookup_form(text) for text in references]
    return frozenset(
        digest
        for form in forms
        if not is_id(form) and (digest := parse_reference(form).digest) is not None
    )


def _place(chosen: str, output: str, image: NamedImage, reference: str | None) -> str:
    """Return what skopeo calls a saved image."""
    if chosen == "docker-archive":
        return f"docker-archive:{output}" + (f":{image.name}" if image.name else "")
    transport = "oci" if chosen == "oci-dir" else "oci-archive"
    return f"{transport}:{output}" + (f":{reference}" if reference else "")


def _named(store: Store, text: str) -> NamedImage:
    """Return an image with the name to save it under: the one it was asked for by, or its first."""
    from layerstore.formats.reference import is_digest_name, lookup_form
    from layerstore.image.exchange.indexes import find_index
    from layerstore.image.layouts.layout import NamedImage
    from layerstore.store.names.usage import note_image_use

    image = store.resolve(text)
    note_image_use(store.paths, image.image_id)
    names = [
        name
        for name, image_id in store.tags().items()
        if image_id == image.image_id and not is_digest_name(name)
    ]
    form = lookup_form(text)
    index = find_index(store, text)
    if index is not None:
        return NamedImage(index.name, image, stored_index=index)
    return NamedImage(form if form in names else names[0] if names else None, image)
