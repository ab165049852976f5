"""Locks of steps: who runs one that several builds want."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from layerstore.build import step_locks
from layerstore.build.errors import BuildCanceledError
from layerstore.build.step_locks import StepLocks
from layerstore.build.waiting import Patience
from layerstore.linux.files import open_private

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "step:" + "a" * 64


def locks(path: Path) -> tuple[StepLocks, list[str], threading.Event]:
    stopping, told = threading.Event(), []
    return StepLocks(str(path / "steps"), Patience(stopping, told.append)), told, stopping


@pytest.fixture
def inherited(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Descriptors that a child has which was forked while a lock was held."""
    copies: list[int] = []

    def opened(path: str, flags: int) -> int:
        fd = open_private(path, flags)
        copies.append(os.dup(fd))
        return fd

    monkeypatch.setattr(step_locks, "open_private", opened)
    yield copies
    for fd in copies:
        os.close(fd)


def fail() -> None:
    raise RuntimeError


def test_the_lock_of_a_step_that_failed_ends_whoever_has_the_file_open(
    tmp_path: Path, inherited: list[int]
) -> None:
    first, _, _ = locks(tmp_path)
    with pytest.raises(RuntimeError), first.held(KEY, "RUN x"):
        fail()
    assert len(inherited) == 1
    other, told, stopping = locks(tmp_path)
    stopping.set()  # it would give up instead of waiting
    with other.held(KEY, "RUN x"):
        assert told == []


def test_who_waits_is_told_for_what_and_ends_with_its_build(tmp_path: Path) -> None:
    first, _, _ = locks(tmp_path)
    other, told, stopping = locks(tmp_path)
    with first.held(KEY, "RUN x"):
        stopping.set()
        with pytest.raises(BuildCanceledError), other.held(KEY, "RUN x"):
            pass
        assert told == ["another build that runs the same step: RUN x"]
        with other.held("step:" + "b" * 64, "RUN y"):
            pass
