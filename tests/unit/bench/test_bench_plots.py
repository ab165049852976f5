"""Pictures come out the same each time, and say what they were given."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.bench.plots import Bar, Line, Panel, draw_bars, draw_lines, said

if TYPE_CHECKING:
    from pathlib import Path

BARS = [
    Bar("plain", 1.2, kind="reference"),
    Bar("layerstore", 1.55, 1.5, 1.6, "ours"),
    Bar("squashfuse", 0.08),
    Bar("absent", None),
]


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_bars_have_names_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "new" / "bars.svg"
    panels = [Panel("warm", BARS), Panel("cold", BARS)]
    draw_bars(path, panels, title="speed", unit="x", log=True, origin=1, promise=0.95, columns=2)
    shown = texts(path)
    assert {"speed", "warm", "cold", "1.55", "0.08", "not measured"} <= set(shown)
    # Side by side, names stand at the left only.
    assert shown.count("layerstore") == 1
    assert shown.count("1.55") == 2


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    lines = [
        Line("layerstore", [(1, 2e6), (10, 3e6)], "ours"),
        Line("docker", [(1, 2e6), (9, 9e8)]),
    ]
    for name in ("a", "b"):
        draw_bars(tmp_path / f"{name}-bars.svg", [Panel("first", BARS)], unit="s", title="t")
        draw_lines(tmp_path / f"{name}.svg", lines, x_label="x", y_label="y", y_unit="B")
    for kind in ("-bars.svg", ".svg"):
        first = (tmp_path / f"a{kind}").read_bytes()
        assert first == (tmp_path / f"b{kind}").read_bytes()
        assert b"matplotlib.org" not in first


def test_lines_are_named_at_their_ends_and_names_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "lines.svg"
    ends = {"layerstore": 390e6, "restic": 600e6, "borg": 601e6, "casync": 602e6}
    lines = [Line(name, [(1, 5e7), (11, end)]) for name, end in ends.items()]
    draw_lines(path, lines, x_label="images", y_label="on disk", y_unit="B", log_y=True)
    found = re.findall(r'y="([\d.]+)"[^>]*>(\w+) +[\d.]+ MB</text>', path.read_text())
    heights = sorted(float(height) for height, _ in found)
    assert {name for _, name in found} == set(ends)
    assert all(b - a > 8 for a, b in pairwise(heights))


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_bars(tmp_path / "x.svg", [Panel("empty", [Bar("absent", None)])])
    with pytest.raises(ValueError, match="logarithmic"):
        draw_bars(tmp_path / "x.svg", [Panel("zero", [Bar("none", 0)])], log=True)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_lines(tmp_path / "x.svg", [Line("empty", [])], x_label="x", y_label="y")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.554, "x", "1.55"),
        (0.0312, "s", "31.2 ms"),
        (388_900_000, "B", "389 MB"),
        (999_900, "B", "1.00 MB"),
        (11.6, "%", "11.6 %"),
        (0, "B", "0 B"),
        (12_345, "", "12,345"),
    ],
)
def test_numbers_are_said_to_three_digits(value: float, unit: str, text: str) -> None:
    assert said(value, unit) == text
