"""What the kernel holds of a file in memory, asked through mincore(2)."""

from __future__ import annotations

import ctypes
import mmap
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
