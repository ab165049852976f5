"""Commands about the store itself: gc, check, version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import DryRun, Json, settings_of
from layerstore.cli.output import short_id, write_json, write_line
from layerstore.cli.progress import terminal_progress
from layerstore.errors import IntegrityError

if TYPE_CHECKING:
    from layerstore.progress import Progress
    from layerstore.store.findings import CheckReport
    from layerstore.store.gc import GcPlan, GcReport
    from layerstore.store.store import Store


class DamageFoundError(IntegrityError):
    """A check found damage; what it found was printed."""


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("gc")(collect_garbage)
    app.command("check")(check_store)
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


def check_store(
    context: typer.Context,
    *,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read and verify every byte.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Move damaged packs aside and keep what is good in them."),
    ] = False,
    rebuild_index: Annotated[
        bool,
        typer.Option("--rebuild-index", help="First make the catalog again from the packs."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the store and report what is damaged."""
    from layerstore.store.check import check

    settings = settings_of(context)
    with terminal_progress() as progress:
        if rebuild_index:
            _rebuild(settings.root, progress, as_json=as_json)
        with settings.open_store() as store:
            report = check(store, read_data=read_data or repair, progress=progress)
            if repair and not report.ok:
                _repair(store, report, as_json=as_json)
                report = check(store, read_data=True, progress=progress)
    if as_json:
        write_json(_check_to_json(report))
    else:
        _print_check(report)
    if not report.ok:
        errors = sum(finding.is_error for finding in report.findings)
        raise DamageFoundError(
            f"the check found {errors} {'error' if errors == 1 else 'errors'}",
            hint=next(finding.remedy for finding in report.findings if finding.is_error),
        )


def _rebuild(root: str, progress: Progress, *, as_json: bool) -> None:
    from layerstore.store.rebuild import rebuild_catalog

    report = rebuild_catalog(root, progress)
    if not as_json:
        write_line(
            f"rebuilt the index: {report.packs} packs, {report.layers} layers, "
            f"{report.images} images, {report.tags} names"
        )


def _repair(store: Store, report: CheckReport, *, as_json: bool) -> None:
    from layerstore.store.repair import execute_repair, plan_repair

    plan = plan_repair(store, report)
    done = execute_repair(plan)
    if as_json:
        return
    write_line(
        f"moved {done.packs} packs to quarantine: {done.saved_chunks} chunks saved, "
        f"{done.lost_chunks} lost"
    )
    for image_id in plan.images:
        write_line(f"image {short_id(image_id)} lost data: import or build it again")


def _check_to_json(report: CheckReport) -> dict[str, object]:
    return {
        **report._asdict(),
        "ok": report.ok,
        "scope": report.scope,
        "findings": [
            {**finding._asdict(), "error": finding.is_error, "remedy": finding.remedy}
            for finding in report.findings
        ],
    }


def _print_check(report: CheckReport) -> None:
    for finding in report.findings:
        kind = "error" if finding.is_error else "note"
        write_line(f"{kind}: {finding.problem}: {finding.message} ({finding.where})")
        for image_id in finding.images:
            write_line(f"  harms image {short_id(image_id)}")
        if not finding.is_error:
            write_line(f"  {finding.remedy}")
    verdict = "ok" if report.ok else "damaged"
    write_line(
        f"{verdict}, {report.scope}: {report.images} images, {report.layers} layers, "
        f"{report.packs} packs, {report.chunks} chunks, {report.blobs} blobs"
    )


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
