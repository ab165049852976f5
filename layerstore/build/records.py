"""Which builds there were: for each Dockerfile the last few, with the keys of their steps.

By these records a step is found again that became another one, and the steps of an image
that was built earlier. They explain; nothing depends on them. They may be lost or damaged
at any time, which only makes explanations shorter. Of Dockerfiles the one built longest ago is
forgotten first.

Format: docs/format/build-cache.md, "Records of builds".
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import msgspec
from blake3 import blake3

from layerstore.formats.sealed import Seal
from layerstore.store.remembering import read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.store.paths import StorePaths

VERSION: Final = 1
BUILDS_MAX: Final = 8
"""Builds that are remembered of one Dockerfile."""

TEXT_MAX: Final = 200
"""Characters of an instruction that are kept, to recognise it."""

_YEAR_3000_S: Final = 32_503_680_000
_KEY_CONTEXT: Final = "layerstore 2026-11-26 build spec v1"
SEAL: Final = Seal(
    b"LSBUILD" + bytes((VERSION,)), "layerstore 2026-11-26 build record v1", max_bytes=1 << 20
)
_encoder = msgspec.msgpack.Encoder()


class StepNote(msgspec.Struct, frozen=True, array_like=True):
    """One step of a build.

    Attributes:
        label: As the progress shows it.
        text: The beginning of the instruction as the label has it.
        keys: The last one has the step's facts; empty for a step that failed.
        layer: Diff ID of what it made, None when that was nothing.
        created: Seconds since the epoch when the layer was made.
        cached: Whether this build found it in the cache.
        file: The spec that the instruction stands in, as messages call it; empty when none does.
        line: Of the instruction's beginning, from 1; 0 when there is none. Records of versions
            that did not keep places have neither.
    """

    label: str
    text: str
    keys: tuple[str, ...]
    layer: str | None
    created: float
    cached: bool
    file: str = ""
    line: int = 0


class BuildNote(msgspec.Struct, frozen=True, array_like=True):
    """One build.

    Attributes:
        images: Ids of what came out; none when the build failed.
        finished: Seconds since the epoch.
        steps: In the order of their numbers.
    """

    images: tuple[str, ...]
    names: tuple[str, ...]
    target: str
    context: str
    dockerfile: str
    finished: float
    seconds: float
    steps: tuple[StepNote, ...]


_decoder = msgspec.msgpack.Decoder(tuple[BuildNote, ...])


class BuildRecords:
    """The records of a store."""

    def __init__(self, paths: StorePaths) -> None:
        self._folder = paths.builds

    def of_spec(self, context: str, dockerfile: str) -> tuple[BuildNote, ...]:
        """Return the remembered builds of a Dockerfile over a context, the last one first."""
        return _read(self._path(context, dockerfile))

    def all(self) -> Iterator[tuple[BuildNote, ...]]:
        """Yield the remembered builds of each Dockerfile, the one built last first."""
        try:
            with os.scandir(self._folder) as entries:
                found = [
                    (each.stat(follow_symlinks=False).st_mtime_ns, each.path) for each in entries
                ]
        except OSError:
            return
        for _, path in sorted(found, reverse=True):
            if builds := _read(path):
                yield builds

    def add(self, build: BuildNote, staging: Callable[[], str]) -> None:
        """Remember a build; failing to changes nothing.

        One that did what the last one did is not written again: a cached build writes nothing,
        unless instructions have moved, whose new places then stand in the old record.

        Args:
            build: What was built.
            staging: Returns a temporary path of the store's.
        """
        path = self._path(build.context, build.dockerfile)
        known = _read(path)
        if known and _essence(known[0]) == _essence(build):
            if _places(known[0]) == _places(build):
                with contextlib.suppress(OSError):
                    os.utime(path, follow_symlinks=False)
                return
            build, known = _moved(known[0], build), known[1:]
        if known and not known[0].images:
            known = known[1:]  # of builds that failed one after the other the last is enough
        builds = (build, *known)[:BUILDS_MAX]
        while builds and (record := SEAL.closed(_encoder.encode(builds))) is None:
            builds = builds[:-1]
        if builds and record is not None:
            write_record(path, record, staging=staging())

    def _path(self, context: str, dockerfile: str) -> str:
        key = _encoder.encode((VERSION, context, dockerfile))
        return f"{self._folder}/{blake3(key, derive_key_context=_KEY_CONTEXT).hexdigest(16)}"


def _essence(build: BuildNote) -> object:
    """Return what tells builds apart that are worth a record each."""
    steps = [(step.text, step.keys[-1:], step.layer) for step in build.steps]
    return build.images, build.names, build.target, steps


def _places(build: BuildNote) -> list[tuple[str, int]]:
    return [(step.file, step.line) for step in build.steps]


def _moved(known: BuildNote, build: BuildNote) -> BuildNote:
    """Return a build with the places that its steps have in one that did the same."""
    steps = [
        msgspec.structs.replace(old, file=new.file, line=new.line)
        for old, new in zip(known.steps, build.steps, strict=True)
    ]
    return msgspec.structs.replace(known, steps=tuple(steps))


def _read(path: str) -> tuple[BuildNote, ...]:
    body = read_record(path, SEAL)
    try:
        builds = _decoder.decode(body) if body is not None else ()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()
    return builds if all(_has_times(build) for build in builds) else ()


def _has_times(build: BuildNote) -> bool:
    return all(map(is_time, (build.finished, build.seconds, *(s.created for s in build.steps))))


def is_time(seconds: float) -> bool:
    """Return whether a time is one that calendars have; NaN is none."""
    return 0 <= seconds < _YEAR_3000_S
