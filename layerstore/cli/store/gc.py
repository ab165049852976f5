"""The command gc: what it is told, what it would do, what it did, and why something stays."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from layerstore.cli.common import DryRun, Json, settings_of
from layerstore.cli.output import (
    counted,
    short_id,
    write_json,
    write_line,
    write_note,
    write_table,
)
from layerstore.cli.progress import terminal_progress
from layerstore.cli.rootless.own_namespace import remove_of_subordinates
from layerstore.errors import InputError
from layerstore.store.collect.received import is_received
from layerstore.store.collect.resting import PREFIX as RESTING
from layerstore.store.names.usage import KEEP_UNPACKED_WITHIN

if TYPE_CHECKING:
    from layerstore.build.run.idle_caches import IdleCache
    from layerstore.build.run.resting_caches import Rested
    from layerstore.store.collect.collection import GcReport
    from layerstore.store.collect.eviction import Evictable, KeepUnpacked
    from layerstore.store.collect.explain import Explanation, LayerKept, Reason
    from layerstore.store.collect.gc import GcPlan
    from layerstore.store.collect.retention import KeepRules
    from layerstore.store.collect.selection import Dropped
    from layerstore.store.store import Store


REST_CACHES_AFTER = "1d"
"""Who builds every day has the caches at hand; what is older costs its room once, and a copy."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("gc")(collect_garbage)


def collect_garbage(
    context: typer.Context,
    *,
    dry_run: DryRun = False,
    drop_cache: Annotated[
        bool,
        typer.Option(
            "--all",
            "-a",
            help="Give up the build cache, cache mounts, and all files unpacked for views that "
            "are gone as well.",
        ),
    ] = False,
    max_size: Annotated[
        str | None,
        typer.Option(
            "--max-size",
            "--keep-storage",
            metavar="SIZE",
            help="Bring images and remembered steps down to SIZE: forget steps, the longest unused "
            "first, then names that no keep rule keeps. Cache mounts do not count until they rest.",
        ),
    ] = None,
    keep_last: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Remove names; keep the N of each repository used last."
        ),
    ] = None,
    keep_within: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="Remove names; keep those used within AGE: 12h, 30d."),
    ] = None,
    keep_tag: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB", help="Keep names whose tag (or NAME:TAG) matches; repeatable."
        ),
    ] = None,
    keep_cache_within: Annotated[
        str | None,
        typer.Option(
            metavar="AGE", help="Forget build steps and cache mounts not used within AGE."
        ),
    ] = None,
    rest_caches_after: Annotated[
        str,
        typer.Option(
            metavar="AGE",
            help="Turn cache mounts not used for AGE into deduplicated layers; the next step that "
            "wants one gets it back.",
        ),
    ] = REST_CACHES_AFTER,
    keep_unpacked_within: Annotated[
        str,
        typer.Option(
            metavar="AGE",
            help="Remove unpacked files that no kernel view needed within AGE; 0s for all.",
        ),
    ] = KEEP_UNPACKED_WITHIN,
    max_unpacked: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Bring unpacked files down to SIZE: those that no view needs, the longest unused "
            "first.",
        ),
    ] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Copy every pack that has anything dead in it.")
    ] = False,
    threshold: Annotated[
        int | None,
        typer.Option(
            metavar="PERCENT", min=1, max=99, help="Copy packs of which so much is dead; 25."
        ),
    ] = None,
    max_extra: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Disk that copies may take for a moment; 512m."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Believe the clock even if it seems to have jumped.")
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT", help="Say why an image, layer or pack is kept; change nothing."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Free what nothing needs any more.

    Names, pins, mounted views, running commands and remembered build steps
    keep what they need. Only the rules --keep-last and --keep-within take
    names away; pinned names and images in use always stay.
    """
    if explain is not None:
        _explain(context, explain, as_json=as_json)
        return
    from layerstore.store.collect.compaction import REWRITE_DEAD_FRACTION
    from layerstore.store.collect.gc import execute, plan_gc
    from layerstore.store.collect.removal import COMPACT_DEAD_FRACTION
    from layerstore.units import parse_age, parse_size

    if compact and threshold is not None:
        raise InputError("--compact copies whatever is dead: leave out --threshold")
    rules = _keep_rules(max_size, keep_last, keep_within, keep_tag, keep_cache_within, force=force)
    fraction = threshold / 100 if threshold else REWRITE_DEAD_FRACTION
    unpacked_rules = _UnpackedRules(
        None if drop_cache else parse_age(keep_unpacked_within),
        None if max_unpacked is None else parse_size(max_unpacked),
    )
    rest_after_s = parse_age(rest_caches_after)
    with settings_of(context).open_store() as store:
        if not dry_run:
            _settle_containers(store)
        caches = _find_caches(store, rules, keep_cache=not drop_cache, rest_after_s=rest_after_s)
        awake = _forget_awake(store, caches.resting, dry_run=dry_run)
        rested = None
        if rules.max_size is not None and not dry_run:
            rested = _rest_caches(store, caches.resting)  # first: a cap counts what is new
        with terminal_progress() as progress:
            plan = plan_gc(
                store,
                keep_cache=not drop_cache,
                rewrite_dead_fraction=COMPACT_DEAD_FRACTION if compact else fraction,
                max_extra_bytes=None if max_extra is None else parse_size(max_extra),
                keep=rules,
                assume_dropped=awake,
                measure=dry_run,
                progress=progress,
            )
            plan = _without(plan, awake)
            keep = _keep_unpacked(store, unpacked_rules, plan)
            report = None if dry_run else execute(plan)
        if rested is None and not dry_run:
            # Behind the collection, which so does what was foreseen, and makes room.
            rested = _rest_caches(store, caches.resting)
        unpacked = _evict(store, keep, dry_run=dry_run)
        if rested is not None:
            caches = _remove_caches(store, caches)._replace(resting=rested.caches)
            _remove_groups()
            remove_of_subordinates([*plan.leavings.temporary, *_half_removed(store)])
        if drop_cache and not dry_run:
            _drop_cache(store)
    if as_json:
        write_json(_to_json(plan, report, caches, unpacked))
    else:
        _print(plan, report, caches.going, unpacked)
        _tell_rest(caches.resting, rested, capped=rules.max_size is not None)
        _tell_limits(plan, caches.staying_bytes)


def _keep_rules(
    max_size: str | None,
    keep_last: int | None,
    keep_within: str | None,
    keep_tag: list[str] | None,
    keep_cache_within: str | None,
    *,
    force: bool,
) -> KeepRules:
    from layerstore.store.collect.retention import KeepRules
    from layerstore.units import parse_age, parse_size

    rules = KeepRules(
        max_size=None if max_size is None else parse_size(max_size),
        keep_last=keep_last,
        keep_within_s=None if keep_within is None else parse_age(keep_within),
        keep_tags=tuple(keep_tag or ()),
        keep_cache_within_s=None if keep_cache_within is None else parse_age(keep_cache_within),
        trust_clock=force,
    )
    if rules.keep_tags and not rules.removes_names:
        raise InputError(
            "--keep-tag only spares names from other rules",
            hint="say which names may go with --keep-last or --keep-within",
        )
    return rules


def _settle_containers(store: Store) -> None:
    """Take note of containers that ended unseen, and remove what kills left of others."""
    root = str(store.root)
    if os.path.isdir(f"{root}/containers"):
        if os.geteuid() != 0:
            from layerstore.cli.rootless.containers_namespace import sweep_outside

            sweep_outside(root)
            return
        from layerstore.cli.settings import current_run_base
        from layerstore.containers.lifecycle import sweep

        sweep(root, current_run_base(root))


def _drop_cache(store: Store) -> None:
    # Steps without a layer keep no bytes, so gc leaves them; without their cache nobody asks.
    store.cache_drop([record.key for record in store.cache_records()])


class _Caches(NamedTuple):
    """Cache mounts that nothing uses.

    Attributes:
        going: Those that the rules do not keep.
        resting: Of the others those that are put to rest.
        staying_bytes: Of the rest.
    """

    going: list[IdleCache]
    resting: list[IdleCache]
    staying_bytes: int


def _find_caches(
    store: Store, rules: KeepRules, *, keep_cache: bool, rest_after_s: float
) -> _Caches:
    """Return what is to become of cache mounts that nothing uses.

    Asked before anything is removed: ages are measured from uses of what goes, too. How long
    one has to be idle before it rests is what the clock says, since nothing is lost by it.
    """
    from layerstore.build.run.idle_caches import find_idle_caches
    from layerstore.store.collect.selection import recorded_uses
    from layerstore.store.names.usage import age_reference

    limit = rules.keep_cache_within_s
    idle = find_idle_caches(Path(store.paths.cache_mounts))
    if not keep_cache:
        return _Caches(idle, [], 0)
    going: list[IdleCache] = []
    if limit is not None:
        uses = [cache.used for cache in idle] + recorded_uses(store)
        reference = age_reference(time.time(), uses, trust=rules.trust_clock)
        going = [cache for cache in idle if reference.age_of(cache.used) > limit]
    staying = [cache for cache in idle if cache not in going]
    now = time.time()
    resting = [c for c in staying if c.size and now - c.used >= rest_after_s]
    return _Caches(going, resting, sum(c.size for c in staying if c not in resting))


def _forget_awake(store: Store, resting: list[IdleCache], *, dry_run: bool) -> Dropped:
    """Forget what rests of caches that are awake and stay so; of a dry run return what would go."""
    from layerstore.build.run.resting_caches import awake_keys, forget_awake
    from layerstore.linux.removal import remove_leftover
    from layerstore.store.collect.selection import Dropped

    but = {cache.name for cache in resting}
    if dry_run:
        return Dropped(steps=tuple((key, 0.0) for key in awake_keys(store, but)))
    forget_awake(store, but)
    for path in _half_removed(store):
        remove_leftover(path)  # of one that was killed after its cache was at rest
    return Dropped()


def _without(plan: GcPlan, awake: Dropped) -> GcPlan:
    """Return a plan that does not tell of what was assumed: caches that are awake are not lost."""
    keys = {key for key, _ in awake.steps}
    if not keys:
        return plan
    steps = tuple(step for step in plan.dropped.steps if step[0] not in keys)
    return plan._replace(
        cache_keys=tuple(key for key in plan.cache_keys if key not in keys),
        dropped=plan.dropped._replace(steps=steps),
    )


def _rest_caches(store: Store, caches: list[IdleCache]) -> Rested:
    from layerstore.build.run.resting_caches import put_to_rest

    return put_to_rest(store, caches)


def _remove_caches(store: Store, caches: _Caches) -> _Caches:
    from layerstore.build.run.idle_caches import remove_idle_caches

    return caches._replace(going=remove_idle_caches(Path(store.paths.cache_mounts), caches.going))


def _half_removed(store: Store) -> list[str]:
    from layerstore.build.run.idle_caches import half_removed_caches

    return half_removed_caches(Path(store.paths.cache_mounts))


def _remove_groups() -> None:
    """Remove control groups of builds that were killed together with what cleans up after them."""
    from layerstore.runtime.cgroups import remove_abandoned

    remove_abandoned(everywhere=True)


class _UnpackedRules(NamedTuple):
    """Which unpacked files stay that no view needs.

    Attributes:
        within_s: Those that one needed within so many seconds; None for none at all.
        max_bytes: As long as all take no more.
    """

    within_s: float | None
    max_bytes: int | None


def _keep_unpacked(store: Store, rules: _UnpackedRules, plan: GcPlan) -> KeepUnpacked | None:
    """Return what stays unpacked; asked before anything is removed, as ages of caches are."""
    from layerstore.store.collect.eviction import keep_of_images

    if rules.within_s is None:
        return None
    going = set(plan.images)
    images = [image for image in store.images() if image.image_id not in going]
    trust = plan.rules.keep.trust_clock
    return keep_of_images(store, images, rules.within_s, rules.max_bytes, trust=trust)


def _evict(store: Store, keep: KeepUnpacked | None, *, dry_run: bool) -> Evictable:
    """Remove, or only find, unpacked files that neither a view needs nor a rule keeps."""
    from layerstore.store.collect.eviction import evict, find_evictable

    return find_evictable(store.paths, keep) if dry_run else evict(store.paths, keep)


def _to_json(
    plan: GcPlan, report: GcReport | None, caches: _Caches, unpacked: Evictable
) -> dict[str, object]:
    steps = _steps(plan)
    return {
        "dry_run": report is None,
        "freed_bytes": report.freed_bytes if report else plan.freed_bytes,
        "deferred_bytes": report.deferred_bytes if report else plan.deferred_bytes,
        "written_bytes": report.written_bytes if report else plan.written_bytes,
        "size_after": plan.size_after if plan.measured else None,
        "names": [named.name for named in plan.dropped.names],
        "images": list(plan.images),
        "layers": list(plan.layers),
        "cache_keys": [key for key in steps if not key.startswith(RESTING)],
        "packs_removed": [pack.pack_id.hex() for pack in plan.dead_packs],
        "packs_rewritten": [pack_id.hex() for pack_id in plan.sparse_packs],
        "dangling": list(plan.dangling),
        "clock_doubt": plan.doubt,
        "cache_mounts": len(caches.going),
        "cache_mount_bytes": sum(cache.size for cache in caches.going),
        "cache_mounts_rested": len(caches.resting),
        "cache_mount_rested_bytes": sum(cache.size for cache in caches.resting),
        "resting_cache_mounts": sum(key.startswith(RESTING) for key in steps),
        "unpacked_files": len(unpacked.objects),
        "unpacked_bytes": unpacked.disk_size,
        "unpacked_kept": unpacked.kept,
        "unpacked_recent": unpacked.recent,
        "unpacked_recent_bytes": unpacked.recent_bytes,
        "unpacked_doubt": unpacked.doubt,
    }


def _steps(plan: GcPlan) -> list[str]:
    """Return the keys that go: because of rules, because of their layers, or both."""
    return sorted({*plan.cache_keys, *(key for key, _ in plan.dropped.steps)})


def _print_steps(keys: list[str]) -> None:
    at_rest = sum(key.startswith(RESTING) for key in keys)
    received = sum(map(is_received, keys))
    if steps := len(keys) - at_rest - received:
        write_line(counted(steps, "cached build step"))
    if at_rest:
        write_line(f"{counted(at_rest, 'cache mount')} at rest")
    if received:
        write_line(f"{counted(received, 'layer')} of pulls that did not end")


def _print(
    plan: GcPlan, report: GcReport | None, caches: list[IdleCache], unpacked: Evictable
) -> None:
    from layerstore.units import format_size

    verb = "would free" if report is None else "freed"
    freed, deferred = (
        (plan.freed_bytes, plan.deferred_bytes)
        if report is None
        else (report.freed_bytes, report.deferred_bytes)
    )
    for named in plan.dropped.names:
        write_line(f"name {named.name}")
    for image_id in plan.images:
        write_line(f"image {short_id(image_id)}")
    for diff_id in plan.layers:
        write_line(f"layer {short_id(diff_id)}")
    _print_steps(_steps(plan))
    write_line(f"{verb} {format_size(freed)} ({freed} bytes)")
    if caches:
        size = sum(cache.size for cache in caches)
        many = counted(len(caches), "cache mount")
        write_line(f"{many} with {format_size(size)} ({size} bytes)")
    if unpacked.objects or unpacked.metadata:
        size = unpacked.disk_size  # metadata of views is evicted although their files may stay
        write_line(
            f"{counted(len(unpacked.objects), 'unpacked file')}, with metadata of views "
            f"{format_size(size)} ({size} bytes)"
        )
    if unpacked.recent:
        write_line(
            f"{unpacked.recent} unpacked files with {format_size(unpacked.recent_bytes)} stay: "
            "views needed them lately"
        )
    if unpacked.doubt:
        write_note(f"note: unpacked files stay: {unpacked.doubt}")
    if deferred:
        write_line(f"{format_size(deferred)} more when running commands have ended")
    for reason in plan.dangling:
        write_line(f"nothing is deleted: {reason}")


def _tell_rest(planned: list[IdleCache], rested: Rested | None, *, capped: bool) -> None:
    """Say what was, or would be, put to rest, and what cannot be."""
    from layerstore.units import format_size

    caches = planned if rested is None else rested.caches
    if caches:
        size = sum(cache.size for cache in caches)
        new = "" if rested is None else f", {format_size(rested.new_bytes)} of it new to the store"
        many = counted(len(caches), "cache mount")
        write_line(f"{many} with {format_size(size)} put to rest{new}")
    if caches and rested is None and capped:
        write_note(
            "note: --max-size counts what is put to rest, and only doing it tells how much that is"
        )
    for cache, why in () if rested is None else rested.kept:
        write_note(f"note: cache mount {cache.name} stays a directory: {why}")


def _tell_limits(plan: GcPlan, uncounted: int) -> None:
    """Say what the rules could not do; ``uncounted`` are bytes that no cap counts."""
    from layerstore.units import format_size

    keep = plan.rules.keep
    if plan.doubt:
        write_note(
            f"note: {plan.doubt}, so ages are measured from before; --force believes the clock"
        )
    if keep.max_size is not None and plan.size_after > keep.max_size:
        over = format_size(plan.size_after - keep.max_size)
        hint = "" if keep.removes_names else "; --keep-last or --keep-within let names go"
        write_note(f"note: {over} over --max-size are needed by names, pins or uses{hint}")
    if keep.max_size is not None and uncounted:
        write_note(
            f"note: --max-size does not count cache mounts, which hold {format_size(uncounted)}; "
            "--keep-cache-within lets them go, --rest-caches-after makes them count"
        )


# -- explain


def _explain(context: typer.Context, what: str, *, as_json: bool) -> None:
    from layerstore.store.collect.explain import explain

    with settings_of(context).open_store() as store:
        found = explain(store, what)
    if as_json:
        write_json(
            {
                "kind": found.kind,
                "id": found.what,
                "reasons": [reason._asdict() for reason in found.reasons],
                "layers": [
                    {"diff_id": kept.diff_id, "reasons": [r._asdict() for r in kept.reasons]}
                    for kept in found.layers
                ],
                "packs": [
                    {**pack._asdict(), "pack_id": pack.pack_id.hex()} for pack in found.packs
                ],
            }
        )
    else:
        _print_explanation(found)


def _print_explanation(found: Explanation) -> None:
    from layerstore.units import format_size

    name = found.what if found.kind == "pack" else short_id(found.what)
    if found.reasons:
        write_line(f"{found.kind} {name[:16]} is kept by")
    else:
        write_line(f"{found.kind} {name[:16]} is kept by nothing: gc frees it")
    _print_reasons(found.reasons, "  ")
    for layer in found.layers:
        write_line(f"layer {short_id(layer.diff_id)}{_only(layer, found.reasons)}")
    if found.packs:
        write_line("")
        write_table(
            ["PACK", "SIZE", "NEEDED", "OF THIS", "GOES WITH IT"],
            [
                [
                    pack.pack_id.hex()[:16],
                    format_size(pack.size),
                    f"{format_size(pack.living)} ({100 * pack.living / pack.size:.0f}%)",
                    format_size(pack.own),
                    "yes" if pack.alone else "no",
                ]
                for pack in found.packs
            ],
        )


def _print_reasons(reasons: tuple[Reason, ...], indent: str) -> None:
    for reason in reasons:
        remedy = f"    # {reason.remedy}" if reason.remedy else ""
        write_line(f"{indent}{reason.why}{remedy}")


def _only(layer: LayerKept, known: tuple[Reason, ...]) -> str:
    """Return what else keeps a layer than what keeps the whole."""
    others = list(dict.fromkeys(reason.why for reason in layer.reasons if reason not in known))
    if not others:
        return ""
    more = f" and {len(others) - 4} more" if len(others) > 4 else ""
    return ": also " + ", ".join(others[:4]) + more
