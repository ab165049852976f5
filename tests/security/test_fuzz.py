"""A few seconds of fuzzing in every run of the tests: fixed seeds, then bytes of Hypothesis.

``make fuzz`` goes on for as long as one likes, guided by coverage.
"""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.security.fuzz.engine import Finding, fuzz, run_one
from tests.security.fuzz.mutate import change_once
from tests.security.fuzz.targets import ALL, BY_NAME, Target

ROOT = Path(__file__).parent.parent.parent
EXECUTIONS = 2500
_ALL_TARGETS = """
from tests.security.fuzz.engine import PEAK_BYTES, fuzz, peak_bytes
from tests.security.fuzz.targets import ALL
for target in ALL:
    fuzz(target, 1, executions=300)
assert peak_bytes() <= PEAK_BYTES, peak_bytes()
"""
SEED = 20261126


@pytest.mark.parametrize("name", BY_NAME)
def test_seeds_and_mutations_keep_the_law(name: str) -> None:
    tally = fuzz(BY_NAME[name], SEED, executions=EXECUTIONS)
    assert tally.executions == EXECUTIONS
    assert tally.accepted > 0  # the seeds at least: a target that accepts nothing tries nothing


@settings(max_examples=100)
@given(st.sampled_from(ALL), st.binary(max_size=600))
def test_any_bytes_keep_the_law(target: Target, data: bytes) -> None:
    run_one(target, data)
    run_one(target, target.repair(data))


@settings(max_examples=200)
@given(st.sampled_from(ALL), st.integers(0, 2**32), st.integers(1, 20))
def test_seeds_changed_again_and_again_keep_the_law(
    target: Target, seed: int, changes: int
) -> None:
    source = random.Random(seed)
    seeds = target.seeds()
    data = source.choice(seeds)
    for _ in range(changes):
        data = change_once(source, data, seeds, target.tokens)[: target.max_bytes]
        run_one(target, target.repair(data))


def test_a_finding_is_told_and_names_its_input() -> None:
    def broken(data: bytes) -> None:
        if len(data) > 3:
            raise IndexError("beyond the end")

    target = Target("broken", broken, lambda: [b"abc"])
    with pytest.raises(Finding, match="IndexError: beyond the end") as caught:
        fuzz(target, SEED, executions=500)
    assert len(caught.value.data) > 3


def test_memory_stays_bounded() -> None:
    """All targets in one process, Python included."""
    done = subprocess.run(
        [sys.executable, "-c", _ALL_TARGETS], cwd=ROOT, check=False, capture_output=True
    )
    assert done.returncode == 0, done
