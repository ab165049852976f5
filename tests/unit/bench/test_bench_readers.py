"""Documents of programs with a form of their own become figures."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bench.suite.readers import read_growth, read_registry, read_seed

KEPT = Path(__file__).parents[3] / "docs/savings"


def test_curves_of_growth_are_groups_by_the_number_of_images() -> None:
    document = {
        "images": ["a", "b", "c"],
        "copies": [10, 20, 30],
        "environment": {"cpus": 2},
        "versions": {"docker": "1"},
        "trees": {
            "layerstore": {"disk": [5, 6, 7], "cpu_seconds": [1.0, 1.0, 2.0]},
            "layerstore, optimized": {"disk": [4], "cpu_seconds": [9.0]},
        },
        "builds": {},
    }
    result = read_growth(document)
    found = {(f.group, f.who, f.what): f.values for f in result.figures}
    assert found["1", "layerstore", "disk, trees"] == (5,)
    assert found["3", "layerstore, optimized", "disk, trees"] == (4,)
    assert ("1", "layerstore, optimized", "disk, trees") not in found
    assert found["3", "full copies", "disk, builds"] == (60,)
    assert found["all", "layerstore", "CPU, trees"] == (4.0,)
    assert result.environment == {"cpus": 2}


def test_what_the_repository_keeps_of_them_can_be_read() -> None:
    growth = read_growth(json.loads((KEPT / "growth.json").read_text()))
    seed = read_seed(json.loads((KEPT / "seed-typical.json").read_text()))
    assert {"layerstore", "full copies"} <= set(growth.names("who"))
    assert {"layerstore", "docker"} <= set(seed.names("who"))
    assert seed.names("what") == ["disk", "CPU"]


def test_the_simulated_registry_has_a_group_for_each_point_of_its_curve() -> None:
    document = json.loads((KEPT.with_name("simulation") / "registry.json").read_text())
    result = read_registry(document)
    numbers = [str(point[0]) for point in document["registry"]["curve"]]
    assert result.names("group") == numbers
    assert {"full copies", "plain layers", "stored"} <= set(result.names("who"))
