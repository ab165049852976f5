"""FUSE mounts for users without privileges, through the set-user-id helper.

fusermount (of libfuse 2) and fusermount3 speak the same: the helper opens /dev/fuse, mounts
it, and sends the descriptor through a socket whose number it finds in ``_FUSE_COMMFD``.

On the fast path: imports nothing until it is needed.
"""

from __future__ import annotations

import errno
import os

from layerstore.errors import UnsupportedError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux import mounts

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAMS = ("fusermount3", "fusermount")
INSTALL_HINT = "install FUSE: apt-get install fuse3"


def find() -> str | None:
    """Return the path of the helper, None where there is none."""
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        for program in PROGRAMS:
            path = f"{directory}/{program}"
            if os.access(path, os.X_OK):
                return path
    return None


def mount(target: str, options: Sequence[str], log: int) -> int:
    """Mount FUSE at a directory of the user's; return the device's descriptor.

    Args:
        target: An existing directory.
        options: As the helper takes them; it adds owner and mode itself.
        log: A descriptor that takes what the helper has to say.

    Raises:
        UnsupportedError: The helper is missing or refused; the log says why.
    """
    import socket

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        os.set_inheritable(theirs.fileno(), True)
        environment = {"PATH": os.defpath, "_FUSE_COMMFD": str(theirs.fileno())}
        command = [_required(), "-o", ",".join(options), "--", target]
        actions = [(os.POSIX_SPAWN_DUP2, log, 2)]
        pid = os.posix_spawn(command[0], command, environment, file_actions=actions)
        theirs.close()
        _, received, _, _ = socket.recv_fds(ours, 1, 1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0 or not received:
        for fd in received:
            os.close(fd)
        raise UnsupportedError(f"fusermount could not mount at {target}", hint=INSTALL_HINT)
    os.set_inheritable(received[0], False)
    return received[0]


def unmount(target: str, *, lazy: bool) -> None:
    """Unmount a FUSE mount of this user's.

    Raises:
        UnsupportedError: The helper is missing.
        MountCallError: It refused; taken for EBUSY, it does not tell.
    """
    command = [_required(), "-u", *(["-z"] if lazy else []), "--", target]
    pid = os.posix_spawn(command[0], command, os.environ)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != 0:
        raise mounts.MountCallError(f"fusermount could not unmount {target}", errno.EBUSY)


def _required() -> str:
    path = find()
    if path is None:
        raise UnsupportedError(
            "fusermount is missing, which mounts for users without privileges", hint=INSTALL_HINT
        )
    return path
