"""Steps that are made again for nothing: what stands above a step that changes with every release.

The images of one repository are its releases, oldest first. A step is *made again* when its layer
is another one although its instruction is the same; when its content is the same, too, but for
times, and a step below it changed, it could stand below that one, if it does not need it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.tree import FILE
from layerstore.image.layers.layers import load_changeset
from layerstore.measure.steps import steps_of_layers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.digest import DiffId
    from layerstore.measure.steps import Step
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

SAME_SHARE = 0.9
"""Part of a layer's bytes that must be the same content for it to count as not changed: databases
and caches of package managers differ between two runs that install the same."""


class Move(NamedTuple):
    """A step that could stand lower.

    Attributes:
        repository: Whose releases were compared.
        step: That is made again with the same content.
        below: The lowest step that changed below it: it could stand under that.
        times: How often that happened.
        releases: Steps from one release to the next that were looked at.
        size: Logical bytes of the layers that were made for nothing.
    """

    repository: str
    step: Step
    below: Step
    times: int
    releases: int
    size: int


def suggest_moves(store: Store, repository: str, images: Sequence[ImageRecord]) -> list[Move]:
    """Propose steps to move, the largest first.

    Args:
        store: Of the images.
        repository: What they are called.
        images: Oldest first.

    Raises:
        IntegrityError: The store is damaged.
    """
    known = [(image, steps_of_layers(store, image, {})) for image in images]
    found: dict[tuple[str, str], Move] = {}
    pairs = list(pairwise(known))
    for (old, old_steps), (new, new_steps) in pairs:
        for step, below in _made_again(store, (old, old_steps), (new, new_steps)):
            size = store.layer(step.diff_id).content_size
            key = step.text, below.text
            before = found.get(key, Move(repository, step, below, 0, len(pairs), 0))
            found[key] = before._replace(times=before.times + 1, size=before.size + size)
    return sorted(found.values(), key=lambda move: -move.size)


_Release = tuple["ImageRecord", "list[Step]"]


def _made_again(store: Store, old: _Release, new: _Release) -> list[tuple[Step, Step]]:
    """Return steps that were made again for nothing, each with the lowest one that changed."""
    found = []
    changed: Step | None = None
    for before, after in zip(old[1], new[1], strict=False):
        if before.text != after.text:
            break  # other steps from here on: nothing says which is which
        if before.diff_id == after.diff_id:
            continue
        if not _is_same(store, before.diff_id, after.diff_id):
            changed = changed or after
        elif changed is not None:
            found.append((after, changed))
    return found


def _is_same(store: Store, old: DiffId, new: DiffId) -> bool:
    """Return whether two layers have the same files, but for times and little else."""
    before, after = _contents(store, old), _contents(store, new)
    total = sum(size for _, size in after)
    same = sum(size for _, size in before & after)
    return total > 0 and same >= SAME_SHARE * total


def _contents(store: Store, diff_id: DiffId) -> set[tuple[object, int]]:
    return {
        ((entry.path, entry.extents, entry.mode, entry.uid, entry.gid), entry.size)
        for entry in load_changeset(store, diff_id).entries
        if entry.kind is FILE
    }
