"""Trying again what may succeed: how often, and after how long.

Source: AWS' "Exponential Backoff and Jitter"; RFC 9110, "Retry-After".
"""

from __future__ import annotations

import random
import socket
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

from layerstore.net.errors import SlowServerError
from layerstore.registry.errors import (
    TRIES,
    RateLimitedError,
    RegistryAnswerError,
    SlowRegistryError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.net.errors import NetworkError
    from layerstore.net.transport import Answer

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 20.0
MAX_RETRY_AFTER_S = 300.0
"""A registry that wants more is an error: people decide whether to wait."""

_T = TypeVar("_T")


def retried(work: Callable[[], _T], pause: Callable[[float], None]) -> _T:
    """Return what ``work`` returns, after as many tries as it takes.

    Args:
        work: Can be called again.
        pause: Waits so many seconds.

    Raises:
        RegistryAnswerError: The last try's failure, or one that no try will change.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return work()
        except RegistryAnswerError as err:
            if not err.transient or attempt >= err.tries:
                raise
            wait = err.retry_after_s
        pause(pause_before(attempt, wait))
    raise AssertionError("the last attempt returns or raises")


def pause_before(attempt: int, retry_after_s: float | None) -> float:
    """Return how many seconds to wait after so many failures: what was asked for, or by chance."""
    if retry_after_s is not None:
        return retry_after_s
    # Not for secrets: it keeps clients apart that failed together.
    share = random.uniform(0.5, 1.0)  # noqa: S311
    return share * min(FIRST_PAUSE_S * 2.0 ** (attempt - 1), MAX_PAUSE_S)


def retry_after(answer: Answer) -> float | None:
    """Return how many seconds a registry asks to wait; None if it says nothing of it.

    Raises:
        RateLimitedError: Longer than anybody waits.
    """
    text = answer.header("Retry-After").strip()
    if not text:
        return None
    if text.isascii() and text.isdigit():
        seconds = float(text[:20])
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError, IndexError):
            return None
    if seconds > MAX_RETRY_AFTER_S:
        raise RateLimitedError(
            f"{answer.url.authority} asks to wait for {seconds:.0f} seconds, longer than the limit "
            f"of {MAX_RETRY_AFTER_S:.0f}"
        )
    return max(0.0, float(seconds))


_SLOW_HINT = "try again later, or ask a mirror first: registries.toml names them"


def of_network(err: NetworkError, what: str) -> RegistryAnswerError:
    """Return a failure of the line as a registry's."""
    # That nobody is there is told at once, as by docker, not after every try.
    nobody = isinstance(err.__cause__, socket.gaierror | ConnectionRefusedError)
    transient = err.transient and not nobody
    if isinstance(err, SlowServerError):
        return SlowRegistryError(f"{what}: {err.message}", hint=_SLOW_HINT, transient=True)
    return RegistryAnswerError(f"{what}: {err.message}", hint=err.hint, transient=transient)
