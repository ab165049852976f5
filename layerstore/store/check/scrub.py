"""Reading all unpacked files again: the kernel serves them without asking us.

Objects are verified as they are unpacked and not at each mount. Damage that comes later is
found here: an object's content must be what its name says, which is seen by the list of a layer
that has it, else (its layer went, or is another store's) by cutting it again. Damage of packs is
found where they are checked, for the store reads them, too; here are the views that read them in
place. Reads only.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from layerstore.digest import PackId
from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.tree import Kind, decode_changeset
from layerstore.linux.files import read_file
from layerstore.store.check.findings import Finding, Problem
from layerstore.store.collect.eviction import names_in, object_users
from layerstore.store.collect.marks import VIEW_RECORD_MAX_BYTES
from layerstore.store.objects.objects import is_sound, object_id, object_sizes, says_its_name

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from layerstore.chunking.cutter import CutParameters
    from layerstore.digest import ObjectId
    from layerstore.progress import Progress
    from layerstore.store.objects.objects import Extents, ObjectFile
    from layerstore.store.paths import StorePaths
    from layerstore.store.store import Store

_VIEWS_NAMED = 4
_PACK_PROBLEMS = (Problem.PACK_DAMAGED, Problem.BLOCK_DAMAGED, Problem.CHUNK_DAMAGED)


def scrub_objects(store: Store, progress: Progress) -> Iterator[Finding]:
    """Yield the objects that are damaged, with the views that show them."""
    found = object_sizes(store.paths)
    if not found:
        return
    users, _ = object_users(store.paths)
    lists, are_all = _lists_of(store, found)
    cuts = store.config.cutting
    progress.start("reading unpacked files", sum(file.disk_size for file in found.values()))
    try:
        for name, file in sorted(found.items()):
            path = store.paths.object(name)
            try:
                extents = lists.get(name)
                sound = is_sound(path, extents) if extents else says_its_name(path, name, cuts)
            except FileNotFoundError:
                continue  # evicted meanwhile
            except OSError as err:
                yield _finding(name, path, f"it cannot be read: {err.strerror}", users.get(name))
                continue
            finally:
                progress.advance(file.disk_size)
            if sound:
                continue
            targets = users.get(name)
            if extents is None and not are_all:
                what = "a layer's list of files is lost, which may say what this unpacked file is"
                yield _untold(name, path, what, targets)
            elif extents is None and targets and not _is_one_chunk(file, cuts):
                # A lazy view's. Other stores may cut elsewhere, and a list may name holes.
                what = "only another store can say what this unpacked file is"
                yield _untold(name, path, what, targets)
            else:
                what = "the unpacked file is not what its name says"
                yield _finding(name, path, what, targets)
    finally:
        progress.finish()


def _lists_of(store: Store, names: Collection[ObjectId]) -> tuple[dict[ObjectId, Extents], bool]:
    """Return what objects are made of that layers have, and whether all layers could be read."""
    lists: dict[ObjectId, Extents] = {}
    are_all = True
    for record in store.layers():
        try:
            entries = decode_changeset(store.read_refs(record.tree)).entries
        except (IntegrityError, NotFoundError):
            are_all = False
            continue
        for entry in entries:
            extents = entry.extents
            if entry.kind is Kind.FILE and extents and (name := object_id(extents)) in names:
                lists[name] = extents
    return lists, are_all


def _finding(name: ObjectId, path: str, what: str, targets: list[str] | None) -> Finding:
    if not targets:
        return Finding(Problem.UNUSED_OBJECT_DAMAGED, path, name.hex(), what)
    message = f"{what}, and views show it: {_some(targets)}"
    return Finding(Problem.OBJECT_DAMAGED, path, name.hex(), message)


def _untold(name: ObjectId, path: str, what: str, targets: list[str] | None) -> Finding:
    """Return that nobody can say whether an object is sound."""
    shown = f", and views show it: {_some(targets)}" if targets else ""
    return Finding(Problem.OBJECT_UNKNOWN, path, name.hex(), what + shown)


def _is_one_chunk(file: ObjectFile, cuts: CutParameters) -> bool:
    """Whether an object's name must be the hash of its content: it is short and has no holes."""
    return file.size <= min(file.disk_size, cuts.whole_max_bytes)


def _some(targets: list[str]) -> str:
    more = f" and {len(targets) - _VIEWS_NAMED} more" if len(targets) > _VIEWS_NAMED else ""
    return ", ".join(targets[:_VIEWS_NAMED]) + more


def mounted_damage(paths: StorePaths, findings: Iterable[Finding]) -> list[Finding]:
    """Return which views read packs in place that other findings say are damaged."""
    damaged = [finding.where for finding in findings if finding.problem in _PACK_PROBLEMS]
    told = []
    for pack_hex, targets in sorted(_views_of_packs(paths).items()):
        path = paths.pack(PackId(bytes.fromhex(pack_hex)))
        if any(where.startswith(path) for where in damaged):
            message = f"views read this damaged pack in place: {_some(sorted(targets))}"
            told.append(Finding(Problem.MOUNTED_PACK_DAMAGED, path, pack_hex, message))
    return told


def _views_of_packs(paths: StorePaths) -> dict[str, set[str]]:
    """Return the targets of views over packs, by the packs' ids in hexadecimal."""
    targets = _targets_of_instances(paths)
    found: dict[str, set[str]] = {}
    for name in names_in(paths.pack_mounts):
        pack_hex = name.partition(".")[0]
        for mount in names_in(f"{paths.pack_mounts}/{name}"):
            for user in names_in(f"{paths.pack_mounts}/{name}/{mount}/users"):
                found.setdefault(pack_hex, set()).update(targets.get(user, ()))
    return {pack_hex: seen for pack_hex, seen in found.items() if seen}


def _targets_of_instances(paths: StorePaths) -> dict[str, list[str]]:
    """Return the targets of views by the name under which their instance uses packs."""
    targets: dict[str, list[str]] = {}
    for name in names_in(paths.views):
        if not name.endswith(".json"):
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            record = json.loads(read_file(f"{paths.views}/{name}", max_bytes=VIEW_RECORD_MAX_BYTES))
            user = f"lower-{os.path.basename(record['lower'])}"
            targets.setdefault(user, []).append(str(record["target"]))
    return targets
