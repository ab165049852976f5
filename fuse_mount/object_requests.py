"""What file systems of objects have in common: how they read requests, and the ids of their nodes.

:mod:`fuse_mount.object_layer` serves views of a remote so, :mod:`fuse_mount.object_maker` the
roots of builds. Both show the directories ``make`` and ``last``, and in ``make`` a directory for
each first byte of an object's id.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from fuse_mount import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

MAKE: Final = 2
LAST: Final = 3
FIRST_PREFIX: Final = 4
FIRST_OBJECT: Final = FIRST_PREFIX + 256
"""Node ids: the root, its two directories, one for each first byte of an id, the objects."""

_ENDED = {errno.ENODEV, errno.EBADF}
_AGAIN = {errno.EINTR, errno.EAGAIN, errno.ENOENT}


def answer_next(
    device: int,
    buffer: bytearray,
    result: Callable[[int, int, bytearray, int], tuple[int, bytes]],
) -> bool:
    """Answer one request; return whether more may come.

    Args:
        device: Of the connection, in either mode.
        buffer: Room for a request, used again for the next.
        result: Takes the operation, the node and the request with its length; returns the errno
            and what the answer holds.

    Raises:
        OSError: The kernel refuses an answer for another reason than that nobody waits for it.
    """
    try:
        count = os.readv(device, [buffer])
        if not count:
            return False  # the other end of a socket is closed; the kernel's device never says so
        opcode, unique, node = protocol.parse_header(buffer, count)
    except OSError as err:
        if err.errno in _AGAIN:
            return True
        if err.errno in _ENDED:
            return False
        raise
    except protocol.MalformedRequestError as err:
        import logging  # lazily: builds never come here, and do without its import

        logging.getLogger("layerstore.fuse").error("passed over: %s", err.message)
        return True
    if opcode not in protocol.UNANSWERED:
        code, part = result(opcode, node, buffer, count)
        try:
            os.writev(device, [protocol.answer(unique, len(part), code), part])
        except OSError as err:
            if err.errno not in (errno.ENOENT, *_ENDED):  # ENOENT: who asked was killed
                raise
    return True
