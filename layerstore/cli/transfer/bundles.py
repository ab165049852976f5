"""Bundles on the command line: ``have``, what ``save --since`` writes, what ``load`` takes."""

from __future__ import annotations

import contextlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from layerstore.cli.common import settings_of
from layerstore.cli.output import write_json, write_line, write_note
from layerstore.cli.progress import terminal_progress
from layerstore.cli.warm import fresh_images
from layerstore.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.formats.bundle import BaseImage
    from layerstore.image.layouts.layout import NamedImage
    from layerstore.image.transfer.having import Having
    from layerstore.image.transfer.saving import SavedImage
    from layerstore.store.store import Store

STDIO = "-"
LEVEL_MAX = 22


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("have")(have)


def have(
    context: typer.Context,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE...]", help="Only of these; else of all.")
    ] = None,
    *,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - for stdout.")
    ] = STDIO,
) -> None:
    """Write a list of the content that is here, for 'save --have' elsewhere."""
    from layerstore.cli.outfile import output_stream
    from layerstore.formats.have_list import encode_have_list
    from layerstore.image.transfer.having import chunks_of

    with settings_of(context).open_store() as store:
        chosen = [store.resolve(image) for image in images or ()] or store.images()
        layers = {diff_id for image in chosen for diff_id in image.layers}
        listed = encode_have_list(chunks_of(store, sorted(layers)))
        with output_stream(output, what="a list of ids") as stream:
            stream.write(listed)


def save_as_bundle(
    store: Store,
    images: Sequence[NamedImage],
    output: str,
    *,
    since: Sequence[str],
    have_list: str | None,
    level: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write what somebody lacks of images, as ``save --since`` and ``--have`` say.

    Raises:
        InputError: Options that exclude each other, or a level that zstd does not have.
    """
    from layerstore.cli.outfile import output_stream
    from layerstore.image.transfer.saving import save_bundle
    from layerstore.store.remotes.parcels import PARCEL_LEVEL
    from layerstore.units import format_size

    having, bases = _receiver(store, since, have_list)
    chosen = PARCEL_LEVEL if level is None else level
    if not 1 <= chosen <= LEVEL_MAX:
        raise InputError(f"{chosen} is not a level of zstd", hint=f"1 to {LEVEL_MAX}")
    saved = [each for image in images for each in _saved(store, image)]
    opened = partial(output_stream, output, what="a bundle")
    with terminal_progress(quiet=quiet) as progress:
        report = save_bundle(
            store, saved, opened, having=having, bases=bases, level=chosen, progress=progress
        )
    if as_json and output != STDIO:
        write_json({"bundle": output, **report._asdict()})
    elif not quiet:
        write_note(
            f"{output}: {format_size(report.size)} for {format_size(report.plain_bytes)} of "
            f"content in {report.items} pieces"
        )


def _receiver(
    store: Store, since: Sequence[str], have_list: str | None
) -> tuple[Having, list[BaseImage]]:
    """Return what the receiver has, and the images that it must have."""
    from layerstore.formats.bundle import BaseImage
    from layerstore.image.transfer.having import having_images, having_list

    if since and have_list is not None:
        raise InputError(
            "--since and --have both say what the receiver has", hint="give one of them"
        )
    if have_list is not None:
        return having_list(store, _read_list(have_list)), []
    images = [store.resolve(reference) for reference in since]
    tags = store.tags()
    bases = [
        BaseImage(
            image.image_id,
            tuple(image.layers),
            tuple(name for name, image_id in tags.items() if image_id == image.image_id)[:3],
        )
        for image in images
    ]
    return having_images(store, images), bases


def _read_list(path: str) -> frozenset[bytes]:
    from layerstore.formats.bundle import read_exactly
    from layerstore.formats.have_list import LIST_MAX_BYTES, decode_have_list

    with _opened(path) as stream:
        return decode_have_list(read_exactly(stream.read, LIST_MAX_BYTES + 1))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    """Give a file to read, or stdin."""
    if path == STDIO:
        yield sys.stdin.buffer
        return
    if not os.path.exists(path):
        raise NotFoundError(f"{path} does not exist", hint="name a file, or - for stdin")
    with open(path, "rb") as stream:
        yield stream


def _saved(store: Store, named: NamedImage) -> list[SavedImage]:
    """Return an image with its name, and the digests that its repository has it under.

    Of an index, all of its images, with what says that they are in it.
    """
    from layerstore.formats.reference import split_name
    from layerstore.image.transfer.saving import SavedImage
    from layerstore.store.catalog.rows import ImageRecord

    image = named.image
    assert isinstance(image, ImageRecord)
    if named.name is None:
        return [SavedImage(image, ())]
    index = named.stored_index
    others = {each.image_id: each for each in index.images.values()} if index else {}
    others.pop(image.image_id, None)
    names: dict[str, list[str]] = {image.image_id: [named.name]}
    names.update({image_id: [] for image_id in others})
    repository = split_name(named.name)[0]
    for name, image_id in store.tags().items():
        before, at, _ = name.partition("@")
        is_listed = index is not None and before == named.name
        if at and image_id in names and (before == repository or is_listed):
            names[image_id].append(name)
    return [SavedImage(each, tuple(names[each.image_id])) for each in (image, *others.values())]


def load_from(store: Store, read: Callable[[int], bytes], *, quiet: bool, as_json: bool) -> None:
    """Add the images of a bundle, as ``load`` does."""
    from layerstore.image.transfer.loading import load_bundle
    from layerstore.units import format_size

    with terminal_progress(quiet=quiet) as progress:
        report = load_bundle(store, read, progress=progress)
    if as_json:
        images = [
            {"id": each.image.image_id, "names": list(each.names), "size": each.image.size}
            for each in report.images
        ]
        write_json({"images": images, **report.stats._asdict()})
    else:
        for each in report.images:
            what = f": {each.names[0]}" if each.names else f" ID: {each.image.image_id}"
            write_line(f"Loaded image{what}")
        if not quiet:
            write_note(
                f"{format_size(report.stats.new_bytes)} new here, "
                f"{format_size(report.stats.stored_bytes)} on disk"
            )
    fresh_images.tell(store.paths.root, [each.image.image_id for each in report.images])
