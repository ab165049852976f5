"""The C library, for calls that Python has no name for: one handle, which takes time to make."""

from __future__ import annotations

import ctypes

libc = ctypes.CDLL(None, use_errno=True)
