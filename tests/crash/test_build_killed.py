# ruff: noqa: F811 -- pytest fixtures are parameters of the same name
"""A build that is killed leaves no process, mount, control group or file behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from layerstore.linux.data_layers import follow_problem
from layerstore.snapshot.overlay import PLAIN_OPTIONS
from layerstore.store.check.check import check
from layerstore.store.collect.eviction import evict
from layerstore.store.store import Store
from tests.support.build import box, builder, needs_runc  # noqa: F401
from tests.support.ended import await_end, groups_of, stop

if TYPE_CHECKING:
    from collections.abc import Callable

if True:  # the fixtures' type, for annotations that pytest evaluates
    from tests.support.build import Builder

pytestmark = needs_runc

_PROGRAM = """
import signal, sys
from pathlib import Path
from layerstore.build.api import build
from layerstore.build.request import BuildRequest
from layerstore.build.ui import SilentUi
from layerstore.store.store import Store

class Ui(SilentUi):
    def output(self, number, data):
        print(data.decode(), flush=True)

signal.signal(signal.SIGINT, signal.default_int_handler)
with Store.open(Path(sys.argv[1])) as store:
    build(store, BuildRequest(context=Path(sys.argv[2])), Ui())
"""
_SECONDS = 60


def _start(box: Builder, dockerfile: str) -> subprocess.Popen[str]:
    box.write({"Dockerfile": dockerfile})
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(box.store.root), str(box.context)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def _remains(box: Builder, marker: str) -> list[str]:
    """Return what still exists of a build: processes, mounts, groups, files."""
    found = []
    root = os.fsencode(box.store.root)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if marker.encode() in command or (root in command and int(pid) != os.getpid()):
            found.append(f"process {pid}: {command!r}")
    with open("/proc/self/mountinfo", "rb") as table:
        found += [f"mount {line!r}" for line in table if root in line]
    lease = [name for name in os.listdir(box.store.root / "tmp") if name.endswith(".build")]
    found += [f"scratch {name}" for name in lease]
    return found


def _cgroups(box: Builder) -> list[Path]:
    """Return the control groups of the build that runs in this store."""
    leases = [name for name in os.listdir(box.store.root / "tmp") if name.endswith(".build")]
    assert len(leases) == 1
    name = leases[0].removesuffix(".build").removeprefix("lease-")
    return groups_of(name)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def _gone(box: Builder, marker: str) -> list[str]:
    deadline = time.monotonic() + _SECONDS
    while (left := _remains(box, marker)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _unpack(box: Builder, place: Path) -> None:
    """Show the base by the kernel once; skips where that does not work."""
    if (problem := follow_problem(PLAIN_OPTIONS)) is not None:
        pytest.skip(f"overlays need Linux 6.16 for this: {problem}")
    place.mkdir()
    image = box.store.resolve("box")
    mounts.mount(str(box.store.root), image, str(place), backend="kernel")
    mounts.unmount(str(box.store.root), str(place))


@pytest.mark.parametrize(
    ("number", "unpacked"),
    [
        (signal.SIGKILL, False),
        (signal.SIGKILL, True),
        (signal.SIGTERM, False),
        (signal.SIGINT, False),
        (signal.SIGINT, True),
    ],
)
def test_nothing_is_left(
    box: Builder, tmp_path: Path, number: signal.Signals, unpacked: bool
) -> None:
    if unpacked:
        _unpack(box, tmp_path / "view")
    marker = f"{987_000_000 + os.getpid()}"
    process = _start(
        box,
        f"FROM box\nRUN echo done > /done\nRUN sleep {marker} & echo running; sleep {marker}\n",
    )
    groups = _cgroups(box)
    assert groups
    process.send_signal(number)
    process.wait(_SECONDS)
    assert process.stdout is not None
    process.stdout.close()
    assert _gone(box, marker) == []
    assert not [group for group in groups if group.exists()]
    with Store.open(box.store.root) as store:
        assert check(store, read_data=True).ok
        # Nobody holds eviction off any more.
        assert bool(evict(store.paths).objects) == unpacked
    box.build("FROM box\nRUN echo done > /done\nRUN echo fixed\n")
    assert box.ui.cached == ["RUN echo done > /done"]


def _reaper(box: Builder) -> int:
    """Return the pid of the running build's reaper."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"/reaper.py\0" in command and os.fsencode(box.store.root) in command:
                return int(pid)
    raise AssertionError("there is no reaper")


@pytest.mark.parametrize("remover", ["build", "gc"])
def test_reaper_and_builder_killed_together(box: Builder, remover: str) -> None:
    """The kernel ends processes and mounts; the next command removes what is left."""
    marker = f"{985_000_000 + os.getpid()}"
    process = _start(box, f"FROM box\nRUN sleep {marker} & echo running; sleep {marker}\n")
    groups = _cgroups(box)
    stop(process)  # or it would notice, and clean up
    os.kill(_reaper(box), signal.SIGKILL)
    process.kill()
    await_end(process, _SECONDS)
    assert process.stdout is not None
    process.stdout.close()
    _until(lambda: not [line for line in _remains(box, marker) if not line.startswith("scratch")])
    assert any(group.exists() for group in groups)
    process.wait()
    if remover == "build":
        box.build("FROM box\nRUN echo next\n")
    else:
        subprocess.run(
            [sys.executable, "-m", "layerstore", "--store", str(box.store.root), "gc"],
            check=True,
            capture_output=True,
            cwd=Path(__file__).parents[2],
        )
        assert _remains(box, marker) == []
    assert not [group for group in groups if group.exists()]


def test_a_daemon_left_by_a_step_dies_with_it(box: Builder) -> None:
    marker = f"{986_000_000 + os.getpid()}"
    box.build(f"FROM box\nRUN (sleep {marker} &) ; echo left\n")
    assert not [line for line in _remains(box, marker) if line.startswith("process")]
    assert _gone(box, marker) == []


def test_deep_and_immutable_leftovers_are_removed(tmp_path: Path) -> None:
    from layerstore.build.run.reaper import remove_tree

    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep-directory-name", dir_fd=here)
        below = os.open("deep-directory-name", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    fd = os.open("file", os.O_CREAT | os.O_WRONLY, 0o000, dir_fd=here)
    subprocess.run(["chattr", "+i", f"/proc/self/fd/{fd}"], pass_fds=[fd], check=False)
    os.close(fd)
    os.close(here)
    remove_tree(str(tmp_path / "deep-directory-name"))
    assert os.listdir(tmp_path) == []
    remove_tree(str(tmp_path / "deep-directory-name"))  # harmless when it is gone
