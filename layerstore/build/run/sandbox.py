"""Where RUN steps happen: namespaces of a build's own, and the runtime inside them.

A :class:`Sandbox` owns one thread that lives in a private mount namespace and starts
its children in a new pid namespace, whose first process is
:mod:`layerstore.build.run.reaper`. Mounts are made by functions given to
:meth:`Sandbox.call`, which run in that thread; containers are started by the reaper.
So whatever ends this process, however hard, ends the containers, the servers behind the
mounts, and the mounts. One sandbox serves one build; steps may later run side by side
in one, since every call and container is independent.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple, ParamSpec, Self, TypeVar

from layerstore.build.run import reaper
from layerstore.errors import BuildError, UnsupportedError
from layerstore.linux import mounts
from layerstore.linux.namespaces import CLONE_NEWNS, in_user_namespace, unshare

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CLONE_NEWPID = 0x20000000
OUTPUT_READ_BYTES = 64 << 10
_ANSWER_MAX_BYTES = 4096
_RUNTIMES = ("runc", "crun")
_TRIAL_SECONDS = 10
_END_SECONDS = 30

P = ParamSpec("P")
R = TypeVar("R")


class Runtime(NamedTuple):
    """An OCI runtime found on this machine."""

    path: str
    name: str


def find_runtime() -> Runtime:
    """Return the first OCI runtime that answers: runc, else crun.

    Raises:
        UnsupportedError: There is none.
    """
    failures = []
    for name in _RUNTIMES:
        path = shutil.which(name)
        if path is None:
            continue
        try:
            trial = subprocess.run(
                [path, "--version"], capture_output=True, timeout=_TRIAL_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            failures.append(f"{path}: {err}")
            continue
        if trial.returncode == 0:
            return Runtime(path, name)
        failures.append(f"{path} exits {trial.returncode}")
    found = f" ({'; '.join(failures)})" if failures else ""
    raise UnsupportedError(
        f"RUN needs an OCI runtime and neither runc nor crun works here{found}",
        hint="apt-get install runc",
    )


def require_privileges() -> None:
    """Refuse to run steps without root on the host, where the runtime would fail obscurely.

    Raises:
        UnsupportedError: An unprivileged user, or root of a user namespace.
    """
    if os.geteuid() != 0 or in_user_namespace():
        raise UnsupportedError(
            "RUN needs root on the host in this version",
            hint="run the build as root; builds without RUN work for every user",
        )


class Sandbox:
    """See the module. Use it in a ``with`` block.

    Args:
        scratch: A directory of the build's own; removed if this process dies.
        name: Unique among running builds; names the control group.
    """

    def __init__(self, scratch: Path, name: str) -> None:
        require_privileges()
        self.scratch = scratch
        self.runtime = find_runtime()
        self.cgroup_root = f"/layerstore-{name}"
        # Bundles hold secrets that are variables: a tmpfs that only the sandbox sees.
        self._private = scratch / "private"
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._control, self._reaper_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reaper: subprocess.Popen[bytes] | None = None
        self._containers = 0
        self._thread = threading.Thread(target=self._work, name="build-sandbox", daemon=True)
        self._thread.start()
        try:
            self.call(self._enter)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run ``function`` in the sandbox's thread and return what it returns.

        What it mounts is seen by containers and nobody else. It must not start threads.
        """
        done = threading.Event()
        outcome: list[R] = []
        failure: list[BaseException] = []

        def job() -> None:
            try:
                outcome.append(function(*args, **kwargs))
            except BaseException as err:  # noqa: BLE001 -- raised again in the caller's thread
                failure.append(err)
            finally:
                done.set()

        self._jobs.put(job)
        done.wait()
        if failure:
            raise failure[0]
        return outcome[0]

    def run(self, config: dict[str, object], name: str, on_output: Callable[[bytes], None]) -> int:
        """Run one container to its end and return its exit status.

        Args:
            config: Its config.json.
            name: Unique within this sandbox.
            on_output: Gets standard output and error as they come, in pieces.

        Raises:
            BuildError: The runtime's supervisor is gone.
        """
        private = self._private
        bundle = private / f"bundle-{name}"
        self.call(_write_bundle, bundle, json.dumps(config))
        arguments = [
            self.runtime.path, "--root", str(private / "runtime"),
            "--log", str(private / "runtime.log"),
            "run", "--bundle", str(bundle), f"{self.cgroup_root.strip('/')}-{name}",
        ]  # fmt: skip
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                socket.send_fds(self._control, [json.dumps(arguments).encode()], [write_end])
            finally:
                os.close(write_end)
            container = self._answer()["started"]
            while data := os.read(read_end, OUTPUT_READ_BYTES):
                on_output(data)
        except OSError as err:
            raise BuildError(f"the supervisor of the build's containers is gone: {err}") from err
        finally:
            os.close(read_end)
        while True:
            answer = self._answer()
            if answer.get("pid") == container:
                return answer["status"]

    def close(self) -> None:
        """Kill every container and drop every mount; harmless when repeated."""
        if self._reaper is not None:
            with contextlib.suppress(OSError):
                self._control.send(b"quit")
            self._control.close()
            try:
                self._reaper.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                self._reaper.kill()
                self._reaper.wait()
            if self._reaper.returncode != 0:
                # It was killed before it cleaned up. The kernel killed all that it had
                # started, and takes every mount when our thread ends; this it leaves.
                reaper.remove_cgroups(self.cgroup_root)
            self._reaper = None
        with contextlib.suppress(OSError):
            self._control.close()
            self._reaper_end.close()
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()

    def _enter(self) -> None:
        """Give the calling thread its namespaces and start the reaper as their first process."""
        unshare(CLONE_NEWNS)
        mounts.set_propagation("/", mounts.MS_SLAVE)
        self._private.mkdir(mode=0o700)
        flags = mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC
        mounts.mount("tmpfs", str(self._private), "tmpfs", flags, "mode=0700")
        unshare(CLONE_NEWPID)
        self._reaper = subprocess.Popen(
            [
                sys.executable, "-I", "-S", reaper.__file__,
                str(self._reaper_end.fileno()), self.cgroup_root, str(self.scratch),
            ],
            stdin=subprocess.DEVNULL,
            pass_fds=[self._reaper_end.fileno()],
            start_new_session=True,
            cwd="/",
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        self._reaper_end.close()

    def _answer(self) -> dict[str, int]:
        data = self._control.recv(_ANSWER_MAX_BYTES)
        if not data:
            raise BuildError("the supervisor of the build's containers has died")
        answer: dict[str, int] = json.loads(data)
        return answer


def _write_bundle(bundle: Path, config: str) -> None:
    bundle.mkdir(mode=0o700)
    (bundle / "config.json").write_text(config)
