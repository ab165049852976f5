"""The commands that find damage and heal it: check, repair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import DryRun, Json, settings_of
from layerstore.cli.output import counted, short_id, write_json, write_line
from layerstore.cli.progress import terminal_progress
from layerstore.errors import InputError, IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from layerstore.digest import ImageId
    from layerstore.image.repairing import Loss, RepairOutcome
    from layerstore.progress import Progress
    from layerstore.store.check.findings import CheckReport, Finding
    from layerstore.store.check.glean import Gleaned

FILES_SHOWN = 10
"""Paths named for one finding; --json has them all."""

_From = Annotated[
    list[str] | None,
    typer.Option(
        "--from",
        metavar="COPY",
        help="Another store, a root file system (directory or tar), an OCI layout (directory or "
        "tar) that may hold what is lost; may be repeated.",
    ),
]


class DamageFoundError(IntegrityError):
    """A check found damage; what it found was printed."""


class DataLostError(IntegrityError):
    """A repair could not bring everything back; what is lost was printed."""


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("check")(check_store)
    app.command("repair")(repair)


def check_store(
    context: typer.Context,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE]...", help="Only these images and what they need."),
    ] = None,
    *,
    read_data: Annotated[
        bool, typer.Option("--read-data", help="Read and verify every byte.")
    ] = False,
    repair_too: Annotated[
        bool, typer.Option("--repair", help="The same as 'layerstore repair' without copies.")
    ] = False,
    rebuild_index: Annotated[
        bool,
        typer.Option("--rebuild-index", help="First make the catalog again from the packs."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check the store and report what is damaged."""
    from layerstore.store.check.check import check

    settings = settings_of(context)
    if images and (repair_too or rebuild_index):
        raise InputError("--repair and --rebuild-index are about the whole store, not one image")
    with terminal_progress() as progress:
        losses = _rebuild(settings.root, progress, as_json=as_json) if rebuild_index else []
        if repair_too:
            _repair(settings.root, (), progress, dry_run=False, as_json=as_json)
            return
        with settings.open_store() as store:
            only = [store.resolve(image).image_id for image in images or ()]
            report = check(store, read_data=read_data, only=only, progress=progress)
    if as_json:
        rebuilt = {"losses": losses} if rebuild_index else {}
        write_json({**_check_to_json(report), **rebuilt})
    else:
        _print_check(report)
    if losses:
        raise DamageFoundError(
            f"the index was made again, but {losses[0]}"
            + (f", and {len(losses) - 1} more losses" if losses[1:] else ""),
            hint="import or build again what is lost, "
            "or run 'layerstore repair' with --from and a copy",
        )
    if not report.ok:
        errors = sum(finding.is_error for finding in report.findings)
        raise DamageFoundError(
            f"the check found {errors} {'error' if errors == 1 else 'errors'}",
            hint=next(finding.remedy for finding in report.findings if finding.is_error),
        )


def _rebuild(root: str, progress: Progress, *, as_json: bool) -> list[str]:
    """Make the catalog again; return what is lost."""
    from layerstore.store.rebuild.rebuild import rebuild_catalog

    report = rebuild_catalog(root, progress)
    if not as_json:
        write_line(
            f"rebuilt the index: {_count(report.packs, 'pack')}, "
            f"{_count(report.layers, 'layer')}, {_count(report.images, 'image')}, "
            f"{_count(report.tags, 'name')}"
        )
        for loss in report.losses:
            write_line(f"lost: {loss}")
    return report.losses


def _check_to_json(report: CheckReport) -> dict[str, object]:
    fields = report._asdict()
    del fields["lost_items"], fields["dependent_items"]
    return {
        **fields,
        "harmed_layers": sorted(report.harmed_layers),
        "ok": report.ok,
        "scope": report.scope,
        "findings": [_finding_to_json(finding) for finding in report.findings],
    }


def _finding_to_json(finding: Finding) -> dict[str, object]:
    files = [file._asdict() for file in finding.files]
    return {
        **finding._asdict(),
        "files": files,
        "error": finding.is_error,
        "remedy": finding.remedy,
    }


def _print_check(report: CheckReport) -> None:
    for alike in _alike(report.findings):
        finding = alike[0]
        kind = "error" if finding.is_error else "note"
        write_line(f"{kind}: {finding.problem}: {finding.message} ({finding.where})")
        if alike[1:]:
            write_line(f"  and {len(alike) - 1} more like it; --json names all")
        for image_id in sorted({image_id for each in alike for image_id in each.images}):
            write_line(f"  harms image {short_id(image_id)}")
        _print_paths(sorted({file.path for each in alike for file in each.files}))
        if not finding.is_error:
            write_line(f"  {finding.remedy}")
    verdict = "ok" if report.ok else "damaged"
    write_line(
        f"{verdict}, {report.scope}: {_count(report.images, 'image')}, "
        f"{_count(report.layers, 'layer')}, {_count(report.packs, 'pack')}, "
        f"{_count(report.chunks, 'chunk')}, {_count(report.blobs, 'blob')}"
    )
    write_line(_what_was_read(report))


def _alike(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Return findings that say the same together: a lost pack harms thousands of chunks alike."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.problem, finding.message), []).append(finding)
    return list(groups.values())


def _what_was_read(report: CheckReport) -> str:
    from layerstore.units import format_size

    rate = report.bytes_read / report.seconds if report.seconds else 0
    speed = f", {format_size(int(rate))}/s" if report.read_data else ""
    return f"read {format_size(report.bytes_read)} of packs in {report.seconds:.1f} s{speed}"


def _print_paths(paths: Sequence[str]) -> None:
    for path in paths[:FILES_SHOWN]:
        write_line(f"    {path}")
    if len(paths) > FILES_SHOWN:
        write_line(f"    and {len(paths) - FILES_SHOWN} more; --json names all")


def repair(
    context: typer.Context,
    *,
    copies: _From = None,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Heal what is damaged, from the store itself and from copies."""
    settings = settings_of(context)
    with terminal_progress() as progress:
        _repair(settings.root, copies or (), progress, dry_run=dry_run, as_json=as_json)


def _repair(
    root: str, copies: Sequence[str], progress: Progress, *, dry_run: bool, as_json: bool
) -> None:
    from layerstore.image.repairing import repair_store

    outcome = repair_store(root, copies, dry_run=dry_run, progress=progress)
    names: dict[str, list[str]] = {}
    for name, image_id in outcome.names.items():
        names.setdefault(image_id, []).append(name)
    if as_json:
        write_json(_outcome_to_json(outcome, names))
    else:
        _print_outcome(outcome, names)
    if not outcome.ok:
        count = len(outcome.losses)
        raise DataLostError(
            f"{count} {'loss remains' if count == 1 else 'losses remain'}"
            if count
            else "the store is not whole yet",
            hint="repair again with --from and a copy, or import or build the harmed images again",
        )


def _outcome_to_json(outcome: RepairOutcome, names: dict[str, list[str]]) -> dict[str, object]:
    return {
        "ok": outcome.ok,
        "dry_run": outcome.dry_run,
        "found": [_finding_to_json(finding) for finding in outcome.before.findings],
        "from_itself": outcome.itself._asdict(),
        "sources": [
            {**source._asdict(), "gleaned": source.gleaned._asdict()} for source in outcome.sources
        ],
        "packs_moved": outcome.moved.packs,
        "chunks_saved": outcome.moved.saved_chunks,
        "chunks_lost": outcome.moved.lost_chunks,
        "unpacked_removed": outcome.unpacked,
        "remade_config": outcome.config,
        "rebuilt_index": outcome.rebuilt is not None,
        "cache_keys": list(outcome.cache_keys),
        "losses": [
            {**loss._asdict(), "names": _names_of(loss.images, names)} for loss in outcome.losses
        ],
    }


def _names_of(images: Iterable[ImageId], names: dict[str, list[str]]) -> list[str]:
    return [name for image_id in images for name in names.get(image_id, [])]


def _print_outcome(outcome: RepairOutcome, names: dict[str, list[str]]) -> None:
    would = "would be " if outcome.dry_run else ""
    findings = outcome.before.findings
    if outcome.config:
        write_line(
            "config.toml would be made again"
            if outcome.dry_run
            else "made config.toml again: what was there is in quarantine/"
        )
    write_line(f"{outcome.before.scope}: {len(findings) or 'nothing'} found")
    for alike in _alike(findings):
        more = f", and {len(alike) - 1} more like it" if alike[1:] else ""
        write_line(f"  {alike[0].problem}: {alike[0].message} ({alike[0].where}){more}")
    if outcome.itself:
        write_line(f"{would}healed from the store itself: {_amount(outcome.itself)}")
    for source in outcome.sources:
        write_line(f"{would}healed from {source.path} ({source.kind}): {_amount(source.gleaned)}")
        if source.problem is not None:
            write_line(f"  it could not be read to its end: {source.problem}")
    moved = outcome.moved
    if moved.packs:
        saved = f"{_count(moved.saved_chunks, 'chunk')} saved first"
        write_line(f"{would}moved to quarantine/: {_count(moved.packs, 'pack')}, {saved}")
    if outcome.unpacked:
        write_line(
            f"{would}removed, for the next view to unpack anew: "
            f"{_count(outcome.unpacked, 'unpacked file')}"
        )
    if outcome.rebuilt is not None:
        write_line(f"made the index again: {_count(outcome.rebuilt.images, 'image')}")
    if outcome.cache_keys:
        write_line(
            f"forgot {_count(len(outcome.cache_keys), 'build step')} of layers that lost data"
        )
    for loss in outcome.losses:
        _print_loss(loss, names)
    if outcome.ok:
        ahead = outcome.dry_run and (findings or outcome.config)
        write_line("the store would be whole then" if ahead else "the store is whole")


def _amount(gleaned: Gleaned) -> str:
    parts = [
        _count(number, what)
        for number, what in (
            (gleaned.items, "chunk"),
            (gleaned.layers, "layer"),
            (gleaned.blobs, "manifest or config"),
        )
        if number
    ]
    return ", ".join(parts) or "nothing"


def _count(number: int, what: str) -> str:
    return counted(number, what, "manifests and configs" if what == "manifest or config" else "")


def _print_loss(loss: Loss, names: dict[str, list[str]]) -> None:
    shown = _names_of(loss.images, names) or [short_id(image_id) for image_id in loss.images]
    whose = f"image {', '.join(shown)}" if shown else "no image"
    layer = f", layer {short_id(loss.layer)}" if loss.layer else ""
    write_line(f"lost: {whose}{layer}: {loss.what}")
    _print_paths(loss.files)
