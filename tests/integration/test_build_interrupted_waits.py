# ruff: noqa: F811 -- pytest fixtures are parameters of the same name
"""Cache mounts that builds wait for, and what a running step shows of its secrets."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.build import box, builder, needs_runc  # noqa: F401
from tests.support.cli import Cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if True:  # the fixtures' type, for annotations that pytest evaluates
    from tests.support.build import Builder

pytestmark = needs_runc

_SECONDS = 200
_LONG = 985_000_000 + os.getpid()
"""Seconds to sleep that no other test's process has in its command line."""


def test_a_cache_mounted_twice_is_taken_once(box: Builder) -> None:
    box.build(
        "FROM box\n"
        "RUN --mount=type=cache,id=c,target=/x,sharing=locked "
        "--mount=type=cache,id=c,target=/y echo seen > /x/f && cat /y/f\n"
    )
    assert box.ui.text == b"seen\n"


def test_steps_that_want_the_same_caches_in_another_order_both_end(box: Builder) -> None:
    mount = "--mount=type=cache,id={0},target=/{0},sharing=locked"
    first, second = mount.format("a"), mount.format("b")
    with contextlib.ExitStack() as stack:
        builds = [
            stack.enter_context(_build(box, f"FROM box\nRUN {mounts} sleep 0.2; echo {n}\n"))
            for n, mounts in enumerate([f"{first} {second}", f"{second} {first}"] * 3)
        ]
        assert [build.wait(_SECONDS) for build in builds] == [0] * 6


def test_waiting_for_a_cache_ends_with_ctrl_c(box: Builder) -> None:
    line = "FROM box\nRUN --mount=type=cache,id=c,target=/x,sharing=locked"
    with _build(box, f"{line} sleep {_LONG}\n") as holder:
        _until(lambda: _running(f"sleep\x00{_LONG}"))
        with _build(box, f"{line} echo mine\n") as waiter:
            assert waiter.stderr is not None
            for shown in waiter.stderr:
                if shown == "waiting for the cache mount c, which another step has\n":
                    break
            waiter.send_signal(signal.SIGINT)
            assert waiter.wait(_SECONDS) == 130
            assert "Traceback" not in waiter.stderr.read()
        holder.send_signal(signal.SIGINT)
        assert holder.wait(_SECONDS) == 130


def test_secrets_in_variables_are_on_no_disk_while_a_step_runs(box: Builder) -> None:
    canary = f"canary-{os.urandom(8).hex()}"
    options = ["--secret", "id=k,env=CANARY", "--build-arg", f"http_proxy=http://{canary}@p.test"]
    text = (
        f"FROM box\nRUN --mount=type=secret,id=k,env=KEY --mount=type=secret,id=k sleep {_LONG}1\n"
    )
    with _build(box, text, *options, CANARY=canary) as build:
        _until(lambda: _running(f"sleep\x00{_LONG}1"))
        for folder, _, names in os.walk(box.store.root):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # the build goes on meanwhile
                    content = Path(folder, name).read_bytes()
                    assert canary.encode() not in content, name
        build.send_signal(signal.SIGINT)
        assert build.wait(_SECONDS) == 130


def test_what_the_host_unmounts_is_gone_while_a_step_runs(box: Builder) -> None:
    disk = box.directory / "disk"
    with _shared(box.directory):
        _run("mount", "-t", "tmpfs", "tmpfs", disk)
        with _build(box, f"FROM box\nRUN sleep {_LONG}2\n") as build:
            _until(lambda: _running(f"sleep\x00{_LONG}2"))
            assert len(_namespaces_with(disk)) > 1
            _run("umount", disk)
            # Steps of other tests that were just then beginning have a copy for a moment.
            _until(lambda: not _namespaces_with(disk))
            build.send_signal(signal.SIGINT)
            assert build.wait(_SECONDS) == 130


@contextlib.contextmanager
def _shared(directory: Path) -> Iterator[None]:
    """Make a directory one whose mounts and unmounts travel, as all do where systemd runs."""
    (directory / "disk").mkdir()
    _run("mount", "--bind", directory, directory)
    _run("mount", "--make-shared", directory)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True)


def _namespaces_with(place: Path) -> set[str]:
    """Return the mount namespaces in which something is mounted at a place."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/mountinfo") as file:
            if f" {place} " in file.read():
                found.add(os.readlink(f"/proc/{pid}/ns/mnt"))
    return found


@contextlib.contextmanager
def _build(
    box: Builder, dockerfile: str, *options: str, **env: str
) -> Iterator[subprocess.Popen[str]]:
    cli = Cli(box.store.root)
    path = box.directory / f"Dockerfile-{os.urandom(4).hex()}"
    path.write_text(dockerfile)
    process = subprocess.Popen(
        cli.command("build", "-f", path, *options, box.context),
        env=cli.interrupted_environment(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _running(command: str) -> bool:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
            if file.read().rstrip("\x00") == command:
                return True
    return False
