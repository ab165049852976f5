"""The waste command: what images could do without, and whether they keep limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, settings_of
from layerstore.cli.output import write_json, write_note
from layerstore.errors import GateError, InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.measure.gate import Verdict, WasteLimit
    from layerstore.measure.waste import Waste
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

ROWS_SHOWN = 20


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("waste")(waste)


def waste(
    context: typer.Context,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE...", help="Names or ids.")
    ] = None,
    *,
    of_all: Annotated[bool, typer.Option("--all", help="All images that have a name.")] = False,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            "-f",
            metavar="DOCKERFILE",
            help="Of images that were built elsewhere: tell their steps by the lines of this file.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=0, help="At most so many rows of a table, 0 for all.")
    ] = ROWS_SHOWN,
    max_waste: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[RULE=]SIZE|PERCENT",
            help="Fail if an image wastes more, in all or by one rule; may be repeated.",
        ),
    ] = None,
    max_new_bytes: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Fail if an image needs more stored bytes of its own."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="With --max-new-bytes: beyond this image, not beyond all others of the store.",
        ),
    ] = None,
    junit: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write the verdicts as a JUnit report, - for stdout."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what images could do without: which step made it, and what to type instead.

    Exits with 17 if a limit is not kept.
    """
    from layerstore.cli.measure.step_places import step_places, with_dockerfile
    from layerstore.cli.measure.waste_report import print_waste, waste_to_json
    from layerstore.cli.outfile import STDIO
    from layerstore.measure.gate import parse_limit
    from layerstore.measure.waste import take_waste
    from layerstore.units import parse_size

    if bool(images) == of_all:
        raise InputError("name images, or say --all", hint="layerstore waste IMAGE")
    if file is not None and of_all:
        raise InputError("--file explains the images that you name: leave out --all")
    if junit == STDIO and as_json:
        raise InputError("stdout takes one of --json and --junit -", hint="--junit waste.xml")
    limits = [parse_limit(text) for text in max_waste or ()]
    most = None if max_new_bytes is None else parse_size(max_new_bytes)
    if since is not None and most is None:
        raise InputError("--since is for --max-new-bytes", hint="--max-new-bytes 50m --since BASE")
    with settings_of(context).open_store() as store:
        chosen = _chosen(store, images or ())
        places = step_places(store)
        if file is not None:
            places = with_dockerfile(store, places, file)
        found = take_waste(store, list(chosen.values()), places, packages=as_json)
        verdicts = _verdicts(store, chosen, found, limits, most, since)
    if junit is not None:
        _write_junit(junit, verdicts)
    names: dict[str, str] = {image.image_id: name for name, image in chosen.items()}
    if as_json:
        write_json(waste_to_json(found, names, verdicts))
    elif junit != STDIO:  # there the report is alone
        print_waste(found, names, limit or None)
    _fail(verdicts)


def _chosen(store: Store, references: Sequence[str]) -> dict[str, ImageRecord]:
    """Return images by what they are called here; one image has one name."""
    if references:
        pairs = [(name, store.resolve(name)) for name in references]
    else:
        pairs = [(name, store.image(image_id)) for name, image_id in store.tags().items()]
    names: dict[str, ImageRecord] = {}
    seen = set()
    for name, image in pairs:
        if image.image_id not in seen:
            seen.add(image.image_id)
            names[name] = image
    return names


def _verdicts(
    store: Store,
    chosen: Mapping[str, ImageRecord],
    found: Waste,
    limits: Sequence[WasteLimit],
    most: int | None,
    since: str | None,
) -> dict[str, list[Verdict]]:
    from layerstore.measure.gate import judge

    by_id = {image.image_id: image for image in found.images}
    return {
        name: judge(
            by_id[image.image_id],
            limits,
            None if most is None else _new_bytes(store, image, most, since),
        )
        for name, image in chosen.items()
    }


def _new_bytes(store: Store, image: ImageRecord, most: int, since: str | None) -> Verdict:
    """Judge the stored bytes that an image needs beyond another one, or beyond all others."""
    from layerstore.measure.beyond import layers_beyond
    from layerstore.measure.gate import Verdict

    if since is not None:
        known = set(store.resolve(since).layers)
    else:
        others = [each for each in store.images() if each.image_id != image.image_id]
        known = {diff_id for each in others for diff_id in each.layers}
    beyond = layers_beyond(store, image.layers, known)
    than = since or "all other images of the store"
    lines = (f"{len(beyond.layers)} of {len(image.layers)} layers are not in {than}",)
    return Verdict("new-bytes", beyond.stored_size, most, lines)


def _write_junit(path: str, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    from layerstore.cli.clock import now_rfc3339
    from layerstore.cli.outfile import output_stream
    from layerstore.measure.junit import junit_xml

    created = now_rfc3339().partition(".")[0].removesuffix("Z")
    with output_stream(path, what="a report") as stream:
        stream.write(junit_xml(verdicts, created=created))


def _fail(verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    broken = [(name, each) for name, some in verdicts.items() for each in some if not each.is_kept]
    if not broken:
        return
    for name, verdict in broken[1:]:
        write_note(f"layerstore: error: {name}: {verdict.words}")
    name, first = broken[0]
    raise GateError(f"{name}: {first.words}", hint=f"layerstore waste {name} says what to type")
