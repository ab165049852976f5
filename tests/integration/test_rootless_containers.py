"""Containers of a user who is not root, which outlive their commands."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore import light_json as json
from layerstore.linux import probe
from layerstore.store.store import Store
from tests.support import rootless
from tests.support.build import add_base, needs_runc
from tests.support.running import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_runc

_STORE = ".local/share/layerstore"
_GONE = ("views/lowers", "uppers", "containers/names", "containers/run/runtime")


class User:
    """The user, the store that is theirs if none is named, and what is left of containers in it."""

    def __init__(self, place: Path, *, subordinate: bool = True) -> None:
        self.place = place
        self.store = place / _STORE
        self._subordinate = subordinate

    def words(self, *words: str) -> list[str]:
        return rootless.command(self.place, list(words), subordinate=self._subordinate)

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return rootless.run(self.place, list(words), subordinate=self._subordinate)

    def ok(self, *words: str) -> str:
        done = self(*words)
        assert done.returncode == 0, done
        return done.stdout

    def inspect(self, name: str) -> dict[str, object]:
        (value,) = json.loads(self.ok("container", "inspect", name))
        return dict(value)

    def status(self, name: str) -> str:
        return self.ok("ps", "-a", "--filter", f"name={name}", "--format", "{{.Status}}")

    def leftovers(self) -> list[str]:
        paths = (self.store / name for name in _GONE)
        return [str(path) for each in paths if each.exists() for path in each.iterdir()]

    def wait_for_the_end(self) -> None:
        """Wait until nothing is left: servers remove their files themselves, behind the answer."""
        wait_until(lambda: self.leftovers() == [], "the end of all of it")

    def servers(self) -> list[int]:
        """Return the processes that show images of the store."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path("/proc", pid, "cmdline").read_bytes()
            except OSError:
                continue
            if b"fuse_mount" in words and os.fsencode(self.store) in words:
                found.append(int(pid))
        return found


@pytest.fixture
def place() -> Iterator[Path]:
    if rootless.interpreter() is None:
        pytest.skip("no Python that another user may run")
    if not probe.user_namespaces().works or shutil.which("newuidmap") is None:
        pytest.skip("user namespaces are not permitted, or uidmap is not installed")
    with tempfile.TemporaryDirectory(prefix="layerstore-test-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        Path(name, _STORE).parent.mkdir(parents=True)
        with Store.open(Path(name, _STORE), create=True) as store:
            add_base(store)
        rootless.give(Path(name))
        yield Path(name)


@pytest.fixture
def user(place: Path) -> Iterator[User]:
    user = User(place)
    yield user
    for name in user.ok("ps", "-aq").split():
        user.ok("container", "rm", "--force", name)
    user.wait_for_the_end()
    wait_until(lambda: user.servers() == [], "their end")


def test_attended_until_its_end(user: User) -> None:
    script = "id -u; cat /proc/self/uid_map; echo x > /x; chown daemon /x; exit 4"
    done = user("run", "--rm", "box", "sh", "-c", script)
    assert done.returncode == 4, done
    assert done.stdout.split()[:4] == ["0", "0", str(rootless.USER), "1"]
    assert user.ok("ps", "-aq") == ""


def test_limits_that_need_control_groups_are_refused_and_leave_nothing(user: User) -> None:
    for command, *words in (
        ("run", "--rm", "--pids-limit", "5"),
        ("run", "--memory", "10m"),
        ("run", "-d", "--rm", "--memory", "10m"),
        ("create", "--cpu-shares", "512"),
    ):
        limited = user(command, "--name", "limited", *words, "box", "true")
        assert limited.returncode == (125 if command == "run" else 15)
        assert f"{words[-2]} needs control groups" in limited.stderr
    assert user.ok("ps", "-aq") == ""


def test_one_that_is_detached_is_looked_after_by_later_commands(user: User) -> None:
    script = "echo out; echo err >&2; touch /mine; chown daemon /mine; sleep 1000"
    identity = user.ok("run", "-d", "--name", "web", "box", "sh", "-c", script).strip()
    assert user.ok("ps", "-q", "--no-trunc").strip() == identity
    wait_until(lambda: user.ok("logs", "web") == "out\n", "its output")
    inside = "stat -c %U /mine; cat /proc/1/cmdline"
    wait_until(
        lambda: user("exec", "web", "sh", "-c", inside).stdout == "daemon\nsleep\x001000\0",
        "what it does then",
    )
    assert user.ok("exec", "--user", "daemon", "web", "id", "-u") == "1\n"
    assert "A /mine" in user.ok("diff", "web")
    assert [line.split()[-2:] for line in user.ok("top", "web").splitlines()[1:]] == [
        ["sleep", "1000"]
    ]
    (taken,) = json.loads(user.ok("stats", "--no-stream", "--json"))
    assert (taken["name"], taken["processes"]) == ("web", 1)
    assert 0 < taken["memory_bytes"] < 100 << 20
    user.ok("commit", "web", "box:2")
    assert user.ok("run", "--rm", "box:2", "stat", "-c", "%U", "/mine") == "daemon\n"
    user.ok("gc")
    assert user.ok("exec", "web", "echo", "still") == "still\n"
    user.ok("stop", "-t", "0", "web")
    assert user.status("web").startswith("Exited (137)")
    wait_until(lambda: user.servers() == [], "their end")
    user.ok("start", "web")
    assert user.ok("exec", "web", "stat", "-c", "%U", "/mine") == "daemon\n"
    user.ok("restart", "-t", "0", "web")
    assert user.status("web").startswith("Up")
    unit = user.ok("generate", "systemd", "web").splitlines()  # for systemctl --user
    assert {"KillMode=process", "WantedBy=default.target"} < set(unit)
    assert not [line for line in unit if "network-online.target" in line]


def test_what_containers_wrote_as_other_users_is_measured(user: User) -> None:
    script = "mkdir /own; echo written > /own/file; chown daemon /own; chmod 700 /own; echo done; "
    user.ok("run", "-d", "--name", "writer", "box", "sh", "-c", script + "sleep 1000")
    wait_until(lambda: user.ok("logs", "writer") == "done\n", "its file")
    assert "/own" in user.ok("diff", "writer")
    user.ok("commit", "writer", "other:1")
    (layer,) = json.loads(user.ok("df", "--json"))["ledger"]["writable"]
    assert layer["size"] == len("written\n")
    for words in (["savings"], ["rm", "--dry-run", "other:1"], ["gc", "--dry-run"]):
        user.ok(*words)


def test_two_that_start_at_once_are_in_one_namespace(user: User) -> None:
    starts = [
        subprocess.Popen(
            user.words("run", "-d", "--name", name, "box", "sleep", "1000"),
            stdout=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )
        for name in ("one", "two", "three")
    ]
    assert [start.wait() for start in starts] == [0, 0, 0]
    pids = [user.inspect(name)["State"]["Pid"] for name in ("one", "two", "three")]  # type: ignore[index]
    assert len({os.readlink(f"/proc/{pid}/ns/user") for pid in pids}) == 1
    for name in ("one", "two", "three"):
        assert user.ok("exec", name, "echo", name) == f"{name}\n"


def test_it_is_restarted_and_its_health_is_checked(user: User) -> None:
    user.ok("run", "-d", "--name", "again", "--restart", "on-failure:2", "box", "false")
    assert user.ok("wait", "again") == "1\n"
    assert user.inspect("again")["RestartCount"] == 2
    check = ("--health-cmd", "test -e /ok", "--health-interval", "1s")
    user.ok("run", "-d", "--name", "well", *check, "box", "sh", "-c", "touch /ok; sleep 1000")
    wait_until(lambda: "(healthy)" in user.status("well"), "a check")


def test_when_its_monitor_is_killed_it_can_be_entered_and_ended(user: User) -> None:
    user.ok("run", "-d", "--name", "lone", "box", "sleep", "1000")
    state = user.inspect("lone")["State"]
    assert isinstance(state, dict)
    os.kill(int(state["ConmonPid"]), signal.SIGKILL)
    wait_until(lambda: "monitor is gone" in user.status("lone"), "its end")
    assert user.ok("exec", "lone", "echo", "in") == "in\n"
    user.ok("stop", "-t", "0", "lone")
    assert user.status("lone").startswith("Exited (255)")


def test_when_only_the_container_is_left_it_can_be_ended(user: User) -> None:
    # Of another user than root, who may be killed from the same user namespace alone.
    user.ok("run", "-d", "--name", "left", "--user", "daemon", "box", "sleep", "1000")
    state = user.inspect("left")["State"]
    assert isinstance(state, dict)
    namespace = os.readlink(f"/proc/{state['Pid']}/ns/user")
    for pid in (int(state["ConmonPid"]), *sorted(user.servers())):
        with contextlib.suppress(ProcessLookupError):  # some end with others
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "monitor is gone" in user.status("left"), "its monitor's end")
    wait_until(lambda: user.servers() == [], "their end")
    user.ok("run", "-d", "--name", "next", "box", "sleep", "1000")
    other = user.inspect("next")["State"]
    assert isinstance(other, dict)
    assert os.readlink(f"/proc/{other['Pid']}/ns/user") == namespace
    user.ok("stop", "-t", "0", "left")
    assert user.status("left").startswith("Exited (255)")
    user.ok("start", "left")
    assert user.ok("exec", "left", "id", "-u") == "1\n"


def test_after_everything_was_killed_it_starts_again(user: User) -> None:
    user.ok("run", "-d", "--name", "lost", "box", "sh", "-c", "touch /kept; sleep 1000")
    wait_until(lambda: user("exec", "lost", "ls", "/kept").returncode == 0, "its file")
    state = user.inspect("lost")["State"]
    assert isinstance(state, dict)
    for pid in (int(state["ConmonPid"]), *sorted(user.servers()), int(state["Pid"])):
        with contextlib.suppress(ProcessLookupError):  # some end with others
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: user.status("lost").startswith("Exited (255)"), "its end")
    user.ok("start", "lost")
    assert user.ok("exec", "lost", "ls", "/kept") == "/kept\n"


def test_gc_cleans_up_after_one_that_died_unseen(user: User) -> None:
    script = "touch /mine; chown daemon /mine; sleep 1000"
    user.ok("run", "-d", "--rm", "--name", "unseen", "box", "sh", "-c", script)
    state = user.inspect("unseen")["State"]
    assert isinstance(state, dict)
    os.kill(int(state["ConmonPid"]), signal.SIGKILL)
    os.kill(int(state["Pid"]), signal.SIGKILL)
    wait_until(lambda: user.ok("gc") != "" and user.leftovers() == [], "its end")
    wait_until(lambda: user.servers() == [], "their end")


def test_without_subordinate_ids_the_user_alone_is_mapped(place: Path) -> None:
    user = User(place, subordinate=False)
    user.ok("run", "-d", "--name", "alone", "box", "sleep", "1000")
    assert user.ok("exec", "alone", "cat", "/proc/self/uid_map").split() == ["0", "1000", "1"]
    user.ok("container", "rm", "--force", "alone")
    user.wait_for_the_end()


def test_files_go_in_and_out_whether_it_runs_or_not(user: User) -> None:
    user.ok("run", "-d", "--name", "cc", "box", "sleep", "1000")
    file = user.place / "file"
    file.write_text("mine\n")
    file.chmod(0o644)
    out = user.place / "out"
    out.mkdir()
    out.chmod(0o777)
    for number in (1, 2):
        user.ok("cp", str(file), f"cc:/tmp/in{number}")
        user.ok("cp", f"cc:/tmp/in{number}", f"{out}/")
        assert (out / f"in{number}").read_text() == "mine\n"
        assert (out / f"in{number}").stat().st_uid != os.geteuid()
        user.ok("stop", "-t", "0", "cc")
    user.ok("start", "cc")
    assert user.ok("exec", "cc", "cat", "/tmp/in2") == "mine\n"
    user.ok("rename", "cc", "dd")
    user.ok("update", "--restart", "on-failure", "dd")
    for words in (("pause", "dd"), ("update", "--memory", "64m", "dd")):
        refused = user(*words)
        assert (refused.returncode, "control groups" in refused.stderr) == (15, True), refused
    user.ok("container", "rm", "-f", "dd")
    user.wait_for_the_end()
