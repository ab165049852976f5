"""A treemap: areas that are bytes.

Source: M. Bruls, K. Huizing, J. van Wijk, "Squarified Treemaps", 2000.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.measure.report.svg import SMALL_PX, Svg, fitted, text_width
from layerstore.printable import printable
from layerstore.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COLOURS = 7
_LAST = COLOURS - 1
_HEAD_PX = 20


class Tile(NamedTuple):
    """An area.

    Attributes:
        label: What it is, on it as far as there is room.
        size: Bytes.
        group: Tiles of one group have one colour, and lie beside each other.
        note: What a pointer over it tells beside label, size and share.
    """

    label: str
    size: int
    group: str
    note: str = ""


class Box(NamedTuple):
    """Where something is, in pixels."""

    x: float
    y: float
    width: float
    height: float


def treemap(
    tiles: Sequence[Tile], size: tuple[int, int], title: str, ident: str, *, headed: bool = False
) -> Svg:
    """Draw tiles, groups beside each other, the largest first; tiles of nothing are left out.

    Args:
        tiles: In any order.
        size: Width and height in pixels.
        title: What it is.
        ident: Its id.
        headed: Write the name of a group above its tiles, where there is room for that. Labels
            are words then, and lose their middle; else they are paths, and keep their end.
    """
    width, height = size
    groups: dict[str, list[Tile]] = {}
    for tile in sorted(tiles, key=lambda tile: -tile.size):
        if tile.size > 0:
            groups.setdefault(tile.group, []).append(tile)
    order = sorted(groups, key=lambda name: -sum(tile.size for tile in groups[name]))
    total = sum(tile.size for tile in tiles)
    largest = [tile for name in order for tile in groups[name]]
    largest = sorted(largest, key=lambda tile: -tile.size)[:5]
    said = "; ".join(f"{tile.label}: {format_size(tile.size)}" for tile in largest)
    svg = Svg(width, height, title, f"{format_size(total)} in all; most in {said}", ident)
    sums = [sum(tile.size for tile in groups[name]) for name in order]
    whole = Box(0, 0, width, height)
    for rank, (name, box) in enumerate(zip(order, squarified(sums, whole), strict=True)):
        own = groups[name]
        if headed:
            box = _head(svg, name, box)
        boxes = squarified([tile.size for tile in own], box)
        for tile, place in zip(own, boxes, strict=True):
            _draw(svg, tile, place, f"f-t{min(rank, _LAST)}", total, words=headed)
    return svg


def _head(svg: Svg, name: str, box: Box) -> Box:
    """Write a group's name at the top of its box, and return what is left of that."""
    room = box.width - 14
    if box.height < 3 * _HEAD_PX:
        return box
    words = _cut(printable(name), room)
    if not words:
        return box
    svg.text(box.x + 7, box.y + _HEAD_PX - 6, words, "ink", size=SMALL_PX + 1, title=name)
    return box._replace(y=box.y + _HEAD_PX, height=box.height - _HEAD_PX)


def _draw(svg: Svg, tile: Tile, box: Box, css: str, total: int, *, words: bool) -> None:
    told = f"{tile.label}: {format_size(tile.size)}, {tile.size / total:.1%}"
    if tile.note:
        told += f"; {tile.note}"
    svg.rect(box.x, box.y, box.width, box.height, f"{css} gap", title=told, opacity=0.34)
    room = box.width - 14
    if box.height < 22 or room < 30:
        return
    label = printable(tile.label)  # as it is shown, which may be wider
    shown = _cut(label, room) if words else _end_of_path(label, room)
    if not shown:
        return
    svg.text(box.x + 7, box.y + 16, shown, "ink", size=SMALL_PX + 1, title=told)
    size = format_size(tile.size)
    if box.height >= 38 and text_width(size, SMALL_PX) <= room:
        svg.text(box.x + 7, box.y + 31, size, "soft", size=SMALL_PX)


def _end_of_path(label: str, room: float) -> str:
    """Return as much of a path as there is room for; its end says more than its beginning."""
    parts = label.split("/")
    for start in range(len(parts)):
        words = "/".join(parts[start:])
        if words.strip("/*") == "" and start:
            break
        if text_width(words, SMALL_PX + 1) <= room:
            return words
    last = next((part for part in reversed(parts) if part.strip("*")), label)
    return _cut(last, room)


def _cut(label: str, room: float) -> str:
    cut = fitted(label, room, SMALL_PX + 1)
    return cut if len(cut) >= min(5, len(label)) else ""


def squarified(sizes: Sequence[int], box: Box) -> list[Box]:
    """Return boxes that fill ``box`` in proportion to ``sizes``, which fall and are above zero."""
    total = sum(sizes)
    if total <= 0 or box.width <= 0 or box.height <= 0:
        return [Box(box.x, box.y, 0, 0) for _ in sizes]
    areas = [size * box.width * box.height / total for size in sizes]
    boxes: list[Box] = []
    while areas:
        count = _row_length(areas, min(box.width, box.height))
        row, areas = areas[:count], areas[count:]
        placed, box = _laid(row, box)
        boxes.extend(placed)
    return boxes


def _row_length(areas: Sequence[float], side: float) -> int:
    """Return how many areas make a row along ``side`` whose worst box is nearest to a square."""
    best = float("inf")
    total = 0.0
    for count, area in enumerate(areas):
        total += area
        worst = max(_ratio(areas[0], total, side), _ratio(area, total, side))
        if worst > best:
            return count
        best = worst
    return len(areas)


def _ratio(area: float, row: float, side: float) -> float:
    thickness = row / side
    length = area / thickness
    return max(thickness / length, length / thickness)


def _laid(row: Sequence[float], box: Box) -> tuple[list[Box], Box]:
    """Lay a row along the shorter side; return its boxes and what is left of the whole."""
    total = sum(row)
    if box.width >= box.height:
        thickness = total / box.height
        lengths = _ends(row, thickness)
        placed = [Box(box.x, box.y + at, thickness, length) for at, length in lengths]
        return placed, Box(box.x + thickness, box.y, box.width - thickness, box.height)
    thickness = total / box.width
    lengths = _ends(row, thickness)
    placed = [Box(box.x + at, box.y, length, thickness) for at, length in lengths]
    return placed, Box(box.x, box.y + thickness, box.width, box.height - thickness)


def _ends(row: Sequence[float], thickness: float) -> Iterator[tuple[float, float]]:
    at = 0.0
    for area in row:
        yield at, area / thickness
        at += area / thickness
