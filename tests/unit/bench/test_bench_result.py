"""What benchmarks write is read again as it was."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import pytest

from tests.bench.result import Result, as_text, result_of

if TYPE_CHECKING:
    from pathlib import Path


def made() -> Result:
    result = Result({"layerstore": "1"}, missing=["casync"], notes=["ten rounds"])
    result.add("cold", "layerstore", "time", "s", [0.123456789, 0.2, 0.1])
    result.add("cold", "docker", "time", "s", [0.4])
    result.add("warm", "layerstore", "disk", "B", [123_456_789_012.0])
    result.add("warm", "docker", "disk", "B", [])
    result.promise("cold", "faster", "2 times", met=True)
    result.promise("warm", "smaller", "not measured", met=None)
    return result


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    made().write(path)
    again = result_of(json.loads(path.read_text()))
    assert again == dataclasses.replace(made(), environment=again.environment)
    assert set(again.environment) == set(made().environment)


def test_values_keep_what_was_measured_and_no_noise() -> None:
    figures = made().figures
    assert figures[0].values == (0.12346, 0.2, 0.1)
    assert figures[0].median == 0.12346
    assert figures[2].values == (123_456_789_012,)
    assert len(figures) == 3


def test_figures_are_found_by_their_names() -> None:
    result = made()
    assert result.names("who") == ["layerstore", "docker"]
    assert result.names("who", group=["warm"], what=["disk"]) == ["layerstore"]
    assert result.find("cold", "docker", "time") is result.figures[1]
    assert result.find("cold", "docker", "disk") is None


def test_each_item_of_a_document_has_a_line() -> None:
    text = as_text({"format": 1, "figures": [{"a": 1}, {"b": 2}], "notes": [], "to": {"c": 3}})
    assert json.loads(text) == {
        "format": 1, "figures": [{"a": 1}, {"b": 2}], "notes": [], "to": {"c": 3},
    }  # fmt: skip
    assert '  {"a": 1},\n  {"b": 2}\n' in text


def test_other_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="not a benchmark's result"):
        result_of({"format": 2})
