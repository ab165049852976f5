"""A runtime that is started before its config is there gets all of it, or is started again."""

from __future__ import annotations

import fcntl
import os
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.containers.early import EarlyRuntime
from layerstore.runtime.runtimes import Runtime

if TYPE_CHECKING:
    from pathlib import Path

WAIT_SECONDS = 60.0


def _early(directory: Path) -> EarlyRuntime:
    """Start what reads its config as far as it goes, and writes down what it got."""
    program = directory / "runc"
    program.write_text(
        f"#!/bin/sh\nexec 3< {directory}/config.json; : > {directory}/opened\n"
        f"cat <&3 > {directory}/got.$$; mv {directory}/got.$$ {directory}/got\n"
    )
    program.chmod(0o755)
    spec = {
        "runtime": str(program), "runtime_options": [], "bundle": str(directory), "tty": False,
        "pid_file": f"{directory}/pid", "interactive": False, "container": "c", "environ": {},
        "runtime_log": f"{directory}/log",
    }  # fmt: skip
    early = EarlyRuntime(Runtime(str(program), "runc"), spec)
    # From here on it has no other config than what comes through the FIFO.
    until = time.monotonic() + WAIT_SECONDS
    while not (directory / "opened").exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    return early


@pytest.mark.parametrize("size", [100, 200_000])
def test_it_gets_all_of_its_config(tmp_path: Path, size: int) -> None:
    early = _early(tmp_path)
    started = early.configure(b"x" * size)
    _end(started)
    assert (tmp_path / "got").stat().st_size == size
    assert (tmp_path / "config.json").stat().st_size == size


def test_a_fifo_that_takes_less_is_no_config_cut_short(tmp_path: Path) -> None:
    early = _early(tmp_path)
    fcntl.fcntl(early._fifo, fcntl.F_SETPIPE_SZ, 4096)  # as users with many pipes have them
    _end(early.configure(b"x" * 9000))
    assert (tmp_path / "got").stat().st_size == 9000


def _end(started: dict[str, object]) -> None:
    """Wait for its end; the config ends when it is read, as the monitor has it."""
    config, pid = started.get("config", -1), started["pid"]
    assert isinstance(config, int)
    assert isinstance(pid, int)
    until = time.monotonic() + WAIT_SECONDS
    while config >= 0 and any(fcntl.ioctl(config, 0x541B, b"\0" * 4)):
        if os.waitpid(pid, os.WNOHANG)[0]:
            os.close(config)
            pid = config = -1
            break
        assert time.monotonic() < until
        time.sleep(0.01)
    if config >= 0:
        os.close(config)
    if pid >= 0:
        os.waitpid(pid, 0)
    for name in ("stdout", "stderr"):
        fd = started[name]
        assert isinstance(fd, int)
        os.close(fd)
