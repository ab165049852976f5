"""What a build tells whoever watches it. The drawing is the watcher's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
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


class BuildUi(Protocol):
    """Hears of a build's steps. Calls come from one thread; implementations must be quick."""

    def started(self, number: int, label: str) -> None:
        """Step ``number`` begins to run; ``label`` is ``[builder 2/5] RUN make``."""

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """A step ended; one taken from the cache was never started."""

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

    def started(self, number: int, label: str) -> None:
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
