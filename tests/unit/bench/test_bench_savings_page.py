"""docs/savings.md says what the figures beside it say, and pictures are of the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bench.savings_page import BLOCKS, CASE, FIGURES, PAGE, draw, load, made
from tests.bench.seed.arithmetic import disk_at

TOP = Path(__file__).parents[3]


def test_the_page_is_made_of_the_figures() -> None:
    page = (TOP / PAGE).read_text()
    assert page == made(page, load(TOP / FIGURES)), "run python -m tests.bench.savings_page"
    assert all(page.count(f"<!-- {name} -->") == 1 for name in BLOCKS)


def test_the_pictures_are_of_the_figures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need the extra plots")
    draw(tmp_path, load(TOP / FIGURES))
    kept = {file.name: file.read_text() for file in (TOP / FIGURES).glob("*.svg")}
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == kept
    shown = (TOP / PAGE).read_text()
    assert all(f"savings/{name}" in shown for name in kept)


def test_what_was_not_measured_is_set_apart() -> None:
    figures = load(TOP / FIGURES)
    typical = figures["seed-typical"]
    text = made("<!-- disk -->\n<!-- end -->", figures)
    (row,) = [line for line in text.splitlines() if line.startswith(f"| typical | {CASE:,} ")]
    cells = [cell.strip() for cell in row.split("|")][3:6]
    for name, cell in zip(("full copies", "docker", "layerstore"), cells, strict=True):
        assert cell.startswith("*") != disk_at(typical, name, CASE)[1]


def test_figures_that_are_not_there_are_said_not_to_be() -> None:
    figures = json.loads(json.dumps(load(TOP / FIGURES)))
    figures["seed-typical"].pop("memory", None)
    text = made("a\n<!-- memory -->\nold\n<!-- end -->\nb", figures)
    assert text == "a\n<!-- memory -->\nNot measured yet.\n<!-- end -->\nb"
