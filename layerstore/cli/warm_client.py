"""Asking a helper that waits, loaded, to run this command line.

The helper is :mod:`layerstore.cli.warm.helper`. This is all that a command pays before it asks:
so it imports only what the interpreter has in C, and lies in no noun's package. None as an answer
means that everything goes its usual way, whatever the reason.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import marshal
import posix
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Sequence
    from typing import TextIO

MESSAGE_MAX_BYTES = 1 << 17
"""A command line that is longer, with its environment, is not sent."""

CLIENTS_FAULT = 125
INTERRUPTED = 130
_INT_BYTES = 4
_PATIENCE_S = 2.0
"""A helper that is stopped, say, answers nothing: then nobody waits for it."""

_OWN = {
    _signal.SIGCHLD, _signal.SIGKILL, _signal.SIGSTOP, _signal.SIGWINCH, _signal.SIGPIPE,
    _signal.SIGTSTP, _signal.SIGTTIN, _signal.SIGTTOU, _signal.SIGCONT, _signal.SIGURG,
    _signal.SIGSEGV, _signal.SIGFPE, _signal.SIGILL, _signal.SIGBUS, _signal.SIGABRT,
    _signal.SIGTRAP, _signal.SIGSYS, _signal.SIGALRM, _signal.SIGVTALRM, _signal.SIGPROF,
}  # fmt: skip
"""Signals that concern this process alone, as in containers/attach.py."""


def socket_path() -> str:
    """Return where this installation's helper of this user listens, "" for nowhere.

    ``LAYERSTORE_WARM`` names another place, or says ``no``. An installation is told by its files'
    device and inode.
    """
    told = posix.environ.get(b"LAYERSTORE_WARM", b"").decode("utf-8", "surrogateescape")
    if told:
        return told if told.startswith("/") else ""
    base = "/run"
    if posix.geteuid() != 0:
        base = posix.environ.get(b"XDG_RUNTIME_DIR", b"").decode("utf-8", "surrogateescape")
        if not base.startswith("/"):
            return ""
    own = posix.stat(__file__)
    return f"{base}/layerstore/warm-{own.st_dev:x}-{own.st_ino:x}"


def answer(arguments: Sequence[str]) -> int | None:
    """Have a helper run a command line; return its exit code, or None if nobody did."""
    if not is_for_helper(arguments):
        return None
    try:
        return _ask(arguments)
    except KeyboardInterrupt:  # before the command had begun
        return INTERRUPTED


def _ask(arguments: Sequence[str]) -> int | None:
    path = socket_path()
    if not path:
        return None
    import _socket  # a library of its own to load, and most commands are not for a helper

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(_PATIENCE_S)
        connection.connect(path)
        size = 3 * _INT_BYTES
        credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, size)
        uid = int.from_bytes(credentials[_INT_BYTES : 2 * _INT_BYTES], sys.byteorder)
        if uid != posix.geteuid():  # nobody else gets our streams
            raise OSError
        connection.send(_request(arguments))
        reply = connection.recv(16)
    except OSError:
        connection.close()
        return None
    except KeyboardInterrupt:
        connection.close()
        raise
    try:
        here = posix.open(".", posix.O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
    except OSError:
        reply = b""
    if reply[:1] != b"P":  # it does not do that, or not for us
        connection.close()
        return None
    return _await_end(connection, int(reply[1:]), here)


def is_for_helper(arguments: Sequence[str]) -> bool:
    """Tell whether a command line is one that a helper runs; it looks closer itself.

    Not one with files that only this process has, as a shell's ``--env-file <(...)``.
    """
    for word in arguments:
        if "/dev/fd/" in word or "/proc/" in word:
            return False
    words = iter(arguments)
    for word in words:
        if word == "--store":
            next(words, "")
        elif not word.startswith("--store="):
            return word == "run"
    return False


def _request(arguments: Sequence[str]) -> bytes:
    mask = posix.umask(0o077)
    posix.umask(mask)
    told = marshal.dumps(
        {
            "arguments": list(arguments),
            "environ": dict(posix.environ),
            "umask": mask,
            "executable": sys.executable,
            "flags": list(sys.flags),
            "names": encoding_of_names(),
            "encodings": encodings(),
        }
    )
    if len(told) > MESSAGE_MAX_BYTES:
        raise OSError
    return told


def encoding_of_names() -> tuple[str, str]:
    """Return how this interpreter makes text of words and of names of files."""
    return sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()


def encodings() -> list[tuple[str, str | None]]:
    """Return how this interpreter makes text of its three streams.

    Raises:
        OSError: It has not all of them.
    """
    streams: tuple[TextIO | None, ...] = (sys.stdin, sys.stdout, sys.stderr)
    if None in streams:
        raise OSError
    return [(one.encoding, one.errors) for one in streams if one is not None]


def _await_end(connection: _socket.socket, pid: int, here: int) -> int:
    """Hand over our streams, pass signals on to who runs our command, and return its exit code.

    From here on killing us kills it, and nothing else: what it started goes on.
    """
    last = 0

    def pass_on(number: int, _frame: object) -> None:
        nonlocal last
        last = number
        try:
            posix.kill(pid, number)
        except ProcessLookupError:
            pass

    connection.settimeout(None)
    for number in _signal.valid_signals():
        if number not in _OWN and number < _signal.SIGRTMIN:
            try:
                if _signal.getsignal(number) != _signal.SIG_IGN:
                    _signal.signal(number, pass_on)
            except (OSError, ValueError):
                pass
    # Not before somebody is there to take them: a pipe that lies in the queue of a helper that
    # is stopped would not end for who reads it.
    descriptors = b"".join(fd.to_bytes(_INT_BYTES, sys.byteorder) for fd in (0, 1, 2, here))
    try:
        import _socket

        connection.sendmsg([b"G"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
        reply = connection.recv(16)
    except OSError:
        reply = b""
    connection.close()
    if reply[:1] == b"X":
        return int(reply[1:])
    if last:
        return 128 + last
    sys.stderr.write("layerstore: error: the helper's process for this command was killed\n")
    return CLIENTS_FAULT
