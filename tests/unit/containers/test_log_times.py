"""What ``logs --since`` and ``--until`` mean."""

from __future__ import annotations

import pytest

from layerstore.cli.container.ps import log_time
from layerstore.errors import InputError


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("", ""),
        ("2026-11-26T20:41:53.465028036Z", "2026-11-26T20:41:53.465028036Z"),
        ("2026-11-26T18:00:00.5+02:00", "2026-11-26T16:00:00.500000000Z"),
        ("2026-11-26T18:00:00", "2026-11-26T18:00:00.000000000Z"),
        ("2026-11-26", "2026-11-26T00:00:00.000000000Z"),
        ("1790000000.123456789", "2026-09-21T14:13:20.123456789Z"),
        ("1790000000", "2026-09-21T14:13:20.000000000Z"),
    ],
)
def test_a_time_keeps_its_nanoseconds(word: str, meant: str) -> None:
    assert log_time(word, "--since") == meant


@pytest.mark.parametrize("word", ["soon", "1.2.3", "12:00", "\u00b2", "9" * 40, "5parsecs"])
def test_what_is_no_time_is_refused(word: str) -> None:
    with pytest.raises(InputError, match="--since"):
        log_time(word, "--since")
