"""Who builds, keeps and runs the applications: layerstore, and a dockerd of the benchmark's own.

Both keep everything in one directory, which a later run may use again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tests.bench.harness import (
    CommandError,
    Cost,
    clean_environment,
    run_costed,
    version_of,
)
from tests.bench.launching import run_small
from tests.bench.seed.distribution import allocated
from tests.bench.seed.groups import ControlGroup
from tests.support.namespaces import end_mounts_below

if TYPE_CHECKING:
    from collections.abc import Sequence

BASE = "distribution:1"
DOCKERFILE = f"""\
FROM {BASE}
COPY lib /srv/app/lib
COPY own /srv/app/own
CMD ["python3", "/srv/app/own/main.py"]
"""
"""Libraries before the application's own, as everybody has it, for docker's layers' sake."""
_START_SECONDS = 60
_PATIENCE_S = 180
"""With a daemon that does not answer: docker 20.10's once hung for good over `rm --force` of 50."""
_HOST = ("--network", "host")


class Engine(Protocol):
    """One way to keep and run the applications.

    Attributes:
        name: As the tables have it.
    """

    name: str

    def begin(self) -> None:
        """Start what must run, in a new control group."""

    def add_base(self, base: Path) -> Cost | None:
        """Store the distribution unless it is there."""

    def build(self, context: Path, tag: str) -> Cost:
        """Build an image."""

    def has(self, tag: str) -> bool:
        """Tell whether there is such an image."""

    def stored(self) -> dict[str, int]:
        """Return bytes on the disk: ``disk``, and parts of it."""

    def start(self, tag: str) -> Cost:
        """Start a container and leave it running."""

    def once(self, tag: str, *command: str) -> Cost:
        """Run a container to its end and remove it."""

    def remove_all(self) -> None:
        """End and remove all containers."""

    def end(self) -> None:
        """Stop what :meth:`begin` started; what is stored stays."""


class _Grouped:
    """What both have: a place, and a control group of which the CPU seconds are counted."""

    name = ""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        self.group: ControlGroup

    def _new_group(self) -> None:
        self.group = ControlGroup(f"seed-{self.name}-{os.getpid()}")


class Layerstore(_Grouped):
    """This project, as its users start it. Clients and monitors are in the control group."""

    name = "layerstore"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._store = place / "store"
        program = str(Path(sys.executable).parent / "layerstore")
        self.words = [program, "--store", str(self._store)]

    def begin(self) -> None:
        self._new_group()

    def add_base(self, base: Path) -> Cost | None:
        if self.has(BASE):
            return None
        return run_costed([*self.words, "import", str(base), "--tag", BASE, "--quiet"])

    def build(self, context: Path, tag: str) -> Cost:
        return run_costed([*self.words, "build", "--quiet", "--tag", tag, str(context)])

    def has(self, tag: str) -> bool:
        if not self._store.exists():
            return False
        return subprocess.run([*self.words, "inspect", tag], capture_output=True).returncode == 0

    def stored(self) -> dict[str, int]:
        disk = allocated(self._store)
        # Of views: files, and images of everything but content.
        caches = [place for name in ("objects", "views") if (place := self._store / name).exists()]
        unpacked = allocated(*caches) if caches else 0
        return {"disk": disk - unpacked, "unpacked": unpacked}

    def start(self, tag: str) -> Cost:
        return self._run("--detach", tag)

    def once(self, tag: str, *command: str) -> Cost:
        return self._run("--rm", tag, *command)

    def _run(self, *words: str) -> Cost:
        parent = ["--cgroup-parent", self.group.containers]
        return timed([*self.words, "run", *_HOST, *parent, *words], self.group, inside=True)

    def remove_all(self) -> None:
        if not self._store.exists():
            return
        names = _ask([*self.words, "ps", "--all", "--quiet", "--no-trunc"]).split()
        if names:
            _ask([*self.words, "container", "rm", "--force", *names])
        _ask([*self.words, "umount", "--all", "--lazy"])

    def end(self) -> None:
        self.remove_all()
        self.group.remove()

    def version(self) -> str | None:
        return version_of((self.words[0], "--version"))


class Docker(_Grouped):
    """``docker build`` by the classic builder, over overlay2."""

    name = "docker"

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self._data = place / "data"
        self._client = "/usr/bin/docker" if os.path.exists("/usr/bin/docker") else "docker"

    def begin(self) -> None:
        self._new_group()
        state = self._state = Path(tempfile.mkdtemp(prefix="seed-docker-"))
        host = f"unix://{state}/docker.sock"
        self.words = [self._client, "--host", host]
        command = [
            "dockerd", "--data-root", str(self._data), "--exec-root", str(state / "exec"),
            "--pidfile", str(state / "pid"), "--host", host, "--bridge=none", "--iptables=false",
            "--ip6tables=false", "--cgroup-parent", self.group.containers,
        ]  # fmt: skip
        with (state / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                command, stdout=log, stderr=log, preexec_fn=self.group.join
            )
        deadline = time.monotonic() + _START_SECONDS
        asked = [*self.words, "version"]
        while subprocess.run(asked, capture_output=True).returncode != 0:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                tail = (state / "log").read_text(errors="replace")[-1000:]
                self.end()
                raise CommandError(f"dockerd did not start:\n{tail}")
            time.sleep(0.1)

    def add_base(self, base: Path) -> Cost | None:
        if self.has(BASE):
            return None
        script = 'set -o pipefail; tar -C "$0" --numeric-owner --xattrs -c . | "$@"'
        command = ["bash", "-c", script, str(base), *self.words, "import", "-", BASE]
        return self._costed(command)

    def build(self, context: Path, tag: str) -> Cost:
        command = [*self.words, "build", *_HOST, "--quiet", "--tag", tag, str(context)]
        return self._costed(command, {"DOCKER_BUILDKIT": "0"})

    def load(self, archive: Path) -> Cost:
        """Bring in what ``docker save`` would have written."""
        return self._costed([*self.words, "load", "--quiet", "--input", str(archive)])

    def _costed(self, command: Sequence[str], env: dict[str, str] | None = None) -> Cost:
        before = self.group.cpu_seconds()
        cost = run_costed(command, env=env)
        return replace(cost, cpu_seconds=cost.cpu_seconds + self.group.cpu_seconds() - before)

    def has(self, tag: str) -> bool:
        asked = [*self.words, "image", "inspect", tag]
        return subprocess.run(asked, capture_output=True).returncode == 0

    def stored(self) -> dict[str, int]:
        return {"disk": allocated(self._data)}

    def start(self, tag: str) -> Cost:
        return timed([*self.words, "run", *_HOST, "--detach", tag], self.group)

    def once(self, tag: str, *command: str) -> Cost:
        return timed([*self.words, "run", *_HOST, "--rm", tag, *command], self.group)

    def remove_all(self) -> None:
        names = _ask([*self.words, "ps", "--all", "--quiet"]).split()
        if names:
            _ask([*self.words, "rm", "--force", *names])

    def end(self) -> None:
        if self._daemon.poll() is None:
            with contextlib.suppress(CommandError):
                self.remove_all()
            self._daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._daemon.wait(_PATIENCE_S)
            self._kill_what_is_left()
        end_mounts_below(self._data)  # of containers it could not remove
        # The daemon leaves these to its next start.
        for left in (self._state / "exec" / "netns" / "default", self._data):
            subprocess.run(["umount", "--quiet", str(left)], capture_output=True)
        self.group.remove()
        shutil.rmtree(self._state, ignore_errors=True)

    def _kill_what_is_left(self) -> None:
        """End containers that the daemon could not remove, and then the daemon if it hangs."""
        while left := [*self.group.processes(), *self.group.processes("attendants")]:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._daemon.poll()
            time.sleep(0.05)
        self._daemon.wait()

    def version(self) -> str | None:
        return version_of(("dockerd", "--version"))


def timed(command: Sequence[str], group: ControlGroup, *, inside: bool = False) -> Cost:
    """Run a command that must succeed; its cost, with what its control group took meanwhile.

    Args:
        inside: It joins the group's attendants, so that what it leaves running is counted there.
            CPU seconds are then the group's alone.
    """
    load, before = os.getloadavg()[0], group.cpu_seconds()
    # Not a pipe: what a runtime leaves running would hold its other end.
    with tempfile.TemporaryFile() as log:
        ended = run_small(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environment(),
            groups=group.entries() if inside else (),
        )  # fmt: skip
        if ended.code != 0:
            log.seek(0)
            said = log.read().decode("utf-8", "replace")[-2000:]
            raise CommandError(f"{' '.join(command)}: exit {ended.code}\n{said}")
    own = 0.0 if inside else ended.cpu_seconds
    cpu = own + group.cpu_seconds() - before
    return Cost(cpu, ended.wall_seconds, ended.rss_bytes, load)


def _ask(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=clean_environment(), timeout=_PATIENCE_S
        )
    except subprocess.TimeoutExpired as err:
        raise CommandError(f"{' '.join(command)[:300]}: not done after {_PATIENCE_S} s") from err
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)[:300]}: {done.stderr.strip()[-1000:]}")
    return done.stdout
