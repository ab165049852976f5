"""How much of a file the kernel holds in memory; asking brings nothing in.

cachestat(2) (Linux 6.5) answers for a file's own pages in one call. mincore(2) over a
mapping answers for whatever the mapping reads, so also where a file system passes reads on
to another one (overlayfs, FUSE passthrough). For files that the caller neither owns nor may
write the kernel does not tell: be root.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from typing import Final

_SYS_CACHESTAT: Final = 451
"""The same number on every architecture."""

_WHOLE_FILE: Final = struct.pack("=2Q", 0, 0)
"""``struct cachestat_range``: offset, length; 0 is up to the end."""

_COUNTS: Final = struct.Struct("=5Q")
"""``struct cachestat``, in pages: cached, dirty, under writeback, evicted, evicted recently."""

_WINDOW_BYTES: Final = 1 << 30
"""Mapped at a time: sparse files may be larger than an address space."""

_PROT_READ: Final = 1
_MAP_SHARED: Final = 1
_MAP_FAILED: Final = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p


def cached_bytes(fd: int, size: int) -> int:
    """Return how many bytes of a file's own pages are in memory, in whole pages.

    Args:
        fd: Open for reading, a regular file.
        size: Its length.

    Raises:
        OSError: The kernel does not tell.
    """
    counts = ctypes.create_string_buffer(_COUNTS.size)
    result = _libc.syscall(
        ctypes.c_long(_SYS_CACHESTAT),
        ctypes.c_uint(fd),
        _WHOLE_FILE,
        counts,
        ctypes.c_uint(0),
    )
    if result == 0:
        cached: int = _COUNTS.unpack(counts.raw)[0]
        return cached * mmap.PAGESIZE
    return mapped_bytes(fd, size)  # no such call, or not for this file system


def mapped_bytes(fd: int, size: int) -> int:
    """Return how many bytes a mapping of a file would find in memory, in whole pages.

    Args:
        fd: Open for reading, a regular file.
        size: Its length.

    Raises:
        OSError: It cannot be mapped.
    """
    pages = 0
    for offset in range(0, size, _WINDOW_BYTES):
        length = min(_WINDOW_BYTES, size - offset)
        address = _libc.mmap(
            None,
            ctypes.c_size_t(length),
            ctypes.c_int(_PROT_READ),
            ctypes.c_int(_MAP_SHARED),
            ctypes.c_int(fd),
            ctypes.c_long(offset),
        )
        if address == _MAP_FAILED:
            raise _error()
        try:
            found = ctypes.create_string_buffer(-(-length // mmap.PAGESIZE))
            if _libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(length), found) != 0:
                raise _error()
            pages += sum(byte & 1 for byte in found.raw)
        finally:
            _libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(length))
    return pages * mmap.PAGESIZE


def _error() -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code))
