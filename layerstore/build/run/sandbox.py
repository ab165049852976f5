"""Where RUN steps happen: namespaces of a build's own, and the runtime inside them.

A :class:`Sandbox` owns one thread that lives in a private mount namespace and starts
its children in a new pid namespace, whose first process is
:mod:`layerstore.build.run.reaper`. Mounts are made by functions given to
:meth:`Sandbox.call`, which run in that thread; containers are started by the reaper.
So whatever ends this process, however hard, ends the containers, the servers behind the
mounts, and the mounts. One sandbox serves one build; its steps may run side by side, since
every call and container is independent.

All of it works for root of the host and for root of a user namespace
(:mod:`fuse_mount.unshare`), which is how people without privileges build.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from layerstore.build.errors import BuildCanceledError
from layerstore.build.run import reaper
from layerstore.errors import BuildError, UnsupportedError
from layerstore.linux import mounts
from layerstore.linux.namespaces import CLONE_NEWNS, held_capabilities, mapped_ids, unshare
from layerstore.runtime.cgroups import (
    counts_swap,
    group_name,
    remove_abandoned,
)
from layerstore.runtime.limits import require_enforceable
from layerstore.runtime.oci_spec import STANDARD_DIRECTORIES, Isolation
from layerstore.runtime.runtimes import (
    Runtime,
    installed_runtimes,
    no_runtime_works,
    trial_config,
)
from layerstore.runtime.settings import DEFAULT_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layerstore.runtime.settings import RunOptions

CLONE_NEWPID = 0x20000000
OUTPUT_READ_BYTES = 64 << 10
_STATUS_MAX_BYTES = 32
_TRIAL_TAIL_BYTES = 2048
_END_SECONDS = 30
_PROGRAMS = ("bin", "sbin", "usr", "nix", "gnu")
"""Where hosts have what a trial runs, besides their libraries: Debian, NixOS, Guix."""

P = ParamSpec("P")
R = TypeVar("R")


def require_privileges() -> None:
    """Refuse to run steps for a user who is root nowhere, where the runtime would fail obscurely.

    Raises:
        UnsupportedError: An unprivileged user outside a user namespace.
    """
    if os.geteuid() != 0:
        raise UnsupportedError(
            "RUN needs root, or a user namespace in which you are root",
            hint="see what layerstore doctor says of user namespaces, or run the build as root; "
            "builds without RUN work for every user",
        )


class Sandbox:
    """See the module. Use it in a ``with`` block.

    Args:
        scratch: A directory of the build's own; removed if this process dies.
        name: Unique among running builds of this process; names the control group.
        options: How commands run.

    Attributes:
        ids: How many ids the user namespace maps; 0 when it is the host's own.
        private_fd: Of :attr:`private`: who is not in the sandbox gets there through it.

    Raises:
        UnsupportedError: Privileges, an OCI runtime, or what a limit needs are missing.
    """

    def __init__(self, scratch: Path, name: str, options: RunOptions = DEFAULT_OPTIONS) -> None:
        require_privileges()
        self.scratch = scratch
        self.ids = mapped_ids()
        require_enforceable(options.limits, rootless=bool(self.ids))
        self._runtimes = installed_runtimes(options.runtime, rootless=bool(self.ids))
        self._runtime = self._runtimes[0]
        self._works = False
        self._trial_lock = threading.Lock()
        self._options = options
        self._identity = group_name(name)
        parent = options.limits.cgroup_parent.strip("/")
        self.cgroup_root = "" if self.ids else os.path.join("/", parent, self._identity)
        remove_abandoned(parent=parent)
        # Bundles hold secrets that are variables: a tmpfs that only the sandbox sees.
        self._private = scratch / "private"
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._control, self._reaper_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reaper: subprocess.Popen[bytes] | None = None
        self.private_fd = -1
        self._starting = threading.Lock()
        self._killed = False
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

    def isolation(self, name: str, *, network: bool = True, insecure: bool = False) -> Isolation:
        """Return what a container of this sandbox shares with the host and may use.

        Args:
            name: Unique within this sandbox.
            network: Of the host; none otherwise.
            insecure: It has all of root's rights.
        """
        return Isolation(
            host_network=network,
            cgroup=f"{self.cgroup_root}/{name}" if self.cgroup_root else "",
            machine=os.uname().machine,
            insecure=insecure,
            options=self._options,
            ids=self.ids,
            swap=counts_swap() if self._options.limits.memory else False,
            held=held_capabilities(),
        )

    def run(
        self,
        config: dict[str, object],
        name: str,
        on_output: Callable[[bytes], None],
        started: Callable[[], None] = lambda: None,
    ) -> int:
        """Run one container to its end and return its exit status.

        Args:
            config: Its config.json.
            name: Unique within this sandbox.
            on_output: Gets standard output and error as they come, in pieces.
            started: Called when the runtime was told to.

        Raises:
            BuildError: The runtime's supervisor is gone.
            BuildCanceledError: :meth:`kill` came first.
            UnsupportedError: No runtime here works.
        """
        while True:
            runtime = self._runtime
            status = self._run(runtime, config, name, on_output, started)
            if status == 0:
                self._works = True
            if status == 0 or self._at_fault(runtime):
                return status

    def trial(self, runtime: Runtime) -> str | None:
        """Return why a runtime cannot run a command that cannot fail, None if it can.

        Raises:
            BuildError: The runtime's supervisor is gone.
        """
        root = self.scratch / "trial"
        said = bytearray()
        self.call(_bind_programs, root)
        try:
            # Without the build's limits: one that cannot be set is no fault of the runtime.
            isolation = self.isolation("trial")._replace(options=DEFAULT_OPTIONS)
            config = trial_config(str(root), isolation)
            status = self._run(runtime, config, "trial", said.extend)
        finally:
            self.call(mounts.unmount, str(root), lazy=True)
        if status == 0:
            return None
        words = said[-_TRIAL_TAIL_BYTES:].decode("utf-8", "replace").strip().splitlines()
        return f"{runtime.path} exits {status}" + (f" ({words[-1].strip()})" if words else "")

    @property
    def runtime(self) -> Runtime:
        """What runs the containers, as far as was found out by now."""
        return self._runtime

    @property
    def private(self) -> Path:
        """A directory in memory that only the sandbox sees."""
        return self._private

    def _at_fault(self, runtime: Runtime) -> bool:
        """Whether a command that failed did so by itself; else another runtime is to run it.

        Raises:
            UnsupportedError: There is none that works.
        """
        with self._trial_lock:
            if self._works:
                return runtime == self._runtime
            failures = []
            for candidate in self._runtimes:
                problem = self.trial(candidate)
                if problem is None:
                    self._runtime, self._works = candidate, True
                    return runtime == candidate
                failures.append(problem)
            raise no_runtime_works(failures)

    def _run(
        self,
        runtime: Runtime,
        config: dict[str, object],
        name: str,
        on_output: Callable[[bytes], None],
        started: Callable[[], None] = lambda: None,
    ) -> int:
        bundle = self._private / f"bundle-{runtime.name}-{name}"
        self.call(_write_bundle, bundle, json.dumps(config))
        identity = f"{self._identity}-{name}"
        state = str(self._private / runtime.name)
        command = runtime.run_command(state, str(bundle), identity, rootless=bool(self.ids))
        return self.run_command(command, on_output, started)

    def run_command(
        self,
        command: list[str],
        on_output: Callable[[bytes], None],
        started: Callable[[], None] = lambda: None,
    ) -> int:
        """Run a program of the host in the sandbox to its end and return its exit status.

        Args:
            command: The program and its arguments.
            on_output: Gets standard output and error as they come, in pieces.
            started: Called once, when the supervisor was told to.

        Raises:
            BuildError: The supervisor is gone.
        """
        output, status = self.start(command)
        try:
            started()
            while data := os.read(output, OUTPUT_READ_BYTES):
                on_output(data)
            answer = os.read(status, _STATUS_MAX_BYTES)
        finally:
            os.close(output)
            os.close(status)
        if not answer:
            raise BuildError("the supervisor of the build's containers has died")
        return int(answer)

    def start(self, command: list[str]) -> tuple[int, int]:
        """Start a program of the host in the sandbox, which it ends with at the latest.

        Returns:
            Where its output and its exit status will come from; the caller closes both.

        Raises:
            BuildError: The supervisor is gone.
        """
        output, output_end = os.pipe2(os.O_CLOEXEC)
        status, status_end = os.pipe2(os.O_CLOEXEC)
        try:
            request = reaper.encode_request(command)
            with self._starting:
                if self._killed:
                    raise BuildCanceledError
                socket.send_fds(self._control, [request], [output_end, status_end])
        except (OSError, BuildCanceledError) as err:
            os.close(output)
            os.close(status)
            if isinstance(err, BuildCanceledError):
                raise
            raise BuildError(f"the supervisor of the build's containers is gone: {err}") from err
        finally:
            os.close(output_end)
            os.close(status_end)
        return output, status

    def remove(self, path: str) -> bool:
        """Remove a directory beside what this process does; return whether it is gone.

        By a process of the sandbox: threads would wait for each other at every file.
        """
        answer, answer_end = os.pipe2(os.O_CLOEXEC)
        try:
            with self._starting:
                socket.send_fds(self._control, [reaper.encode_removal(path)], [answer_end])
            os.close(answer_end)
            answer_end = -1
            return os.read(answer, _STATUS_MAX_BYTES) == b"0"
        except OSError:  # the supervisor is gone
            return False
        finally:
            os.close(answer)
            if answer_end >= 0:
                os.close(answer_end)

    def kill(self) -> None:
        """Kill every container, and the servers behind the mounts; none starts any more."""
        with self._starting:
            self._killed = True
            with contextlib.suppress(OSError):
                self._control.send(b"kill")

    def close(self) -> None:
        """Kill every container and drop every mount; harmless when repeated."""
        if self._reaper is not None:
            # Its end of the socket closes with it; Popen.wait() alone looks for its end by naps.
            with contextlib.suppress(OSError):
                self._control.send(b"quit")
                self._control.settimeout(_END_SECONDS)
                self._control.recv(1)
            self._control.close()
            try:
                self._reaper.wait(1)
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
        if self.private_fd >= 0:
            os.close(self.private_fd)
            self.private_fd = -1
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
        self.private_fd = os.open(self._private, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
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


def _write_bundle(bundle: Path, config: str) -> None:
    bundle.mkdir(mode=0o700, exist_ok=True)
    (bundle / "config.json").write_text(config)


def _bind_programs(root: Path) -> None:
    """Show the host's programs inside the sandbox, for a container that writes nothing."""
    root.mkdir(mode=0o700, exist_ok=True)
    mounts.mount("tmpfs", str(root), "tmpfs", mounts.MS_NODEV, "mode=0755")
    for directory in STANDARD_DIRECTORIES:
        os.mkdir(f"{root}{directory}")
    for name in os.listdir("/"):
        place = root / name
        if name not in _PROGRAMS and not name.startswith("lib"):
            continue
        if os.path.islink(f"/{name}"):
            place.symlink_to(os.readlink(f"/{name}"))
        elif os.path.isdir(f"/{name}"):
            place.mkdir()
            mounts.bind(f"/{name}", str(place), recursive=True)
