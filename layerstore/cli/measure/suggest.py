"""The suggest command: bases that images could have in common, and steps in a better order."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from layerstore.cli.common import Json, Quiet, settings_of
from layerstore.cli.output import counted, shorten, write_json, write_line, write_table
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.measure.shareable import Refused
    from layerstore.measure.step_order import Move
    from layerstore.measure.suggest import Base, Costs, Group
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

STEP_WIDTH = 60
REFUSED_MAX = 20
"""Reasons that are printed."""


class Suggestions(NamedTuple):
    """What is proposed.

    Attributes:
        measured: What the images take over the proposed bases, for each group that was proved.
    """

    groups: list[Group]
    moves: list[Move]
    measured: Mapping[str, tuple[Costs, Costs]]


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("suggest")(suggest)


def suggest(
    context: typer.Context,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE|SPEC...",
            help="Images by name, Dockerfiles, native specs, directories with one or of such.",
        ),
    ] = None,
    *,
    of_all: Annotated[bool, typer.Option("--all", help="All images that have a name.")] = False,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove", help="Build the proposals, and the specs over them, in a store for that."
        ),
    ] = False,
    native: Annotated[
        bool, typer.Option("--native", help="Print proposals as layerstore.toml.")
    ] = False,
    build_args: Annotated[
        list[str] | None,
        typer.Option(
            "--build-arg", metavar="NAME[=VALUE]", help="For builds of specs; repeatable."
        ),
    ] = None,
    secrets: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            metavar="id=ID[,src=FILE|,env=NAME]",
            help="For builds of specs and proposed bases; ends in no layer. Repeatable.",
        ),
    ] = None,
    progress: Annotated[
        str, typer.Option(metavar="auto|plain|tty|quiet|json", help="How steps are shown.")
    ] = "auto",
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Propose common bases and an order of steps that share more, and say what they would save.

    Specs are built first, without a name; what was built before is in the cache.
    """
    from layerstore.cli.build.ui import check_progress, watching
    from layerstore.cli.measure.suggest_prove import SpecBuilds
    from layerstore.measure.suggest import suggest_bases

    check_progress(progress)
    if bool(what) == of_all:
        raise InputError("name images or specs, or say --all", hint="layerstore suggest A B C")
    named = [word for word in what or () if not os.path.exists(word)]
    specs = [spec for word in what or () if os.path.exists(word) for spec in _specs_in(word)]
    if prove and (of_all or named):
        raise InputError(
            "--prove builds specs over the proposed bases: images cannot be made again",
            hint="name the Dockerfiles instead: layerstore suggest --prove a/Dockerfile b/",
        )
    if specs:
        from layerstore.cli.rootless.own_namespace import become_root

        become_root(settings_of(context))
    with (
        settings_of(context).open_store(create=bool(specs)) as store,
        watching(progress, quiet=quiet) as ui,
    ):
        images = _images(store, named, of_all=of_all)
        builds = SpecBuilds(build_args or (), secrets or (), ui)
        images.update(builds.built(store, specs))
        groups = suggest_bases(store, _distinct(images), _directories(specs))
        measured = builds.proved(store, groups, images) if prove else {}
        found = Suggestions(groups, _moves(store, images), measured)
    if as_json:
        write_json(_to_json(found, native=native))
    else:
        _print(found, native=native)


def _specs_in(word: str) -> list[str]:
    """Return a spec, or of a directory without one the directories in it that have one."""
    from layerstore.build.spec_file import SPEC_NAMES

    def has_spec(folder: str) -> bool:
        return any(os.path.isfile(os.path.join(folder, name)) for name in SPEC_NAMES)

    if not os.path.isdir(word) or has_spec(word):
        return [word]
    folders = (os.path.join(word, name) for name in sorted(os.listdir(word)))
    return [folder for folder in folders if os.path.isdir(folder) and has_spec(folder)] or [word]


def _directories(specs: Sequence[str]) -> dict[str, Path]:
    """Return the build contexts of specs."""
    return {
        spec: Path(spec if os.path.isdir(spec) else os.path.dirname(spec) or ".") for spec in specs
    }


def _images(store: Store, references: Sequence[str], *, of_all: bool) -> dict[str, ImageRecord]:
    if of_all:
        return {name: store.image(image_id) for name, image_id in store.tags().items()}
    return {name: store.resolve(name) for name in references}


def _distinct(images: Mapping[str, ImageRecord]) -> dict[str, ImageRecord]:
    """Return each image once, by the first of its names."""
    first: dict[str, str] = {}
    for name, image in images.items():
        first.setdefault(image.image_id, name)
    return {name: images[name] for name in first.values()}


def _moves(store: Store, images: Mapping[str, ImageRecord]) -> list[Move]:
    """Look at the releases of each repository of which several images were named."""
    from layerstore.formats.reference import split_name
    from layerstore.measure.step_order import suggest_moves

    chosen = {image.image_id: image for image in images.values()}
    releases: dict[str, dict[str, ImageRecord]] = {}
    for name, image_id in store.tags().items():
        if image_id in chosen and "@" not in name:
            releases.setdefault(split_name(name)[0], {})[image_id] = chosen[image_id]
    moves: list[Move] = []
    for repository, some in releases.items():
        ordered = sorted(some.values(), key=lambda image: (image.created, image.image_id))
        moves += suggest_moves(store, repository, ordered)
    return moves


def _print(found: Suggestions, *, native: bool) -> None:
    for group in found.groups:
        if group.bases:
            _print_group(group, found.measured.get(group.images[0]), native=native)
        else:
            write_line(
                f"{_names(group.images)}: nothing is to be gained by a base: above the layers "
                "that they share they have too few packages in common"
            )
        if group.apart:
            write_line(
                f"in several versions: {counted(group.apart, 'package')} of dpkg; images that are "
                "built again on one day have the same"
            )
        _print_refused(group.refused)
        write_line()
    for move in found.moves:
        _print_move(move)
    if not found.groups:
        write_line("no two of the images begin with the same layer: there is no base to share")
    if not found.moves:
        write_line("no step is known to be made again for nothing")


def _print_group(group: Group, measured: tuple[Costs, Costs] | None, *, native: bool) -> None:
    from layerstore.measure.base_specs import NAMELESS, dockerfile_of, native_spec_of

    write_table(
        ["BASE", "FROM", "IMAGES", "PACKAGES", "LAYERS SAVED", "TARS SAVED", "STORED SAVED"],
        [
            [
                base.name,
                base.below or "(no name)",
                str(len(base.images)),
                str(base.package_count),
                *_sizes(base.saved),
            ]
            for base in group.bases
        ],
    )
    for base in group.bases:
        write_line()
        write_line(f"{base.name}, instead of {base.below or 'the base'} in: {_names(base.images)}")
        for line in (native_spec_of if native else dockerfile_of)(base).splitlines():
            write_line(f"    {line}")
        if base.npm_install_in:
            write_line(
                f"say npm install in {_names(base.npm_install_in)}: npm ci removes what a base "
                "has, and installs it anew"
            )
        if not base.below:
            write_line(
                f"{NAMELESS!r} stands for what they are made from, which has no name here: "
                "layerstore tag IMAGE NAME"
            )
    write_line()
    rows = [["now", *_sizes(group.now)], ["predicted", *_sizes(group.predicted)]]
    if measured is not None:
        rows.insert(0, ["measured before", *_sizes(measured[0])])
        rows.append(["measured after", *_sizes(measured[1])])
    write_table([f"{len(group.images)} IMAGES", "LAYERS", "TARS", "STORED"], rows)


def _print_refused(refused: Sequence[Refused]) -> None:
    """Say what is several times there and cannot be in a base; JSON has all names."""
    if refused:
        write_line("no base can have these of pip and npm for all who have them:")
    for each in refused[:REFUSED_MAX]:
        names = _names(each.names)
        write_line(f"    {each.manager} {names} ({_names(each.images)}): {each.why}")
    if len(refused) > REFUSED_MAX:
        write_line(f"    and {len(refused) - REFUSED_MAX} more: --json names them")


def _print_move(move: Move) -> None:
    from layerstore.units import format_size

    write_line(
        f"{move.repository}: made again {move.times} of {move.releases} times with the same "
        f"content, {format_size(move.size)} in layers:"
    )
    write_line(f"    {move.step.number} {shorten(move.step.text, STEP_WIDTH)}")
    write_line("  because of a change in")
    write_line(f"    {move.below.number} {shorten(move.below.text, STEP_WIDTH)}")
    write_line("  put it below that, if it does not need it")
    write_line()


def _names(names: Sequence[str]) -> str:
    more = len(names) - 4
    return ", ".join(names[:4]) + (f" and {more} more" if more > 0 else "")


def _sizes(costs: Costs) -> list[str]:
    from layerstore.units import format_size

    return [format_size(size) for size in costs]


def _to_json(found: Suggestions, *, native: bool) -> dict[str, object]:
    return {
        "groups": [
            _group_to_json(group, found.measured.get(group.images[0]), native=native)
            for group in found.groups
        ],
        "moves": [
            {**move._asdict(), "step": move.step._asdict(), "below": move.below._asdict()}
            for move in found.moves
        ],
    }


def _group_to_json(
    group: Group, measured: tuple[Costs, Costs] | None, *, native: bool
) -> dict[str, object]:
    return {
        "images": list(group.images),
        "base": group.base,
        "bases": [_base_to_json(base, native=native) for base in group.bases],
        "packages_in_several_versions": group.apart,
        "refused": [each._asdict() for each in group.refused],
        "now": group.now._asdict(),
        "predicted": group.predicted._asdict(),
        "measured": None
        if measured is None
        else {"before": measured[0]._asdict(), "after": measured[1]._asdict()},
    }


def _base_to_json(base: Base, *, native: bool) -> dict[str, object]:
    from layerstore.measure.base_specs import dockerfile_of, native_spec_of, place_to_json

    return {
        "name": base.name,
        "from": base.below,
        "images": list(base.images),
        "packages": list(base.packages),
        "others": place_to_json(base.others),
        "npm_install_in": list(base.npm_install_in),
        "package_count": base.package_count,
        "saved": base.saved._asdict(),
        "spec": (native_spec_of if native else dockerfile_of)(base),
    }
