"""The page's section of what images could do without: by cause, and by image and step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.measure.report.figures import twice
from layerstore.measure.report.svg import shown
from layerstore.measure.report.tables import folded, table
from layerstore.measure.report.treemap import Tile, treemap
from layerstore.measure.waste_rules import ANY, MEANING
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.measure.report.svg import Svg
    from layerstore.measure.waste import CauseTotal
    from layerstore.measure.waste_steps import StepTotal

STEPS_SHOWN = 60
"""Steps with a tile and a row of their own; thousands of images have thousands of them."""

_TEXT_CHARS = 160


def waste(
    causes: Sequence[CauseTotal], steps: Sequence[StepTotal], names: Mapping[str, str]
) -> str:
    """Return what images could do without.

    Args:
        causes: The sums by cause.
        steps: The same by step.
        names: Of the images, by their ids.
    """
    counted = [each for each in causes if not each.advice and each.size]
    if not counted:
        return ""
    total = sum(each.size for each in counted)
    tiles = [Tile(_cause(each), each.size, each.rule.value) for each in counted]
    title = "Needless bytes in layers by cause"

    def draw(width: int, ident: str) -> Svg:
        return treemap(tiles, (width, 300 if width > 600 else 340), title, ident)

    rows = [
        (_cause(each), MEANING[each.rule], str(each.images), f"{each.files:,}",
         format_size(each.size), format_size(each.stored))
        for each in counted
    ]  # fmt: skip
    stored = sum(each.stored for each in counted)
    heads = ["Cause", "What it is", "Images", "Files", "In plain layers", "Stored here"]
    last = ("all", "", "", "", format_size(total), format_size(stored))
    told = table(title, heads, rows, texts=2, total=last)
    # One tile would be no picture.
    pictures = twice(draw, "waste") + folded("The numbers", told) if len(tiles) > 1 else told
    return (
        "<section><h2>What images could do without</h2>\n<p>"
        f"{shown(format_size(total))} of plain layers, {shown(format_size(stored))} as they are "
        f"stored here.</p>\n{pictures}{_by_step(steps, names)}</section>"
    )


def _cause(each: CauseTotal | StepTotal) -> str:
    return f"{each.rule.value}: {each.cause}"


def _by_step(steps: Sequence[StepTotal], names: Mapping[str, str]) -> str:
    """Return the steps that waste most, image by image, and what to type instead."""
    counted = [each for each in steps if not each.advice and each.size]
    first, rest = counted[:STEPS_SHOWN], counted[STEPS_SHOWN:]
    if not first:
        return ""
    title = "Needless bytes in layers by image and step"
    tiles = [
        Tile(f"{each.where} {_short(each)}", each.size, _images(each, names), _note(each, names))
        for each in first
    ]
    rows = [
        (_images(each, names), f"{each.where} {_text(each)}".rstrip(), _cause(each) + _of(each),
         each.fix, format_size(each.size), format_size(each.stored))
        for each in first
    ]  # fmt: skip
    if rest:
        words = f"{len(rest):,} more step{'s' * (len(rest) != 1)}"
        size = sum(each.size for each in rest)
        tiles.append(Tile(words, size, words))
        stored = sum(each.stored for each in rest)
        rows.append((words, "", "", "", format_size(size), format_size(stored)))

    def draw(width: int, ident: str) -> Svg:
        return treemap(tiles, (width, 420), title, ident, headed=True)

    heads = ["Image", "Step", "Why", "What to type", "In plain layers", "Stored here"]
    told = table(title, heads, rows, texts=4)
    return (
        "<h3>By image and step</h3>\n<p>What images share is one step of all of them. The pointer "
        "over a step, and the table, say what to type instead.</p>\n"
        f"{twice(draw, 'wastesteps')}{folded('The steps, and what to type', told)}"
    )


def _short(each: StepTotal) -> str:
    return each.rule.value if each.cause == ANY else each.cause


def _text(each: StepTotal) -> str:
    return each.text if len(each.text) <= _TEXT_CHARS else each.text[: _TEXT_CHARS - 1] + "…"


def _note(each: StepTotal, names: Mapping[str, str]) -> str:
    return f"{_images(each, names)}: {_text(each)}; {MEANING[each.rule]}{_of(each)}; {each.fix}"


def _of(each: StepTotal) -> str:
    told = ", ".join(f"{package.name} {format_size(package.size)}" for package in each.packages)
    return f"; of {told}" if told else ""


def _images(each: StepTotal, names: Mapping[str, str]) -> str:
    more = len(each.images) - 1
    return names[each.images[0]] + (f" and {more} more" if more else "")
