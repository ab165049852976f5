"""``run`` by a helper that waits is ``run``: streams, status, surroundings, signals, kills."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.build import needs_runc
from tests.support.running import (
    Containers,
    check_signals_arrive,
    containers_in,
    is_running,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_runc


class Warm(Containers):
    """Containers, and a helper of their own that runs them."""

    @property
    def socket(self) -> str:
        return f"{self.store}/../warm"

    def environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        return {**super().environment(extra), "LAYERSTORE_WARM": os.path.realpath(self.socket)}

    def interrupted_environment(self, extra: dict[str, str] | None = None) -> dict[str, str]:
        """Return the usual one: who has other variables of Python's is not served."""
        return self.environment(extra)

    @property
    def helper(self) -> int:
        """The helper's pid."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
            connection.connect(os.path.realpath(self.socket))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], "little")

    def runner_of(self, name: str) -> int:
        """Return the parent of a container's monitor: who runs the command line."""
        wait_until(lambda: name in self.ok("ps").out, "the container's start")
        record = self.ok("container", "inspect", "--json", name).json()
        assert isinstance(record, list)
        with open(f"{self.store}/containers/{record[0]['Id']}/state.json") as file:
            monitor = int(file.read().split('"monitor": ')[1].split(",")[0])
        return _parent(monitor)


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return list(map(int, file.read().split()))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with containers_in(tmp_path_factory.mktemp("warm"), Warm) as containers:
        assert isinstance(containers, Warm)
        yield containers


@pytest.fixture
def box(shared: Warm) -> Iterator[Warm]:
    shared.ok("warm")
    _waiting(shared)  # an asker has little patience: on a busy host the fork may come too late
    yield shared
    shared("warm", "--stop")
    shared.clear()


def _in_its_hands(box: Warm, name: str, client: int) -> bool:
    """Tell whether the helper runs a container that a client attends."""
    runner = box.runner_of(name)
    return runner != client and _parent(runner) == box.helper


def test_streams_status_and_surroundings_are_the_askers(box: Warm, tmp_path: Path) -> None:
    script = "cat; echo err >&2; echo $FROM; exit 7"
    done = subprocess.run(
        box.command("run", "-i", "--rm", "--cidfile=id", "-e", "FROM", "box", "sh", "-c", script),
        input=b"in\n", capture_output=True, cwd=tmp_path, check=False, umask=0o137,
        env=box.environment({"FROM": "outside"}),
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in\noutside\n", b"err\n")
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o640
    wait_until(lambda: box.leftovers() == [], "the end of what is done after the answer")


def test_who_has_pipes_is_served_by_a_helper_that_was_started_with_files(
    box: Warm, tmp_path: Path
) -> None:
    box.ok("warm", "--stop")
    with (tmp_path / "file").open("w+b") as file:
        files = {"stdin": file, "stdout": file, "stderr": file}
        subprocess.run(box.command("warm"), check=True, env=box.environment(), **files)
    name = box.ok("run", "-d", "box", "sleep", "100").out.strip()
    assert box.state(name)["Running"]
    done = box("run", "--rm", "box", "nosuch")
    assert (done.code, done.err.partition(" container ")[0]) == (127, "layerstore: error:")


def test_one_in_the_foreground_waits_too(box: Warm) -> None:
    box.ok("warm", "--stop")
    helper = box.popen("warm", "--foreground")
    wait_until(lambda: _has_a_helper(box), "its socket")
    _waiting(box)
    running = box.popen("run", "--rm", "--name", "front", "box", "sleep", "100")
    assert _in_its_hands(box, "front", running.pid)
    box.ok("stop", "-t", "0", "front")
    assert running.wait(60) == 137
    box.ok("warm", "--stop")
    assert helper.wait(60) == 0


def test_it_is_really_the_helper_that_runs_it(box: Warm) -> None:
    running = box.popen("run", "--rm", "--name", "mine", "box", "sleep", "100")
    assert _in_its_hands(box, "mine", running.pid)
    box.ok("stop", "-t", "0", "mine")
    assert running.wait(60) == 137


@pytest.mark.parametrize(("words", "code"), [(["nosuch"], 127), (["/etc"], 126)])
def test_failures_have_their_status_and_words(box: Warm, words: list[str], code: int) -> None:
    done = box("run", "--rm", "box", *words)
    assert done.code == code
    assert done.err.startswith("layerstore: error: container ")
    wait_until(lambda: box.leftovers() == [], "the end of what is done after the answer")


def test_signals_to_the_asker_are_the_containers(box: Warm) -> None:
    check_signals_arrive(box)


def test_an_asker_that_is_killed_leaves_its_container_and_nobody_else(box: Warm) -> None:
    running = box.popen("run", "--rm", "--name", "orphan", "box", "sleep", "100")
    runner = box.runner_of("orphan")
    running.kill()
    running.wait(60)
    wait_until(lambda: not is_running(runner), "the end of who ran it for the asker")
    assert box.state("orphan")["Running"]
    box.ok("stop", "-t", "0", "orphan")
    wait_until(lambda: box.leftovers() == [], "the end of all of it")


def test_a_runner_that_is_killed_is_told(box: Warm) -> None:
    running = box.popen(
        "run", "--rm", "--name", "lost", "box", "sleep", "100", stderr=subprocess.PIPE
    )
    os.kill(box.runner_of("lost"), signal.SIGKILL)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 125
    assert said == b"layerstore: error: the helper's process for this command was killed\n"
    assert box.state("lost")["Running"]


def test_detached_ones_outlive_the_helper(box: Warm) -> None:
    box.ok("run", "-d", "--name", "stays", "box", "sleep", "100")
    os.kill(box.helper, signal.SIGKILL)
    assert box.state("stays")["Running"]
    assert box.ok("run", "--rm", "box", "echo", "without").out == "without\n"


def test_who_is_unlike_the_helper_is_not_served(box: Warm) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))

    words = ("run", "--rm", "--name", "other", "box", "sleep", "100")
    for options in ({"preexec_fn": limited}, {"preexec_fn": lambda: os.nice(1)}):
        running = box.popen(*words, **options)
        assert box.runner_of("other") == running.pid
        box.ok("stop", "-t", "0", "other")
        assert running.wait(60) == 137


def test_one_in_other_namespaces_is_not_served(box: Warm) -> None:
    words = [
        "unshare",
        "--net",
        *box.command("run", "--rm", "--name", "net", "box", "sleep", "100"),
    ]
    running = subprocess.Popen(words, env=box.environment())
    assert not _in_its_hands(box, "net", running.pid)
    box.ok("stop", "-t", "0", "net")
    running.wait(60)


def _waiting(box: Warm) -> int:
    """Return the pid of the helper's only fork, once it listens: before, it may not end with it."""
    helper = box.helper
    found: list[int] = []

    def listens() -> bool:
        found[:] = _children(helper)
        return [_state(pid) for pid in found] == ["S"]

    wait_until(listens, "a fork that listens")
    return found[0]


def _state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(") ")[2][0]
    except OSError:  # it has ended since
        return ""


def _has_a_helper(box: Warm) -> bool:
    try:
        return box.helper > 0
    except OSError:  # no socket, or nobody listens there
        return False


def test_a_helper_that_is_stopped_keeps_nobody(box: Warm) -> None:
    both = box.helper, _waiting(box)
    for pid in both:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert box.ok("run", "--rm", "box", "echo", "anyway").out == "anyway\n"
    finally:
        os.kill(both[0], signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, both)), "the end of both")
    box.ok("warm")  # in the place of the one that was killed
    assert box.helper != both[0]


def test_one_that_does_not_answer_is_ended_too(box: Warm) -> None:
    both = box.helper, _waiting(box)
    for pid in both:
        os.kill(pid, signal.SIGSTOP)
    box.ok("warm", "--stop")
    wait_until(lambda: not any(map(is_running, both)), "the end of both")
    box.ok("warm")


def test_once_it_is_stopped_another_may_begin(box: Warm) -> None:
    running = box.popen("run", "--rm", "--name", "goes-on", "box", "sleep", "100")
    assert _in_its_hands(box, "goes-on", running.pid)
    for _ in range(3):
        helper = box.helper
        box.ok("warm", "--stop")
        assert not is_running(helper)
        box.ok("warm")
    box.ok("stop", "-t", "0", "goes-on")
    assert running.wait(60) == 137


def test_it_ends_when_nobody_asks(box: Warm) -> None:
    box.ok("warm", "--stop")
    box.ok("warm", "--idle", "1s")
    wait_until(lambda: not os.path.exists(box.socket), "the end of an idle helper")
    assert box.popen("warm", "--foreground", "--idle", "1s").wait(60) == 0
    assert not os.path.exists(box.socket)


def test_there_is_one_and_it_can_be_stopped(box: Warm) -> None:
    assert "waits already" in box.fails(4, "warm")
    box.ok("warm", "--stop")
    assert "no helper waits" in box.fails(3, "warm", "--stop")


def test_what_is_no_socket_is_left_alone(box: Warm) -> None:
    box.ok("warm", "--stop")
    wait_until(lambda: not os.path.exists(box.socket), "its end")
    with open(box.socket, "w") as file:
        file.write("somebody's")
    try:
        assert "no socket" in box.fails(4, "warm")
        assert os.path.getsize(box.socket) == 10
    finally:
        os.unlink(box.socket)


def test_of_two_that_begin_together_one_waits(box: Warm) -> None:
    box.ok("warm", "--stop")
    begun = [box.popen("warm", stderr=subprocess.DEVNULL) for _ in range(4)]
    assert sorted(one.wait(60) for one in begun) == [0, 4, 4, 4]
    assert box.helper > 0


def test_idle_times_that_poll_does_not_take(box: Warm) -> None:
    box.ok("warm", "--stop")
    box.ok("warm", "--idle", "1y")
    assert box.ok("run", "--rm", "box", "echo", "once").out == "once\n"
    assert box.helper > 0


def test_it_keeps_nothing_open_that_who_started_it_had(box: Warm) -> None:
    box.ok("warm", "--stop")
    reading, writing = os.pipe()
    assert box.popen("warm", pass_fds=(writing,)).wait(60) == 0
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
    assert box.helper > 0


def test_files_that_only_the_asker_has_are_read(box: Warm) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"FROM=pipe\n")
    os.close(writing)
    words = ("run", "--rm", f"--env-file=/dev/fd/{reading}", "box", "sh", "-c", "echo $FROM")
    running = box.popen(*words, pass_fds=(reading,), stdout=subprocess.PIPE)
    os.close(reading)
    assert running.communicate(timeout=60)[0] == b"pipe\n"
    assert running.returncode == 0


def test_one_that_is_interrupted_while_it_asks_says_nothing(box: Warm) -> None:
    box.ok("warm", "--stop")
    path = os.path.realpath(box.socket)
    wait_until(lambda: not os.path.exists(path), "its end")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(1)
        for _ in range(5):
            running = box.popen("run", "--rm", "box", "true", stderr=subprocess.PIPE)
            with listener.accept()[0] as connection:
                assert connection.recv(1)
                running.send_signal(signal.SIGINT)
                said = running.communicate(timeout=60)[1]
            if running.returncode:
                break
            # On a busy host it had lost patience with us, and was through.
        assert (said, running.returncode) == (b"", 130)
    os.unlink(path)


def test_many_at_once(box: Warm) -> None:
    begun = [box.popen("run", "--rm", "box", "sh", "-c", f"exit {code}") for code in range(1, 9)]
    assert [one.wait(120) for one in begun] == list(range(1, 9))
    wait_until(lambda: box.leftovers() == [], "the end of what is done after the answer")


def test_a_socket_of_somebody_else_gets_nothing(box: Warm) -> None:
    box.ok("warm", "--stop")
    path = os.path.realpath(box.socket)
    got, report = os.pipe()
    if (child := os.fork()) == 0:
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(path)
            os.seteuid(65534)
            listener.listen(1)  # whose credentials these are
            os.write(report, b"listening")
            os.write(report, listener.accept()[0].recv(1))
        finally:
            os._exit(0)
    os.close(report)
    assert os.read(got, 9) == b"listening"
    assert box.ok("run", "--rm", "box", "echo", "own").out == "own\n"
    os.waitpid(child, 0)
    assert os.read(got, 1) == b""
    os.close(got)
    os.unlink(path)


def test_who_has_its_answer_sees_nothing_of_the_container(box: Warm) -> None:
    for _ in range(5):
        done = box("run", "--rm", "--name", "again", "-v", "/v", "box", "true")
        assert (done.code, done.err) == (0, "")
        assert box.ok("ps", "-aq").out == ""
        assert box.ok("volume", "ls", "-q").out == ""
        assert not [name for name in os.listdir(box.store / "views") if "container" in name]
    wait_until(lambda: box.leftovers() == [], "the end of what is done after the answer")


def test_the_collector_removes_what_a_fork_that_was_killed_after_its_answer_left(box: Warm) -> None:
    box.ok("gc")
    wait_until(lambda: box.leftovers() == [], "the end of what others left")
    running = box.popen("run", "--rm", "--name", "cut", "box", "sleep", "100")
    runner = box.runner_of("cut")
    # Its uppers cannot be removed as long as something is mounted there: the fork stops before.
    (upper,) = (box.store / "uppers").iterdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(upper / "work")], check=True)
    try:
        box.ok("stop", "-t", "0", "cut")
        assert running.wait(60) == 137
        wait_until(lambda: not is_running(runner), "the fork's end")
        assert box.ok("ps", "-aq").out == ""
        assert str(upper.name) in box.leftovers()
    finally:
        subprocess.run(["umount", str(upper / "work")], check=True)
    box.ok("gc")
    assert box.leftovers() == []
