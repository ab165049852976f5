"""The command that makes a store smaller in the background."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import DryRun, Json, settings_of
from layerstore.cli.output import counted, write_json, write_line
from layerstore.cli.progress import terminal_progress

if TYPE_CHECKING:
    from layerstore.progress import Progress
    from layerstore.store.rewriting.optimize import OptimizeReport
    from layerstore.store.store import Store


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("optimize")(optimize_store)


def optimize_store(
    context: typer.Context,
    *,
    level: Annotated[
        int, typer.Option(min=1, max=19, help="zstd's level for what is written anew.")
    ] = 19,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make the store smaller: regroup, find differences, compress harder.

    Takes minutes of processor time a gigabyte; builds and mounts go on meanwhile. What
    an earlier run with this level wrote is left alone. Ends with a gc of what became free.
    """
    from layerstore.store.rewriting.optimize import find_cold

    with settings_of(context).open_store() as store:
        cold = find_cold(store, level)
        before = _stored_bytes(store)
        report = None
        if cold.packs and not dry_run:
            with terminal_progress() as progress:
                report = _run(store, level, progress)
        after = _stored_bytes(store)
    if as_json:
        write_json(
            {
                "dry_run": dry_run,
                "cold_packs": len(cold.packs),
                "cold_bytes": cold.stored_bytes,
                "bytes_before": before,
                "bytes_after": after,
                **({} if report is None else report._asdict()),
            }
        )
    else:
        _print(len(cold.packs), cold.stored_bytes, before, after, report, dry_run=dry_run)


def _run(store: Store, level: int, progress: Progress) -> OptimizeReport:
    from layerstore.image.optimize import contents_in_order
    from layerstore.store.collect.gc import execute, plan_gc
    from layerstore.store.rewriting.optimize import optimize

    report = optimize(store, contents_in_order(store), level=level, progress=progress)
    execute(plan_gc(store, measure=False))
    return report


def _stored_bytes(store: Store) -> int:
    return sum(row.size for row in store.catalog.pack_rows() if row.retired is None)


def _print(
    packs: int,
    cold_bytes: int,
    before: int,
    after: int,
    report: OptimizeReport | None,
    *,
    dry_run: bool,
) -> None:
    from layerstore.units import format_size

    if not packs:
        write_line("nothing to do: everything was written with this effort or more")
    elif dry_run:
        write_line(f"would write {counted(packs, 'pack')} of {format_size(cold_bytes)} anew")
    elif report is not None:
        write_line(
            f"{format_size(before)} of packs became {format_size(after)}: "
            f"{counted(report.items, 'item')} moved to {counted(report.packs, 'pack')}"
        )
        if report.skipped:
            write_line(f"{report.skipped} items cannot be read and stay: run 'layerstore check'")
