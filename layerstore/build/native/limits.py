"""Bounds on native specs, far above any that a person or a generator writes.

They hold time and memory to what a spec's size justifies when it is hostile. Each one is
inclusive: the value itself is still accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.errors import LimitExceededError

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan

MAX_FILE_BYTES = 1 << 20
MAX_LOCK_BYTES = 64 << 20
MAX_DEPTH = 32  # tables and lists within each other, dots of a key included
MAX_FILES = 64  # a spec and everything it includes
MAX_VARIANTS = 256
MAX_AXIS_VALUES = 256
MAX_STAGES = 200
MAX_STEPS = 2_000  # files and commands of one stage
MAX_PACKAGES = 5_000  # of one manager in one stage
MAX_PACKAGE_SETS = 100  # of one manager in one stage; each is a layer
MAX_VARIABLES = 2_000  # of one table of variables
MAX_USERS = 1_000
MAX_MOUNTS = 200  # of one command
MAX_BASES = 16
MAX_EXPANDED_CHARS = 1 << 20  # one string, and the spec's own limit
MAX_EXPANDED_TOTAL_CHARS = 16 << 20  # all strings of one variant


def limit_exceeded(span: SourceSpan, what: str, limit: int) -> LimitExceededError:
    """Return the error for a spec that exceeds a limit; ``what`` names what was counted."""
    return LimitExceededError(f"{span}: {what} (limit {limit:,})")
