"""Commands about the store itself: check, version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, settings_of
from layerstore.cli.output import short_id, write_json, write_line
from layerstore.cli.progress import terminal_progress
from layerstore.errors import IntegrityError

if TYPE_CHECKING:
    from layerstore.progress import Progress
    from layerstore.store.findings import CheckReport
    from layerstore.store.store import Store


class DamageFoundError(IntegrityError):
    """A check found damage; what it found was printed."""


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("check")(check_store)
    app.command("version")(version)


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
