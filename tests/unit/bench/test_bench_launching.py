"""What a command takes is its own: not its parent's memory, and not the launcher's."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.bench.harness import CommandError, run_costed
from tests.bench.launching import run_small

LARGE = 150_000_000
GROWS = "b = bytearray({}); b[::4096] = b'x' * len(b[::4096])"


def python(program: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", program]


def test_a_peak_is_below_that_of_who_measures() -> None:
    ballast = bytearray(LARGE)
    ballast[::4096] = b"x" * len(ballast[::4096])  # resident, every page of it
    assert run_costed(["true"]).rss_bytes < 40_000_000
    assert len(ballast) == LARGE


def test_a_peak_is_that_of_the_largest_process_below() -> None:
    grows = GROWS.format(LARGE)
    assert LARGE < run_costed(python(grows)).rss_bytes < 2 * LARGE
    below = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {grows!r}], check=True)"
    assert LARGE < run_costed(python(below)).rss_bytes < 2 * LARGE


def test_processor_time_is_the_commands_alone() -> None:
    spins = "import time\nwhile time.process_time() < 0.3: pass"
    assert run_small(python(spins)).cpu_seconds >= 0.3


def test_exit_codes_and_signals_are_told() -> None:
    assert run_small(["sh", "-c", "exit 7"]).code == 7
    assert run_small(["sh", "-c", "exit 127"]).code == 127
    assert run_small(["sh", "-c", "kill -9 $$"]).code == -9
    with pytest.raises(CommandError, match=r"exit 3\n(.*\n)*said"):
        run_costed(["sh", "-c", "echo said; exit 3"])


def test_what_cannot_be_started_is_an_error_as_of_popen(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere-to-be-found"):
        run_small(["nowhere-to-be-found"])
    with pytest.raises(PermissionError):
        run_small([tmp_path])


def test_streams_directory_and_environment_are_the_commands(tmp_path: Path) -> None:
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
        given.write(b"word")
        given.seek(0)
        env = {"PATH": os.environ["PATH"], "PYTHONPATH": "kept"}
        command = ["sh", "-c", 'cat; echo " $PYTHONPATH $PWD"']
        run_small(command, env=env, cwd=tmp_path, stdin=given, stdout=said)
        said.seek(0)
        assert said.read().decode() == f"word kept {tmp_path}\n"


def test_what_a_command_leaves_running_is_not_waited_for() -> None:
    begun = time.monotonic()
    with tempfile.TemporaryFile() as said:
        assert run_small(["sh", "-c", "sleep 300 & echo $!"], stdout=said).code == 0
        said.seek(0)
        left = int(said.read())
    try:
        assert Path(f"/proc/{left}").exists(), "it goes on"
        assert time.monotonic() - begun < 200  # and did not end by itself
    finally:
        os.kill(left, 9)


def test_a_command_joins_groups_and_the_launcher_does_not(tmp_path: Path) -> None:
    procs = tmp_path / "cgroup.procs"
    with tempfile.TemporaryFile() as said:
        run_small(["sh", "-c", "echo $$"], stdout=said, groups=[str(procs)])
        said.seek(0)
        assert procs.read_text() == said.read().decode().strip()
