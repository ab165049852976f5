"""How long work reports that it moves: a protocol, and the one that says nothing.

Library code receives a :class:`Progress` and never knows whether a terminal
listens; the command line draws bars.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives steps of long work. Calls come often: implementations must be cheap."""

    def start(self, label: str, total: int | None) -> None:
        """Begin a phase named ``label`` of ``total`` units (bytes), or unknown length."""

    def advance(self, amount: int) -> None:
        """Report ``amount`` more units of the current phase."""

    def finish(self) -> None:
        """End the current phase."""


class Silent:
    """A :class:`Progress` that nobody watches."""

    def start(self, label: str, total: int | None) -> None:
        """Ignore it."""

    def advance(self, amount: int) -> None:
        """Ignore it."""

    def finish(self) -> None:
        """Ignore it."""
