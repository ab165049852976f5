"""The process beside a running container: its streams, its log, its end, its restarts.

Run as a program of its own (``python -I -S``), or in the fork of a client that stays attached,
whose memory it shares. Written for the former: it imports only modules of the interpreter's that
are written in C, so it starts in the time that the runtime needs anyway and keeps 3 MiB of its
own. Who starts a container (:mod:`layerstore.containers.starting`) forks, makes the mounts in a
mount namespace of the child, becomes a subreaper, starts the runtime
(:mod:`layerstore.containers.monitor_start`), and only then becomes this. So the container's first
process is reparented to us when the runtime has gone, and its exit status is ours to collect.

Clients talk to it by SOCK_SEQPACKET, one message a packet, its first byte says what it is:

    to us    I data   for standard input        E        standard input ends
             W 2+2    rows and columns          K 1      a signal for the container
             Q        no output, please: only the end is waited for
    from us  S        the container runs        F text   the runtime could not start it
             1 data   of standard output        2 data   of standard error
             X text   it ended for good, with this status

    F is followed by the status that docker would give: 127 where there is no such command, 126
    where it cannot be run, 125 for everything else.

State is written before anybody is told of it: ``state.json``, by rename; the end of a container
that is kept is forced to the disk first. The lock file ``alive`` stays locked as long as we live.
Killed, we take nothing with us: the container goes on without streams, and whoever looks finds
out (:mod:`layerstore.containers.states`).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import marshal
import posix
import select
import sys
import time

from layerstore.containers.monitor_client import Client
from layerstore.containers.monitor_files import (
    CGROUPS,
    TEXT_MAX_BYTES,
    kill,
    publish,
    read_text,
    remove_cgroups,
    remove_flat,
    set_window,
    thaw,
    to_json,
    unlink,
)
from layerstore.containers.monitor_health import Health
from layerstore.containers.monitor_log import Log
from layerstore.containers.monitor_start import START_FAILED, exit_code, start_code, start_runtime
from layerstore.linux.process_stat import start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

READ_BYTES = 64 << 10
QUEUE_MAX_BYTES = 1 << 20
"""A client that is further behind stops the container's output until it has read some."""

_DRAIN_S = 2.0
"""How long output is waited for after the end: somebody else may hold the other end."""

_FAREWELL_S = 600.0
"""How long a client that reads nothing, such as a pager, keeps us from leaving."""

_STEADY_S = 10.0
"""A container that ran so long is restarted without delay, as docker has it."""

_CONFIG_LOOK_S = 0.05
"""How often to look whether a runtime has read its config; one that reads on waits so long."""

_FIONREAD = 0x541B  # ioctl_pipe(2)
_BACKOFF_S = 0.1
_BACKOFF_MAX_S = 60.0

_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR


class Monitor:
    """One container's life; see the module."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        for fd in spec["inherited"]:  # from here on nobody else is to have them
            posix.set_inheritable(fd, False)
        self._log = Log(spec["log"], spec["log_max_bytes"], spec["log_files"])
        self._clients: dict[int, Client] = {}
        self._first: Client | None = None
        starter = self._join(_socket.socket(fileno=spec["client"]))
        if spec["attached"]:
            self._first = starter
        self._listener = _socket.socket(fileno=spec["listener"])
        self._listener.setblocking(False)
        self._wake, self._waker = posix.pipe2(posix.O_CLOEXEC | posix.O_NONBLOCK)
        self._asked_to_stop = False
        self._restarts = 0
        self._delay_s = _BACKOFF_S
        self._started_s = 0.0
        self._pid = 0
        self._refused = b""
        self._runtime_pid = 0
        self._ended: dict[int, int] = {}
        self._streams: dict[int, bytes] = {}
        self._stdin = -1
        self._master = -1
        self._console = -1
        self._config = -1
        self._health: Health | None = None
        self._input: list[bytes] = []
        self._input_ends = False
        self._window = b""

    def run(self) -> None:
        """Attend the container until it has ended for good."""
        _signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.signal(_signal.SIGTERM, self._on_term)
        _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)
        started = self._spec["started"]
        while True:
            failure = self._live(started)
            code = start_code(failure) if failure else exit_code(self._ended[self._pid])
            if failure and not self._restarts:
                if self._takes_another_runtime(code, failure):
                    started = start_runtime(self._spec)
                    continue
                failure = self._refused or failure
                self._write_state("created", exit_code=code, error=failure)
                self._tell(b"F%c%s" % (code, failure))
                break
            if not self._again(code):
                if self._spec["durable"]:  # else it goes at its end, and nobody reads of it
                    self._write_state("exited", exit_code=code, error=failure, durable=True)
                self._tell(b"X%d" % code)
                break
            self._restarts += 1
            started = start_runtime(self._spec)
        self._farewell()

    def _takes_another_runtime(self, code: int, failure: bytes) -> bool:
        """Take the next runtime where one cannot start the container, for whatever reason.

        What the first one said is told if none can.
        """
        if code != START_FAILED or not self._spec["others"]:
            return False
        self._refused = self._refused or failure
        path, options = self._spec["others"].pop(0)
        self._spec["runtime"], self._spec["runtime_options"] = path, options
        # Which one knows the container is looked up here by exec, among others.
        return publish(self._spec["runtime_file"], path.encode(), durable=False)

    def _on_term(self, *_: object) -> None:
        self._asked_to_stop = True
        if self._pid:
            kill(self._pid, self._spec["stop_signal"])
            thaw(self._spec["cgroup"])

    # -- one start of the container

    def _live(self, started: dict[str, Any]) -> bytes:
        """Attend one start to its end; return the runtime's words if it could not start."""
        self._runtime_pid = started["pid"]
        self._pid = 0
        self._ended = {}
        self._stdin, self._console = started["stdin"], started["console"]
        self._config = started.get("config", -1)
        self._streams = {}
        for name, kind in (("stdout", b"1"), ("stderr", b"2")):
            if started[name] >= 0:
                self._streams[started[name]] = kind
        for fd in (*self._streams, self._stdin):
            if fd >= 0:
                posix.set_blocking(fd, False)
        # Whoever ended while we were becoming this program, ended before anybody listened.
        self._reap()
        failure = self._wait_for_start()
        if failure is None:
            told = self._spec.get("health")
            self._health = Health(told, self._spec) if told else None
            self._wait_for_end()
            self._oom_killed = self._was_killed_for_memory()
        self._close_streams()
        self._clear_away()
        return failure or b""

    def _wait_for_start(self) -> bytes | None:
        while self._runtime_pid not in self._ended:
            # Output waits in its pipe: what a runtime that fails has to say is in its log.
            self._poll(_CONFIG_LOOK_S if self._config >= 0 else None, output=False)
            self._end_config()
        self._end_config(is_read=True)
        self._started_s = time.time()
        if exit_code(self._ended[self._runtime_pid]) != 0:
            return (
                read_text(self._spec["runtime_log"]) or self._read_streams() or b"it said nothing"
            )
        pid = read_text(self._spec["pid_file"])
        self._pid = int(pid) if pid.isdigit() else 0
        if not self._pid:
            return b"the runtime named no process"
        if self._master < 0 and self._console >= 0:
            self._take_console()
        if not self._write_state("running"):
            # Nobody would find it, to stop it say.
            kill(self._pid, _signal.SIGKILL)
            while self._pid not in self._ended:
                self._poll(None, output=False)
            return b"its state could not be written: the disk of the store is full or broken"
        if self._asked_to_stop:  # while the runtime started it: then nobody was there to be told
            kill(self._pid, self._spec["stop_signal"])
        if not self._restarts:
            self._tell(b"S")
        return None

    def _end_config(self, *, is_read: bool = False) -> None:
        """Let the config end when the runtime has read it; see containers/early.py."""
        if self._config < 0:
            return
        if not is_read:
            left = fcntl.ioctl(self._config, _FIONREAD, b"\0" * 4)
            is_read = not any(left)
        if is_read:
            posix.close(self._config)
            self._config = -1

    def _wait_for_end(self) -> None:
        health = self._health
        while self._pid not in self._ended:
            self._poll(None if health is None else health.wait_s())
            if health is not None:
                health.step(self._ended)
        if health is not None:
            health.end()
        # What is left fits into pipes: clients that are behind get it all the same.
        until = time.monotonic() + _DRAIN_S
        while self._streams and (left := until - time.monotonic()) > 0:
            self._poll(left, patient=False)

    def _read_streams(self) -> bytes:
        said = b""
        for fd in self._streams:
            try:
                said += posix.read(fd, READ_BYTES)
            except OSError:
                pass
        return said

    def _close_streams(self) -> None:
        for fd in {*self._streams, self._stdin, self._console, self._master} - {-1}:
            posix.close(fd)
        self._streams = {}
        self._stdin = self._console = self._master = -1
        self._input = []

    def _take_console(self) -> None:
        """Receive the terminal's other end, which the runtime has sent by now."""
        listener = _socket.socket(fileno=self._console)
        self._console = -1
        listener.setblocking(False)
        connection, _ = listener._accept()  # type: ignore[attr-defined]
        sock = _socket.socket(fileno=connection)
        _, ancillary, _, _ = sock.recvmsg(4096, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
        for level, kind, data in ancillary:
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
                self._master = int.from_bytes(data[:4], sys.byteorder)
        sock.close()
        listener.close()
        unlink(self._spec["console_socket"])
        if self._master >= 0:
            posix.set_blocking(self._master, False)
            self._streams[self._master] = b"1"
            if self._window:
                set_window(self._master, self._window)

    # -- events

    def _poll(self, timeout_s: float | None, *, output: bool = True, patient: bool = True) -> None:
        """Wait for the next events and serve them.

        Args:
            timeout_s: Seconds; None for as long as it takes.
            output: Whether the container's output is read.
            patient: Whether clients that are behind stop it.
        """
        if patient and any(client.queued > QUEUE_MAX_BYTES for client in self._clients.values()):
            output = False
        poll = self._poll_of(output=output)
        timeout_ms = None if timeout_s is None else max(0, int(timeout_s * 1000) + 1)
        for fd, event in poll.poll(timeout_ms):
            if fd == self._wake:
                self._reap()
            elif fd == self._listener.fileno():
                self._accept()
            elif self._health is not None and fd == self._health.output:
                self._health.read()
            elif fd in self._clients:
                self._serve(self._clients[fd], event)
            else:
                if event & select.POLLOUT:
                    self._feed()
                if fd in self._streams and event & _READABLE:
                    self._pass_on(fd)

    def _poll_of(self, *, output: bool) -> select.poll:
        """Return what is to be waited for."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._listener.fileno(), select.POLLIN)
        if output:
            for fd in self._streams:
                poll.register(fd, select.POLLIN)
        if self._health is not None and self._health.output >= 0:
            poll.register(self._health.output, select.POLLIN)
        pending = sum(map(len, self._input))
        sink = self._sink()
        if sink >= 0 and self._input:
            # A terminal is both ends: its reading side is registered already.
            both = select.POLLIN if sink in self._streams and output else 0
            poll.register(sink, select.POLLOUT | both)
        for fd, client in self._clients.items():
            wanted = select.POLLIN if pending <= QUEUE_MAX_BYTES else 0
            poll.register(fd, wanted | (select.POLLOUT if client.queue else 0))
        return poll

    def _reap(self) -> None:
        try:
            posix.read(self._wake, READ_BYTES)
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = posix.waitpid(-1, posix.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._ended[pid] = status

    def _pass_on(self, fd: int) -> None:
        try:
            data = posix.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: the last process let go of the terminal
            data = b""
        kind = self._streams[fd]
        if not data:
            del self._streams[fd]
            if fd != self._master:
                posix.close(fd)
            return
        self._log.write(b"stdout" if kind == b"1" else b"stderr", data)
        self._tell(kind + data)

    def _tell(self, message: bytes) -> None:
        is_output = message[:1] in (b"1", b"2")
        for client in tuple(self._clients.values()):
            if not (is_output and client.is_quiet):
                client.send(message)

    def _join(self, sock: _socket.socket) -> Client:
        client = Client(sock)
        self._clients[sock.fileno()] = client
        return client

    def _accept(self) -> None:
        try:
            fd, _ = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        client = self._join(_socket.socket(fileno=fd))
        if self._pid:
            client.send(b"S")

    def _serve(self, client: Client, event: int) -> None:
        alive = client.flush()
        if alive and event & _READABLE:
            try:
                message = client.sock.recv(READ_BYTES + 1)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            alive = bool(message)
            if message == b"Q":
                client.is_quiet = True
            elif alive:
                self._obey(message)
        if not alive:
            self._drop(client)

    def _drop(self, client: Client) -> None:
        del self._clients[client.sock.fileno()]
        client.sock.close()
        if client is self._first:
            self._first = None
            self._input_ends = True  # who gave the input has gone
            self._feed()

    def _obey(self, message: bytes) -> None:
        kind, data = message[:1], message[1:]
        if kind == b"I":
            if self._spec["interactive"]:
                self._input.append(data)
                self._feed()
        elif kind == b"E":
            self._input_ends = True
            self._feed()
        elif kind == b"W" and len(data) == 4:
            self._window = data
            if self._master >= 0:
                set_window(self._master, data)
        elif kind == b"K" and len(data) == 1 and self._pid and self._pid not in self._ended:
            kill(self._pid, data[0])
            thaw(self._spec["cgroup"])

    def _sink(self) -> int:
        return self._master if self._spec["tty"] else self._stdin

    def _feed(self) -> None:
        """Write input as far as the container takes it."""
        sink = self._sink()
        if sink < 0:
            if not self._spec["tty"] and self._pid:
                self._input = []
            return
        try:
            while self._input:
                written = posix.write(sink, self._input[0])
                if written == len(self._input[0]):
                    self._input.pop(0)
                else:
                    self._input[0] = self._input[0][written:]
        except BlockingIOError:
            return
        except OSError:  # it reads no more
            self._input = []
            self._input_ends = True
        if self._input_ends and not self._input and self._stdin >= 0:
            posix.close(self._stdin)
            self._stdin = -1

    # -- the end

    def _again(self, code: int) -> bool:
        """Whether to start the container once more; waits as long as that takes."""
        policy, most = self._policy()
        if policy == "no" or self._is_stopped():
            return False
        if policy == "on-failure" and (code == 0 or (most and self._restarts >= most)):
            return False
        if time.time() - self._started_s >= _STEADY_S:
            self._delay_s = _BACKOFF_S
        self._write_state("restarting", exit_code=code)
        until = time.monotonic() + self._delay_s
        while (left := until - time.monotonic()) > 0:
            if self._is_stopped():
                return False
            self._poll(left)
        self._delay_s = min(2 * self._delay_s, _BACKOFF_MAX_S)
        return not self._is_stopped()

    def _policy(self) -> tuple[str, int]:
        """Return the policy of restarts, and how many at most: as told, or changed since."""
        changed, _, most = read_text(self._spec["restart_file"]).decode().strip().partition(" ")
        if changed and most.isdigit():
            return changed, int(most)
        policy, number = self._spec["restart"]
        return policy, number

    def _is_stopped(self) -> bool:
        if self._asked_to_stop:
            return True
        try:
            posix.stat(self._spec["stopped"])
        except OSError:
            return False
        return True

    def _clear_away(self) -> None:
        """Remove what the runtime keeps of a container that has ended."""
        remove_flat(f"{self._spec['runtime_state']}/{self._spec['container']}")
        if self._spec["cgroup"]:
            remove_cgroups(self._spec["cgroup"])

    _oom_killed = False

    def _was_killed_for_memory(self) -> bool:
        cgroup = self._spec["cgroup"]
        if not cgroup:
            return False
        for path in (f"memory{cgroup}/memory.oom_control", f"{cgroup[1:]}/memory.events"):
            for line in read_text(f"{CGROUPS}/{path}").splitlines():
                name, _, count = line.partition(b" ")
                if name == b"oom_kill" and count.strip() != b"0":
                    return True
        return False

    def _write_state(
        self,
        status: str,
        *,
        exit_code: int = 0,
        error: bytes = b"",
        durable: bool = False,
    ) -> bool:
        """Write down how the container fares; return whether that could be done."""
        value = {
            "status": status,
            "pid": self._pid if status == "running" else 0,
            "pid_started": start_time(self._pid) if status == "running" else 0,
            "monitor": posix.getpid(),
            "boot_id": self._spec["boot_id"],
            "started": self._started_s,
            "finished": 0.0 if status == "running" else time.time(),
            "exit_code": exit_code,
            "oom_killed": self._oom_killed,
            "restarts": self._restarts,
            "error": error[:TEXT_MAX_BYTES].decode("utf-8", "replace"),
        }
        # Of an end that is not written: whoever looks finds nobody alive, and says so.
        return publish(
            self._spec["state"],
            to_json(value).encode("ascii"),
            durable=durable and self._spec["durable"],
        )

    def _farewell(self) -> None:
        """Let clients read to the end, and leave the rest to who started us or to a cleaner."""
        self._log.close()
        until = time.monotonic() + _FAREWELL_S
        while any(client.queue for client in self._clients.values()):
            before = sum(client.queued for client in self._clients.values())
            self._poll(max(0.0, until - time.monotonic()))
            if sum(client.queued for client in self._clients.values()) < before:
                until = time.monotonic() + _FAREWELL_S
            elif time.monotonic() >= until:
                break
        if self._first is not None and self._first.flush():
            # It cleans up. Our end, and that of our mount namespace, take longer than a message.
            posix.close(self._spec["lock"])
            return
        become = [*self._spec["cleaner"], str(self._spec["outside"])]
        _signal.set_wakeup_fd(-1)
        for fd in (self._spec["lock"], self._spec["outside"]):
            posix.set_inheritable(fd, True)
        posix.execve(become[0], become, self._spec["environ"])


def main(fd: int) -> None:
    """Be the monitor that a spec in an open file describes."""
    parts = []
    while data := posix.read(fd, READ_BYTES):
        parts.append(data)
    posix.close(fd)
    Monitor(marshal.loads(b"".join(parts))).run()  # noqa: S302 -- written by who became us
    return
