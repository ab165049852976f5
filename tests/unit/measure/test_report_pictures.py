"""Pictures as values: where things go, what is cut, and that any text stays text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.measure.report.bars import Step, bars
from layerstore.measure.report.curves import Series, curves
from layerstore.measure.report.heat import heat_map
from layerstore.measure.report.scales import count_ticks, spread, ticks
from layerstore.measure.report.style import picture_style
from layerstore.measure.report.svg import Svg, fitted, number, text_width
from layerstore.measure.report.treemap import Box, Tile, squarified, treemap

HOSTILE = "</title></svg><script>alert(1)</script>\"'&\x1b[31m\u202e\ud800"
SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: Svg) -> ET.Element:
    return ET.fromstring(svg.render())


@given(st.integers(0, 10**18), st.integers(1, 12))
def test_ticks_are_round_and_reach_the_largest(largest, most):
    marks = ticks(largest, most)
    assert marks[0] == 0
    assert marks[-1] >= largest * (1 - 1e-9)
    assert len(marks) <= most + 2
    steps = {round(b - a, 6) for a, b in pairwise(marks)}
    assert max(steps) - min(steps) <= 1e-6 * max(steps)


@given(st.integers(1, 5000), st.integers(2, 20))
def test_counts_begin_at_the_first_and_end_at_the_last(count, most):
    marks = count_ticks(count, most)
    assert marks[0] == 1
    assert marks[-1] == count
    assert marks == sorted(set(marks))
    assert len(marks) <= most + 1


@given(st.lists(st.floats(0, 100), max_size=8))
def test_labels_are_moved_apart_and_keep_their_order(wanted):
    placed = spread(wanted, 10, 0, 100)
    order = sorted(placed)
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(order))
    assert max(placed, default=0) <= 100 + 1e-9
    for (a, x), (b, y) in pairwise(sorted(zip(wanted, placed, strict=True))):
        assert a == b or x < y


@given(
    st.lists(st.integers(1, 10**12), min_size=1, max_size=40), st.floats(50, 2000),
    st.floats(50, 2000),
)  # fmt: skip
def test_a_treemap_fills_its_box_in_proportion(sizes, width, height):
    sizes.sort(reverse=True)
    boxes = squarified(sizes, Box(0, 0, width, height))
    area = width * height
    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(size / sum(sizes) * area, rel=1e-6)
        assert box.x >= -1e-6
        assert box.x + box.width <= width * (1 + 1e-6) + 1e-6
        assert box.y + box.height <= height * (1 + 1e-6) + 1e-6


@given(st.text(max_size=80), st.floats(0, 400))
def test_what_is_fitted_fits(text, width):
    assert text_width(fitted(text, width)) <= width or fitted(text, width) == ""


def test_a_long_name_keeps_its_beginning_and_its_end():
    cut = fitted("registry.example.com/team/service:1.2.3", 150)
    assert cut.startswith("registry")
    assert "…" in cut
    assert cut.endswith("1.2.3")


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1.04, "1"), (-2.5, "-2.5"), (100, "100")])
def test_coordinates_are_short(value, text):
    assert number(value) == text


@pytest.mark.parametrize("width", [368, 1000])
@pytest.mark.parametrize("count", [0, 1, 2, 11, 60])
def test_every_picture_is_whole_whatever_the_number_and_the_names(width, count):
    names = [f"{HOSTILE}{n}" for n in range(count)]
    shares = [[1.0 if r == c else 0.5 for c in range(count)] for r in range(count)]
    growth = tuple(range(1, count + 1))
    pictures = [
        bars([Step("stored", n, HOSTILE, 5, HOSTILE, 9, HOSTILE) for n in names], width, "t", "a"),
        curves([Series("stored", HOSTILE, growth)] if count else [], names, (width, 300), "t", "b"),
        heat_map(names, shares, width, HOSTILE, "c"),
        treemap([Tile(n, 3, n) for n in names], (width, 300), "t", "d"),
        treemap([Tile(n, 3, n[-1], n) for n in names], (width, 300), "t", "e", headed=True),
    ]
    for picture in pictures:
        root = parsed(picture)
        assert root.tag == f"{SVG}svg"
        assert root.find(f"{SVG}title").text
        assert root.find(f"{SVG}desc").text
        assert not list(root.iter(f"{SVG}script"))
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        known = {"svg", "title", "desc", "rect", "line", "polyline", "circle", "text"}
        assert tags <= known
        text = "".join(root.itertext())
        assert "\x1b" not in text
        assert "\u202e" not in text
        if count:
            assert "<script>" in text  # as text


def test_a_picture_on_its_own_brings_its_colours_and_knows_the_dark():
    root = ET.fromstring(bars([Step("stored", "a", "", 3)], 1000, "t", "a").render(picture_style()))
    assert root.get("width") == "1000"
    style = root.find(f"{SVG}style").text
    assert "prefers-color-scheme:dark" in style
    assert ".f-stored{fill:var(--stored)}" in style


def test_bars_are_as_long_as_their_bytes():
    root = parsed(bars([Step("chunks", "a", "", 100), Step("stored", "b", "", 25)], 1000, "t", "a"))
    rects = {r.get("class"): float(r.get("width")) for r in root.iter(f"{SVG}rect")}
    assert rects["f-stored"] == pytest.approx(rects["f-chunks"] / 4, abs=0.2)


def test_labels_of_tiles_fit_as_they_are_shown():
    tiles = [Tile("/srv/" + "\x1b" * 12 + "/", 10, "a"), Tile("/opt/", 10, "b")]
    for text in parsed(treemap(tiles, (300, 200), "bytes", "t")).iter(f"{SVG}text"):
        told = "".join(text.itertext()) if text.find(f"{SVG}title") is None else text[0].tail
        assert text_width(told or "", 12) <= 150 - 14


def test_groups_have_their_names_above_their_tiles_where_there_is_room():
    tiles = [Tile("step 1", 60, "app:1", "rm it"), Tile("step 2", 40, "app:1"), Tile("x", 1, "b")]
    root = parsed(treemap(tiles, (600, 300), "bytes", "t", headed=True))
    (head,) = [text for text in root.iter(f"{SVG}text") if "".join(text.itertext()) == "app:1" * 2]
    rects = list(root.iter(f"{SVG}rect"))
    assert all(float(rect.get("y")) > float(head.get("y")) for rect in rects[:2])
    assert rects[0][0].text == "step 1: 60B, 59.4%; rm it"


@pytest.mark.parametrize("count", [12, 19, 37, 60])
@pytest.mark.parametrize("width", [368, 1000])
def test_numbers_of_columns_are_in_the_picture(count, width):
    names = [f"image-with-a-name-{number}:latest" for number in range(count)]
    shares = [[1.0] * count for _ in names]
    for text in parsed(heat_map(names, shares, width, "t", "h")).iter(f"{SVG}text"):
        told = text.text or ""
        if told.isdigit() and text.get("text-anchor") == "middle":
            assert float(text.get("x", 0)) + text_width(told, 11) / 2 <= width


def test_rows_of_a_matrix_tell_a_few_of_many_names_and_all_where_the_pointer_rests():
    many = ", ".join(f"app:{number}" for number in range(200))
    root = parsed(heat_map([many, "base:1"], [[1.0, 0.5], [0.7, 1.0]], 1000, "t", "h"))
    (label,) = [text for text in root.iter(f"{SVG}text") if text.find(f"{SVG}title") is not None]
    assert label[0].text == many
    assert label[0].tail == "app:0, app:1, app:2 and 197 more"
    told = [rect[0].text for rect in root.iter(f"{SVG}rect") if len(rect)]
    assert "50% of app:0, app:1, app:2 and 197 more is in base:1" in told
