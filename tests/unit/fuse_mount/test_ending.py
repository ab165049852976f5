"""Who unmounts waits for servers that end, and for no others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fuse_mount import ending
from fuse_mount.ending import Endings
from fuse_mount.records import MountRecord
from layerstore.linux.locks import FileLock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NO_DEVICE = os.makedev(0, 0)


class Clock:
    """Goes on by what is slept, and does something at a given moment."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.at: tuple[float, Callable[[], object]] = (1e9, lambda: None)

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.now_s >= self.at[0]:
            self.at[1]()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(ending, "time", clock)
    return clock


def served(instance: Path) -> FileLock:
    """Make an instance with a view that uses it; return what its server holds."""
    (instance / "users").mkdir(parents=True)
    (instance / "users" / "view").touch()
    return FileLock(f"{instance}/alive")


def record_of(instance: Path, device: int = NO_DEVICE) -> MountRecord:
    return MountRecord(
        view_id="0" * 12, image_id="sha256:" + "0" * 64, image="a:1", layers=(), target="/nowhere",
        mode="ro", kind="bind", upper=None, lower=str(instance), mount_id=1, device=device,
        boot_id="", namespace=0, created=0.0,
    )  # fmt: skip


def leave(instance: Path) -> None:
    for name in os.listdir(instance / "users"):
        (instance / "users" / name).unlink()


def test_a_server_is_waited_for_until_it_holds_nothing(tmp_path: Path, clock: Clock) -> None:
    with served(tmp_path / "i") as lock:
        endings = Endings()
        endings.watch(record_of(tmp_path / "i"))
        leave(tmp_path / "i")
        os.unlink(lock.path)  # as it does before its end
        clock.at = (1.0, lock.close)
        assert endings.wait() == 0
    assert clock.now_s == pytest.approx(1.0, abs=0.1)
    assert endings.wait() == 0


def test_one_that_does_not_end_is_told_and_left(tmp_path: Path, clock: Clock) -> None:
    with served(tmp_path / "i"):
        endings = Endings()
        endings.watch(record_of(tmp_path / "i"))
        leave(tmp_path / "i")
        assert endings.wait() == 1
    assert clock.now_s == pytest.approx(ending.PATIENCE_S, abs=0.1)


def test_two_are_waited_for_at_the_same_time(tmp_path: Path, clock: Clock) -> None:
    with served(tmp_path / "a"), served(tmp_path / "b"):
        endings = Endings()
        for name in ("a", "b", "a"):
            endings.watch(record_of(tmp_path / name))
        leave(tmp_path / "a")
        leave(tmp_path / "b")
        assert endings.wait() == 2
    assert clock.now_s == pytest.approx(ending.PATIENCE_S, abs=0.1)


def test_one_that_another_view_needs_is_not_waited_for(tmp_path: Path, clock: Clock) -> None:
    with served(tmp_path / "i"):
        endings = Endings()
        endings.watch(record_of(tmp_path / "i"))
        assert endings.wait() == 0
    assert clock.now_s == 0


@pytest.mark.parametrize("goes", [False, True])
def test_the_kernel_tells_whether_its_file_system_is_still_there(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, goes: bool
) -> None:
    """A copy of the mount, or an open file in a detached one, keeps it, and so the server."""
    monkeypatch.setattr(ending, "_SUPER_BLOCKS", str(tmp_path))
    (tmp_path / "0:77").touch()
    with served(tmp_path / "i"):
        endings = Endings()
        endings.watch(record_of(tmp_path / "i", os.makedev(0, 77)))
        leave(tmp_path / "i")
        if goes:  # and another has its device by now
            (tmp_path / "other").touch()
            (tmp_path / "other").rename(tmp_path / "0:77")
        assert endings.wait() == goes
    assert (clock.now_s > 0) == goes


def test_more_servers_than_are_watched_at_once(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ending, "_SERVERS_MAX", 2)
    before = len(os.listdir("/proc/self/fd"))
    endings = Endings()
    for number in range(5):
        with served(tmp_path / str(number)):
            endings.watch(record_of(tmp_path / str(number)))
            leave(tmp_path / str(number))
    assert endings.wait() == 0
    assert len(os.listdir("/proc/self/fd")) == before
    assert clock.now_s == 0


def test_views_without_a_server_cost_no_waiting(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "users").mkdir()
    endings = Endings()
    endings.watch(record_of(tmp_path))
    endings.watch(record_of(tmp_path)._replace(lower=""))
    assert endings.wait() == 0
    assert clock.now_s == 0
