"""Containers whose monitor, command or record is killed or damaged: told, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from layerstore.linux.locks import FileLock
from tests.support.build import needs_runc
from tests.support.running import (
    Containers,
    cgroups_of,
    is_running,
    wait_until,
)

pytestmark = needs_runc


def test_run_that_is_killed_leaves_its_container_running(box: Containers) -> None:
    words = ("run", "--rm", "--name", "orphan", "box", "sh", "-c", "echo up; sleep 100")
    running = box.popen(*words, stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"up\n"
    running.kill()
    running.communicate(timeout=60)
    assert box.state("orphan")["Running"]
    box.ok("stop", "-t", "0", "orphan")
    assert box.ok("ps", "-aq").out == ""
    assert box.leftovers() == []


def test_run_that_is_killed_lets_go_of_what_it_had_open(box: Containers) -> None:
    ours, theirs = os.pipe()
    with open(ours, "rb") as pipe:
        running = box.popen(
            "run", "--rm", "--name", "orphan", "box", "sleep", "100", pass_fds=(theirs,)
        )
        os.close(theirs)
        wait_until(lambda: "orphan" in box.ok("ps").out, "the container's start")
        running.kill()
        running.communicate(timeout=60)
        assert pipe.read() == b""  # would not end if the monitor had it
    assert box.state("orphan")["Running"]
    box.ok("rm", "-f", "orphan")


def test_input_that_nobody_reads_harms_nobody(box: Containers) -> None:
    words = ("run", "--rm", "-i", "box", "sh", "-c", "exec 0<&-; sleep 1; exit 3")
    running = box.popen(*words, stdin=subprocess.PIPE)
    running.communicate(b"x" * (1 << 20), timeout=60)
    assert running.returncode == 3


def test_a_monitor_that_is_killed_is_told_and_nothing_leaks(box: Containers) -> None:
    box.ok("run", "-d", "--name", "lone", "box", "sleep", "1000")
    state = box.state("lone")
    os.kill(state["ConmonPid"], signal.SIGKILL)
    wait_until(lambda: not is_running(state["ConmonPid"]), "the monitor's end")
    assert is_running(state["Pid"])
    assert "its monitor is gone" in box.ok("ps").out
    assert box.ok("exec", "lone", "echo", "here").out == "here\n"
    box.ok("stop", "-t", "0", "lone")
    after = box.state("lone")
    assert (after["Status"], after["ExitCode"]) == ("exited", 255)
    box.ok("rm", "lone")
    assert box.leftovers() == []


def _await_the_end_of(*pids: int) -> None:
    """Wait for the monitor as well: one that is only about to die has its lock still."""
    wait_until(lambda: not any(map(is_running, pids)), "the end of both")


def test_both_killed_it_is_exited_and_starts_again(box: Containers) -> None:
    box.ok("run", "-d", "--name", "gone", "box", "sh", "-c", "echo x >> /f; cat /f; sleep 1000")
    wait_until(lambda: box.ok("logs", "gone").out == "x\n", "what it writes")
    state = box.state("gone")
    os.kill(state["ConmonPid"], signal.SIGKILL)
    os.kill(state["Pid"], signal.SIGKILL)
    _await_the_end_of(state["ConmonPid"], state["Pid"])
    assert box.ok("ps", "-q").out == ""
    assert "Exited (255)" in box.ok("ps", "-a").out
    box.ok("start", "gone")
    wait_until(lambda: box.ok("logs", "gone").out == "x\nx\nx\n", "what it had written")
    box.ok("rm", "-f", "gone")
    assert box.leftovers() == []


def test_a_restart_of_the_host_leaves_it_exited_with_what_it_wrote(box: Containers) -> None:
    box.ok("run", "-d", "--name", "old", "box", "sh", "-c", "echo kept > /f; sleep 1000")
    (record,) = (box.store / "containers").glob("*/state.json")
    wait_until(lambda: box("exec", "old", "test", "-s", "/f").code == 0, "the file")
    before = json.loads(record.read_text())
    for pid in (before["monitor"], before["pid"]):
        os.kill(pid, signal.SIGKILL)
    _await_the_end_of(before["monitor"], before["pid"])
    record.write_text(json.dumps({**before, "boot_id": "another", "pid": 1, "pid_started": 1}))
    assert "Exited (255)" in box.ok("ps", "-a").out
    box.ok("start", "old")
    assert box.ok("exec", "old", "cat", "/f").out == "kept\n"


def test_one_whose_monitor_was_killed_while_it_started_is_ended_with_its_record(
    box: Containers,
) -> None:
    box.ok("run", "-d", "--name", "unknown", "box", "sleep", "1000")
    (record,) = (box.store / "containers").glob("*/state.json")
    state = json.loads(record.read_text())
    os.kill(state["monitor"], signal.SIGKILL)
    wait_until(lambda: not is_running(state["monitor"]), "the monitor's end")
    record.unlink()  # as if nobody had taken note of the start yet
    assert "Created" in box.ok("ps", "-a").out
    box.ok("rm", "--force", "unknown")
    assert not is_running(state["pid"])
    assert box.leftovers() == []


def test_a_runtime_whose_starter_was_killed_does_not_wait_for_its_config(box: Containers) -> None:
    name = box.ok("create", "--name", "cut", "box", "true").out.strip()
    run_dir = Path(f"{box.run_base}/{name[:24]}")
    run_dir.mkdir(0o700, parents=True)
    os.mkfifo(run_dir / "config.json")
    # As the runtime does that is started first, and whose starter is killed in the meantime.
    with subprocess.Popen(["cat", "config.json"], cwd=run_dir) as waiting:
        wait_until(
            lambda: (
                "wait_for_partner" in Path(f"/proc/{waiting.pid}/wchan").read_text()
                or "fifo_open" in Path(f"/proc/{waiting.pid}/wchan").read_text()
            ),
            "the opening of the config",
        )
        assert "Created" in box.ok("ps", "-a").out
        assert waiting.wait(60) == 0
    assert not run_dir.exists()
    assert box.ok("start", "-a", "cut").code == 0
    box.ok("rm", "cut")
    assert box.leftovers() == []


def test_one_whose_state_cannot_be_written_does_not_run(box: Containers) -> None:
    name = box.ok("create", "--name", "mute", "box", "sleep", "1000").out.strip()
    in_the_way = box.store / "containers" / name / "state.json.tmp"
    in_the_way.mkdir()
    assert "state could not be written" in box("start", "mute").err
    assert cgroups_of([name]) == []
    in_the_way.rmdir()
    box.ok("start", "mute")
    assert box.state("mute")["Running"]


def test_what_cannot_be_cleaned_up_keeps_nobody_from_listing(box: Containers) -> None:
    box.ok("run", "-d", "--name", "stuck", "box", "sleep", "1000")
    state = box.state("stuck")
    in_the_way = next((box.store / "containers").glob("*/state.json")).parent / ".state.json.tmp"
    in_the_way.mkdir()
    for pid in (state["ConmonPid"], state["Pid"]):
        os.kill(pid, signal.SIGKILL)
    _await_the_end_of(state["ConmonPid"], state["Pid"])
    assert "Exited (255)" in box.ok("ps", "-a").out
    in_the_way.rmdir()
    box.ok("rm", "stuck")
    assert box.leftovers() == []


@pytest.mark.parametrize("parent", ["", "some/where"])
@pytest.mark.parametrize("attended", [True, False])
def test_one_that_runs_by_a_damaged_record_is_ended(
    box: Containers, attended: bool, parent: str
) -> None:
    words = ("--restart", "always", "--cgroup-parent", parent, "box", "sleep", "1000")
    name = box.ok("run", "-d", *words).out.strip()
    state = box.state(name)
    if not attended:
        os.kill(state["ConmonPid"], signal.SIGKILL)
        wait_until(lambda: not is_running(state["ConmonPid"]), "the monitor's end")
    (box.store / "containers" / name / "container.json").write_text("{}")
    box.fails(10, "rm", name)
    assert is_running(state["Pid"])
    box.ok("rm", "--force", name)
    assert not is_running(state["Pid"])
    assert not (box.store / "containers" / name).exists()
    assert not os.path.exists(f"{box.run_base}/{name[:24]}")
    assert not list(Path("/sys/fs/cgroup").glob(f"**/layerstore-{name}"))
    assert os.listdir(f"{box.run_base}/runtime") == []


def test_volumes_of_a_damaged_record_stay(box: Containers) -> None:
    name = box.ok("create", "-v", "precious:/data", "box").out.strip()
    path = box.store / "containers" / name / "container.json"
    path.write_text("{}")
    for words in (("prune",), ("rm", "precious")):
        box.fails(10, "volume", *words)
        assert box.ok("volume", "ls", "-q").out == "precious\n"
    box.ok("rm", "--force", name)
    box.ok("volume", "prune", "--all")
    assert box.ok("volume", "ls", "-q").out == ""


def test_a_damaged_record_is_told_and_can_be_removed(box: Containers) -> None:
    name = box.ok("create", "box").out.strip()
    path = box.store / "containers" / name / "container.json"
    path.write_text("{}")
    assert "cannot be read" in box("ps", "-a").err
    box.fails(10, "start", name)
    box.ok("rm", "--force", name)
    assert box.leftovers() == []


def _runtimes(box: Containers) -> list[int]:
    """Return the processes of runtimes that wait for a config, or run."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if str(box.run_base).encode() in words and b"--bundle" in words:
                found.append(int(pid))
    return found


@pytest.mark.parametrize("both", [False, True], ids=["client", "client and monitor"])
def test_what_has_begun_ends_with_who_began_it(box: Containers, both: bool) -> None:
    with FileLock(f"{box.store}/locks/catalog"):  # so that it does not get to know its image
        running = box.popen("run", "--rm", "--name", "never", "box", "touch", "/ran")
        wait_until(lambda: bool(_runtimes(box)), "the runtime's beginning")
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        running.kill()
        running.communicate(timeout=60)
        for child in children if both else ():
            with contextlib.suppress(ProcessLookupError):  # it ends with its parent, too
                os.kill(int(child), signal.SIGKILL)
    if not both:
        wait_until(lambda: not _runtimes(box), "the runtime's end")

    def is_clean() -> bool:
        box.ok("gc")  # it leaves alone what somebody who is only about to die holds
        return not _runtimes(box) and box.leftovers() == []

    wait_until(is_clean, "the runtime's end")
    assert box.ok("ps", "-aq").out == ""


def test_what_had_begun_is_called_off_when_there_is_no_such_image(box: Containers) -> None:
    assert box("run", "--rm", "--pull", "never", "nobody", "true").code == 125
    assert _runtimes(box) == []
    assert box.leftovers() == []
