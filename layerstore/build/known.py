"""Builds that are known: the same command over the same inputs is not worked out again.

When a build ends, a small file in ``scans/`` notes what it was asked, what stat(2) said of every
file it looked at, the keys of its steps, and the image. Asked the same again, with everything as
it was, the answer is the image: the Dockerfile is not read, and of the catalog a few rows.

It is a cache: a record may be lost, stale or damaged at any time, which is a miss; it is never
forced to disk. It cannot be wrong for the same reasons as a remembered scan
(:mod:`layerstore.image.layers.remembered`), and it never knows more than the build cache: each
step is still looked up. On the fast path: nothing heavy is imported unless a build is to be
remembered.

Format: docs/format/scans.md. Why: docs/decisions/0163-known-builds.md.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from array import array
from itertools import chain
from operator import attrgetter

from blake3 import blake3

from layerstore.build.ui import StepOutcome
from layerstore.errors import LayerstoreError
from layerstore.formats.known_build import (
    SEAL,
    KnownBuild,
    KnownStep,
    Said,
    decode_known_build,
    encode_known_build,
)
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.files import is_shared, read_file
from layerstore.store.names.usage import note_image_use
from layerstore.store.remembering import read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from layerstore.build.dockerfile.syntax import Notice
    from layerstore.build.ui import BuildUi
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.paths import StorePaths
    from layerstore.store.records import CacheRecord
    from layerstore.store.store import Store

CONFIG_MAX_BYTES = 1 << 20
LOOKED_MAX = 200_000
"""Files of a context; stat(2) of more takes longer than most other ways to be sure."""

FRESH_S = 3600
"""Age of a record that still counts: then the uses of its steps are noted again, for gc."""

_KEY_CONTEXT = "layerstore 2026-11-26 build key v1"
_FINGERPRINT_CONTEXT = "layerstore 2026-11-26 build fingerprint v1"
_FACTS = attrgetter("st_dev", "st_ino", "st_mode", "st_size", "st_ctime_ns")
_STEPS = "SELECT key, coalesce(diff_id, ''), created FROM build_cache"
_LOOKUP = 500
_U64 = (1 << 64) - 1


def request_key(paths: StorePaths, words: Iterable[str]) -> str:
    """Return the name of the record of what was asked.

    Args:
        paths: Of the store; one with another configuration is none that was built in.
        words: Everything that was asked, and of the environment what it names.

    Raises:
        OSError: The store has no configuration.
    """
    config = read_file(paths.config, max_bytes=CONFIG_MAX_BYTES)
    text = b"\0".join([config, *(os.fsencode(word) for word in (*_program(), *words))])
    return blake3(text, derive_key_context=_KEY_CONTEXT).hexdigest(16)


def _program() -> Iterator[str]:
    """Yield who asks with which code: another layerstore may make another image."""
    yield str(os.geteuid())
    here = os.path.dirname(__file__)
    for directory in (os.path.dirname(here), here, f"{here}/dockerfile"):
        # Installing one replaces files, which their directory's time tells.
        status = os.stat(directory)
        yield f"{directory} {status.st_ino} {status.st_mtime_ns}"


def recall(catalog: Catalog, key: str) -> KnownBuild | None:
    """Return what a build came to, if it would come to the same again; writes nothing.

    Its image is in the store under its names when this returns, as if it had just been built.
    """
    paths = catalog.paths
    known = _read(paths, key)
    if known is None or not all(map(os.environ.__contains__, known.variables)):
        return None
    try:
        if any(map(os.path.lexists, known.absent)):
            return None
        statuses = [*map(os.stat, known.given), *map(os.lstat, known.looked)]
    except OSError:
        return None
    if _fingerprint(statuses) != known.fingerprint:
        return None
    try:
        return known if _is_there(catalog, known) else None
    except LayerstoreError:  # whoever builds will tell
        return None


def _is_there(catalog: Catalog, known: KnownBuild) -> bool:
    """Return whether the store would still answer each question of the build as it did."""
    if catalog.epoch() != known.epoch:  # in one epoch no row disappears
        return False
    named = [*known.bases, *((name, known.image_id) for name in known.names)]
    if any(catalog.tag(name) != image_id for name, image_id in named):
        return False
    keys = [step.key for step in known.steps]
    found: set[tuple[object, ...]] = set()
    for begin in range(0, len(keys), _LOOKUP):
        some = keys[begin : begin + _LOOKUP]
        marks = ",".join("?" * len(some))
        rows = catalog.query(f"{_STEPS} WHERE key IN ({marks})", some)
        found.update((name, diff_id, repr(created)) for name, diff_id, created in rows)
    if not found.issuperset(known.steps):
        return False
    image = catalog.image(known.image_id)
    # Builds that differ in annotations or attestations alone make one image; the last counts.
    if image is None or image.manifest_digest != known.manifest:
        return False
    if not os.path.exists(catalog.paths.blob(known.manifest)):
        return False
    for image_id in (known.image_id, *(image_id for _, image_id in known.bases)):
        if not os.path.exists(catalog.paths.blob(image_id)):
            return False
        note_image_use(catalog.paths, image_id)
    return True


def _read(paths: StorePaths, key: str) -> KnownBuild | None:
    path = f"{paths.scans}/{key}"
    try:
        # Others who may write there could say that a build is any image they like.
        if is_shared(paths.root) or not 0 <= time.time() - os.lstat(path).st_mtime < FRESH_S:
            return None
        body = read_record(path, SEAL)
    except OSError:
        return None
    return None if body is None else decode_known_build(body)


def _fingerprint(statuses: Iterable[os.stat_result]) -> bytes:
    numbers = [*chain.from_iterable(map(_FACTS, statuses))]
    try:
        facts = array("Q", numbers)
    except OverflowError:  # a time before 1970
        facts = array("Q", [fact & _U64 for fact in numbers])
    if sys.byteorder != "little":
        facts.byteswap()
    return blake3(facts.tobytes(), derive_key_context=_FINGERPRINT_CONTEXT).digest()


class BuildInputs(NamedTuple):
    """What decided a build, as far as it is known to the end.

    Attributes:
        root: The build context.
        looked: Paths inside the context that were looked at, relative to it.
        given: Files that were read beside these.
        absent: Files that would have been read.
        bases: References of images, each with the image it meant.
        steps: What the build cache knew, and what it was told.
        is_whole: Whether that is all: false when something came from elsewhere.
    """

    root: bytes
    looked: Sequence[bytes]
    given: Sequence[bytes]
    absent: Sequence[bytes]
    bases: Sequence[tuple[str, str]]
    steps: Sequence[CacheRecord]
    is_whole: bool


class Overhearing:
    """Passes what a build tells on to who watches, and keeps what would be told again."""

    def __init__(self, ui: BuildUi) -> None:
        self._ui = ui
        self.labels: dict[int, str] = {}
        self.said: list[Said] = []
        self.planned = ui.planned
        self.started = ui.started
        self.explained = ui.explained
        self.failed = ui.failed
        self.canceled = ui.canceled
        self.waiting = ui.waiting
        self.output = ui.output
        self.fetched = ui.fetched

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """Keep the step's label."""
        self.labels[number] = label
        self._ui.finished(number, label, outcome)

    def warning(self, notice: Notice) -> None:
        """Keep a warning."""
        span = notice.span
        place = (span.file, span.line, span.column, span.end_line)
        self.said.append(Said(notice.message, *place, int(bool(self.labels))))
        self._ui.warning(notice)

    def message(self, text: str) -> None:
        """Keep a message."""
        self.said.append(Said(text, "", 0, 0, 0, int(bool(self.labels))))
        self._ui.message(text)


def tell_again(known: KnownBuild, ui: BuildUi) -> None:
    """Tell of a known build what building it from the cache would tell."""
    _say_again([said for said in known.said if not said.is_late], ui)
    ui.planned(len(known.labels))
    for number, label in enumerate(known.labels, start=1):
        ui.finished(number, label, StepOutcome(cached=True))
    _say_again([said for said in known.said if said.is_late], ui)


def _say_again(lines: Iterable[Said], ui: BuildUi) -> None:
    for said in lines:
        if not said.file:
            ui.message(said.text)
            continue
        from layerstore.build.dockerfile.syntax import Notice, SourceSpan

        ui.warning(Notice(said.text, SourceSpan(said.file, said.line, said.column, said.end_line)))


def remember(
    store: Store,
    key: str,
    inputs: BuildInputs,
    image: ImageRecord,
    names: Sequence[str],
    heard: Overhearing,
    *,
    began_ns: int,
    epoch: int,
    variables: Sequence[str],
    given: Sequence[bytes],
) -> None:
    """Note what a build came to, if that is certain; failing to changes nothing.

    Args:
        store: Its own.
        key: Of what was asked (:func:`request_key`).
        inputs: Of the build.
        image: In the store.
        names: That it got; without any, gc may take it at once.
        heard: What the build told.
        began_ns: When it began: what changed in a file since then, or shortly before, may
            change again without its ctime telling.
        epoch: The catalog's when the build began.
        variables: Names in the environment that were needed.
        given: Files that were needed, beside those of the build.
    """
    from layerstore.formats.reference import parse_tag_name
    from layerstore.image.layers.remembered import SETTLED_NS, stamps_changes

    if not inputs.is_whole or not names or len(inputs.looked) > LOOKED_MAX:
        return
    try:
        bases = [(parse_tag_name(reference), image_id) for reference, image_id in inputs.bases]
    except LayerstoreError:
        return
    if any(store.catalog.tag(name) != image_id for name, image_id in bases):
        return  # an id was given, or the name moves right now
    known = KnownBuild(
        epoch, image.image_id, image.manifest_digest, image.size, tuple(names), tuple(bases),
        tuple(KnownStep(each.key, each.diff_id or "", repr(each.created)) for each in inputs.steps),
        tuple(label for _, label in sorted(heard.labels.items())),
        tuple(heard.said), tuple(variables), tuple(inputs.absent),
        (inputs.root, *inputs.given, *given),
        tuple(os.path.join(inputs.root, path) for path in inputs.looked), b"",
    )  # fmt: skip
    with contextlib.suppress(OSError):
        statuses = [*map(os.stat, known.given), *map(os.lstat, known.looked)]
        if max(status.st_ctime_ns for status in statuses) >= began_ns - SETTLED_NS:
            return
        if all(map(stamps_changes, {status.st_dev for status in statuses})):
            body = encode_known_build(known._replace(fingerprint=_fingerprint(statuses)))
            record = None if body is None else SEAL.closed(body)
            if record is not None and not is_shared(store.paths.root):
                path = f"{store.paths.scans}/{key}"
                write_record(path, record, staging=f"{path}.{os.getpid()}")
