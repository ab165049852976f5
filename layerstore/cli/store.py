"""Commands about the store itself: gc, version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import DryRun, Json, settings_of
from layerstore.cli.output import short_id, write_json, write_line
from layerstore.cli.progress import terminal_progress

if TYPE_CHECKING:
    from layerstore.store.gc import GcPlan, GcReport
    from layerstore.store.store import Store


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("gc")(collect_garbage)
    app.command("version")(version)


def collect_garbage(
    context: typer.Context,
    *,
    dry_run: DryRun = False,
    drop_cache: Annotated[
        bool, typer.Option("--all", "-a", help="Give up the build cache as well.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Free what nothing needs any more."""
    from layerstore.store.gc import execute, plan_gc

    with settings_of(context).open_store() as store:
        with terminal_progress() as progress:
            plan = plan_gc(store, keep_cache=not drop_cache, progress=progress)
            report = None if dry_run else execute(plan)
        if drop_cache and not dry_run:
            _drop_cache(store)
    if as_json:
        write_json(_gc_to_json(plan, report))
    else:
        _print_gc(plan, report)


def _drop_cache(store: Store) -> None:
    # Steps without a layer keep no bytes, so gc leaves them; without their cache nobody asks.
    store.cache_drop([record.key for record in store.cache_records()])


def _gc_to_json(plan: GcPlan, report: GcReport | None) -> dict[str, object]:
    return {
        "dry_run": report is None,
        "freed_bytes": report.freed_bytes if report else plan.freed_bytes,
        "deferred_bytes": report.deferred_bytes if report else plan.deferred_bytes,
        "images": list(plan.images),
        "layers": list(plan.layers),
        "cache_keys": list(plan.cache_keys),
        "packs_removed": [pack.pack_id.hex() for pack in plan.dead_packs],
        "packs_rewritten": [pack_id.hex() for pack_id in plan.sparse_packs],
        "dangling": list(plan.dangling),
    }


def _print_gc(plan: GcPlan, report: GcReport | None) -> None:
    from layerstore.units import format_size

    verb = "would free" if report is None else "freed"
    freed, deferred = (
        (plan.freed_bytes, plan.deferred_bytes)
        if report is None
        else (report.freed_bytes, report.deferred_bytes)
    )
    for image_id in plan.images:
        write_line(f"image {short_id(image_id)}")
    for diff_id in plan.layers:
        write_line(f"layer {short_id(diff_id)}")
    if plan.cache_keys:
        write_line(f"{len(plan.cache_keys)} cached build steps")
    write_line(f"{verb} {format_size(freed)} ({freed} bytes)")
    if deferred:
        write_line(f"{format_size(deferred)} more when running commands have ended")
    for reason in plan.dangling:
        write_line(f"nothing is deleted: {reason}")


def print_version(wanted: bool) -> None:
    """Print the version and end, for ``--version``."""
    if wanted:
        from importlib import metadata

        write_line(f"layerstore {metadata.version('layerstore')}")
        raise typer.Exit


def version(*, as_json: Json = False) -> None:
    """Print versions."""
    import platform
    import sqlite3
    from importlib import metadata

    from layerstore.store.config import FORMAT_VERSION

    versions: dict[str, object] = {
        "layerstore": metadata.version("layerstore"),
        "store_format": FORMAT_VERSION,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "kernel": platform.release(),
    }
    if as_json:
        write_json(versions)
        return
    for name, value in versions.items():
        write_line(f"{name.replace('_', ' ')} {value}")
