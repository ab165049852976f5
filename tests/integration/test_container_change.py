"""``pause``, ``unpause``, ``rename`` and ``update`` of containers, against what the kernel says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from layerstore.containers import running
from layerstore.containers.records import all_containers, get_container
from layerstore.containers.updating import change
from layerstore.errors import ContainerError
from layerstore.runtime.cgroups import is_unified
from layerstore.runtime.settings import Limits
from tests.support.build import needs_runc
from tests.support.running import cgroups_of, is_running, wait_until

if TYPE_CHECKING:
    from tests.support.running import Containers

pytestmark = needs_runc

_COUNT = "i=0; while :; do i=$((i+1)); echo $i > /count; sleep 0.1; done"


def _counting(box: Containers, *words: str) -> None:
    box.ok("run", "-d", "--name", "cc", *words, "box", "sh", "-c", _COUNT)
    wait_until(lambda: _count(box) > 0, "it counts")


def _count(box: Containers) -> int:
    (container,) = all_containers(str(box.store))
    path = box.store / "uppers" / container.container_id / "upper/count"
    try:
        return int(path.read_text().strip() or 0)
    except FileNotFoundError:
        return 0


def _status(box: Containers) -> str:
    return box.ok("ps", "-a", "--format", "{{.Status}}|{{.State}}").out.strip()


def test_what_is_paused_stands_still_and_goes_on(box: Containers) -> None:
    _counting(box)
    assert box.ok("pause", "cc").out == "cc\n"
    before = _count(box)
    time.sleep(0.2)
    assert _count(box) == before
    assert _status(box).endswith("(Paused)|paused")
    state = box.state("cc")
    assert (state["Status"], state["Paused"], state["Running"]) == ("paused", True, True)
    assert box.ok("ps", "-q", "--filter", "status=running").out == ""
    assert box.ok("ps", "-q", "--filter", "status=paused").out != ""
    (row,) = json.loads(box.ok("ps", "--json").out)
    assert row["status"] == "paused"
    assert "sleep" in box.ok("top", "cc").out or "sh" in box.ok("top", "cc").out
    assert box.ok("container", "unpause", "cc").out == "cc\n"
    wait_until(lambda: _count(box) > before, "it counts on")
    assert _status(box).endswith("|running")


def test_what_cannot_be_asked_of_a_paused_container(box: Containers) -> None:
    _counting(box)
    assert "is not paused" in box.fails(4, "unpause", "cc")
    box.ok("pause", "cc")
    for words in (["pause", "cc"], ["exec", "cc", "true"], ["attach", "cc"], ["start", "cc"]):
        assert "paused" in box.fails(4, *words), words
    assert "is paused" in box.fails(4, "container", "rm", "cc")
    done = box("unpause", "nobody", "cc")
    assert (done.code, done.out) == (3, "cc\n")
    box.ok("stop", "-t", "0", "cc")
    for word in ("pause", "unpause"):
        assert "is not running" in box.fails(4, word, "cc")


def test_a_paused_container_ends_when_it_is_to(box: Containers) -> None:
    # Who forks all the time may get away from the freezer of cgroups v1: runc gives up.
    trap = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.2; done"
    box.ok("run", "-d", "--name", "cc", "box", "sh", "-c", trap)
    wait_until(lambda: "ready" in box.ok("logs", "cc").out, "it listens")
    box.ok("pause", "cc")
    box.ok("stop", "-t", "30", "cc")  # it is asked, and answers
    assert box.state("cc")["ExitCode"] == 5
    box.ok("start", "cc")
    box.ok("pause", "cc")
    box.ok("kill", "cc")
    assert box.ok("wait", "cc").out == "137\n"
    box.ok("start", "cc")
    box.ok("pause", "cc")
    pid = box.state("cc")["Pid"]
    box.ok("restart", "-t", "0", "cc")
    assert not is_running(pid)
    box.ok("pause", "cc")
    os.kill(box.state("cc")["ConmonPid"], signal.SIGTERM)  # as systemd does
    box.ok("wait", "cc")
    box.ok("start", "cc")
    box.ok("pause", "cc")
    box.ok("container", "rm", "-f", "cc")
    assert box.leftovers() == []


def test_a_paused_container_whose_monitor_is_gone(box: Containers) -> None:
    _counting(box)
    box.ok("pause", "cc")
    monitor = box.state("cc")["ConmonPid"]
    os.kill(monitor, signal.SIGKILL)
    wait_until(lambda: not is_running(monitor), "its end")
    assert _status(box).endswith("(Paused, its monitor is gone)|paused")
    box.ok("unpause", "cc")
    box.ok("pause", "cc")
    box.ok("stop", "-t", "0", "cc")
    assert _status(box).startswith("Exited (255)")


def test_a_signal_that_an_attached_client_passes_on_is_heard(box: Containers) -> None:
    trap = "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    running = box.popen("run", "--name", "cc", "box", "sh", "-c", trap, stdout=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    box.ok("pause", "cc")
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=60)
    assert running.returncode == 3


def test_a_paused_container_whose_record_is_damaged_can_be_removed(box: Containers) -> None:
    _counting(box)
    (container,) = all_containers(str(box.store))
    box.ok("pause", "cc")
    pid = box.state("cc")["Pid"]
    path = box.store / "containers" / container.container_id / "container.json"
    path.write_text("{")
    box.ok("container", "rm", "-f", container.container_id)
    assert not is_running(pid)
    assert cgroups_of([container.container_id]) == []
    assert box.leftovers() == []


def test_checks_wait_for_what_stands_still(box: Containers) -> None:
    box.ok(
        "run", "-d", "--name", "cc", "--health-cmd", "true", "--health-interval", "100ms",
        "--health-retries", "1", "box", "sleep", "1000",
    )  # fmt: skip
    wait_until(lambda: box.state("cc")["Health"]["Status"] == "healthy", "a check")
    box.ok("pause", "cc")
    time.sleep(0.6)
    assert box.state("cc")["Health"]["Status"] == "healthy"
    box.ok("unpause", "cc")
    end = box.state("cc")["Health"]["Log"][-1]["End"]
    wait_until(lambda: box.state("cc")["Health"]["Log"][-1]["End"] > end, "checks go on")
    assert all(check["ExitCode"] == 0 for check in box.state("cc")["Health"]["Log"])


# -- rename


def test_a_container_is_called_otherwise(box: Containers) -> None:
    box.ok("run", "-d", "--name", "old", "box", "sleep", "1000")
    assert box.ok("rename", "old", "new").out == ""
    assert box.ok("ps", "--format", "{{.Names}}").out == "new\n"
    assert box.ok("exec", "new", "echo", "hello").out == "hello\n"
    assert "no container 'old'" in box.fails(3, "exec", "old", "true")
    box.ok("create", "--name", "old", "box", "true")  # it is free
    assert "is used by container" in box.fails(4, "rename", "new", "old")
    assert "is called that" in box.fails(4, "rename", "new", "new")
    assert "cannot be the name" in box.fails(2, "rename", "new", "a/b")
    box.ok("stop", "-t", "0", "new")
    box.ok("rename", "new", "third")
    assert box.ok("start", "third").out == "third\n"


def test_no_name_stays_of_a_container_that_goes_at_its_end(box: Containers) -> None:
    running = box.popen("run", "--rm", "--name", "old", "box", "sleep", "1000")
    wait_until(lambda: box.ok("ps", "-q").out, "it runs")
    box.ok("rename", "old", "new")
    box.ok("kill", "new")
    assert running.wait(60) == 137
    wait_until(lambda: os.listdir(box.store / "containers/names") == [], "its names are gone")
    assert box.leftovers() == []


# -- update


def _group(box: Containers, controller: str, name: str) -> str:
    (container,) = all_containers(str(box.store))
    base = "/sys/fs/cgroup" if is_unified() else f"/sys/fs/cgroup/{controller}"
    with open(f"{base}/layerstore-{container.container_id}/{name}") as file:
        return file.read().strip()


def _memory(box: Containers) -> str:
    return _group(box, "memory", "memory.max" if is_unified() else "memory.limit_in_bytes")


def _cpu(box: Containers) -> str:
    return _group(box, "cpu", "cpu.max" if is_unified() else "cpu.cfs_quota_us")


def _pids(box: Containers) -> str:
    return _group(box, "pids", "pids.max")


def _host_config(box: Containers) -> dict[str, Any]:
    (found,) = json.loads(box.ok("container", "inspect", "cc").out)
    return dict(found["HostConfig"])


def test_limits_change_while_it_runs_and_stay(box: Containers) -> None:
    box.ok("run", "-d", "--name", "cc", "-m", "64m", "box", "sleep", "1000")
    assert box.ok("update", "-m", "256m", "--pids-limit", "50", "cc").out == "cc\n"
    assert (_memory(box), _pids(box)) == (str(256 << 20), "50")
    box.ok("update", "--cpus", "0.5", "--pids-limit", "-1", "cc")
    assert (_memory(box), _pids(box)) == (str(256 << 20), "max")
    assert _host_config(box)["CpuQuota"] == 50_000
    box.ok("restart", "-t", "0", "cc")
    assert _memory(box) == str(256 << 20)
    box.ok("stop", "-t", "0", "cc")
    box.ok("update", "-m", "100m", "cc")
    box.ok("start", "cc")
    assert _memory(box) == str(100 << 20)


def test_what_cannot_be_updated_changes_nothing(box: Containers) -> None:
    box.ok("run", "-d", "--name", "cc", "-m", "64m", "--memory-swap", "128m", "box", "sleep", "100")
    before = _host_config(box)
    assert "nothing is to be changed" in box.fails(2, "update", "cc")
    assert "--memory-swap" in box.fails(2, "update", "-m", "256m", "cc")
    assert "less than 6m" in box.fails(2, "update", "-m", "1m", "cc")
    assert "processors of this host" in box.fails(2, "update", "--cpus", "9999", "cc")
    assert "could not update" in box.fails(16, "update", "--cpuset-cpus", "9999", "cc")
    assert "no policy" in box.fails(2, "update", "--restart", "sometimes", "cc")
    assert "no container" in box.fails(3, "update", "-m", "64m", "nobody")
    assert _host_config(box) == before
    assert _memory(box) == str(64 << 20)
    box.ok("run", "-d", "--rm", "--name", "fleeting", "box", "sleep", "1000")
    assert "removed at its end" in box.fails(4, "update", "--restart", "always", "fleeting")


def test_limits_that_were_written_before_one_was_refused_are_put_back(
    box: Containers, monkeypatch: pytest.MonkeyPatch
) -> None:
    box.ok("run", "-d", "--name", "cc", "-m", "64m", "box", "sleep", "1000")
    root = str(box.store)
    (container,) = all_containers(root)
    call = running.call_runtime

    def refuse(*arguments: Any, **named: Any) -> None:
        call(*arguments, **named)
        assert (_memory(box), _pids(box)) == (str(256 << 20), "7")
        raise ContainerError("the last limit is refused")

    limits = Limits(memory=256 << 20, cpu_quota=50_000, cpu_period=50_000)
    before = [_memory(box), _pids(box), _cpu(box)]
    with monkeypatch.context() as patched:
        patched.setattr(running, "call_runtime", refuse)
        with pytest.raises(ContainerError, match="refused"):
            change(root, container.container_id, lambda one: one._replace(limits=limits, pids=7))
    assert [_memory(box), _pids(box), _cpu(box)] == before
    assert _host_config(box)["Memory"] == 64 << 20
    box.ok("update", "-m", "256m", "--memory-swap", "-1", "cc")  # nothing is in the way
    assert _memory(box) == str(256 << 20)


def test_a_new_policy_of_restarts_holds_at_once(box: Containers) -> None:
    box.ok("run", "-d", "--name", "cc", "box", "sleep", "1000")
    box.ok("update", "--restart", "on-failure:2", "cc")
    (container,) = all_containers(str(box.store))
    found = get_container(str(box.store), container.container_id)
    assert found is not None
    assert (found.settings.restart, found.settings.restart_max) == ("on-failure", 2)
    first = box.state("cc")["Pid"]
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: box.state("cc")["Pid"] not in (0, first), "it is restarted")
    box.ok("update", "--restart", "no", "cc")
    os.kill(box.state("cc")["Pid"], signal.SIGKILL)
    assert box.ok("wait", "cc").out == "137\n"
    assert _status(box).startswith("Exited (137)")
