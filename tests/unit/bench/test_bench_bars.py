"""Promises about size are judged from valid results, the strict way round."""

from __future__ import annotations

from tests.bench.bars import bars_of
from tests.bench.ratio import OPTIMIZED, STORE, Result


def _result(name: str, *stored: int, disk: int = 0, restored: bool = True) -> Result:
    return Result(name, "x", list(stored), disk=disk or stored[-1], restored=restored)


def _met(corpus: str, *results: Result, logical: int = 7_000) -> list[bool]:
    return [bar.met for bar in bars_of(corpus, logical, results)]


def test_related_counts_the_larger_of_bytes_and_blocks() -> None:
    assert _met("related", _result(STORE, 1_000), _result(OPTIMIZED, 736)) == [True, True]
    assert _met("related", _result(STORE, 1_000, disk=1_001), _result(OPTIMIZED, 737)) == [
        False,
        False,
    ]


def test_what_was_not_restored_is_not_measured() -> None:
    bars = bars_of("related", 7_000, [_result(STORE, 10, restored=False)])
    assert [bar.met for bar in bars] == [False, False]
    assert all(bar.measured is None for bar in bars)
    assert "NOT MET" in str(bars[0])


def test_updates_are_compared_with_the_peer_that_adds_least() -> None:
    peers = [
        _result("restic", 500, 560),
        _result("squashfs", 900, 930),
        _result("docker load", 1, 2),
    ]
    assert _met("updates", _result(STORE, 500, 510), *peers) == [True]
    assert _met("updates", _result(STORE, 500, 511), *peers) == [False]
    assert _met("updates", _result(STORE, 500, 501)) == [False]


def test_wheels_are_compared_with_the_best_chunking() -> None:
    peers = [_result("casync", 200, disk=400), _result("restic max", 180), _result("squashfs", 90)]
    assert _met("wheels-x", _result(OPTIMIZED, 100), *peers) == [True]
    assert _met("wheels-x", _result(OPTIMIZED, 101), *peers) == [False]
    assert _met("wheels-x", _result(STORE, 10), *peers) == [False]
