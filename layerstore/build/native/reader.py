"""From the bytes of a TOML file to values that know where they stand.

Pure; a :class:`Node` is a table, a list or a scalar with its place, so that whatever is wrong
with it later is told with file, line and column, also after files were merged.

Source: TOML 1.0.0, read by the standard library.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.native.limits import MAX_DEPTH, MAX_FILE_BYTES, limit_exceeded
from layerstore.build.native.places import Lines, Path, Place, locate

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan

_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Node:
    """A value of a spec and its place.

    Attributes:
        value: A dict of nodes, a list of nodes, or a scalar as ``tomllib`` gives it.
        span: Where the value stands.
        key_span: Where its key stands; the same as ``span`` for items of lists.
    """

    __slots__ = ("key_span", "span", "value")

    def __init__(self, value: object, span: SourceSpan, key_span: SourceSpan | None = None) -> None:
        self.value = value
        self.span = span
        self.key_span = key_span or span

    def get(self, key: str) -> Node | None:
        """Return the value of a key, None if there is none or this is no table."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def at(self, *path: str | int) -> Node | None:
        """Return what lies at ``path`` below, None if nothing does."""
        node: Node | None = self
        for step in path:
            if node is None:
                return None
            value = node.value
            if isinstance(value, dict) and isinstance(step, str):
                node = value.get(step)
            elif isinstance(value, list) and isinstance(step, int) and 0 <= step < len(value):
                node = value[step]
            else:
                node = None
        return node

    def span_of(self, *path: str | int) -> SourceSpan:
        """Return the place of what lies at ``path`` below, or of the last that is there."""
        for end in range(len(path), 0, -1):
            node = self.at(*path[:end])
            if node is not None:
                return node.key_span
        return self.key_span


def read_toml(data: bytes, file: str) -> Node:
    """Return the root table of a TOML file.

    Args:
        data: The file's bytes.
        file: What messages call it.

    Raises:
        SpecError: Not TOML; has line and column.
        LimitExceededError: Larger or nested deeper than the limits.
    """
    top = Lines("", file).at(1, 1)
    if len(data) > MAX_FILE_BYTES:
        raise limit_exceeded(top, "the spec is too large, in bytes", MAX_FILE_BYTES)
    text = _decoded(data, file)
    lines = Lines(text, file)
    places = locate(text, lines)
    try:
        value = tomllib.loads(text)
    except RecursionError as err:
        raise limit_exceeded(top, "tables and lists are nested too deep", MAX_DEPTH) from err
    except ValueError as err:  # TOMLDecodeError, or a number of more digits than Python takes
        raise _syntax_error(str(err), text, lines) from err
    return _nodes(value, (), lines, places)


def _decoded(data: bytes, file: str) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as err:
        good = data[: err.start].decode("utf-8")
        raise SpecError("the file is not UTF-8", Lines(good, file).span(len(good))) from err
    if text.startswith("\ufeff"):
        raise SpecError(
            "the file begins with a byte order mark", Lines(text, file).at(1, 1),
            hint="save it as UTF-8 without one",
        )  # fmt: skip
    return text.replace("\r\n", "\n")


def _syntax_error(message: str, text: str, lines: Lines) -> SpecError:
    found = _PLACE.search(message)
    reason = message[: found.start()] if found else message.partition("\n")[0]
    span = lines.at(int(found[1]), int(found[2])) if found and found[1] else lines.span(len(text))
    return SpecError(f"not valid TOML: {reason[:1].lower()}{reason[1:]}", span)


def _nodes(value: object, path: Path, lines: Lines, places: dict[Path, Place]) -> Node:
    place = places.get(path) or _nearest_place(path, places)
    span, key_span = lines.span(place.value), lines.span(place.key)
    if isinstance(value, dict):
        table = {key: _nodes(item, (*path, key), lines, places) for key, item in value.items()}
        return Node(table, span, key_span)
    if isinstance(value, list):
        items = [_nodes(item, (*path, index), lines, places) for index, item in enumerate(value)]
        return Node(items, span, key_span)
    return Node(value, span, key_span)


def _nearest_place(path: Path, places: dict[Path, Place]) -> Place:
    while path:
        path = path[:-1]
        if path in places:
            return places[path]
    return Place(0, 0)
