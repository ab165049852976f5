"""Where a shell asks the helper of ``layerstore warm``: FIFOs, since a shell has no sockets.

The other end is ``cli/script/layerstore``. A directory of the user's alone has, for the fork that
waits, with its pid as R:

    now       R, replaced by rename
    R.taken   made by who asks, exclusively: nobody else asks R
    R.ask     to us, the asker's pid; it holds it open until its end
    R.reply   from us, P when its command is in our hands, N when it is not; then its exit code

That a pid is the asker's is not believed: its descriptor 1 must be R.ask. What it asks for
is then read from ``/proc``, and its streams are duplicated, while a pidfd says that it lives.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys

from layerstore.cli import warm_client
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.files import make_private_dir, write_all
from layerstore.linux.pidfd import take_descriptor

if TYPE_CHECKING:
    from typing import Any

_ASKERS_FD = 1
_ASKERS_STREAMS = (6, 7, 8)
_LINE_BYTES = 8  # 2 ** 22 is the greatest pid, proc(5)
_READ_BYTES = 1 << 16
_SHELLS_WORDS = 2  # sh, and the script
_SUFFIXES = ("taken", "ask", "reply")
_LOCALE = (b"LC_ALL", b"LC_CTYPE", b"LANG")
"""What decides how an interpreter makes text of words, beside ``PYTHON*``."""


class Asker(NamedTuple):
    """A shell that waits for its command's end.

    Attributes:
        pid: Its process.
        pidfd: The same, which cannot be reused.
        tie: A descriptor that hangs up at its end.
        reply: Takes lines.
    """

    pid: int
    pidfd: int
    tie: int
    reply: int

    def told(self) -> dict[str, Any]:
        """Return its command line and what belongs to it, as ``warm_client`` sends it.

        Raises:
            OSError: It has gone, or may not be looked at.
            ValueError: It is another installation's command, or of another locale.
        """
        place = f"/proc/{self.pid}"
        words = read_whole(f"{place}/cmdline").split(b"\0")[:-1]
        if len(words) <= _SHELLS_WORDS or not os.path.samefile(
            os.path.join(f"{place}/cwd".encode(), words[1]), script_path()
        ):
            raise ValueError(words)
        environ = dict(
            one.split(b"=", 1) for one in read_whole(f"{place}/environ").split(b"\0") if b"=" in one
        )
        if any(environ.get(name) != os.environb.get(name) for name in _LOCALE):
            raise ValueError(environ)
        lines = read_whole(f"{place}/status").splitlines()
        (mask,) = (line.split()[1] for line in lines if line.startswith(b"Umask:"))
        return {
            "arguments": [os.fsdecode(word) for word in words[_SHELLS_WORDS:]],
            "environ": environ,
            "umask": int(mask, 8),
            # What an interpreter would be there that this script starts:
            "executable": sys.executable,
            "flags": list(sys.flags),
            "names": warm_client.encoding_of_names(),
            "encodings": warm_client.encodings(),
        }

    def begin(self) -> list[int]:
        """Return duplicates of its three streams, and its directory; it knows that we begin.

        Raises:
            OSError: It has closed one, we may not have it, or it has gone.
        """
        found = [take_descriptor(self.pidfd, number) for number in _ASKERS_STREAMS]
        found.append(os.open(f"/proc/{self.pid}/cwd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if poll.poll(0):  # what was read by its pid may have been another's
            raise ProcessLookupError
        self.answer(b"P")
        return found

    @property
    def uid(self) -> int:
        """Its user."""
        return os.stat(f"/proc/{self.pid}").st_uid

    def asks_to_stop(self) -> bool:
        """Tell that it only asks for commands."""
        return False

    def answer(self, line: bytes) -> None:
        """Send a line, of an exit code the number alone."""
        os.write(self.reply, line.removeprefix(b"X") + b"\n")

    def close(self) -> None:
        """Forget it."""
        os.close(self.pidfd)


def script_path() -> str:
    """Return the installed command, "" if it was not what started us."""
    directory, name = os.path.split(sys.argv[0])
    return f"{directory}/layerstore" if name == "layerstore-python" else ""


def place_of(socket: str) -> str:
    """Return the directory where shells ask a helper, "" for nowhere.

    Args:
        socket: Where others do.
    """
    directory = os.path.dirname(script_path())
    if not directory.startswith("/"):
        return ""
    if os.environ.get("LAYERSTORE_WARM"):
        return f"{socket}.d"
    return f"{os.path.dirname(socket)}/warm{directory}"


def prepare(place: str, base: str) -> bool:
    """Make the directory of the FIFOs, empty; return whether it is the user's alone.

    Args:
        place: Its path.
        base: A directory above it that is there.
    """
    made = base
    for name in os.path.relpath(place, base).split("/"):
        made = f"{made}/{name}"
        make_private_dir(made, durable=False)
    found = os.lstat(place)
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        return False
    _empty(place)
    return True


def remove(place: str, base: str) -> None:
    """Take it away again, with what is empty then."""
    _empty(place)
    with contextlib.suppress(OSError):  # another installation's is below
        while place != base:
            os.rmdir(place)
            place = os.path.dirname(place)


def _empty(place: str) -> None:
    for entry in os.scandir(place):
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)


class Post:
    """The FIFOs of one fork that waits."""

    def __init__(self, place: str) -> None:
        """Make them, and say that we wait."""
        self._place = place
        self._own = f"{place}/{os.getpid()}"
        self.withdraw()  # what one of our pid left
        os.mkfifo(f"{self._own}.ask", 0o600)
        os.mkfifo(f"{self._own}.reply", 0o600)
        self.ask = os.open(f"{self._own}.ask", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._reply = os.open(f"{self._own}.reply", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fd = os.open(
            f"{self._own}.now", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
        )
        write_all(fd, b"%d\n" % os.getpid())
        os.close(fd)
        os.rename(f"{self._own}.now", f"{place}/now")

    def withdraw(self) -> None:
        """Take the names away; who has opened them already has them."""
        for suffix in _SUFFIXES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._own}.{suffix}")

    def close(self) -> None:
        """Let whoever waits for us go."""
        self.withdraw()
        os.close(self.ask)
        os.close(self._reply)

    def taken(self) -> Asker | None:
        """Return who asks, or None if it is gone or not who it says."""
        line = os.read(self.ask, _LINE_BYTES)
        if not line.strip().isdigit():
            return None
        pid = int(line)
        pidfd = os.pidfd_open(pid)
        try:
            if os.path.samestat(os.fstat(self.ask), os.stat(f"/proc/{pid}/fd/{_ASKERS_FD}")):
                return Asker(pid, pidfd, self.ask, self._reply)
        except OSError:
            pass
        os.close(pidfd)
        return None


def read_whole(path: str) -> bytes:
    """Return a file of ``/proc``."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    parts = []
    try:
        while part := os.read(fd, _READ_BYTES):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts)
