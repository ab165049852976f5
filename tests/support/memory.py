"""What the kernel holds of a file in memory, asked through mincore(2)."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def resident_pages(path: Path) -> int:
    """How many pages of a file the kernel has in memory; looking brings none in."""
    size = path.stat().st_size
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as view:
        pages = -(-size // mmap.PAGESIZE)
        found = (ctypes.c_ubyte * pages)()
        # A read-only mmap object gives ctypes no pointer: ask where its buffer begins.
        held = ctypes.py_object(view)
        buffer = (ctypes.c_byte * 96)()  # Py_buffer
        assert ctypes.pythonapi.PyObject_GetBuffer(held, buffer, 0) == 0
        pointer = ctypes.c_void_p.from_buffer(buffer)
        try:
            assert libc.mincore(pointer, ctypes.c_size_t(size), found) == 0
        finally:
            ctypes.pythonapi.PyBuffer_Release(buffer)
        return sum(byte & 1 for byte in found)


def forget(path: Path) -> None:
    """Have the kernel let go of a file's pages, all of them.

    What is still being written stays for now, and so does what somebody has in hand; neither is
    told to who asks. So ask until it is done.
    """
    deadline = time.monotonic() + 60
    while True:
        with path.open("rb") as file:
            with contextlib.suppress(OSError):  # not every file system knows it
                os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        if not path.stat().st_size or not resident_pages(path):
            return
        assert time.monotonic() < deadline, f"{path} stays in memory"
        time.sleep(0.02)
