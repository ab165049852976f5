"""The installed command is a shell script that asks the helper: what it asks for is what it got."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_warm import Warm
from tests.support.build import needs_runc
from tests.support.running import check_signals_arrive, containers_in, is_running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_runc

SCRIPT = Path(sys.executable).parent / "layerstore"


class Shell(Warm):
    """A helper, and askers by one of the shells."""

    shell: tuple[str, ...] = ()

    def command(self, *arguments: str | Path) -> list[str]:
        return [*self.shell, str(SCRIPT), *map(str, arguments)]

    @property
    def place(self) -> str:
        return os.path.realpath(self.socket) + ".d"

    def waits(self) -> int:
        """Return the pid of the fork that can be asked, once there is one."""

        def found() -> int:
            try:
                with open(f"{self.place}/now") as file:
                    pid = int(file.read())
            except FileNotFoundError:
                return 0
            return pid * os.path.exists(f"{self.place}/{pid}.ask")

        seen = [0]
        wait_until(lambda: seen.append(found()) or seen[-1], "a fork that waits")
        return seen[-1]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with containers_in(tmp_path_factory.mktemp("shell"), Shell) as containers:
        assert isinstance(containers, Shell)
        yield containers


@pytest.fixture
def box(shared: Shell) -> Iterator[Shell]:
    shared.shell = ()
    shared.ok("warm")
    shared.waits()
    yield shared
    shared("warm", "--stop")
    shared.clear()


@pytest.fixture(params=["dash", "bash", "busybox"])
def any_shell(box: Shell, request: pytest.FixtureRequest) -> Shell:
    """A box whose askers are scripts of each shell, which is told by the name sh."""
    found = shutil.which(request.param)
    if found is None:
        pytest.skip(f"no {request.param} here")
    link = box.store.parent / request.param / "sh"
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to(found)
    box.shell = (str(link),)
    return box


def _ran_by_helper(box: Shell, runner: int, done: subprocess.CompletedProcess[bytes]) -> None:
    assert box.waits() != runner, f"nobody asked the helper: {done}"
    assert not os.path.exists(f"{box.place}/{runner}.ask")


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(") ")[2][0]


def test_streams_status_and_surroundings_are_the_askers(any_shell: Shell, tmp_path: Path) -> None:
    box, runner = any_shell, any_shell.waits()
    script = "cat; echo err >&2; echo $FROM; exit 7"
    with (tmp_path / "out").open("wb") as out:
        out.write(b"before\n")
        out.flush()  # what comes now is written where this left off
        done = subprocess.run(
            box.command("run", "-i", "--rm", "--cidfile=id", "-e", "FROM", "box", "sh", "-c", script),  # noqa: E501
            input=b"in\n", stdout=out, stderr=subprocess.PIPE, cwd=tmp_path, check=False,
            umask=0o137, env=box.environment({"FROM": "outside"}),
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (7, b"err\n")
    assert (tmp_path / "out").read_bytes() == b"before\nin\noutside\n"
    assert (tmp_path / "id").stat().st_mode & 0o777 == 0o640
    _ran_by_helper(box, runner, done)
    wait_until(lambda: box.leftovers() == [], "the end of what is done after the answer")


def test_words_arrive_as_they_are(any_shell: Shell) -> None:
    box, runner = any_shell, any_shell.waits()
    words = [b"", b"a b", b"line\nline\n", b"'\"$(id)`\\", b"\xff\xfe", b"*", b"-n", b"x" * 100_000]
    command = [os.fsencode(one) for one in box.command("run", "--rm", "box", "printf", "%s|")]
    done = subprocess.run([*command, *words], env=box.environment(), capture_output=True)
    usual = box.environment({"LAYERSTORE_WARM": "no"})
    assert done.stdout == subprocess.run([*command, *words], env=usual, capture_output=True).stdout
    # JSON has no such bytes: a runtime is told of others, either way.
    assert done.stdout.count(b"|") == len(words)
    assert done.stdout.startswith(b"|a b|line\nline\n|'\"$(id)`\\|")
    assert done.returncode == 0
    _ran_by_helper(box, runner, done)


def test_signals_to_the_asker_are_the_containers(any_shell: Shell) -> None:
    runner = any_shell.waits()
    check_signals_arrive(any_shell)
    assert any_shell.waits() != runner


def test_an_asker_that_is_killed_leaves_its_container_and_nobody_else(any_shell: Shell) -> None:
    box, runner = any_shell, any_shell.waits()
    running = box.popen("run", "--rm", "--name", "orphan", "box", "sleep", "100")
    assert box.runner_of("orphan") == runner
    running.kill()
    running.wait(60)
    wait_until(lambda: not is_running(runner), "the end of who ran it for the asker")
    assert box.state("orphan")["Running"]
    box.ok("stop", "-t", "0", "orphan")
    wait_until(lambda: box.leftovers() == [], "the end of all of it")


def test_a_runner_that_is_killed_is_told(any_shell: Shell) -> None:
    box, runner = any_shell, any_shell.waits()
    words = ("run", "--rm", "--name", "lost", "box", "sleep", "100")
    running = box.popen(*words, stderr=subprocess.PIPE)
    assert box.runner_of("lost") == runner
    os.kill(runner, signal.SIGKILL)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == 125
    assert said == b"layerstore: error: the helper's process for this command was killed\n"


def test_a_helper_that_was_killed_keeps_nobody(any_shell: Shell) -> None:
    box, runner = any_shell, any_shell.waits()
    os.kill(box.helper, signal.SIGKILL)
    wait_until(lambda: not is_running(runner), "the end of its fork")
    assert box.ok("run", "--rm", "box", "echo", "anyway").out == "anyway\n"
    assert box.ok("run", "--rm", "box", "echo", "again").out == "again\n"


def test_a_fork_that_is_stopped_keeps_nobody(any_shell: Shell) -> None:
    box, runner, helper = any_shell, any_shell.waits(), any_shell.helper
    for pid in (helper, runner):
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda pid=pid: _state(pid) == "T", "its stop")
    try:
        assert box.ok("run", "--rm", "box", "echo", "anyway").out == "anyway\n"
    finally:
        os.kill(helper, signal.SIGKILL)
        wait_until(lambda: not is_running(runner), "the end of both")


def test_what_goes_the_usual_way_goes_it(any_shell: Shell) -> None:
    box, runner = any_shell, any_shell.waits()
    assert box.fails(125, "run", "--rm", "--pull=never", "nosuch:1", "true")
    assert "box" in box.ok("images").out
    closed = subprocess.run(
        box.command("run", "--rm", "box", "true"), env=box.environment(), check=False,
        preexec_fn=lambda: os.close(0),
    )  # fmt: skip
    assert closed.returncode == 0
    words = ("run", "--rm", "--name", "other", "box", "sleep", "100")
    running = box.popen(*words, preexec_fn=lambda: os.nice(1))
    assert box.runner_of("other") not in (runner, box.waits())
    box.ok("stop", "-t", "0", "other")
    assert running.wait(60) == 137


def test_only_who_holds_the_fifo_is_who_asks(box: Shell) -> None:
    """One that names another process's pid gets nothing done in that one's name."""
    runner = box.waits()
    victim = box.popen("run", "--rm", "--name", "mine", "box", "sleep", "100")
    wait_until(lambda: box.waits() != runner and "mine" in box.ok("ps").out, "its start")
    runner = box.waits()
    reply = os.open(f"{box.place}/{runner}.reply", os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reply, True)
    with open(f"{box.place}/{runner}.ask", "wb", buffering=0) as ask:
        ask.write(b"%d\n" % victim.pid)
        assert os.read(reply, 16) == b""
    os.close(reply)
    assert box.ok("ps").out.count("mine") == 1
    box.ok("stop", "-t", "0", "mine")
    assert victim.wait(60) == 137


@pytest.mark.parametrize("line", [b"\n", b"0\n", b"-1\n", b"99999999999999999999", b"1\n", b"\xff"])
def test_nonsense_in_the_fifo_ends_nothing(box: Shell, line: bytes) -> None:
    with open(f"{box.place}/{box.waits()}.ask", "wb", buffering=0) as ask:
        ask.write(line)
    runner = box.waits()
    assert box.ok("run", "--rm", "box", "echo", "still").out == "still\n"
    assert is_running(box.helper)
    assert runner > 0


def test_a_place_of_somebody_else_is_not_asked(box: Shell) -> None:
    runner = box.waits()
    os.chown(box.place, 65534, 65534)
    try:
        assert box.ok("run", "--rm", "box", "echo", "own").out == "own\n"
    finally:
        os.chown(box.place, 0, 0)
    assert not os.path.exists(f"{box.place}/{runner}.taken")


def test_its_files_go_with_it(box: Shell) -> None:
    box.ok("warm", "--stop")
    wait_until(lambda: not os.path.exists(box.place), "their end")


def test_a_link_to_the_command_is_the_command(box: Shell, tmp_path: Path) -> None:
    runner = box.waits()
    (tmp_path / "layerstore").symlink_to(SCRIPT)
    box.shell = ("sh",)
    words = ["sh", str(tmp_path / "layerstore"), "run", "--rm", "box", "echo", "linked"]
    done = subprocess.run(words, env=box.environment(), capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"linked\n"), done
    _ran_by_helper(box, runner, done)


def test_shellcheck_has_nothing_to_say() -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("no shellcheck here")
    script = Path(__file__).parents[2] / "layerstore/cli/script/layerstore"
    subprocess.run(["shellcheck", str(script)], check=True)
