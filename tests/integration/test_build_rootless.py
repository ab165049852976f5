"""Builds by an ordinary user: containers in a user namespace, and the same images as of root."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.linux import probe
from layerstore.store.store import Store
from tests.support import rootless
from tests.support.build import Builder, add_base, needs_runc
from tests.support.debian_base import debian_base_tar
from tests.support.ended import stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    *needs_runc,
    pytest.mark.skipif(
        not probe.user_namespaces().works, reason="user namespaces are not permitted"
    ),
    pytest.mark.skipif(shutil.which("newuidmap") is None, reason="uidmap is not installed"),
    pytest.mark.skipif(
        rootless.interpreter() is None, reason="there is no Python that an ordinary user may run"
    ),
]
_SECONDS = 60
EPOCH = 1_600_000_000


class Home:
    """A directory of the ordinary user with a store and a build context."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.store = place / "store"
        self.context = place / "context"
        self.context.mkdir()
        with Store.open(self.store, create=True) as store:
            add_base(store)
        rootless.give(place)

    def words(self, dockerfile: str, *options: str) -> list[str]:
        """Return the words of a build of this Dockerfile."""
        (self.context / "Dockerfile").write_text(dockerfile)
        plain = ["--store", str(self.store), "build", "--progress", "plain"]
        return [*plain, *options, str(self.context)]

    def build(
        self, dockerfile: str, *options: str, **user: object
    ) -> subprocess.CompletedProcess[str]:
        """Build as the user."""
        return rootless.run(self.place, self.words(dockerfile, *options), **user)  # type: ignore[arg-type]

    def run(self, *words: str, **user: object) -> subprocess.CompletedProcess[str]:
        """Run layerstore as the user."""
        return rootless.run(self.place, ["--store", str(self.store), *words], **user)  # type: ignore[arg-type]


@pytest.fixture
def home() -> Iterator[Home]:
    """Everybody may pass through the directories above, which pytest's do not allow."""
    with tempfile.TemporaryDirectory(prefix="layerstore-test-", dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Home(Path(name))


EVERYTHING = """\
FROM box
RUN id -u && echo mine > /mine && echo theirs > /theirs && chown 5:6 /theirs && chmod 4755 /theirs
RUN mkdir -p /d/e && chown -R daemon:adm /d && touch /d/e/f && rm /etc/group && ln /mine /linked
COPY --chown=7:8 a /copied/
WORKDIR /made
USER daemon
RUN id -u && id -g && mkdir /tmp/own && echo x > /tmp/own/file && cat /copied/a
USER root
RUN --mount=type=cache,target=/c,uid=9,gid=9,mode=0700 stat -c '[%u:%g %a]' /c && echo x > /c/log
RUN --mount=type=secret,id=key,uid=5,gid=6,mode=0440 stat -c '[%u:%g %a]' /run/secrets/key
RUN --mount=type=tmpfs,target=/t touch /t/x
RUN --mount=from=box,target=/b,rw touch /b/new && ls /b/bin/sh
RUN --network=none grep -c : /proc/net/dev
"""


def test_the_same_image_as_root_builds(home: Home, tmp_path: Path) -> None:
    secret = home.place / "key"
    secret.write_text("secret")
    (home.context / "a").write_text("A\n")
    options = ["--secret", f"id=key,src={secret}", "--build-arg", f"SOURCE_DATE_EPOCH={EPOCH}"]
    done = home.build(EVERYTHING, *options)
    assert done.returncode == 0, done.stderr
    assert "[9:9 700]" in done.stderr
    assert "[5:6 440]" in done.stderr

    by_root = Builder(tmp_path)
    add_base(by_root.store)
    by_root.write({"a": "A\n"})
    result = by_root.build(EVERYTHING, source_date_epoch=EPOCH, secrets={"key": b"secret"})
    by_root.store.close()
    assert done.stdout.strip() == result.image_id

    again = home.build(EVERYTHING, *options)
    assert again.stdout == done.stdout
    assert "0.0s" not in again.stderr or "CACHED" in again.stderr


def test_no_subordinate_ids(home: Home) -> None:
    dockerfile = "FROM box\nRUN id -u > /x && ! chown 5 /x 2> /dev/null\n"
    done = home.build(dockerfile, subordinate=False)
    assert done.returncode == 0, done.stderr
    assert "RUN has no user but root here" in done.stderr
    for refused, words in (
        ("FROM box\nUSER daemon\nRUN true\n", "USER daemon is 1:1, and of ids .* has 0 alone"),
        (
            "FROM box\nRUN --mount=type=cache,target=/c,uid=5 true\n",
            "the cache mount's owner is 5:0, and of ids",
        ),
    ):
        failed = home.build(refused, subordinate=False)
        assert failed.returncode == 14
        assert re.search(words, failed.stderr), failed.stderr
        assert "usermod --add-subuids" in failed.stderr
    # The result depends on it, so where all owners can be set the step runs again.
    whole = home.build(dockerfile)
    assert whole.returncode == 14, whole.stderr


def test_what_is_missing_is_told(home: Home) -> None:
    closed = home.build("FROM box\nRUN true\n", device_mode=0o600)
    assert closed.returncode == 15
    assert "chmod 666 /dev/fuse" in closed.stderr
    limited = home.build("FROM box\nRUN true\n", "--memory", "64m")
    assert limited.returncode == 15
    assert "--memory needs control groups, which nobody but root can make here" in limited.stderr


def test_doctor_tries_a_container(home: Home) -> None:
    done = home.run("doctor")
    assert any(
        line.startswith("ok ") and "OCI runtime" in line and "a trial worked" in line
        for line in done.stdout.splitlines()
    ), done.stdout


def _running(home: Home, marker: str) -> subprocess.Popen[str]:
    words = home.words(
        "FROM box\nRUN mkdir /d && chown 5:5 /d && touch /d/f && chown 5:5 /d/f && chmod 700 /d && "
        f"echo run''ning; sleep {marker}\n"
    )
    process = subprocess.Popen(
        rootless.command(home.place, words),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith(" running"):
            return process
    _end(process)
    raise AssertionError("the build ended early")


def _end(process: subprocess.Popen[str]) -> None:
    process.wait(_SECONDS)
    assert process.stderr is not None
    process.stderr.close()


def _processes(home: Home) -> list[bytes]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if os.fsencode(home.place) in command:
                found.append(command)
    return found


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def _scratch(home: Home) -> list[str]:
    return [name for name in os.listdir(home.store / "tmp") if name.endswith(".build")]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_of_a_killed_build_stays(home: Home, number: signal.Signals) -> None:
    process = _running(home, f"{984_000_000 + os.getpid()}")
    process.send_signal(number)
    _end(process)
    _until(lambda: not _processes(home) and not _scratch(home))


def test_gc_removes_what_belongs_to_subordinate_ids(home: Home) -> None:
    marker = f"{983_000_000 + os.getpid()}"
    process = _running(home, marker)
    reaper = next(
        int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if _is_reaper(pid, home)
    )
    stop(process)
    os.kill(reaper, signal.SIGKILL)
    process.kill()
    _end(process)
    _until(lambda: not _processes(home))
    assert _scratch(home)
    cached = home.build("FROM box\nRUN --mount=type=cache,target=/c,uid=5,mode=700 touch /c/f\n")
    assert cached.returncode == 0, cached.stderr
    collected = home.run("gc", "--all")
    assert collected.returncode == 0, collected.stderr
    assert _scratch(home) == []
    assert os.listdir(home.store / "cache-mounts") == []


def test_cache_mounts_that_others_closed_are_measured(home: Home) -> None:
    """As apt has them: lists and archives below a directory of _apt's own."""
    closed = "mkdir -m 700 /c/partial; echo written > /c/partial/f; chown -R 5 /c/partial"
    done = home.build(f"FROM box\nRUN --mount=type=cache,target=/c {closed}\n", "-t", "a:1")
    assert done.returncode == 0, done.stderr
    for words in (["df", "--json"], ["savings"], ["rm", "--dry-run", "a:1"]):
        told = home.run(*words)
        assert told.returncode == 0, told.stderr
        if "--json" in words:
            parts = json.loads(told.stdout)["ledger"]["parts"]
            sizes = {part["owner"]: part["size"] for part in parts}
            assert sizes["cache_mounts"] == len("written\n")


def _is_reaper(pid: str, home: Home) -> bool:
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b"/reaper.py\0" in command and os.fsencode(home.place) in command
    return False


@pytest.mark.network
def test_debian_with_users_and_apt(home: Home) -> None:
    """apt drops its privileges for a user of its own, sudo and su gain them."""
    base = home.place / "base.tar"
    shutil.copy(debian_base_tar(), base)
    base.chmod(0o644)
    imported = home.run("import", str(base), "-t", "debian")
    assert imported.returncode == 0, imported.stderr
    done = home.build(
        "FROM debian\n"
        "RUN rm -f /etc/apt/sources.list.d/* && mkdir /repository && "
        "gzip < /dev/null > /repository/Packages.gz && "
        "echo 'deb [trusted=yes] copy:/repository ./' > /etc/apt/sources.list && apt-get update\n"
        "RUN useradd -m alice && passwd -d root && stat -c '[%U:%G %a]' /etc/shadow /home/alice\n"
        "USER alice\n"
        "WORKDIR /home/alice\n"
        "RUN echo mine > mine && su -c 'id -un' && stat -c '[%U]' mine .\n"
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "Reading package lists",
        "[root:shadow 640]",
        "[alice:alice",
        " root\n",
        "[alice]",
    ):
        assert words in done.stderr
