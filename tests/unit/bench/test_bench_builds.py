"""What the benchmark of builds judges by its figures."""

from __future__ import annotations

from tests.bench.builds.cases import Measured
from tests.bench.builds.report import verdicts
from tests.bench.harness import Cost


def measured(builder: str, case: str, seconds: list[float]) -> Measured:
    return Measured("project", case, builder, [Cost(each, each, 0, 0.0) for each in seconds])


def test_bars_are_judged_round_by_round() -> None:
    # The machine was busy in the first round; whoever takes medians first finds peers slower.
    ours = measured("layerstore", "cold", [2.89, 3.14, 2.82])
    peer = measured("docker BuildKit", "cold", [3.89, 3.13, 2.55])
    (bar,) = verdicts([ours, peer], [])
    assert bar.measured == "1.00 times as fast as docker BuildKit"
    assert bar.met is False


def test_the_nearest_of_the_peers_is_what_counts() -> None:
    ours = measured("layerstore", "cold", [1.0, 2.0])
    near, far = measured("near", "cold", [1.5, 3.0]), measured("far", "cold", [9.0, 9.0])
    (bar,) = verdicts([ours, far, near], [])
    assert bar.measured == "1.50 times as fast as near"
    assert bar.met is True
