"""The why command: what made an image, and what changed against the build before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, settings_of
from layerstore.cli.output import short_id, shorten, write_json, write_line, write_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.records import BuildNote
    from layerstore.build.why import StepHistory

LABEL_WIDTH = 45
DATE_DIFFERS_S = 2
"""A layer's date and when it was made are taken one after the other."""


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("why")(why)


def why(
    context: typer.Context,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Name or id.")],
    step: Annotated[
        str | None,
        typer.Argument(
            metavar="STEP",
            help="Its number, STAGE/NUMBER, or how its instruction begins; all by default.",
        ),
    ] = None,
    *,
    as_json: Json = False,
) -> None:
    """Say which steps made an image, when, and what changed against the build before."""
    from layerstore.build.why import builds_of, find_step, step_history

    with settings_of(context).open_store() as store:
        image_id = store.resolve(image).image_id
        builds = builds_of(store, image_id)
        positions = range(len(builds[0].steps)) if step is None else [find_step(builds[0], step)]
        steps = [step_history(store, builds, position) for position in positions]
    if as_json:
        write_json(_build_to_json(image_id, builds[0], steps))
    elif step is None:
        _print_build(image_id, builds[0], steps)
    else:
        _print_step(steps[0])


def _print_build(image_id: str, build: BuildNote, steps: Sequence[StepHistory]) -> None:
    from layerstore.units import format_duration

    names = f" ({', '.join(build.names)})" if build.names else ""
    write_line(f"{short_id(image_id)}{names}, built {_ago(build.finished)}")
    write_line(f"from {build.dockerfile} in {format_duration(build.seconds)}")
    write_line()
    write_table(
        ["#", "STEP", "MADE", "TOOK", "NEW", "SHARED", "SIZE", "BECAUSE"],
        [
            [
                str(each.number),
                shorten(_one_line(each.step.label), LABEL_WIDTH),
                _when(each),
                "" if each.seconds is None else format_duration(each.seconds),
                _size(each.new_bytes),
                _size(each.reused_bytes),
                _size(each.size),
                _because(each),
            ]
            for each in steps
        ],
    )


def _when(step: StepHistory) -> str:
    """Return when a step was made, or the date of its layer, which may be one that was told."""
    return _ago(step.ran) if step.ran is not None else f"dated {_ago(step.step.created)}"


def _because(step: StepHistory) -> str:
    if not step.reasons:
        return ""
    more = len(step.reasons) - 1
    return step.reasons[0].text + (f", and {more} more" if more else "")


def _print_step(step: StepHistory) -> None:
    from layerstore.units import format_duration

    write_line(_one_line(step.step.label))
    made = f"made {_ago(step.ran)}" if step.ran is not None else "made at an unknown time"
    if step.seconds is not None:
        made += (
            f" in {format_duration(step.seconds)}: {_size(step.new_bytes)} new, "
            f"{_size(step.reused_bytes)} shared"
        )
    write_line(made)
    if step.ran is None or abs(step.ran - step.step.created) >= DATE_DIFFERS_S:
        write_line(f"dated {_rfc3339(step.step.created)} in the image")
    layer = "it changed nothing, so there is none"
    if step.step.layer is not None:
        layer = f"{step.step.layer}, {_size(step.size) or 'gone'}"
    write_line(f"layer: {layer}")
    if step.unchanged_since is not None:
        write_line(f"the same since the build {_ago(step.unchanged_since)}")
    if step.compared_with is not None:
        write_line(f"it is not what it was in the build {_ago(step.compared_with)}, because")
    elif step.reasons:
        write_line("it ran, because")
    for reason in step.reasons:
        write_line(f"  {reason.text}")


def _build_to_json(
    image_id: str, build: BuildNote, steps: Sequence[StepHistory]
) -> dict[str, object]:
    return {
        "image": image_id,
        "names": list(build.names),
        "context": build.context,
        "dockerfile": build.dockerfile,
        "target": build.target,
        "finished": _rfc3339(build.finished),
        "seconds": build.seconds,
        "steps": [
            {
                "number": each.number,
                "label": each.step.label,
                "instruction": each.step.text,
                "cached": each.step.cached,
                "created": _rfc3339(each.step.created),
                "ran": _rfc3339(each.ran),
                "layer": each.step.layer,
                "size": each.size,
                "seconds": each.seconds,
                "new_bytes": each.new_bytes,
                "reused_bytes": each.reused_bytes,
                "unchanged_since": _rfc3339(each.unchanged_since),
                "compared_with": _rfc3339(each.compared_with),
                "reasons": [reason._asdict() for reason in each.reasons],
            }
            for each in steps
        ],
    }


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _size(size: int | None) -> str:
    from layerstore.units import format_size

    return "" if size is None else format_size(size)


def _rfc3339(seconds: float | None) -> str | None:
    from layerstore.units import rfc3339

    return None if seconds is None else rfc3339(seconds)


def _ago(seconds: float) -> str:
    import time

    from layerstore.cli.output import age

    words = age(_rfc3339(seconds) or "", time.time())
    return words[:1].lower() + words[1:]
