"""Repairing a store from end to end: find, heal, move aside, name what is lost.

The order is: config.toml, where that is damaged or gone; a check that reads every byte; what the
store itself, its files that are unpacked for views and then each copy can bring back is written
into new packs; damaged packs are emptied
of what can be read and moved to ``quarantine/``; damaged unpacked files that no view needs go;
the catalog is made again where it was damaged; build steps whose layers lost data are
forgotten, so that building again makes them anew. Every step is durable by itself: a repair
that was killed is simply run again.
"""

from __future__ import annotations

import contextlib
import os
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import Digest, ImageId, ObjectId
from layerstore.errors import IntegrityError, LayerstoreError, NotFoundError
from layerstore.formats.origins import NO_ORIGINS
from layerstore.formats.tree import decode_changeset
from layerstore.image.heal import SourceResult, glean_from, glean_from_itself, require_copy
from layerstore.image.images import own_manifest
from layerstore.store.blobs import blob_digests, put_blob
from layerstore.store.check.check import check, names_log_content
from layerstore.store.check.findings import Problem
from layerstore.store.check.glean import Gleaned, Gleaner, Lost, lost_of
from layerstore.store.check.repair import RepairReport, execute_repair, foresee_salvage, plan_repair
from layerstore.store.collect.eviction import evict_damaged
from layerstore.store.failures import CatalogDamagedError
from layerstore.store.names import names_log
from layerstore.store.names.tags import image_facts, manifest_config
from layerstore.store.rebuild.config_again import foreseen_config, make_config_again
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.references import paths_with
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.digest import DiffId
    from layerstore.progress import Progress
    from layerstore.store.check.findings import CheckReport
    from layerstore.store.config import StoreConfig
    from layerstore.store.rebuild.rebuild import RebuildReport

_ORIGINAL_LOST = (
    "the compressed original of a layer lost bytes: it can no longer leave as it came; nothing "
    "else is harmed"
)
_OF_THE_CATALOG = frozenset({Problem.CATALOG_DAMAGED, Problem.CATALOG_DIFFERS})


class Loss(NamedTuple):
    """What one layer, or one image's own documents, can no longer give.

    Attributes:
        images: Everything that shows it, with its names.
        what: In words.
        files: Paths of the files whose content lost bytes.
    """

    layer: DiffId | None
    images: tuple[ImageId, ...]
    what: str
    files: tuple[str, ...] = ()


class RepairOutcome(NamedTuple):
    """What a repair found, did, and could not do.

    Attributes:
        before: The check it began with.
        itself: What the store could give of its own.
        sources: What each copy brought; copies that were not needed are not read.
        moved: Packs moved aside.
        unpacked: Damaged unpacked files that went; the next view makes them anew.
        rebuilt: The new catalog, where one was needed.
        cache_keys: Build steps forgotten because their layers lost data.
        losses: What remains lost.
        ok: Whether the store is whole now (of a dry run: would be).
        healed_lists: Whether a layer's list of files came back: more may be missing than was seen.
        config: Whether config.toml was made again.
        names: The store's, now, with their images.
    """

    dry_run: bool
    before: CheckReport
    itself: Gleaned
    sources: tuple[SourceResult, ...]
    moved: RepairReport
    unpacked: int
    rebuilt: RebuildReport | None
    cache_keys: tuple[str, ...]
    losses: tuple[Loss, ...]
    ok: bool
    healed_lists: bool = False
    config: bool = False
    names: Mapping[str, ImageId] = MappingProxyType({})


def repair_store(
    root: str, sources: Sequence[str], *, dry_run: bool, progress: Progress | None = None
) -> RepairOutcome:
    """Repair the store at ``root`` with copies of what it holds.

    Args:
        root: The store.
        sources: Paths of stores, directories, tars and OCI layouts, the best first.
        dry_run: Read everything, change nothing.
        progress: Told what is read.

    Raises:
        NotFoundError: No store there, or no such copy.
        GcRunningError: A gc, check or rebuild is at work.
        StorageError: The store could not be written; what was healed stays healed.
    """
    for path in sources:  # before the whole store is read, and though nothing may be missing
        require_copy(path)
    foreseen = foreseen_config(root) if dry_run else None
    config = bool(foreseen) if dry_run else make_config_again(root)
    try:
        outcome = _repair_opened(root, sources, foreseen, dry_run=dry_run, progress=progress)
        return outcome._replace(config=config)
    except CatalogDamagedError:  # some damage is seen only when the rows behind it are read
        if dry_run:
            raise
    rebuilt = rebuild_catalog(root, progress)
    outcome = _repair_opened(root, sources, None, dry_run=False, progress=progress)
    return outcome._replace(rebuilt=outcome.rebuilt or rebuilt, config=config)


def _repair_opened(
    root: str,
    sources: Sequence[str],
    config: StoreConfig | None,
    *,
    dry_run: bool,
    progress: Progress | None,
) -> RepairOutcome:
    with Store.open(root, config=config) as store:
        outcome = _repair_once(store, sources, dry_run=dry_run, progress=progress)
        # A list of files that came back names content that nobody knew to be missing.
        while sources and outcome.healed_lists and outcome.losses:
            again = _repair_once(store, sources, dry_run=False, progress=progress)
            outcome = _joined(outcome, again)
        return outcome._replace(names=store.tags())


def _repair_once(
    store: Store, sources: Sequence[str], *, dry_run: bool, progress: Progress | None
) -> RepairOutcome:
    before = check(store, read_data=True, progress=progress)
    unlisted = _layers_of_unlisted(store)
    lost = lost_of(before)
    lost = lost._replace(layers=lost.layers | unlisted, harmed=lost.harmed | unlisted)
    unread = _without_lists(store, lost.harmed)
    itself, results, missing = _heal(store, lost, sources, dry_run, progress)
    if dry_run:
        return _dry_outcome(store, before, itself, results, lost.items - missing.items, missing)
    moved = execute_repair(plan_repair(store, before))
    unpacked = evict_damaged(store.paths, _unused_objects(before))
    again = _make_manifests_again(store)
    rebuilt = None
    if (
        again
        or unlisted - missing.layers
        or any(finding.problem in _OF_THE_CATALOG for finding in before.findings)
    ):
        rebuilt = store.rebuild_catalog(progress)
    # What a failing medium did not give still has its rows: only reading tells.
    after = check(store, read_data=bool(moved.lost_chunks), progress=progress)
    keys = _forget_build_steps(store, after.harmed_layers)
    losses = (*_losses(store, lost_of(after)), *_losses_of_names(store))
    return RepairOutcome(
        False, before, itself, results, moved, unpacked, rebuilt, keys, losses,
        after.ok and not losses, bool(unread - _without_lists(store, unread)),
    )  # fmt: skip


def _without_lists(store: Store, layers: frozenset[DiffId]) -> frozenset[DiffId]:
    """Return those of some layers whose list of files cannot be read."""
    found: set[DiffId] = set()
    for diff_id in layers:
        try:
            store.read_refs(store.layer(diff_id).tree)
        except (IntegrityError, NotFoundError):
            found.add(diff_id)
    return frozenset(found)


def _joined(first: RepairOutcome, second: RepairOutcome) -> RepairOutcome:
    """Return two repairs, one after the other, as one."""
    brought = {source.path: source for source in first.sources}
    for source in second.sources:
        before = brought.get(source.path)
        gleaned = _sum(source.gleaned, before.gleaned) if before else source.gleaned
        brought[source.path] = source._replace(gleaned=gleaned)
    return second._replace(
        before=first.before,
        itself=_sum(first.itself, second.itself),
        sources=tuple(brought.values()),
        moved=RepairReport(*(a + b for a, b in zip(first.moved, second.moved, strict=True))),
        unpacked=first.unpacked + second.unpacked,
        rebuilt=second.rebuilt or first.rebuilt,
        cache_keys=(*first.cache_keys, *second.cache_keys),
    )


def _sum(first: Gleaned, second: Gleaned) -> Gleaned:
    return Gleaned(*(one + two for one, two in zip(first, second, strict=True)))


def _unused_objects(report: CheckReport) -> list[ObjectId]:
    found = (each for each in report.findings if each.problem is Problem.UNUSED_OBJECT_DAMAGED)
    return [ObjectId(bytes.fromhex(each.digest)) for each in found]


def _dry_outcome(
    store: Store,
    before: CheckReport,
    itself: Gleaned,
    results: tuple[SourceResult, ...],
    healed: frozenset[bytes],
    missing: Lost,
) -> RepairOutcome:
    plan = plan_repair(store, before)
    salvage = foresee_salvage(plan)
    missing = missing._replace(items=missing.items - salvage.saved).by_depending(store)
    lost = salvage.held & (missing.items | missing.dependents)
    moved = RepairReport(len(plan.packs), len(salvage.held - healed - lost), len(lost))
    losses = _losses(store, missing)
    if missing.layers or not _layers_of_unlisted(store):
        losses += _losses_of_names(store)  # else their layers come back, and they with them
    unpacked = len(_unused_objects(before))
    return RepairOutcome(
        True, before, itself, results, moved, unpacked, None, (), tuple(losses), not losses
    )


def _heal(
    store: Store, lost: Lost, sources: Sequence[str], dry_run: bool, progress: Progress | None
) -> tuple[Gleaned, tuple[SourceResult, ...], Lost]:
    """Bring back what can be; return what came from where, and what is still missing."""
    if not lost:
        return Gleaned(0, 0, 0), (), lost
    results: list[SourceResult] = []
    with Gleaner(store, lost, dry_run=dry_run) as gleaner:
        itself = glean_from_itself(gleaner)
        if gleaner.missing.items and os.path.isdir(store.paths.objects):
            # Before damaged ones go: what is unpacked may be the last copy of a file.
            unpacked = glean_from(gleaner, store.paths.objects, progress=progress)
            itself = _sum(itself, unpacked.gleaned)
        for path in sources:
            if not gleaner.wants_more:
                break
            results.append(glean_from(gleaner, path, progress=progress))
        if results and gleaner.missing.blobs:
            again = glean_from_itself(gleaner)  # a config from a copy may make its manifest again
            itself = _sum(itself, again)
        missing = gleaner.missing.by_depending(store)
    if missing.dependents and sources:
        # Their bases are lost for good: then they are wanted themselves.
        wanted = missing._replace(items=missing.dependents, dependents=frozenset())
        _, more, rest = _heal(store, wanted, sources, dry_run, progress)
        results += more
        missing = missing._replace(dependents=rest.items)
    return itself, tuple(results), missing


def _forget_build_steps(store: Store, harmed: frozenset[DiffId]) -> tuple[str, ...]:
    keys = tuple(record.key for record in store.cache_records() if record.diff_id in harmed)
    if keys:
        store.cache_drop(keys)
    return keys


def _losses(store: Store, lost: Lost) -> list[Loss]:
    images = store.images()

    kept: dict[ImageId, tuple[DiffId, ...]] = {}
    documents: dict[ImageId, tuple[Digest, ...]] = {}
    for image in images:
        origins = NO_ORIGINS
        with contextlib.suppress(IntegrityError, NotFoundError):
            origins = store.origins(image)
        kept[image.image_id], documents[image.image_id] = origins.kept, tuple(origins.documents)

    def showing(diff_id: DiffId) -> tuple[ImageId, ...]:
        return tuple(image.image_id for image in images if diff_id in image.layers)

    def keeping(diff_id: DiffId) -> tuple[ImageId, ...]:
        return tuple(image.image_id for image in images if diff_id in kept[image.image_id])

    lost = lost._replace(items=lost.items | lost.dependents)
    losses: list[Loss] = []
    for diff_id in sorted(lost.harmed | lost.layers):
        shown_by, kept_by = showing(diff_id), keeping(diff_id)
        found = _losses_of_layer(store, lost, diff_id, shown_by)
        if shown_by or not kept_by:
            losses += found
        if found and kept_by:
            losses.append(Loss(diff_id, kept_by, _ORIGINAL_LOST))
    for image in images:
        for digest, what in ((image.image_id, "config"), (image.manifest_digest, "manifest")):
            if digest in lost.blobs:
                losses.append(Loss(None, (image.image_id,), f"its {what} {digest} is lost"))
        for digest in lost.blobs.intersection(documents[image.image_id]):
            told = f"it can no longer leave as {digest}, which is lost; nothing else is harmed"
            losses.append(Loss(None, (image.image_id,), told))
    return losses


def _unlisted_names(store: Store) -> dict[str, ImageId]:
    """Return the names that names.log has and the catalog does not, with their images.

    So it is after the catalog was made again from packs that miss some of their layers.
    Names that a crash left in the log alone look the same; nobody was promised those, and
    the next change of a name forgets them.
    """
    records = names_log_content(store).records
    everything = {record[2] for record in records if record[0] == names_log.TAG}
    known: set[str] = {image.image_id for image in store.images()}
    named = names_log.replay(records, everything)
    return {n: ImageId(Digest(i)) for n, i in named.items() if i not in known}


def _layers_of_unlisted(store: Store) -> frozenset[DiffId]:
    """Return the layers that such images need and the catalog does not have."""
    found: set[DiffId] = set()
    for image_id in _unlisted_names(store).values():
        with contextlib.suppress(IntegrityError, NotFoundError):
            found.update(image_facts(store.get_blob(image_id)).diff_ids)
    return frozenset(diff_id for diff_id in found if not store.has_layer(diff_id))


def _make_manifests_again(store: Store) -> int:
    """Give unlisted images that lack nothing but their manifest one; return how many.

    A rebuild finds images by their manifests, so without one an image is forgotten although
    its config and layers are there.
    """
    with_manifest: set[str] = set()
    for digest in blob_digests(store.paths):
        with contextlib.suppress(LayerstoreError):
            with_manifest.add(manifest_config(store.get_blob(digest)))
    made = 0
    for image_id in set(_unlisted_names(store).values()) - with_manifest:
        with contextlib.suppress(IntegrityError, NotFoundError):
            config = store.get_blob(image_id)
            raw = own_manifest(store, config, image_facts(config).diff_ids)
            with store.catalog.write():
                staging = store.paths.temporary("repair", os.urandom(4).hex())
                put_blob(store.paths, raw, staging)
            made += 1
    return made


def _losses_of_names(store: Store) -> list[Loss]:
    losses: list[Loss] = []
    for name, image_id in _unlisted_names(store).items():
        try:
            diff_ids = image_facts(store.get_blob(image_id)).diff_ids
        except (IntegrityError, NotFoundError):
            losses.append(Loss(None, (image_id,), f"the name {name}: its image's config is lost"))
            continue
        if not all(store.has_layer(diff_id) for diff_id in diff_ids):
            losses.append(Loss(None, (image_id,), f"the name {name}: layers of its image are lost"))
    return losses


def _losses_of_layer(
    store: Store, lost: Lost, diff_id: DiffId, images: tuple[ImageId, ...]
) -> list[Loss]:
    try:
        record = store.layer(diff_id)
    except NotFoundError:
        # A dry run found it in a copy if nobody misses it any more.
        return [Loss(diff_id, images, "the whole layer is lost")] if diff_id in lost.layers else []
    except IntegrityError:
        return [Loss(diff_id, images, "the whole layer is lost")]
    losses: list[Loss] = []
    if not lost.items.isdisjoint(chunk_id for _, chunk_id in record.tree):
        losses.append(Loss(diff_id, images, "the layer's list of files is lost, and so are they"))
    if not lost.items.isdisjoint(chunk_id for _, chunk_id in record.recipe):
        what = "its tar can no longer be written bit for bit; its files are not harmed by that"
        losses.append(Loss(diff_id, images, what))
    with contextlib.suppress(IntegrityError, NotFoundError):
        changeset = decode_changeset(store.read_refs(record.tree))
        files = tuple(os.fsdecode(path) for path, _ in paths_with(changeset, lost.items))
        if files:
            losses.append(Loss(diff_id, images, f"{len(files)} files lost content", files))
    return losses
