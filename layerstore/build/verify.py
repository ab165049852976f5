"""Whether a build gives the same image twice, and if not, what differs first.

A build is carried out twice without the cache, in different seconds, and compared step by
step; steps are in an order in which each comes after what it needs, so the first that
differs is where it begins. Files are compared by their entries, contents by their first
differing byte. Times count only as far as the image keeps them: both builds have one
SOURCE_DATE_EPOCH.

The second build is carried out as it might be elsewhere: what of that a caller can change
(:mod:`layerstore.cli.build.elsewhere`) it does. What only another host has (kernel, file system,
the order in which that lists directories) is not seen here: build on two hosts and compare the ids.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.build.api import build
from layerstore.build.contexts import StreamContext
from layerstore.build.outputs import Output, OutputKind
from layerstore.build.reproducing_hints import hint_for
from layerstore.build.request import source_date_epoch
from layerstore.errors import BuildError, InputError
from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layers import load_changeset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from layerstore.build.record import MadeStep
    from layerstore.build.request import BuildRequest, BuildResult
    from layerstore.build.ui import BuildUi
    from layerstore.digest import DiffId
    from layerstore.formats.tree import Changeset, Extent
    from layerstore.store.store import Store

MAX_PATHS = 20
"""Paths of a layer that are told; the first one with all that differs."""

_CONTEXT_BYTES = 24
_FIELDS = ("kind", "mode", "uid", "gid", "mtime_ns", "target", "dev_major", "dev_minor", "xattrs")


class NotReproducibleError(BuildError):
    """Two builds of one spec made two images."""


class FieldDifference(NamedTuple):
    """One thing that differs about a file.

    Attributes:
        field: ``mode``, ``mtime``, ``content`` and so on; ``presence`` when one has no such file.
        first: What the first build has, for people.
        second: What the second has.
        offset: Of the first differing byte of contents, None for everything else.
    """

    field: str
    first: str
    second: str
    offset: int | None = None


class Difference(NamedTuple):
    """Where two builds begin to differ.

    Attributes:
        step: Its label.
        place: ``file:line:column`` of the instruction, empty when no file has it.
        first_layer: What the first build's step made, None for nothing.
        path: Of the first differing file, from ``/``; empty when a layer is there only once.
        fields: What differs about that file.
        other_paths: Of further differing files, ``MAX_PATHS`` at most.
        path_count: Differing files in all.
        hint: What often helps, None where nothing is known.
    """

    step: str
    place: str
    first_layer: DiffId | None
    second_layer: DiffId | None
    path: str
    fields: tuple[FieldDifference, ...]
    other_paths: tuple[str, ...]
    path_count: int
    hint: str | None


class Verification(NamedTuple):
    """What two builds came to.

    Attributes:
        result: Of the first one.
        other_id: The second image's id.
        difference: None when they are the same.
        request: What gives that image from the cache.
    """

    result: BuildResult
    other_id: str
    difference: Difference | None
    request: BuildRequest


def require_repeatable(request: BuildRequest) -> None:
    """Refuse what cannot be built twice.

    Raises:
        InputError: Its context is a stream.
    """
    if isinstance(request.context, StreamContext):
        raise InputError(
            "--verify reads the build context twice, and a stream can be read once",
            hint="unpack it and name the directory",
        )


def verify(
    store: Store,
    request: BuildRequest,
    ui: BuildUi,
    *,
    now_s: Callable[[], float] = time.time,
    wait: Callable[[float], None] = time.sleep,
    elsewhere: Callable[[BuildRequest], AbstractContextManager[BuildRequest]] = nullcontext,
) -> Verification:
    """Build twice without the cache and compare; nothing gets a name or leaves the store.

    Without SOURCE_DATE_EPOCH both builds get the present time.

    Args:
        store: To build in.
        request: What to build.
        ui: Hears of both builds.
        now_s: The clock.
        wait: Lets time pass.
        elsewhere: Gives the second build other surroundings while it runs.

    Raises:
        LayerstoreError: As :func:`layerstore.build.api.build`.
    """
    require_repeatable(request)
    epoch = source_date_epoch(request)
    if epoch is None:
        args = {name: v for name, v in request.build_args.items() if name != "SOURCE_DATE_EPOCH"}
        request = msgspec.structs.replace(request, build_args=args, source_date_epoch=int(now_s()))
    nowhere = (Output(kind=OutputKind.CACHE_ONLY),)
    alone = msgspec.structs.replace(
        request, no_cache=True, tags=(), outputs=nowhere, cache_from=(), cache_to=()
    )
    ui.message("verify: the first build")
    first = build(store, alone, ui)
    # What has the time in it to a second must not pass because both were made within one.
    wait(1.0 - now_s() % 1.0)
    ui.message("verify: the second build")
    with elsewhere(alone) as changed:
        second = build(store, changed, ui)
    difference = None
    if first.image_id != second.image_id:
        difference = first_difference(store, first, second)
    return Verification(first, second.image_id, difference, request)


def first_difference(store: Store, first: BuildResult, second: BuildResult) -> Difference:
    """Return where two builds of one spec begin to differ."""
    for one, other in zip(first.made, second.made, strict=True):
        if one.diff_id != other.diff_id:
            return _difference_of(store, one, other)
    return Difference(
        "the image's config", "", None, None, "", (), (), 0,
        "a base image changed between the two builds",
    )  # fmt: skip


def _difference_of(store: Store, one: MadeStep, other: MadeStep) -> Difference:
    place = str(one.span) if one.span is not None else ""
    if one.diff_id is None or other.diff_id is None:
        told = ["no changes" if each.diff_id is None else "changes" for each in (one, other)]
        field = FieldDifference("presence", told[0], told[1])
        return Difference(one.label, place, one.diff_id, other.diff_id, "", (field,), (), 0, None)
    mine, theirs = load_changeset(store, one.diff_id), load_changeset(store, other.diff_id)
    paths = list(_differing_paths(mine, theirs))
    path, fields = _first_file(store, mine, theirs, paths)
    names = [_shown(each) for each in paths]
    return Difference(
        one.label,
        place,
        one.diff_id,
        other.diff_id,
        _shown(path),
        fields,
        tuple(name for name in names[: MAX_PATHS + 1] if name != _shown(path))[:MAX_PATHS],
        len(paths),
        hint_for(path, [each.field for each in fields], fields),
    )


def _differing_paths(mine: Changeset, theirs: Changeset) -> Iterator[bytes]:
    """Yield the paths at which two layers differ, files before the directories they lie in."""
    one = {entry.path: entry for entry in mine.entries}
    other = {entry.path: entry for entry in theirs.entries}
    gone = set(mine.whiteouts) ^ set(theirs.whiteouts) | set(mine.opaques) ^ set(theirs.opaques)
    differing = {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}
    directories = {
        path
        for path in differing
        if all(e is None or e.kind is Kind.DIR for e in (one.get(path), other.get(path)))
    }
    yield from sorted((differing | gone) - directories)
    yield from sorted(directories)


def _first_file(
    store: Store, mine: Changeset, theirs: Changeset, paths: list[bytes]
) -> tuple[bytes, tuple[FieldDifference, ...]]:
    path = paths[0]
    one = next((entry for entry in mine.entries if entry.path == path), None)
    other = next((entry for entry in theirs.entries if entry.path == path), None)
    if one is None or other is None:
        told = _presence(one, mine, path), _presence(other, theirs, path)
        return path, (FieldDifference("presence", told[0], told[1]),)
    fields = [
        FieldDifference(name.removesuffix("_ns"), _value(one, name), _value(other, name))
        for name in _FIELDS
        if getattr(one, name) != getattr(other, name)
    ]
    if one.size != other.size:
        fields.append(FieldDifference("size", str(one.size), str(other.size)))
    if one.extents != other.extents:
        found = _content_difference(store, one, other)
        if found is not None:
            fields.append(found)
    return path, tuple(fields)


def _presence(entry: Entry | None, changeset: Changeset, path: bytes) -> str:
    if entry is not None:
        return f"a {entry.kind.name.lower()}"
    return "removed" if path in changeset.whiteouts else "absent"


def _value(entry: Entry, name: str) -> str:
    value = getattr(entry, name)
    match name:
        case "kind":
            return str(value.name).lower()
        case "mode":
            return f"{value:04o}"
        case "mtime_ns":
            seconds, rest = divmod(value, 1_000_000_000)
            return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"
        case "target":
            return _shown(value, root="")
        case "xattrs":
            return ", ".join(f"{key.decode('utf-8', 'replace')}={v.hex()}" for key, v in value)
        case _:
            return str(value)


def _content_difference(store: Store, one: Entry, other: Entry) -> FieldDifference | None:
    """Return the first byte at which two files differ, with some bytes around it."""
    offset = 0
    before = b""
    mine, theirs = _Pieces(store, one.extents), _Pieces(store, other.extents)
    while True:
        a, b = mine.peek(), theirs.peek()
        size = min(len(a), len(b))
        if a[:size] != b[:size]:
            at = next(n for n in range(size) if a[n] != b[n])
        elif size:
            before = (before + a[:size])[-_CONTEXT_BYTES:]
            mine.skip(size)
            theirs.skip(size)
            offset += size
            continue
        elif a or b:
            at = 0
        else:
            return None
        lead = (before + a[:at])[-_CONTEXT_BYTES:]
        told = [_quoted(lead + each[at : at + _CONTEXT_BYTES]) for each in (a, b)]
        return FieldDifference("content", told[0], told[1], offset + at)


class _Pieces:
    """A file's content in pieces, each read when it is looked at."""

    def __init__(self, store: Store, extents: tuple[Extent, ...]) -> None:
        self._store = store
        self._rest = list(reversed(extents))
        self._piece = b""

    def peek(self) -> bytes:
        """Return what comes next, empty at the end."""
        while not self._piece and self._rest:
            length, chunk = self._rest.pop()
            if chunk is None:
                length, rest = min(length, 1 << 20), length - min(length, 1 << 20)
                if rest:
                    self._rest.append((rest, None))
                self._piece = bytes(length)
            else:
                self._piece = self._store.read_refs(((length, chunk),))
        return self._piece

    def skip(self, size: int) -> None:
        """Go on by ``size`` bytes of what was looked at."""
        self._piece = self._piece[size:]


def _quoted(piece: bytes) -> str:
    return repr(piece)[1:]


def _shown(path: bytes, *, root: str = "/") -> str:
    return root + path.decode("utf-8", "replace")
