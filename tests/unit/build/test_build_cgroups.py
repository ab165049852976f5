"""Groups of dead builds are told from those of living ones by their names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.build.run.reaper import remove_cgroups
from layerstore.errors import InputError, UnsupportedError
from layerstore.runtime import cgroups
from layerstore.runtime.limits import require_enforceable
from layerstore.runtime.settings import Limits, Ulimit

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def hierarchies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand for two hierarchies of version 1, in which every directory can be removed."""
    for name in ("memory", "pids"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(cgroups, "ROOT", str(tmp_path))
    return tmp_path


def of_dead(lease: str) -> str:
    """Return the name of a group whose process began at another time than the one of its pid."""
    prefix, namespace, pid, started, _ = cgroups.group_name(lease).split("-")
    return "-".join((prefix, namespace, pid, f"{started}1", lease))


def test_only_groups_of_the_dead_go(hierarchies: Path) -> None:
    dead, living = of_dead("a1"), cgroups.group_name("a2")
    strangers = ["docker", "layerstore-x", "layerstore-1-2-3", f"layerstore-1-{os.getpid()}-1-a"]
    for name in (f"{dead}/3", f"{living}/3", *strangers):
        (hierarchies / "memory" / name).mkdir(parents=True)
    (hierarchies / "pids" / dead).mkdir()
    cgroups.remove_abandoned()
    assert sorted(os.listdir(hierarchies / "memory")) == sorted([living, *strangers])
    assert os.listdir(hierarchies / "memory" / living) == ["3"]
    assert os.listdir(hierarchies / "pids") == []


def test_parents_are_looked_through_when_named_or_by_gc(hierarchies: Path) -> None:
    for parent in ("own", "other/deep"):
        (hierarchies / "pids" / parent / of_dead("a")).mkdir(parents=True)
    cgroups.remove_abandoned(parent="/own")
    assert os.listdir(hierarchies / "pids/own") == []
    assert os.listdir(hierarchies / "pids/other/deep") == [of_dead("a")]
    cgroups.remove_abandoned(everywhere=True)
    assert os.listdir(hierarchies / "pids/other/deep") == []


def test_what_is_busy_stays(hierarchies: Path) -> None:
    group = hierarchies / "pids" / of_dead("a")
    group.mkdir()
    (group / "occupied").touch()  # a directory with a file stands for a group with a process
    cgroups.remove_abandoned()
    assert group.exists()


def test_a_missing_path_removes_nothing(hierarchies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layerstore.build.run.reaper._CGROUPS", str(hierarchies))
    remove_cgroups("")
    assert sorted(os.listdir(hierarchies)) == ["memory", "pids"]


def test_controllers_of_both_versions(hierarchies: Path) -> None:
    (hierarchies / "cpu,cpuacct").mkdir()
    (hierarchies / "cpu").symlink_to("cpu,cpuacct")
    (hierarchies / "unified").mkdir()
    (hierarchies / "unified/cgroup.controllers").write_text("hugetlb rdma\n")
    expected = {"memory", "pids", "cpu", "cpuacct", "hugetlb", "rdma"}
    assert cgroups.controllers() == expected
    assert not cgroups.counts_swap()
    (hierarchies / "memory/memory.memsw.limit_in_bytes").touch()
    assert cgroups.counts_swap()
    (hierarchies / "cgroup.controllers").write_text("cpu memory\n")
    assert cgroups.controllers() == {"cpu", "memory"}
    assert not cgroups.counts_swap()


def test_limits_that_nothing_enforces_are_refused(hierarchies: Path) -> None:
    require_enforceable(Limits(), rootless=False)
    require_enforceable(Limits(memory=1 << 30), rootless=False)
    with pytest.raises(UnsupportedError, match="no cpuset controller"):
        require_enforceable(Limits(cpuset_cpus="0"), rootless=False)
    with pytest.raises(UnsupportedError, match="--pids-limit needs"):
        require_enforceable(Limits(), rootless=True, pids=5)
    with pytest.raises(UnsupportedError, match="does not count swap"):
        require_enforceable(Limits(memory=1 << 30, memory_swap=-1), rootless=False)
    with pytest.raises(UnsupportedError, match="--memory needs control groups") as refused:
        require_enforceable(Limits(memory=1 << 30), rootless=True)
    assert "systemd-run --user --scope" in str(refused.value.hint)


def test_without_root_no_hard_limit_rises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _number: (10, 100))
    for ulimit in (Ulimit("nofile", 50, 100), Ulimit("sigpending", 1, 1)):
        require_enforceable(Limits(ulimits=(ulimit,)), rootless=True)
    for ulimit in (Ulimit("nofile", 50, 101), Ulimit("core", 0, -1)):
        require_enforceable(Limits(ulimits=(ulimit,)), rootless=False)
        with pytest.raises(InputError, match="cannot go above 100"):
            require_enforceable(Limits(ulimits=(ulimit,)), rootless=True)
