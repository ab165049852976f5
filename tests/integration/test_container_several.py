"""What podman's and docker's users type for many containers at once, and what else of theirs."""

from __future__ import annotations

import json
import os
import socket
from typing import TYPE_CHECKING

from layerstore.runtime.cgroups import is_unified
from tests.support.build import needs_runc
from tests.support.running import wait_until

if TYPE_CHECKING:
    from tests.support.running import Containers

pytestmark = needs_runc


def _statuses(box: Containers) -> dict[str, str]:
    lines = box.ok("ps", "-a", "--format", "{{.Names}} {{.State}}").lines
    return dict(line.split() for line in lines)


def _ids(box: Containers, *names: str) -> set[str]:
    return {box.ok("inspect", "-f", "{{.Id}}", name).out.strip() for name in names}


def test_all_that_are_in_a_state_are_meant(box: Containers) -> None:
    for name in ("one", "two"):
        box.ok("run", "-d", "--name", name, "-l", f"of={name}", "box", "sleep", "1000")
    box.ok("create", "--name", "made", "box", "true")
    both = _ids(box, "one", "two")
    assert set(box.ok("pause", "--all").lines) == both
    assert set(_statuses(box).values()) == {"paused", "created"}
    assert box.ok("pause", "-a").out == ""  # none is left that runs
    assert set(box.ok("unpause", "-a", "-f", "label=of=two").lines) == _ids(box, "two")
    assert _statuses(box) == {"one": "paused", "two": "running", "made": "created"}
    assert set(box.ok("kill", "--all").lines) == both
    wait_until(lambda: set(_statuses(box).values()) == {"exited", "created"}, "their ends")
    assert set(box.ok("restart", "-t", "0", "--filter", "name=^(one|two)$").lines) == both
    assert set(box.ok("stop", "-t", "0", "--all").lines) == both
    one = list(_ids(box, "one"))
    assert box.ok("container", "prune", "-f", "--filter", "label=of=one").lines == one
    assert _statuses(box) == {"two": "exited", "made": "created"}
    box.ok("start", "two")
    assert "is running" in box("container", "rm", "--all").err
    assert list(_statuses(box)) == ["two"]
    box.ok("container", "rm", "-af")
    assert _statuses(box) == {}


def test_names_and_all_exclude_each_other(box: Containers) -> None:
    for command in ("pause", "stop", "kill", "restart"):
        assert "name containers, or --all" in box.fails(2, command)
        assert "name containers, or --all" in box.fails(2, command, "--all", "one")
    assert "name containers, or --all" in box.fails(2, "container", "rm")


def test_who_is_not_there_need_not_be(box: Containers) -> None:
    assert "no container" in box.fails(3, "stop", "nobody")
    assert box.ok("stop", "--ignore", "nobody").out == ""
    assert box.ok("container", "rm", "--ignore", "nobody").err == ""
    assert "no container 'nobody'" in box.ok("container", "rm", "-f", "nobody").err
    assert "no image 'nobody:latest'" in box.ok("rm", "-f", "nobody").err
    assert (box("container", "exists", "nobody").code, box("volume", "exists", "v").code) == (1, 1)
    box.ok("create", "--name", "somebody", "-v", "v:/v", "box", "true")
    box.ok("container", "exists", "somebody")
    box.ok("volume", "exists", "v")
    box.ok("rm", "somebody")
    box.ok("volume", "rm", "v")


def test_what_asks_a_container_to_end_can_be_another_signal(box: Containers) -> None:
    trap = "trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done"
    box.ok("run", "-d", "--name", "cc", "box", "sh", "-c", trap)
    wait_until(lambda: "ready" in box.ok("logs", "cc").out, "it listens")
    box.ok("stop", "--signal", "USR1", "-t", "60", "cc")
    assert box.state("cc")["ExitCode"] == 7
    assert "no signal" in box.fails(2, "stop", "-s", "NONE", "cc")


def test_sizes_headings_and_orders_of_ps(box: Containers) -> None:
    box.ok("run", "--name", "first", "box", "sh", "-c", "head -c 5000 /dev/zero > /f; ln /f /g")
    box.ok("create", "--name", "second", "box", "true")
    size = int(box.ok("images", "--format", "json").json()[0]["size"])
    (found,) = json.loads(box.ok("inspect", "-s", "first").out)
    assert (found["SizeRw"], found["SizeRootFs"]) == (5000, 5000 + size)
    table = box.ok("ps", "-as").lines
    assert table[0].endswith("SIZE")
    assert "5kB (virtual" in table[2]
    assert len(box.ok("ps", "-a", "--noheading").lines) == 2
    assert "5kB (virtual" in box.ok("ps", "-a", "--format", "{{.Size}}").lines[1]
    named = ("ps", "-a", "--format", "{{.Names}}", "--filter")
    assert box.ok(*named, "before=second").lines == ["first"]
    assert box.ok(*named, "since=first").lines == ["second"]
    assert box.ok(*named, "name=^/first$").lines == ["first"]
    assert box.ok(*named, "name=^irst").lines == []
    assert "no expression" in box.fails(2, *named, "name=(")
    assert box.ok(*named, "until=2100-01-01").lines == ["second", "first"]
    assert box.ok(*named, "until=1h").lines == []
    assert box.ok(*named, "status=stopped").lines == ["first"]
    for word in ("status=runing", "health=ill", "exited=no", "until="):
        assert f"--filter {word}" in box.fails(2, *named, word)


def test_volumes_of_nobody_with_a_name_are_kept(box: Containers) -> None:
    box.ok("volume", "create", "named")
    nameless = box.ok("volume", "create").out.strip()
    box.ok("create", "--name", "has", "-v", "used:/v", "box", "true")
    assert box.ok("volume", "ls", "-qf", "dangling=true").lines == sorted([nameless, "named"])
    assert box.ok("volume", "ls", "-q", "--filter", "dangling=0").lines == ["used"]
    assert box.ok("volume", "ls", "-q", "--filter", "name=ame").lines == ["named"]
    assert "no filter" in box.fails(2, "volume", "ls", "-f", "label=a")
    told = box.ok("volume", "inspect", "--format", "{{.Mountpoint}}", "used").out.strip()
    assert os.path.isdir(told)
    assert box.ok("volume", "inspect", "-f", "{{.Mountpoint}}", "used").out.strip() == told
    assert box.ok("volume", "inspect", "used", "-f", "{{.Name}}").out == "used\n"
    one_of_two = box("volume", "inspect", "-f", "{{.Name}}", "nosuch", "used")
    assert (one_of_two.code, one_of_two.out) == (3, "used\n")
    assert "no volume 'nosuch'" in one_of_two.err
    assert box.ok("volume", "prune", "-f").lines == [nameless]
    assert box.ok("volume", "prune", "--all").lines == ["named"]
    assert "no volume" in box.fails(3, "volume", "rm", "named")
    assert box.ok("volume", "rm", "-f", "named").out == ""


def test_a_container_has_the_volumes_of_another(box: Containers) -> None:
    box.ok("run", "--name", "data", "-v", "vol:/v", "--tmpfs", "/t", "box", "touch", "/v/seen")
    script = "ls /v; touch /v/mine 2>&1; [ -e /t ] || echo no tmpfs"
    told = box.ok("run", "--rm", "--volumes-from", "data:ro", "box", "sh", "-c", script).lines
    assert (told[0], told[-1]) == ("seen", "no tmpfs")
    assert "Read-only" in told[1]
    assert "no container" in box.fails(125, "run", "--volumes-from", "nobody", "box", "true")


def test_where_a_container_listens(box: Containers) -> None:
    listen = ("box", "busybox", "httpd", "-f", "-p", "127.0.0.1:0")  # one that is free
    box.ok("run", "-d", "--name", "cc", *listen)
    wait_until(lambda: box.ok("port", "cc").out, "it listens")
    (line,) = box.ok("port", "cc").lines
    number = int(line.partition("/")[0])
    assert line == f"{number}/tcp -> 127.0.0.1:{number}"
    with socket.create_connection(("127.0.0.1", number), 60):
        pass
    assert box.ok("container", "port", "cc", str(number)).out == f"127.0.0.1:{number}\n"
    (row,) = json.loads(box.ok("port", "--json", "cc").out)
    assert row == {"port": number, "protocol": "tcp", "address": "127.0.0.1"}
    assert "nothing in container cc listens at 1/udp" in box.fails(3, "port", "cc", "1/udp")
    assert "is no port" in box.fails(2, "port", "cc", "http")
    box.ok("run", "-d", "--network", "none", "--name", "alone", *listen)
    assert box.ok("port", "alone").out == ""
    box.ok("container", "rm", "-f", "cc", "alone")
    assert "no container" in box.fails(3, "port", "cc")


def test_a_container_in_the_place_of_one_called_so(box: Containers) -> None:
    box.ok("run", "-d", "--name", "web", "box", "sleep", "1000")
    before = _ids(box, "web")
    box.ok("run", "-d", "--replace", "--name", "web", "box", "sleep", "1000")
    assert list(_statuses(box)) == ["web"]
    assert _ids(box, "web") != before
    assert "--replace needs --name" in box.fails(125, "run", "--replace", "box", "true")
    after = _ids(box, "web")
    for words in (["nosuch"], ["--user", "nobody:nosuch:x", "--memory", "1", "box", "true"]):
        box.fails(125, "run", "--pull", "never", "--replace", "--name", "web", *words)
    assert _ids(box, "web") == after
    assert "bridge is not supported" in box.fails(125, "create", "--network", "bridge", "box")
    assert "no absolute path" in box.fails(125, "exec", "-w", "tmp", "web", "true")


def test_shared_memory_can_be_the_hosts(box: Containers) -> None:
    ours = os.readlink("/proc/self/ns/ipc")
    command = ("box", "readlink", "/proc/self/ns/ipc")
    assert box.ok("run", "--rm", "--ipc", "host", *command).out.strip() == ours
    assert box.ok("run", "--rm", "--ipc", "private", *command).out.strip() != ours
    shown = box.ok("run", "--rm", "--ipc=host", "box", "stat", "-c", "%d", "/dev/shm").out
    assert int(shown) == os.stat("/dev/shm").st_dev


def test_limits_that_docker_has_besides(box: Containers) -> None:
    words = ["-m", "64m", "--memory-reservation", "32m", "--log-driver", "none", "--expose", "80"]
    if not is_unified():
        words += ["--memory-swappiness", "10"]
    box.ok("run", "-d", "--name", "cc", *words, "box", "sleep", "1000")
    (found,) = json.loads(box.ok("inspect", "cc").out)
    assert found["HostConfig"]["MemoryReservation"] == 32 << 20
    assert found["HostConfig"]["LogConfig"]["Type"] == "none"
    group = f"/sys/fs/cgroup/memory/layerstore-{found['Id']}"
    if not is_unified():
        with open(f"{group}/memory.swappiness") as file:
            assert file.read() == "10\n"
        box.ok("update", "--memory-reservation", "40m", "cc")
        with open(f"{group}/memory.soft_limit_in_bytes") as file:
            assert int(file.read()) == 40 << 20
    assert "reservation" in box.fails(2, "update", "-m", "33m", "--memory-swap", "64m", "cc")
