"""What ``top`` and ``stats`` say of containers, against what they do."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from layerstore.cli.container.watching import _terminal
from tests.support.build import needs_runc
from tests.support.running import wait_until

if TYPE_CHECKING:
    from tests.support.running import Containers

pytestmark = needs_runc


def _stats(box: Containers, *words: str) -> list[dict[str, Any]]:
    return list(json.loads(box.ok("stats", "--no-stream", "--json", *words).out))


def _pids(box: Containers, name: str) -> list[int]:
    lines = box.ok("top", name).out.splitlines()
    assert lines[0].split() == ["UID", "PID", "PPID", "STIME", "TTY", "TIME", "CMD"]
    return [int(line.split()[1]) for line in lines[1:]]


def _commands(box: Containers, name: str) -> dict[int, str]:
    """What the processes of a container are, as the kernel knows them; some may go meanwhile."""
    said = {}
    for pid in _pids(box, name):
        with contextlib.suppress(OSError):
            said[pid] = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    return said


def test_top_lists_all_processes_with_their_pids_here(box: Containers) -> None:
    script = "sleep 1001 & sleep 1002 & wait"
    box.ok("run", "-d", "--name", "three", "box", "sh", "-c", script)
    expected = sorted([f"sh -c {script}", "sleep 1001", "sleep 1002"])
    wait_until(lambda: sorted(_commands(box, "three").values()) == expected, "three processes")
    assert box.state("three")["Pid"] in _pids(box, "three")
    asked = box.popen("exec", "three", "sleep", "1003")  # one more, which is no child of the first
    wait_until(lambda: "sleep 1003" in _commands(box, "three").values(), "what was begun by exec")
    (pid,) = (pid for pid, said in _commands(box, "three").items() if said == "sleep 1003")
    os.kill(pid, signal.SIGKILL)
    asked.wait(60)
    assert box.ok("container", "top", "three").out == box.ok("top", "three").out


def test_top_with_options_of_ps(box: Containers) -> None:
    if shutil.which("ps") is None:
        pytest.skip("there is no ps")
    box.ok("run", "-d", "--name", "one", "box", "sleep", "1000")
    shown = box.ok("top", "one", "-e", "-o", "pid,args").out.splitlines()
    assert [line.split() for line in shown[1:]] == [[str(_pids(box, "one")[0]), "sleep", "1000"]]
    box.ok("run", "-d", "--name", "two", "--user", "1234", "box", "sleep", "1001")
    for words in (["-o", "pid,args"], ["f", "-eo", "pid,args"]):  # -o alone: this terminal's
        shown = box.ok("top", "two", *words).out.splitlines()
        assert [line.split()[-2:] for line in shown[1:]] == [["sleep", "1001"]], words
    without = box("top", "one", "-e", "-o", "comm")
    assert (without.code, without.out) == (2, "")
    assert "PID" in without.err
    wrong = box("top", "one", "--no-such-option")
    assert wrong.code == 2
    assert wrong.err.startswith("layerstore: error: ps: ")


def test_top_of_what_does_not_run(box: Containers) -> None:
    box.ok("create", "--name", "idle", "box", "true")
    assert "container idle is not running" in box("top", "idle").err
    assert "no container 'nobody'" in box("top", "nobody").err


def test_stats_count_processors_memory_and_processes(box: Containers) -> None:
    hold = "x=$(head -c 20000000 /dev/zero | tr '\\0' x); sleep 1000 & echo held; "
    hold += "while :; do :; done"
    box.ok("run", "-d", "--name", "busy", "--memory", "200m", "box", "sh", "-c", hold)
    box.ok("run", "-d", "--name", "idle", "box", "sleep", "1000")
    box.ok("create", "--name", "never", "box", "true")
    wait_until(lambda: box.ok("logs", "busy").out == "held\n", "the memory to be held")
    assert _stats(box, "busy")[0]["processes"] == 2
    found = {one["name"]: one for one in _stats(box)}
    assert set(found) == {"busy", "idle"}
    assert found["busy"]["cpu_share"] > found["idle"]["cpu_share"]
    assert found["busy"]["cpu_s"] > found["idle"]["cpu_s"] > 0
    assert 20_000_000 < found["busy"]["memory_bytes"] < 200 << 20
    assert found["busy"]["memory_limit_bytes"] == 200 << 20
    assert found["idle"]["processes"] == 1
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found["idle"]["memory_limit_bytes"] == host
    every = {one["name"]: one["running"] for one in _stats(box, "--all")}
    assert every == {"busy": True, "idle": True, "never": False}


def test_stats_for_people_and_scripts(box: Containers) -> None:
    box.ok("run", "-d", "--name", "one", "box", "sleep", "1000")
    head, row = box.ok("stats", "--no-stream").out.splitlines()
    assert head.split()[:6] == ["CONTAINER", "ID", "NAME", "CPU", "%", "MEM"]
    assert row.split()[1] == "one"
    template = "{{.Name}} {{.CPUPerc}} {{.PIDs}}"
    (line,) = box.ok("stats", "--no-stream", "--format", template, "one").out.splitlines()
    name, share, count = line.split()
    assert (name, share[-1], count) == ("one", "%", "1")
    assert "no container 'nobody'" in box("stats", "--no-stream", "nobody").err
    assert box.ok("stats", "-i", "0.1", "--no-stream", "one").out.splitlines()[0] == head
    assert "--interval 0 is not between" in box.fails(2, "stats", "-i", "0")
    box.ok("stop", "-t", "0", "one")
    assert box.ok("stats", "--no-stream", "one").out.splitlines()[1].split()[2] == "--"


def test_stats_go_on_until_they_are_interrupted(box: Containers) -> None:
    box.ok("run", "-d", "--name", "one", "box", "sleep", "1000")
    running = box.popen("stats", stdout=subprocess.PIPE)
    assert running.stdout is not None
    tables = 0
    for line in running.stdout:
        tables += line.startswith(b"CONTAINER ID")
        assert b"\x1b" not in line  # it is no terminal
        if tables == 3:
            break
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)  # it may be about to write another
    assert running.returncode == 130


def test_terminals_are_called_as_ps_calls_them() -> None:
    assert _terminal(0) == "?"
    assert _terminal(os.makedev(136, 7)) == "pts/7"
    assert _terminal(os.makedev(137, 1)) == "pts/257"
    assert _terminal(os.makedev(4, 64)) == "4:64"
