"""What a command may do after its answer, where its process stays: the helper's forks.

Everywhere else it is done at once. Whoever asked sees no difference but the time: what others
can see of the work is done before.
"""

from __future__ import annotations

from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_waiting: list[Callable[[], object]] | None = None


def do(act: Callable[[], object]) -> None:
    """Do something at once, or when the command has answered."""
    if _waiting is None:
        act()
    else:
        _waiting.append(act)


def postpone() -> None:
    """Say that :func:`catch_up` will be called."""
    global _waiting
    _waiting = []


def catch_up() -> None:
    """Do what was postponed."""
    for act in _waiting or ():
        act()
