"""The corpus's tar archives as bytes, for tests that mutate or read them in other ways."""

from __future__ import annotations

from tests.security.corpus.cases import cases_of
from tests.security.corpus.entrances import SMALL

__all__ = ["ALL", "SAFE", "SMALL"]

_MAX_BYTES = 65536
_TAR_CLASSES = "ABCDEL"
_CASES = [
    case
    for name in _TAR_CLASSES
    for case in cases_of(name)
    if case.archive is not None and len(case.archive) <= _MAX_BYTES
]
ALL = {f"{case.entry} {case.name}": case.archive for case in _CASES if case.archive is not None}
"""Every archive that does not depend on where it is tried, by entry and name."""

SAFE = {
    f"{case.entry} {case.name}": case.archive
    for case in _CASES
    if case.archive is not None and case.ways[0].verdict == "S"
}
"""Those that are accepted as layers."""
