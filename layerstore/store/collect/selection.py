"""Which names and build steps a collection gives up, by rules and down to a size.

Reads names, uses and pins from a pinned catalog, asks :mod:`layerstore.store.collect.retention`
what the rules keep, and, for a cap, marks what may go from the latest used to the
earliest for as long as it fits. Nothing is removed here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, Digest
from layerstore.formats.pack import ITEM_ENTRY
from layerstore.formats.reference import is_index_name
from layerstore.store.collect.marks import Roots, find_roots
from layerstore.store.collect.retention import (
    KeepRules,
    NamedUse,
    steps_latest_first,
    unkept_names,
    unkept_steps,
)
from layerstore.store.locks.leases import live_leases
from layerstore.store.names.usage import Reference, age_reference, image_uses, step_uses

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from layerstore.digest import ImageId
    from layerstore.store.collect.marks import Marks, ViewRoots
    from layerstore.store.store import Store


class Dropped(NamedTuple):
    """Names and build steps that are given up, as they were seen.

    Attributes:
        names: Each with the image it means and when that was last used.
        steps: Key and last use.
        pins: Image ids whose pins do not count.
    """

    names: tuple[NamedUse, ...] = ()
    steps: tuple[tuple[str, float], ...] = ()
    pins: tuple[str, ...] = ()


class Candidates(NamedTuple):
    """What may be given up, that used last first, and what ages were measured from."""

    names: list[NamedUse]
    steps: list[tuple[str, float]]
    reference: Reference


def find_candidates(store: Store, rules: KeepRules, views: ViewRoots) -> Candidates:
    """Return names and steps that the rules let go: with a cap, every step may go."""
    steps = step_uses(store.catalog)
    names = named_uses(store, views)
    known = [*steps.values(), *(named.used for named in names if named.used is not None)]
    reference = age_reference(time.time(), known, trust=rules.trust_clock)
    if rules.max_size is None:
        going = unkept_steps(rules, steps, reference)
    else:
        going = steps_latest_first(steps, reference)
    return Candidates(
        unkept_names(rules, names, reference), [(key, steps[key]) for key in going], reference
    )


def recorded_uses(store: Store) -> list[float]:
    """Return when anything in the store was used last: what ages are measured from."""
    images = image_uses(store.paths, set(store.tags().values()))
    return [*step_uses(store.catalog).values(), *images.values()]


def named_uses(store: Store, views: ViewRoots) -> list[NamedUse]:
    """Return every name with its images' last use; what is pinned or in use now is held.

    The names that say what an index has are none of their own: they go with their tag.
    """
    tags, held = store.tags(), set[str](store.pins())
    held |= {view.image_id for view in views.views if view.image_id is not None}
    living = {lease.lease_id for lease in live_leases(store.catalog)}
    rows = store.catalog.query("SELECT lease, id FROM lease_holds WHERE kind = 'image'")
    held |= {str(image_id) for lease, image_id in rows if lease in living}
    uses = image_uses(store.paths, set(tags.values()))
    others: dict[str, set[ImageId]] = {}
    for name, image_id in tags.items():
        if is_index_name(name):
            others.setdefault(name.partition("@")[0], set()).add(image_id)
    return [
        _named_use(name, image_id, others.get(name, set()) - {image_id}, uses, held)
        for name, image_id in tags.items()
        if not is_index_name(name)
    ]


def _named_use(
    name: str,
    image_id: ImageId,
    others: Collection[ImageId],
    uses: Mapping[str, float],
    held: Collection[str],
) -> NamedUse:
    images = (image_id, *sorted(others))
    used = max((uses[each] for each in images if each in uses), default=None)
    return NamedUse(name, image_id, used, any(each in held for each in (name, *images)), images[1:])


def mark_without(
    store: Store, marks: Marks, views: ViewRoots, dropped: Dropped, *, keep_cache: bool
) -> None:
    """Mark what is needed once ``dropped`` is given up."""
    roots = find_roots(
        store,
        views,
        keep_cache=keep_cache,
        without_names={named.name for named in dropped.names},
        without_steps={key for key, _ in dropped.steps},
        without_pins=dropped.pins,
    )
    marks.extend(store, roots)


def fill(store: Store, marks: Marks, candidates: Candidates, budget: int) -> Dropped:
    """Mark candidates for as long as what is needed fits; return those that do not.

    Names come before build steps, the latest used before the earliest, and nothing after
    the first that does not fit: what is given up was used before what is kept.
    """
    layer_of = {
        str(key): diff_id
        for key, diff_id in store.catalog.query(
            "SELECT c.key, c.diff_id FROM build_cache c JOIN layers l ON l.diff_id = c.diff_id"
        )
    }
    names, steps = list(candidates.names), list(candidates.steps)
    while names and _fits(store, marks, _roots_of(names[0]), budget):
        names.pop(0)
    if names:
        return Dropped(tuple(names), tuple(steps))
    while steps:
        diff_id = layer_of.get(steps[0][0])
        layers = {DiffId(Digest(str(diff_id))): "the build cache"} if diff_id else {}
        if not _fits(store, marks, Roots({}, layers, []), budget):
            break
        steps.pop(0)
    return Dropped((), tuple(steps))


def _roots_of(named: NamedUse) -> Roots:
    return Roots(dict.fromkeys((named.image_id, *named.others), named.name), {}, [])


def _fits(store: Store, marks: Marks, roots: Roots, budget: int) -> bool:
    """Mark more if it fits; what does not is taken back."""
    if marks.includes(roots):
        return True
    before = marks.clone()
    marks.add(store, roots)
    if needed_bytes(marks) <= budget:
        return True
    marks.become(before)
    return False


def needed_bytes(marks: Marks) -> int:
    """Return about what the needed things take: shares of blocks, entries of footers, blobs."""
    table = marks.table
    return round(table.living_stored) + sum(table.marked) * ITEM_ENTRY.size + marks.blob_bytes
