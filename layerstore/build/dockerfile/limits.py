"""Bounds on Dockerfiles, far above any that a person or a generator writes.

They hold time and memory to what their size justifies when the text is hostile.
Each one is inclusive: the value itself is still accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.errors import LimitExceededError

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan

MAX_FILE_BYTES = 10 * 2**20
MAX_LINES = 200_000
MAX_LINE_CHARS = 2**20  # logical line; the kernel takes no argument longer than 128 KiB
MAX_CONTINUATIONS = 20_000  # physical lines of one instruction
MAX_STAGES = 1_000
MAX_EXPANDED_CHARS = 2**18  # one expanded word; the kernel passes no variable above 128 KiB
MAX_EXPANDED_HEREDOC_CHARS = 10 * 2**20
MAX_EXPANDED_TOTAL_CHARS = 2**26  # what variables put in, all words of a file together
MAX_NESTING = 50  # of ${a:-${b:-...}}
MAX_PATTERN_CHARS = 256  # of ${a#pattern}
MAX_PORTS = 200_000  # of one EXPOSE, ranges counted out
MAX_ENVIRONMENT_BYTES = 4 * 2**20  # all variables of a stage together
MAX_VARIABLES = 4_096  # of a stage; the kernel passes 2 MiB with all arguments


def limit_exceeded(span: SourceSpan, what: str, limit: int) -> LimitExceededError:
    """Return the error for a spec that exceeds a limit; ``what`` names what was counted."""
    return LimitExceededError(f"{span}: {what} (limit {limit:,})")
