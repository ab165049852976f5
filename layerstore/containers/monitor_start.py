"""How a runtime is started on a container's bundle, and what its end says.

Like :mod:`layerstore.containers.monitor`, which starts containers again, of modules written in C
only.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import fcntl
import posix

from layerstore.containers.monitor_files import unlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

START_FAILED = 125
"""docker's status where a container could not be started, whatever the reason."""


def start_runtime(spec: dict[str, Any]) -> dict[str, Any]:
    """Start the runtime on a container's bundle; return its pid and our ends of its streams.

    Args:
        spec: What the monitor is told; see :func:`layerstore.containers.starting.monitor_spec`.
    """
    actions: list[tuple[int, ...] | tuple[Any, ...]] = []
    ours: dict[str, Any] = {"console": -1, "stdin": -1, "stdout": -1, "stderr": -1}
    theirs: list[int] = []
    null = posix.open("/dev/null", posix.O_RDWR | posix.O_CLOEXEC)
    theirs.append(null)
    words = [spec["runtime"], *spec["runtime_options"], "run", "--detach"]
    words += ["--bundle", spec["bundle"], "--pid-file", spec["pid_file"]]
    standard = [null, null, null]
    if spec["tty"]:
        unlink(spec["console_socket"])
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        listener.bind(spec["console_socket"])
        listener.listen(1)
        ours["console"] = listener.detach()
        words += ["--console-socket", spec["console_socket"]]
    else:
        if spec["interactive"]:
            standard[0], ours["stdin"] = posix.pipe2(posix.O_CLOEXEC)
        for number, name in ((1, "stdout"), (2, "stderr")):
            ours[name], standard[number] = posix.pipe2(posix.O_CLOEXEC)
        theirs += standard
    # A descriptor that happens to be 0, 1 or 2 already would be overwritten before its turn.
    lifted = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) for fd in standard]
    actions = [(posix.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(lifted)]
    words.append(spec["container"])
    unlink(spec["pid_file"])
    unlink(spec["runtime_log"])
    try:
        ours["pid"] = posix.posix_spawn(
            spec["runtime"], words, spec["environ"], file_actions=actions,
            setsigdef=[_signal.SIGPIPE, _signal.SIGTERM, _signal.SIGINT, _signal.SIGCHLD],
            setsigmask=[],
        )  # fmt: skip
    finally:
        for fd in {*theirs, *lifted}:
            posix.close(fd)
    return ours


def exit_code(status: int) -> int:
    """Return what a shell would call a status of wait(2): 128 more than a signal's number."""
    code = posix.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def start_code(words: bytes) -> int:
    """Return the status for a runtime's words about a command that it could not start."""
    if b"executable file not found" in words or b"no such file or directory" in words:
        return 127
    if b"permission denied" in words or b"is a directory" in words:
        return 126
    return START_FAILED
