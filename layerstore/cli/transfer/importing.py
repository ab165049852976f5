"""The command ``import``, without typer, which costs half of importing an unchanged directory.

Its options are declared in :mod:`layerstore.cli.fast`. Also what ``bootstrap`` shares with it.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.cli.clock import now_rfc3339
from layerstore.cli.collector import collect_rarely
from layerstore.cli.output import write_json, write_line, write_note
from layerstore.cli.progress import terminal_progress
from layerstore.cli.warm import fresh_images
from layerstore.errors import FormatError, InputError, NotFoundError, UnsafeContentError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from layerstore.formats.oci_config import ContainerConfig
    from layerstore.image.importing import ImportedImage, ImportSpec
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.putting import SessionStats

STDIO = "-"


def import_rootfs(options: argparse.Namespace, root: str) -> int:
    """Make an image from a root file system, as the command line says."""
    from layerstore.image.importing import ImportSpec
    from layerstore.store.store import Store

    collect_rarely()
    source: str = options.source
    as_json = options.format == "json"
    spec = ImportSpec(
        names=full_names([*(options.tag or ()), *filter(None, [options.name])]),
        config=_config_of(options.change or ()),
        message=options.message,
        created=now_rfc3339(),
        platform=None if options.platform is None else _platform(options.platform),
    )
    if source == STDIO and sys.stdin.isatty():
        raise InputError("stdin is a terminal, expected a tar", hint="layerstore import - < FILE")
    _refuse_missing(source)
    with (
        Store.open(root, create=True) as store,
        terminal_progress(quiet=options.quiet) as progress,
    ):
        image, stats = _import_from(store, source, spec, progress, reread=options.reread)
    tell_new_image(image, stats, spec.names, quiet=options.quiet, as_json=as_json)
    fresh_images.tell(root, [image.image_id])
    return 0


def _config_of(changes: Sequence[str]) -> ContainerConfig:
    from layerstore.formats.oci_config import ContainerConfig

    if not changes:
        return ContainerConfig()
    # The builder's parser costs 20 ms to import: only who uses it pays.
    from layerstore.cli.parsing.changes import apply_changes

    return apply_changes(changes)


def _platform(word: str) -> tuple[str, str]:
    """Return architecture and variant of what an image is for; its system is Linux."""
    from layerstore.build.platforms import native_platform, platform_of

    found = platform_of(word, native_platform())
    if found.os != "linux":
        raise InputError(f"--platform {word}: images are made for Linux here", hint="linux/arm64")
    return found.architecture, found.variant


@contextlib.contextmanager
def told_of(source: str) -> Iterator[None]:
    """Say in errors about what is in a file which file it was."""
    try:
        yield
    except (FormatError, UnsafeContentError) as err:
        name = "stdin" if source == STDIO else source
        if name not in err.message:
            err.message = f"{name}: {err.message}"
        raise


def _refuse_missing(source: str) -> None:
    """Refuse a source that is not there before a store is made for it."""
    if source != STDIO and not os.path.exists(source):
        raise NotFoundError(f"{source} does not exist", hint="name a tar, a directory, or -")


def _import_from(
    store: Store, source: str, spec: ImportSpec, progress: Progress, *, reread: bool
) -> ImportedImage:
    from layerstore.image.importing import import_directory, import_tar

    if source == STDIO:
        with told_of(source):
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
    with open(source, "rb") as stream, told_of(source):
        return import_tar(store, stream, os.path.basename(source), spec, progress=progress)


def _tell_skipped(path: bytes, why: str) -> None:
    write_note(f"skipped {os.fsdecode(path)}: {why}")


def full_names(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return names for a new image as the store keeps them.

    Raises:
        InputError: One is not a name with a tag.
    """
    from layerstore.formats.reference import parse_tag_name

    return tuple(parse_tag_name(name) for name in names or ())


def tell_new_image(
    image: ImageRecord,
    stats: SessionStats | None,
    names: tuple[str, ...],
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Print an image that a command made, and what it cost the store."""
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
