"""The find command: which images, layers and steps hold a file, a package, a content, a chunk."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from layerstore.cli.common import Json, settings_of
from layerstore.cli.output import (
    counted,
    short_id,
    shorten,
    write_json,
    write_line,
    write_note,
    write_table,
)
from layerstore.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from layerstore.digest import ImageId
    from layerstore.measure.find import Hit, Wanted
    from layerstore.measure.find_packages import FoundPackages
    from layerstore.measure.steps import Step
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

EXIT_NOTHING = 1
"""As of grep(1)."""

ROWS_SHOWN = 100
STEP_WIDTH = 36
WORD_WIDTH = 48
"""Characters of what a package calls itself in a table; JSON has all of it."""

IMAGES_SHOWN = 3
VERSIONS_SHOWN = 5
_SHA256 = re.compile(r"(sha256:)?([0-9a-fA-F]{64})", re.ASCII)
_CHUNK = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("find")(find)


class _Images(NamedTuple):
    """Where to look.

    Attributes:
        names: All names of each.
        steps: What made the layers of each.
    """

    records: Sequence[ImageRecord]
    names: Mapping[str, Sequence[str]]
    steps: Mapping[str, Sequence[Step]]


def find(
    context: typer.Context,
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATTERN|SHA256|CHUNK]",
            help="Paths (* ? [..] **; without a slash a name anywhere), or 64 digits of content.",
        ),
    ] = None,
    *,
    package: Annotated[
        str | None,
        typer.Option(
            "--package",
            "-p",
            metavar="NAME[=VERSION]",
            help="A package, or what was built of the source NAME; also with < <= > >=.",
        ),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="The content of this file of the host; reads no pack."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(metavar="BYTES", min=0, help="Size of the content of a SHA256, if known."),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option("--image", "-i", metavar="IMAGE", help="Look here only; may be repeated."),
    ] = None,
    hidden: Annotated[
        bool,
        typer.Option("--hidden", help="Also what later layers hide; it still travels (secrets!)."),
    ] = False,
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="At most so many rows of a table, 0 for all.")
    ] = ROWS_SHOWN,
    as_json: Json = False,
) -> None:
    """Say which images, layers and steps hold something; exit with 1 if none does."""
    if sum(each is not None for each in (what, package, like)) != 1:
        raise InputError(
            "say one thing to look for: a pattern, digits, --package or --like",
            hint="layerstore find '/etc/**/*.pem'; layerstore find --package openssl",
        )
    if package is not None and hidden:
        raise InputError("--hidden is for files: packages are those an image shows")
    with settings_of(context).open_store() as store:
        where = _images(store, images or ())
        if package is not None:
            count = _find_package(store, where, package, limit or None, as_json=as_json)
        else:
            count = _find_files(
                store, where, _wanted(store, where, what, like, size), what,
                hidden=hidden, limit=limit or None, as_json=as_json,
            )  # fmt: skip
    if not count:
        raise typer.Exit(EXIT_NOTHING)


def _images(store: Store, references: Sequence[str]) -> _Images:
    """Return the images that are meant, all that have a name if none is."""
    from layerstore.cli.measure.step_places import step_places
    from layerstore.formats.reference import without_index_names
    from layerstore.measure.steps import steps_of_layers

    names: dict[str, list[str]] = {}
    for name, image_id in store.tags().items():
        names.setdefault(image_id, []).append(name)
    if references:
        records = {image.image_id: image for image in map(store.resolve, references)}
    else:
        records = {image.image_id: image for image in store.images() if image.image_id in names}
    places = step_places(store)
    return _Images(
        list(records.values()),
        {image_id: without_index_names(names.get(image_id, [])) for image_id in records},
        {key: steps_of_layers(store, image, places(image)) for key, image in records.items()},
    )


def _wanted(
    store: Store, where: _Images, what: str | None, like: str | None, size: int | None
) -> Wanted:
    from layerstore.measure.find import ByContent, ByPath, content_like
    from layerstore.measure.path_patterns import path_pattern

    if size is not None and (what is None or _SHA256.fullmatch(what) is None):
        raise InputError("--size goes with a SHA256")
    if like is not None:
        if not os.path.exists(like):
            raise NotFoundError(f"{like} does not exist", hint="--like takes a file of this host")
        if not os.path.isfile(like):
            raise InputError(f"{like} is no regular file")
        with open(like, "rb") as stream:
            return ByContent([content_like(store, stream, os.fstat(stream.fileno()).st_size)])
    assert what is not None
    digits = _SHA256.fullmatch(what)
    if digits is None and what.startswith("sha256:"):
        raise InputError(f"{what!r} is no SHA-256", hint="sha256: and 64 hexadecimal digits")
    if digits is None:
        return ByPath(path_pattern(os.fsencode(what)))
    return _by_digits(store, where, what, digits.group(2).lower(), size)


def _by_digits(store: Store, where: _Images, what: str, digits: str, size: int | None) -> Wanted:
    """Return what finds a chunk if the index has it, else the contents that have a SHA-256."""
    from layerstore.digest import ChunkId
    from layerstore.measure.find import ByChunk, ByContent, contents_with_digest

    chunk = ChunkId(bytes.fromhex(digits))
    if _CHUNK.fullmatch(what) and store.has_chunk(chunk):
        return ByChunk(chunk)
    contents = contents_with_digest(store, where.records, digits, size=size, read=_tell_cost)
    return ByContent(contents)


def _tell_cost(files: int, size: int) -> None:
    from layerstore.units import format_size

    write_note(
        f"reading {counted(files, 'content')}, {format_size(size)}: the store has no index of "
        "SHA-256; --size BYTES or --like FILE spare that"
    )


def _find_files(
    store: Store,
    where: _Images,
    wanted: Wanted,
    what: str | None,
    *,
    hidden: bool,
    limit: int | None,
    as_json: bool,
) -> int:
    from layerstore.measure.find import find_entries

    hits = find_entries(store, where.records, wanted, hidden=hidden)
    if not hits:
        if not hidden and find_entries(store, where.records, wanted, hidden=True):
            write_note("note: later layers hide it: --hidden tells where it lies")
        elif what is not None:
            _tell_near_paths(store, where, what)
    if as_json:
        write_json([_hit_to_json(hit, where) for hit in hits])
    elif hits:
        _print_some(
            ["PATH", "SIZE", "STATE", "LAYER", "IMAGES"],
            [_hit_row(hit, where) for hit in hits],
            limit,
        )
    return len(hits)


def _tell_near_paths(store: Store, where: _Images, what: str) -> None:
    if _SHA256.fullmatch(what) is None:
        from layerstore.measure.nearby import near_paths

        _tell_near(map(os.fsdecode, near_paths(store, where.records, os.fsencode(what))))


def _tell_near(names: Iterable[str]) -> None:
    if words := ", ".join(names):
        write_note(f"note: nothing of that name; did you mean {words}?")


def _print_some(head: list[str], rows: list[list[str]], limit: int | None) -> None:
    write_table(head, rows[:limit])
    if limit is not None and len(rows) > limit:
        write_line(f"and {len(rows) - limit} more: --limit 0 lists all")


def _hit_row(hit: Hit, where: _Images) -> list[str]:
    from layerstore.formats.tree import Kind
    from layerstore.units import format_size

    entry = hit.entry
    is_file = entry.kind is Kind.FILE
    state = "seen" if hit.hidden_by is None else f"hidden by {hit.hidden_depth}"
    return [
        _path(entry.path),
        format_size(entry.size) if is_file else entry.kind.name.lower(),
        state,
        _step(where, hit.images[0], hit.depth),
        _named(hit.images, where),
    ]


def _path(path: bytes) -> str:
    return "/" + os.fsdecode(path)


def _named(images: Sequence[ImageId], where: _Images) -> str:
    shown = ", ".join(_name(each, where) for each in images[:IMAGES_SHOWN])
    more = len(images) - IMAGES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def _name(image: ImageId, where: _Images) -> str:
    from layerstore.formats.reference import names_in_cell

    return names_in_cell(where.names[image]) or short_id(image)


def _step(where: _Images, image: ImageId, depth: int) -> str:
    if not depth:
        return ""
    step = where.steps[image][depth - 1]
    return f"{step.number} {shorten(step.words, STEP_WIDTH)}".rstrip()


def _step_to_json(where: _Images, image: ImageId, depth: int) -> dict[str, object] | None:
    return where.steps[image][depth - 1]._asdict() if depth else None


def _hit_to_json(hit: Hit, where: _Images) -> dict[str, object]:
    entry = hit.entry
    return {
        "path": _path(entry.path),
        "type": entry.kind.name.lower(),
        "size": entry.size,
        "mode": f"{entry.mode:04o}",
        "uid": entry.uid,
        "gid": entry.gid,
        "layer": hit.layer,
        "step": _step_to_json(where, hit.images[0], hit.depth),
        "hidden_by": None
        if hit.hidden_by is None
        else _step_to_json(where, hit.images[0], hit.hidden_depth),
        "images": [{"id": each, "names": where.names[each]} for each in hit.images],
    }


def _find_package(
    store: Store, where: _Images, text: str, limit: int | None, *, as_json: bool
) -> int:
    from layerstore.measure.find_packages import find_packages, parse_package

    found = find_packages(store, where.records, parse_package(text))
    for each in found.left_out:
        write_note(f"note: not read: {each}")
    if found.not_compared:
        write_note(
            f"note: {counted(found.not_compared, 'package')} of that name: versions not compared"
        )
    if found.other_versions:
        shown = ", ".join(found.other_versions[:VERSIONS_SHOWN])
        more = len(found.other_versions) - VERSIONS_SHOWN
        others = f" and {more} more" if more > 0 else ""
        write_note(f"note: in other versions only: {shown}{others}")
    _tell_near(found.near)
    if as_json:
        write_json(_packages_to_json(found, where))
    elif found.hits:
        _print_some(
            ["IMAGE", "PACKAGE", "VERSION", "KIND", "LAYER"],
            [
                [
                    _name(hit.image_id, where),
                    shorten(hit.package.name, WORD_WIDTH),
                    shorten(hit.package.version, WORD_WIDTH),
                    hit.package.kind,
                    _step(where, hit.image_id, hit.depth),
                ]
                for hit in found.hits
            ],
            limit,
        )
    return len(found.hits)


def _packages_to_json(found: FoundPackages, where: _Images) -> dict[str, object]:
    return {
        "packages": [
            {
                "image": hit.image_id,
                "names": where.names[hit.image_id],
                "name": hit.package.name,
                "version": hit.package.version,
                "kind": hit.package.kind,
                "architecture": hit.package.architecture,
                "origin": hit.package.origin,
                "purl": hit.package.purl,
                "path": hit.package.source,
                "step": _step_to_json(where, hit.image_id, hit.depth),
            }
            for hit in found.hits
        ],
        "not_compared": found.not_compared,
        "left_out": list(found.left_out),
    }
