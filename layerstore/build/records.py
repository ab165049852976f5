"""Which builds there were: for each Dockerfile the last few, with the keys of their steps.

By these records a step is found again that became another one, and the steps of an image
that was built earlier. They explain; nothing depends on them. They may be lost or damaged
at any time, which only makes explanations shorter, so they are never forced to disk.

Format: docs/format/build-cache.md, "Records of builds".
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

import msgspec
from blake3 import blake3

from layerstore.linux.files import make_private_dir, open_private, read_file, write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from layerstore.store.paths import StorePaths

MAGIC: Final = b"LSBUILD"
VERSION: Final = 1
SPECS_MAX: Final = 256
"""Dockerfiles whose builds are remembered; the one built longest ago goes first."""

BUILDS_MAX: Final = 8
"""Builds that are remembered of one Dockerfile."""

RECORD_MAX_BYTES: Final = 1 << 20
TEXT_MAX: Final = 200
"""Characters of an instruction that are kept, to recognise it."""

_YEAR_3000_S: Final = 32_503_680_000
_SUM_BYTES: Final = 32
_KEY_CONTEXT: Final = "layerstore 2026-11-26 build spec v1"
_SUM_CONTEXT: Final = "layerstore 2026-11-26 build record v1"
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
    """

    label: str
    text: str
    keys: tuple[str, ...]
    layer: str | None
    created: float
    cached: bool


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

        One that did what the last one did is not written again: a cached build writes nothing.

        Args:
            build: What was built.
            staging: Returns a temporary path of the store's.
        """
        path = self._path(build.context, build.dockerfile)
        known = _read(path)
        if known and _essence(known[0]) == _essence(build):
            with contextlib.suppress(OSError):
                os.utime(path, follow_symlinks=False)
            return
        if known and not known[0].images:
            known = known[1:]  # of builds that failed one after the other the last is enough
        builds = (build, *known)[:BUILDS_MAX]
        encoded = _encode(builds)
        while len(encoded) > RECORD_MAX_BYTES and len(builds) > 1:
            builds = builds[:-1]
            encoded = _encode(builds)
        if len(encoded) <= RECORD_MAX_BYTES:
            with contextlib.suppress(OSError):
                self._write(path, encoded, staging())

    def _path(self, context: str, dockerfile: str) -> str:
        key = _encoder.encode((VERSION, context, dockerfile))
        return f"{self._folder}/{blake3(key, derive_key_context=_KEY_CONTEXT).hexdigest(16)}"

    def _write(self, path: str, encoded: bytes, staging: str) -> None:
        make_private_dir(self._folder, durable=False)
        if not os.path.lexists(path):
            _evict(self._folder)
        descriptor = open_private(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            write_all(descriptor, encoded)
        finally:
            os.close(descriptor)
        os.rename(staging, path)


def _essence(build: BuildNote) -> object:
    """Return what tells builds apart that are worth a record each."""
    steps = [(step.text, step.keys[-1:], step.layer) for step in build.steps]
    return build.images, build.names, build.target, steps


def _encode(builds: Sequence[BuildNote]) -> bytes:
    body = MAGIC + bytes((VERSION,)) + _encoder.encode(builds)
    return body + blake3(body, derive_key_context=_SUM_CONTEXT).digest()


def _read(path: str) -> tuple[BuildNote, ...]:
    try:
        encoded = read_file(path, max_bytes=RECORD_MAX_BYTES)
    except OSError:
        return ()
    head = MAGIC + bytes((VERSION,))
    body, stated = encoded[:-_SUM_BYTES], encoded[-_SUM_BYTES:]
    if not body.startswith(head):
        return ()
    if blake3(body, derive_key_context=_SUM_CONTEXT).digest() != stated:
        return ()
    try:
        builds = _decoder.decode(memoryview(body)[len(head) :])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ()
    return builds if all(_has_times(build) for build in builds) else ()


def _has_times(build: BuildNote) -> bool:
    """Return whether all times are such that calendars have them; NaN is none."""
    times = (build.finished, build.seconds, *(step.created for step in build.steps))
    return all(0 <= each < _YEAR_3000_S for each in times)


def _evict(folder: str) -> None:
    """Make room for one more Dockerfile."""
    names = os.listdir(folder)
    if len(names) < SPECS_MAX:
        return
    ages = sorted((os.lstat(f"{folder}/{name}").st_mtime_ns, name) for name in names)
    for _, name in ages[: len(names) - SPECS_MAX + 1]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{folder}/{name}")
