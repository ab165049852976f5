"""A container's health check, run by its monitor: docker's rules, one process at a time.

Like :mod:`layerstore.containers.monitor` of modules written in C only. A check is one more process
in the container, started by the runtime (``exec``). What came of the last ones is in a file in
memory, for ``ps`` and ``inspect``; nothing is written to the store.

Source: docker's reference of HEALTHCHECK; the words of ``State.Health`` in its API.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import posix
import time

from layerstore.containers.monitor_files import (
    is_frozen,
    kill,
    publish,
    read_text,
    to_json,
    unlink,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OUTPUT_MAX_BYTES = 4096
"""Of each check's output, as docker keeps it."""

_KEPT = 5
_READ_BYTES = 64 << 10
_READS_MAX = 16
"""At once: one that prints faster than we read must not keep us from all else."""

_TIMED_OUT = -1
_LOOK_S = 0.05
_LONG_S = 3600.0
"""poll(2) takes 24 days at most, and checks may be a year apart."""

_START_MAX_S = 60.0
"""How long a runtime may take to start a check before it is given up."""


class Health:
    """The checks of one start of a container after the other.

    Args:
        told: ``process`` and ``state``, paths of what is to be run and of what is written;
            ``pid_file``; ``interval``, ``timeout``, ``start_period``, ``start_interval`` in
            seconds; ``retries``.
        spec: What the monitor is told.
    """

    def __init__(self, told: dict[str, Any], spec: dict[str, Any]) -> None:
        self._told = told
        self._spec = spec
        self.output = -1
        self._pid = 0
        self._started = self._when = self._deadline = 0.0
        self._text = b""
        self.begin()

    def begin(self) -> None:
        """Begin anew, as the container has just started."""
        self._begun = time.monotonic()
        self._status = "starting"
        self._failures = 0
        self._log: list[dict[str, Any]] = []
        self._is_late = False
        self._next = self._begun + self._pause()
        self._write()

    def wait_s(self) -> float:
        """Return how long nothing is to be done, in seconds."""
        if self._is_late:
            return _LONG_S
        due = (self._deadline if self._pid else self._next) - time.monotonic()
        return min(max(0.0, due), _LONG_S)

    def step(self, ended: dict[int, int]) -> None:
        """Do what is due.

        Args:
            ended: Statuses of children of the monitor that have ended.
        """
        now = time.monotonic()
        if self.wait_s() == 0 and is_frozen(self._spec["cgroup"]):
            # Nothing can be asked of what stands still, nor be expected of a check that does.
            self._next, self._deadline = now + self._pause(), now + self._told["timeout"]
        if self._pid in ended:
            code = posix.waitstatus_to_exitcode(ended.pop(self._pid))
            self.read()
            if code and not self._is_late and is_frozen(self._spec["cgroup"]):
                self._drop()  # a runtime starts nothing in what was paused meanwhile
            else:
                self._end(_TIMED_OUT if self._is_late else code)
        elif self._pid and not self._is_late and now >= self._deadline:
            self._kill(now)
        elif not self._pid and now >= self._next:
            self._start()
            ended.pop(self._pid, None)  # of somebody's who was called that before

    def read(self) -> None:
        """Take what a check has printed; what is more than is kept is dropped."""
        try:
            for _ in range(_READS_MAX):
                data = posix.read(self.output, _READ_BYTES)
                if not data:
                    break
                self._text += data[: OUTPUT_MAX_BYTES - len(self._text)]
            else:
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._close()

    def end(self) -> None:
        """Give up, as the container has ended."""
        if self._pid:
            kill(self._pid, _signal.SIGKILL)
            self._pid = 0
        self._close()
        self._is_late = False

    def _pause(self) -> float:
        """Return the seconds until the next check."""
        is_early = time.monotonic() - self._begun < self._told["start_period"]
        is_starting = is_early and self._status == "starting"
        return float(self._told["start_interval" if is_starting else "interval"])

    def _start(self) -> None:
        unlink(self._told["pid_file"])
        self._text = b""
        self._started, self._when = time.monotonic(), time.time()
        self._deadline = self._started + self._told["timeout"]
        self.output, theirs = posix.pipe2(posix.O_CLOEXEC)
        posix.set_blocking(self.output, False)
        null = posix.open("/dev/null", posix.O_RDONLY | posix.O_CLOEXEC)
        words = [self._spec["runtime"], *self._spec["runtime_options"], "exec"]
        words += ["--process", self._told["process"], "--pid-file", self._told["pid_file"]]
        words.append(self._spec["container"])
        actions = [(posix.POSIX_SPAWN_DUP2, null, 0)]
        actions += [(posix.POSIX_SPAWN_DUP2, theirs, number) for number in (1, 2)]
        try:
            self._pid = posix.posix_spawn(
                words[0], words, self._spec["environ"], file_actions=actions,
                setsigdef=[_signal.SIGPIPE, _signal.SIGTERM, _signal.SIGINT, _signal.SIGCHLD],
                setsigmask=[],
            )  # fmt: skip
        except OSError as err:  # no memory, or no process is to be had
            self._text = str(err).encode()
            self._end(_TIMED_OUT)
        finally:
            posix.close(null)
            posix.close(theirs)

    def _kill(self, now: float) -> None:
        """Kill a check that takes too long, and the runtime that waits for it.

        A runtime that has not started it yet is not: what it is about to start would stay.
        """
        found = read_text(self._told["pid_file"])
        if not found.isdigit() and now < self._started + self._told["timeout"] + _START_MAX_S:
            self._deadline = now + _LOOK_S
            return
        self._is_late = True
        if found.isdigit():
            kill(int(found), _signal.SIGKILL)
        kill(self._pid, _signal.SIGKILL)
        self._text = b"Health check exceeded timeout (%gs)" % self._told["timeout"]

    def _drop(self) -> None:
        """Forget a check of which nothing can be said."""
        self._pid = 0
        self._close()
        self._next = time.monotonic() + self._pause()

    def _end(self, code: int) -> None:
        self._pid = 0
        self._is_late = False
        self._close()
        is_early = time.monotonic() - self._begun < self._told["start_period"]
        if code == 0:
            self._status, self._failures = "healthy", 0
        elif not (is_early and self._status == "starting"):
            self._failures += 1
            if self._failures >= self._told["retries"]:
                self._status = "unhealthy"
        text = self._text.decode("utf-8", "replace")
        entry = {"start": self._when, "end": time.time(), "exit_code": code, "output": text}
        self._log = [*self._log[1 - _KEPT :], entry]
        self._next = time.monotonic() + self._pause()
        self._write()

    def _close(self) -> None:
        if self.output >= 0:
            posix.close(self.output)
            self.output = -1

    def _write(self) -> None:
        value = {"status": self._status, "failures": self._failures}
        for number, entry in enumerate(self._log):
            value |= {f"{name}_{number}": item for name, item in entry.items()}
        publish(self._told["state"], to_json(value).encode("ascii"), durable=False)
