"""Where in the images the stored bytes are: directories, as fine as there is something to see.

A piece of content counts where it was met first: in the first image that has it, at the first
path there. So the sum is what the selection's files have in the store, each byte once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.measure.charges import data_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.digest import DiffId
    from layerstore.formats.tree import Changeset
    from layerstore.measure.survey import Survey

_DEEPEST = 6
_WORTH = 0.012
"""A directory is opened only if it holds this part of everything: smaller areas show nothing."""


_MANY = 0.1
_LARGEST = 8
"""A directory of more than that part, all of whose directories are small, shows its largest."""


class Place(msgspec.Struct, frozen=True):
    """A directory of the images.

    Attributes:
        path: With a slash in front and one behind; what lies directly in a directory
            whose others are told apart ends in ``/*``.
        size: Stored bytes of file contents below.
    """

    path: str
    size: int


class _Directory:
    __slots__ = ("below", "here", "path", "total")

    def __init__(self, path: bytes) -> None:
        self.path = path
        self.here = 0
        self.total = 0
        self.below: dict[bytes, _Directory] = {}


def take_places(survey: Survey, most: int = 40) -> tuple[Place, ...]:
    """Return at most ``most`` places that hold all stored file contents, the largest first.

    Raises:
        IntegrityError: A layer's tree is damaged.
    """
    root = _Directory(b"")
    for _, path, size in first_met(survey):
        _add(root, path, size)
    return tuple(sorted(_opened(root, most), key=lambda place: (-place.size, place.path)))


def first_met(
    survey: Survey, look: Callable[[DiffId, Changeset], None] | None = None
) -> Iterator[tuple[DiffId, bytes, int]]:
    """Yield layer, path and stored bytes of every file that brings content not met before.

    Args:
        survey: The selection.
        look: Is shown every layer's entries as they are read.

    Raises:
        IntegrityError: A layer's tree is damaged.
    """
    stored = data_sizes(survey.inventory)
    for _, diff_id in survey.new_layers():
        changeset = survey.layers.changeset(diff_id)
        if look is not None:
            look(diff_id, changeset)
        for entry in changeset.entries:
            size = sum(stored.pop(chunk, 0) for _, chunk in entry.extents if chunk is not None)
            if size:
                yield diff_id, entry.path, size


def _add(root: _Directory, path: bytes, size: int) -> None:
    node = root
    node.total += size
    for name in path.split(b"/")[:-1][:_DEEPEST]:
        child = node.below.get(name)
        if child is None:
            child = node.below[name] = _Directory(node.path + b"/" + name)
        node = child
        node.total += size
    node.here += size


def _opened(root: _Directory, most: int) -> list[Place]:
    """Open the largest directory again and again, as long as the pieces are worth it."""
    if not root.total:
        return []
    shown = [root]
    places: list[Place] = []
    smallest = root.total * _WORTH
    while True:
        able = [node for node in shown if node.below and node.total > smallest]
        node = max(able, key=lambda each: each.total, default=None)
        if node is None:
            break
        worthy = [child for child in node.below.values() if child.total > smallest]
        if not worthy and node.total > _MANY * root.total:
            worthy = sorted(node.below.values(), key=lambda each: -each.total)[:_LARGEST]
        if len(shown) + len(places) + len(worthy) > most or not worthy:
            shown.remove(node)
            places.append(Place(_text(node.path) + "/", node.total))
            continue
        shown.remove(node)
        shown += worthy
        rest = node.total - sum(child.total for child in worthy)
        if rest:
            places.append(Place(_text(node.path) + "/*", rest))
    return places + [Place(_text(node.path) + "/", node.total) for node in shown]


def _text(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")  # JSON has no bytes
