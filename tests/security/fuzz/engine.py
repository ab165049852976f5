"""Runs targets over mutated inputs, with bounds on every single one.

The own engine mutates seeds at random; inputs that were accepted, or refused in a way not
seen before, join the seeds. :mod:`tests.security.fuzz.guided` follows coverage instead.
"""

from __future__ import annotations

import random
import re
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from tests.security.fuzz.mutate import mutate

if TYPE_CHECKING:
    from types import FrameType

    from tests.security.fuzz.targets import Target

SECONDS_PER_INPUT = 10
"""Wall time: generous beside other work on the machine; honest inputs take milliseconds."""

PEAK_BYTES = 256 << 20
_SEEDS_MAX = 4000
_QUOTED = re.compile(r"'.*?'|\".*?\"|[0-9]+", re.DOTALL)


class Finding(Exception):  # noqa: N818 -- the word of the field
    """An input that broke its target's law; carries the input."""

    def __init__(self, target: Target, data: bytes, cause: BaseException) -> None:
        super().__init__(f"{target.name}: {type(cause).__name__}: {cause} for {data[:200]!r}")
        self.data = data


class Tally(NamedTuple):
    """What a run did.

    Attributes:
        slowest: Seconds of CPU that the slowest input took.
        peak_bytes: The process's memory at its highest, the interpreter included.
        refusals: Different messages, digits left out: how far the inputs reached.
    """

    target: str
    executions: int
    accepted: int
    refusals: int
    seconds: float
    slowest: float
    peak_bytes: int


class InputTooSlow(BaseException):
    """Not an Exception: no parser may take it for a refusal."""


def run_one(target: Target, data: bytes) -> Exception | None:
    """Give one input to a target; return how it was refused, or None.

    Raises:
        Finding: The law was broken.
    """
    try:
        target.run(data)
    except target.refusals as err:
        return err
    except (Exception, InputTooSlow) as err:
        raise Finding(target, data, err) from err
    return None


def run_one_in_time(target: Target, data: bytes) -> Exception | None:
    """Do the same; an input that takes too long is a finding, too."""
    before = signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_INPUT)
    try:
        return run_one(target, data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _too_slow(_signal: int, _frame: FrameType | None) -> None:
    raise InputTooSlow(f"no answer within {SECONDS_PER_INPUT} s")


def peak_bytes() -> int:
    """Return how much memory this process has had at most.

    Not from getrusage(2): what that says is inherited from the process that started this one.
    """
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def fuzz(
    target: Target, seed: int, *, executions: int | None = None, seconds: float | None = None
) -> Tally:
    """Run a target over its seeds and then over mutations of them.

    Args:
        target: What to run.
        seed: The same seed and number of executions give the same inputs.
        executions: When to stop.
        seconds: When to stop, by the clock.

    Raises:
        Finding: The law was broken.
    """
    source = random.Random(f"{seed}/{target.name}")
    seeds = target.seeds()
    queue = list(seeds)
    seen: set[str] = set()
    count = accepted = 0
    slowest = 0.0
    run_one_in_time(target, seeds[0])  # imports what it needs, which is no input's fault
    started = time.monotonic()
    while _goes_on(count, executions, started, seconds):
        data = queue.pop() if queue else _new_input(source, target, seeds)
        before = time.process_time()
        refusal = run_one_in_time(target, data)
        slowest = max(slowest, time.process_time() - before)
        count += 1
        accepted += refusal is None
        kind = "" if refusal is None else _kind(refusal)
        if kind not in seen or (refusal is None and source.random() < 0.01):
            seen.add(kind)
            if len(seeds) < _SEEDS_MAX and len(data) <= target.max_bytes:
                seeds.append(data)
    return Tally(
        target.name, count, accepted, len(seen), time.monotonic() - started, slowest, peak_bytes()
    )  # fmt: skip


def _goes_on(count: int, executions: int | None, started: float, seconds: float | None) -> bool:
    if executions is not None and count >= executions:
        return False
    return seconds is None or time.monotonic() - started < seconds


def _new_input(source: random.Random, target: Target, seeds: list[bytes]) -> bytes:
    data = mutate(source, seeds, target.tokens, target.max_bytes)
    return target.repair(data) if source.random() < 0.5 else data


def _kind(refusal: Exception) -> str:
    """Return what is the same about refusals for the same reason: its words, nothing quoted."""
    return type(refusal).__name__ + _QUOTED.sub("", str(refusal)[:400])[:60]
