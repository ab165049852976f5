"""What a build tells whoever watches it. The drawing is the watcher's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

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

    def output(self, number: int, data: bytes) -> None:
        """A command wrote something, in pieces that may end within a line or character."""

    def warning(self, notice: Notice) -> None:
        """The Dockerfile holds something worth a word."""

    def message(self, text: str) -> None:
        """Something worth a line happened that belongs to no step."""


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

    def output(self, number: int, data: bytes) -> None:
        """Ignore it."""

    def warning(self, notice: Notice) -> None:
        """Ignore it."""

    def message(self, text: str) -> None:
        """Ignore it."""
