"""Reading all unpacked files again: the kernel serves them without asking us.

Objects are verified as they are unpacked and not at each mount. Damage that comes later is
found here: an object's content must be what its name says. Reads only.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.tree import Kind, decode_changeset
from layerstore.store.eviction import object_users
from layerstore.store.findings import Finding, Problem
from layerstore.store.objects import is_sound, object_id, object_sizes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from layerstore.digest import ObjectId
    from layerstore.progress import Progress
    from layerstore.store.objects import Extents
    from layerstore.store.store import Store

_VIEWS_NAMED = 4


def scrub_objects(store: Store, progress: Progress) -> Iterator[Finding]:
    """Yield the objects that are damaged, with the views that show them."""
    found = object_sizes(store.paths)
    if not found:
        return
    users, _ = object_users(store.paths)
    lists = _lists_of(store, found)
    progress.start("reading unpacked files", sum(file.disk_size for file in found.values()))
    try:
        for name, file in sorted(found.items()):
            path = store.paths.object(name)
            try:
                sound = is_sound(path, name, lists.get(name))
            except FileNotFoundError:
                continue  # evicted meanwhile
            except OSError as err:
                yield _finding(name, path, f"it cannot be read: {err.strerror}", users.get(name))
                continue
            finally:
                progress.advance(file.disk_size)
            if not sound:
                what = "the unpacked file is not what its name says"
                yield _finding(name, path, what, users.get(name))
    finally:
        progress.finish()


def _lists_of(store: Store, names: Collection[ObjectId]) -> dict[ObjectId, Extents]:
    """Return what objects of several chunks are made of, as far as layers can be read."""
    lists: dict[ObjectId, Extents] = {}
    for record in store.layers():
        with contextlib.suppress(IntegrityError, NotFoundError):
            for entry in decode_changeset(store.read_refs(record.tree)).entries:
                extents = entry.extents
                if entry.kind is not Kind.FILE or not extents:
                    continue
                if len(extents) > 1 or extents[0][1] is None:
                    name = object_id(extents)
                    if name in names:
                        lists[name] = extents
    return lists


def _finding(name: ObjectId, path: str, what: str, targets: list[str] | None) -> Finding:
    if not targets:
        return Finding(Problem.UNUSED_OBJECT_DAMAGED, path, name.hex(), what)
    more = f" and {len(targets) - _VIEWS_NAMED} more" if len(targets) > _VIEWS_NAMED else ""
    message = f"{what}, and views show it: {', '.join(targets[:_VIEWS_NAMED])}{more}"
    return Finding(Problem.OBJECT_DAMAGED, path, name.hex(), message)
