"""Giving up what a server does not need: capabilities, new privileges, being looked into.

For the calling process and what it starts; call it before threads start. Nothing can be taken
back. Source: capabilities(7), prctl(2).
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from layerstore.errors import MountError

if TYPE_CHECKING:
    from collections.abc import Iterable

CAP_DAC_OVERRIDE = 1
CAP_SYS_ADMIN = 21

_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x2008_0522
# struct __user_cap_header_struct: version, pid; then twice effective, permitted, inheritable.
_HEADER = struct.Struct("=Ii")
_DATA = struct.Struct("=6I")


def keep_only(capabilities: Iterable[int]) -> None:
    """Drop all capabilities but these, of which those that the process lacks stay lacking.

    Programs that it starts gain nothing by being set-user-id, and no other process of the
    same user may read its memory.

    Raises:
        MountError: The kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    held = ctypes.create_string_buffer(_DATA.size)
    header = _HEADER.pack(_CAPABILITY_VERSION_3, 0)
    if libc.capget(header, held) != 0:
        raise _failed("read its capabilities")
    permitted, further = _DATA.unpack(held.raw)[1::3]
    wanted = sum(1 << number for number in capabilities)
    low, high = permitted & wanted & 0xFFFF_FFFF, further & wanted >> 32
    data = _DATA.pack(low, low, 0, high, high, 0)
    if libc.capset(header, data) != 0:
        raise _failed("give up its capabilities")
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _failed("give up gaining privileges")
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise _failed("keep others from reading its memory")


def _failed(what: str) -> MountError:
    import os

    return MountError(f"the FUSE server could not {what}: {os.strerror(ctypes.get_errno())}")
