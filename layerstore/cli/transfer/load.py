"""The command load: images out of an archive or an OCI layout, named as they are there."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, settings_of
from layerstore.cli.output import write_json, write_line, write_note
from layerstore.cli.progress import terminal_progress
from layerstore.cli.transfer.copy_images import Platform, serving
from layerstore.cli.transfer.engines import EngineHost  # noqa: TC001 - typer reads it
from layerstore.cli.transfer.originals import OriginalsOption, originals_of
from layerstore.cli.warm import fresh_images
from layerstore.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Generator
    from contextlib import AbstractContextManager
    from typing import BinaryIO

    from layerstore.image.layouts.loading import Loaded
    from layerstore.store.store import Store

STDIO = "-"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("load")(load)


def load(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE...]", help="With --from: names or ids there."),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE|DIR|-",
            help="An archive, a bundle, an OCI layout directory, or stdin.",
        ),
    ] = STDIO,
    *,
    engine: Annotated[
        str | None,
        typer.Option("--from", metavar="docker|podman", help="Take images from a running engine."),
    ] = None,
    host: EngineHost = None,
    platform: Platform = "",
    all_platforms: Annotated[
        bool, typer.Option("--all-platforms", help="Load every platform's image.")
    ] = False,
    originals: OriginalsOption = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")] = False,
    as_json: Json = False,
) -> None:
    """Load images from an archive, an OCI layout or a bundle, or from docker or podman.

    Archives may be docker's, podman's or OCI's, plain or compressed by gzip, zstd, xz or bzip2.
    """
    if engine is not None or host is not None:
        from layerstore.cli.transfer.engines import load_from_engine

        with settings_of(context).open_store(create=True) as store:
            load_from_engine(
                store, engine, host, names or (), serving(platform), quiet=quiet, as_json=as_json
            )
        return
    if names:
        raise InputError(
            f"{names[0]!r}: images are named with --from docker or --from podman only",
            hint=f"layerstore load -i {names[0]}, or layerstore pull",
        )
    if source == STDIO and sys.stdin.isatty():
        raise InputError("stdin is a terminal, expected an archive", hint="layerstore load -i FILE")
    if source != STDIO and not os.path.exists(source):
        raise NotFoundError(f"{source} does not exist", hint="name an archive, a directory, or -")
    if all_platforms and platform:
        raise InputError("--all-platforms and --platform exclude each other")
    from layerstore.cli.transfer.bundles import load_from
    from layerstore.cli.transfer.importing import told_of
    from layerstore.image.layouts.loading import Choice, load_directory, load_file

    choice = Choice(serving(platform), all_platforms, originals_of(originals))
    with settings_of(context).open_store(create=True) as store:
        if os.path.isdir(source):
            with terminal_progress(quiet=quiet) as progress:
                _take(store, load_directory(store, Path(source), choice, progress), as_json=as_json)
            return
        with _opened(source) as stream:
            if _is_bundle(stream):
                load_from(store, stream.read, quiet=quiet, as_json=as_json)
                return
            name = "stdin" if source == STDIO else source
            with told_of(source), terminal_progress(quiet=quiet) as progress:
                _take(store, load_file(store, stream, name, choice, progress), as_json=as_json)


def _take(store: Store, images: Generator[Loaded], *, as_json: bool) -> None:
    """Load images, telling each when it is there."""
    told: list[dict[str, object]] = []
    with contextlib.closing(images) as loaded:
        for each in loaded:
            told.append(_to_json(each))
            if not as_json:
                _tell(each, is_nameless=each.image.image_id not in store.tags().values())
    if as_json:
        write_json({"images": told})
    fresh_images.tell(store.paths.root, [str(each["id"]) for each in told])


def _opened(source: str) -> AbstractContextManager[BinaryIO]:
    if source != STDIO:
        return open(source, "rb")
    return contextlib.nullcontext(sys.stdin.buffer)


def _is_bundle(stream: BinaryIO) -> bool:
    """Return whether a stream begins as what ``save --since`` writes; nothing is read of it."""
    from layerstore.formats.bundle import MAGIC

    peek = getattr(stream, "peek", None)
    return peek is not None and peek(len(MAGIC)).startswith(MAGIC)


def _tell(loaded: Loaded, *, is_nameless: bool) -> None:
    from layerstore.units import format_size

    for name in loaded.names:
        write_line(f"Loaded image: {name}")
    if not loaded.names:
        write_line(f"Loaded image ID: {loaded.image.image_id}")
    if loaded.left_out:
        name = next(iter(loaded.names), loaded.tag)
        write_note(
            f"{name} is there for {', '.join(loaded.left_out)}, too, which is left out; "
            "--platform names one, --all-platforms takes all"
        )
    if is_nameless:
        write_note("it has no name: the next gc removes it; 'layerstore tag' gives it one")
    if loaded.kept_bytes:
        write_note(
            f"{format_size(loaded.kept_bytes)} of compressed originals are kept, so that it can "
            "leave under its digest; 'layerstore originals drop' frees them"
        )


def _to_json(loaded: Loaded) -> dict[str, object]:
    return {
        "id": loaded.image.image_id,
        "names": list(loaded.names),
        "documents": list(loaded.documents),
        "size": loaded.image.size,
        "kept_bytes": loaded.kept_bytes,
        "left_out": list(loaded.left_out),
    }
