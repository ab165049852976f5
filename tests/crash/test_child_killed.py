"""F2: a process that a command relies on is killed at some moment: runtime, container, server.

Of a build: the reaper, the OCI runtime, the container's own process, the FUSE server below
it. The build ends in words or succeeds, and leaves no process, mount, control group or
scratch file. Of a view: its server, while somebody reads; readers get an error and never
other bytes, the view can be taken away and shown again.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import pytest

from layerstore.build.run.reaper import remove_cgroups
from layerstore.containers.states import started_at
from layerstore.store.store import Store
from tests.crash.rig import campaign, oracle, scenes
from tests.crash.rig.launcher import Done
from tests.crash.rig.oracle import BrokenPromiseError, Expectation
from tests.crash.rig.tracer import Plan
from tests.support.build import add_base, needs_runc
from tests.support.ended import await_end, groups_of, stop
from tests.support.views import (
    is_mounted,
    needs_fuse,
    needs_libfuse,
    needs_root,
    server_pids,
    undo_all_mounts,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.crash.rig.launcher import Launcher

MARKER = "layerstore-f2"
VICTIMS = {
    "reaper": b"reaper.py",
    "runtime": b"\0--bundle\0",
    "container": b"true " + MARKER.encode(),
    "server": b"\0fuse_mount.server\0",
}
LONG = ("--build-arg", "ROUNDS=60")
STEP = (
    f"true {MARKER}; n=0; while [ $n -lt $ROUNDS ]; do n=$((n+1)); echo $n > /f$n;"
    " sha256sum /bin/busybox > /sum; sleep 0.02; done"
)
DOCKERFILE = f"FROM box\nARG ROUNDS=10\nRUN echo one > /one\nRUN {STEP}\n"
ENDLESS = ("--build-arg", "ROUNDS=1000000000")
"""For a build whose child is killed: what is left of it must not be waited for. Not where a
server dies: a step that needs no file any more has nothing to notice."""

WORKING = "container"
"""From when it is seen on, the second step is at work; before, there is a first one too."""

LATEST_S = 0.5
PATIENCE_S = 60
_TOP = Path(__file__).parents[2]
_PROGRAM = """
import sys
if sys.argv[1]:
    from tests.crash.rig import mutants
    mutants.apply(sys.argv[1])
del sys.argv[1]
from layerstore.cli.main import main
sys.exit(main())
"""


class Workshop(NamedTuple):
    """A store with a base that has a shell, and a context that runs it."""

    template: Path
    context: Path
    names: oracle.Names


@pytest.fixture
def workshop(trial_box: Path) -> Workshop:
    return make_workshop(trial_box / "workshop")


def make_workshop(box: Path) -> Workshop:
    template, context = box / "template", box / "context"
    context.mkdir(parents=True)
    (context / "Dockerfile").write_text(DOCKERFILE)
    with Store.open(template, create=True) as store:
        add_base(store)
    return Workshop(template, context, oracle.names_of(template))


class Build:
    """A build in a process of its own."""

    def __init__(
        self, root: Path, context: Path, options: Sequence[str], mutant: str | None
    ) -> None:
        self.root = root
        self._err = os.memfd_create("stderr")  # may be full of words before anybody reads
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", _PROGRAM, mutant or "", "--store", str(root)),
                *("build", str(context), "-t", "made:1", "--progress", "plain", *options),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._err,
            text=True,
            cwd=_TOP,
        )
        self._leases: set[str] = set()

    def kill_one(self, kind: str, delay: float, *, since: str) -> bool:
        """Kill the first child of a kind, ``delay`` after it was seen; return whether it lived.

        Args:
            since: Another kind: before one of it was seen nothing happens.
        """
        while self.process.poll() is None and not self._find(VICTIMS[since]):
            time.sleep(0.002)
        while self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                for pid in self._find(VICTIMS[kind]):
                    fd = os.pidfd_open(pid)
                    try:
                        if pid not in self._find(VICTIMS[kind]):
                            raise ProcessLookupError  # the id may be somebody else's by now
                        self._note_lease()
                        time.sleep(delay)
                        signal.pidfd_send_signal(fd, signal.SIGKILL)
                    finally:
                        os.close(fd)
                    return True
                time.sleep(0.002)
                continue
            delay /= 4  # it had ended: the next one gets less time
        return False

    def kill_with_reaper(self, delay: float) -> None:
        """Kill the builder and its reaper, neither of which sees the other die."""
        while not (reapers := self._find(VICTIMS["reaper"])):
            assert self.process.poll() is None
            time.sleep(0.002)
        time.sleep(delay)
        stop(self.process)
        self._note_lease()
        for pid in reapers:
            os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.reap()

    def await_end(self) -> None:
        """Wait for the build and leave it unreaped: its groups are not abandoned yet."""
        try:
            await_end(self.process, PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.reap()
            raise BrokenPromiseError("the build waits for ever") from None

    def reap(self) -> Done:
        """Return what became of the build."""
        code = self.process.wait()
        with open(self._err, "rb") as file:
            file.seek(0)
            err = file.read().decode("utf-8", "replace")
        return Done(code, "", err, True, [], "", [], [])

    def _find(self, text: bytes) -> list[int]:
        """Return processes of this build whose command line has a text, the oldest first.

        Not by their ids: these begin again from small ones.
        """
        found = [
            pid
            for pid, command in processes()
            if text in command
            and pid != self.process.pid
            and (os.fsencode(self.root) in command or self._is_ours(pid))
        ]
        return sorted(found, key=started_at)

    def _is_ours(self, pid: int) -> bool:
        """Whether a process descends from the build; a container's command line names nothing."""
        while pid > 1:
            if pid == self.process.pid:
                return True
            try:
                status = Path(f"/proc/{pid}/stat").read_text()
            except OSError:
                return False
            pid = int(status.rpartition(")")[2].split()[1])
        return False

    def _note_lease(self) -> None:
        """Remember what control groups are named after, as long as the scratch directory tells."""
        names = [name for name in os.listdir(self.root / "tmp") if name.endswith(".build")]
        assert names
        self._leases |= {name.removesuffix(".build").removeprefix("lease-") for name in names}

    def clean(self) -> None:
        """Remove the control groups that a broken build left on this host."""
        for group in self.groups():
            remove_cgroups(group.name)

    def remains(self) -> list[str]:
        """Return what still exists of the build."""
        found = remains(self.root)
        return found + [f"cgroup {group}" for group in self.groups()]

    def groups(self) -> list[Path]:
        """Return the control groups of this build, in every hierarchy."""
        return [group for lease in self._leases for group in groups_of(lease)]


def remains(root: Path) -> list[str]:
    """Return what works in a store or lies in its scratch: processes, mounts, files."""
    name = os.fsencode(root)
    found = [f"process {pid} {cmd!r}" for pid, cmd in processes() if name in cmd]
    found += [f"mount {place}" for place in oracle.mounts_below(root)]
    return found + [f"scratch {file}" for file in os.listdir(root / "tmp")]


def processes() -> Iterator[tuple[int, bytes]]:
    """Yield every process but this one with its command line."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            if int(name) != os.getpid():
                yield int(name), command


def kill_in_build(
    workshop: Workshop,
    launcher: Launcher,
    root: Path,
    kind: str,
    delay: float,
    *,
    since: str,
    mutant: str | None = None,
) -> bool:
    """Build once, a child killed; judge, and build again."""
    shutil.copytree(workshop.template, root)
    options = LONG if kind == "server" else ENDLESS
    build = Build(root, workshop.context, options, mutant)
    fired = build.kill_one(kind, delay, since=since)
    build.await_end()
    # A mutant is hunted: what it leaves it leaves.
    deadline = time.monotonic() + (PATIENCE_S if mutant is None else 0.2)
    while (left := build.remains()) and time.monotonic() < deadline:
        time.sleep(0.05)
    done = build.reap()
    if not done.typed:
        raise BrokenPromiseError(f"ended with {done.code}: {done.err[-1200:]}")
    if left:
        build.clean()
        raise BrokenPromiseError(f"ended with {done.code}, left behind: {left}")
    judge(workshop, root, made=done.code == 0)
    build_again(workshop, launcher, root)
    return fired


def judge(workshop: Workshop, root: Path, *, made: bool | None) -> None:
    """The base is there, and so is what was built; None: it may be."""
    found = oracle.judge(root, Expectation([]))
    assert found is not None
    oracle.require_names(found, workshop.names)
    if made not in {None, "made:1" in found}:
        raise BrokenPromiseError(f"the image is {'not ' * made}there")


class TestBuild:
    pytestmark: ClassVar = needs_runc

    @pytest.mark.parametrize("kind", VICTIMS)
    def test_a_killed_child_of_a_build_leaves_nothing(
        self, workshop: Workshop, launcher: Launcher, trial_box: Path, kind: str
    ) -> None:
        source = random.Random(f"{campaign.SEED} {kind}")
        with campaign.tally("F2", f"build {kind}") as tally:
            for number in range(campaign.amount(1, 20, 200)):
                delay = source.random() * LATEST_S
                since = (WORKING, kind)[number % 2]
                with tally.trial(f"{number}") as wanted:
                    if wanted:
                        root = trial_box / f"{number}"
                        # One that had ended before it could be killed is killed at sight.
                        tally.fired += any(
                            kill_in_build(workshop, launcher, root, kind, wait, since=since)
                            for wait in (delay, 0)
                        )

    def test_builder_and_reaper_killed_together_leave_what_the_next_command_removes(
        self, workshop: Workshop, launcher: Launcher, trial_box: Path
    ) -> None:
        source = random.Random(f"{campaign.SEED} both")
        with campaign.tally("F2", "build both") as tally:
            for number in range(campaign.amount(1, 20, 200)):
                delay = source.random() * LATEST_S
                with tally.trial(f"{number}") as wanted:
                    if wanted:
                        kill_both(workshop, launcher, trial_box / f"{number}", delay)
                        tally.fired += 1

    def test_a_builder_killed_at_any_call_of_a_run_step_leaves_nothing(
        self, workshop: Workshop, launcher: Launcher, trial_box: Path
    ) -> None:
        total = calls_of_build(workshop, launcher, trial_box / "counted")
        with campaign.tally("F1", "build with RUN") as tally:
            for at in scenes.pick(total, campaign.amount(3, total, total), campaign.SEED):
                with tally.trial(f"{at}") as wanted:
                    if wanted:
                        tally.fired += kill_builder(workshop, launcher, trial_box / f"{at}", at)


def calls_of_build(workshop: Workshop, launcher: Launcher, root: Path) -> int:
    """Return how many calls of a build change something, its mounts among them."""
    shutil.copytree(workshop.template, root)
    done = launcher.run(root, "build", str(workshop.context), "-t", "made:1", plan=Plan())
    assert done.code == 0, done
    shutil.rmtree(root)
    return len(done.seen)


def kill_both(workshop: Workshop, launcher: Launcher, root: Path, delay: float) -> None:
    """Kill builder and reaper ``delay`` after the latter was seen; judge, and build again."""
    shutil.copytree(workshop.template, root)
    build = Build(root, workshop.context, ENDLESS, None)
    build.kill_with_reaper(delay)
    deadline = time.monotonic() + PATIENCE_S
    while (left := without_lease(remains(root))) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        build.clean()
        raise BrokenPromiseError(f"left behind: {left}")
    judge(workshop, root, made=None)
    build_again(workshop, launcher, root)
    if left := build.groups():
        build.clean()
        raise BrokenPromiseError(f"the next commands left control groups: {left}")


def kill_builder(workshop: Workshop, launcher: Launcher, root: Path, at: int) -> bool:
    """Kill the builder itself, its children are nobody's; judge, and build again."""
    shutil.copytree(workshop.template, root)
    words = ("build", str(workshop.context), "-t", "made:1")
    done = launcher.run(root, *words, plan=Plan("kill", at))
    assert not done.fired or done.code == -signal.SIGKILL, done
    deadline = time.monotonic() + PATIENCE_S
    while (left := without_lease(remains(root))) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        raise BrokenPromiseError(f"left behind: {left}")
    judge(workshop, root, made=None)
    build_again(workshop, launcher, root)
    return done.fired


def without_lease(found: list[str]) -> list[str]:
    """Leave out what a killed command may leave until gc: files of its lease."""
    return [what for what in found if not what.startswith("scratch ")]


def build_again(workshop: Workshop, launcher: Launcher, root: Path) -> None:
    """Build to the end, collect, judge, and remove the store."""
    again = launcher.run(root, "build", str(workshop.context), "-t", "made:1")
    if again.code != 0:
        raise BrokenPromiseError(f"the build run again ended with {again.code}: {again.err}")
    for _ in range(2):
        assert launcher.run(root, "gc").code == 0
    judge(workshop, root, made=True)
    if left := oracle.leftovers(root):
        raise BrokenPromiseError(f"gc left behind: {left}")
    shutil.rmtree(root)


def kill_under_view(
    workshop: Workshop,
    launcher: Launcher,
    box: Path,
    delay: float,
    *,
    rw: bool,
    mutant: str | None = None,
) -> bool:
    """Kill the server of a view that is read; take the view away and show it again."""
    root, target = box / "store", box / "view"
    target.mkdir(parents=True)
    shutil.copytree(workshop.template, root)
    words = ["mount", "--backend", "fusepy", "box", str(target), *(["--rw"] if rw else [])]
    whole = target / "bin/busybox"
    try:
        assert launcher.run(root, *words, mutant=mutant).code == 0
        right = whole.read_bytes()
        wrong = read_until_it_fails(whole, right, server_pids(root), delay)
        if wrong:
            raise BrokenPromiseError("a reader got other bytes")
        for step in (["umount", str(target)], words, ["umount", str(target)], ["gc"]):
            done = launcher.run(root, *step, mutant=mutant)
            if done.code != 0:
                raise BrokenPromiseError(f"{step} ended with {done.code}: {done.err}")
            if step is words and whole.read_bytes() != right:
                raise BrokenPromiseError("the view shown again has other bytes")
        if left := remains_of_views(root, target):
            raise BrokenPromiseError(f"left behind: {left}")
        oracle.judge(root, Expectation([workshop.names]))
        return True
    finally:
        undo_all_mounts(root)
        shutil.rmtree(box)


def read_until_it_fails(path: Path, right: bytes, pids: list[int], delay: float) -> bool:
    """Kill servers under a reader; return whether it read anything that is not ``right``."""
    wrong = threading.Event()

    def read() -> None:
        with contextlib.suppress(OSError):
            while not wrong.is_set():
                with open(path, "rb", buffering=0) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    parts = b"".join(iter(lambda: file.read(65_536), b""))
                if parts != right:
                    wrong.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert pids
    time.sleep(delay)
    for pid in pids:
        fd = os.pidfd_open(pid)
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)
    reader.join(PATIENCE_S)
    if reader.is_alive():
        raise BrokenPromiseError("a reader waits for ever")
    return wrong.is_set()


def remains_of_views(root: Path, target: Path) -> list[str]:
    """Return what a store without views should not have, once servers had time to end."""
    deadline = time.monotonic() + PATIENCE_S
    while server_pids(root) and time.monotonic() < deadline:
        time.sleep(0.02)
    found = [f"server {pid}" for pid in server_pids(root)]
    found += [f"mount {target}"] if is_mounted(target) else []
    return found + [
        f"{directory}/{name}"
        for top in ("views", "uppers")
        for directory, names, files in os.walk(root / top)
        for name in [*files, *(names if top == "uppers" else [])]
    ]


class TestView:
    pytestmark: ClassVar = [*needs_root, *needs_fuse, needs_libfuse]

    @pytest.mark.parametrize("rw", [False, True], ids=["ro", "rw"])
    def test_a_killed_server_is_an_error_for_readers_and_can_be_replaced(
        self, workshop: Workshop, launcher: Launcher, trial_box: Path, rw: bool
    ) -> None:
        source = random.Random(f"{campaign.SEED} {rw}")
        with campaign.tally("F2", f"view {'rw' if rw else 'ro'}") as tally:
            for number in range(campaign.amount(2, 40, 400)):
                delay = source.random() * LATEST_S
                with tally.trial(f"{number}") as wanted:
                    if wanted:
                        box = trial_box / f"{number}"
                        tally.fired += kill_under_view(workshop, launcher, box, delay, rw=rw)
