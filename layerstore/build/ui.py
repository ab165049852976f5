"""What a build tells whoever watches it. The drawing is the watcher's business."""

from __future__ import annotations

import _thread  # threading is a millisecond's import, and of it only this is needed

from layerstore.light_typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.dockerfile.syntax import Notice


class StepOutcome(NamedTuple):
    """How a step ended well.

    Attributes:
        seconds: Wall-clock time it took.
        new_bytes: Plain bytes that it added to the store.
        reused_bytes: Plain bytes that its layer shares with what the store had.
    """

    cached: bool
    seconds: float = 0.0
    new_bytes: int = 0
    reused_bytes: int = 0


class Reason(NamedTuple):
    """One cause of a step's running, or of its being known.

    Attributes:
        kind: What kind of input it is about, a word that programs may rely on: ``file``,
            ``variable``, ``base`` and so on (docs/reference/build-progress.md lists them).
        name: Which one: a path, a variable's name; empty where there is only one.
        text: The whole of it for people.
    """

    kind: str
    name: str
    text: str


class BuildUi(Protocol):
    """Hears of a build's steps.

    Steps run side by side, so calls about different steps come mixed, and from several
    threads, but one at a time. Implementations must be quick.
    """

    def planned(self, total: int) -> None:
        """The build has this many steps; said before the first one, and again when begun anew."""

    def started(self, number: int, label: str) -> None:
        """Step ``number`` begins to run; ``label`` is ``[builder 2/5] RUN make``."""

    def explained(self, number: int, label: str, reasons: Sequence[Reason]) -> None:
        """Why a step must run, said before it starts; only of builds that are to explain it."""

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """A step ended; one taken from the cache was started only if that took asking a server."""

    def failed(self, number: int, label: str) -> None:
        """A started step failed; the exception says why."""

    def canceled(self, number: int, label: str) -> None:
        """A started step was given up, because another one failed or the user wants to go."""

    def output(self, number: int, data: bytes) -> None:
        """A command wrote something, in pieces that may end within a line or character."""

    def fetched(self, number: int, done: int, total: int | None) -> None:
        """A step has so many bytes of a file from a URL, of so many if that is known."""

    def warning(self, notice: Notice) -> None:
        """The Dockerfile holds something worth a word."""

    def message(self, text: str) -> None:
        """Something worth a line happened that belongs to no step."""

    def waiting(self, what: str) -> None:
        """A step waits for what another step or build has: ``the cache mount pip, ...``."""


class SilentUi:
    """A :class:`BuildUi` that nobody watches."""

    def planned(self, total: int) -> None:
        """Ignore it."""

    def started(self, number: int, label: str) -> None:
        """Ignore it."""

    def explained(self, number: int, label: str, reasons: Sequence[Reason]) -> None:
        """Ignore it."""

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """Ignore it."""

    def failed(self, number: int, label: str) -> None:
        """Ignore it."""

    def canceled(self, number: int, label: str) -> None:
        """Ignore it."""

    def output(self, number: int, data: bytes) -> None:
        """Ignore it."""

    def fetched(self, number: int, done: int, total: int | None) -> None:
        """Ignore it."""

    def warning(self, notice: Notice) -> None:
        """Ignore it."""

    def message(self, text: str) -> None:
        """Ignore it."""

    def waiting(self, what: str) -> None:
        """Ignore it."""


class CountingUi:
    """Passes everything on, one call at a time whatever thread it comes from, and counts steps.

    Attributes:
        total: Steps that ended well, ``cached`` of them from the cache.
        new_bytes: Plain bytes that the others added to the store.
        reused_bytes: Plain bytes that these share with what it had.
    """

    def __init__(self, ui: BuildUi) -> None:
        self._ui = ui
        self._lock = _thread.allocate_lock()
        self.total = 0
        self.cached = 0
        self.new_bytes = 0
        self.reused_bytes = 0

    def planned(self, total: int) -> None:
        """Pass it on."""
        with self._lock:
            self._ui.planned(total)

    def started(self, number: int, label: str) -> None:
        """Pass it on."""
        with self._lock:
            self._ui.started(number, label)

    def explained(self, number: int, label: str, reasons: Sequence[Reason]) -> None:
        """Pass it on."""
        with self._lock:
            self._ui.explained(number, label, reasons)

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """Count a finished step and pass it on."""
        with self._lock:
            self.total += 1
            self.cached += outcome.cached
            self.new_bytes += outcome.new_bytes
            self.reused_bytes += outcome.reused_bytes
            self._ui.finished(number, label, outcome)

    def failed(self, number: int, label: str) -> None:
        """Pass it on."""
        with self._lock:
            self._ui.failed(number, label)

    def canceled(self, number: int, label: str) -> None:
        """Pass it on."""
        with self._lock:
            self._ui.canceled(number, label)

    def output(self, number: int, data: bytes) -> None:
        """Pass it on."""
        with self._lock:
            self._ui.output(number, data)

    def fetched(self, number: int, done: int, total: int | None) -> None:
        """Pass it on."""
        with self._lock:
            self._ui.fetched(number, done, total)

    def warning(self, notice: Notice) -> None:
        """Pass it on."""
        with self._lock:
            self._ui.warning(notice)

    def message(self, text: str) -> None:
        """Pass it on."""
        with self._lock:
            self._ui.message(text)

    def waiting(self, what: str) -> None:
        """Pass it on."""
        with self._lock:
            self._ui.waiting(what)
