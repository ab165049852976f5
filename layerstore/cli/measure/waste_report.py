"""What images could do without, as tables for people and as JSON."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import msgspec

from layerstore.cli.output import shorten, write_line, write_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.measure.gate import Verdict
    from layerstore.measure.steps import Step
    from layerstore.measure.waste import Finding, ImageWaste, Waste
    from layerstore.measure.waste_steps import StepTotal

STEP_WIDTH = 44
"""Characters of an instruction in a table."""


def print_waste(found: Waste, names: Mapping[str, str], limit: int | None) -> None:
    """Print the findings of one image, or the rankings of causes and steps over several.

    Args:
        found: What was found.
        names: Of the images, by their ids.
        limit: Rows of each table, None for all.
    """
    if len(found.images) == 1:
        _print_image(found.images[0], names[found.images[0].image_id], limit)
    else:
        _print_causes(found, names, limit)


def _print_image(image: ImageWaste, name: str, limit: int | None) -> None:
    write_line(f"{name}: {_sums(image)}")
    if not image.findings:
        return
    shown = image.findings[:limit]
    write_line()
    write_table(
        ["SIZE", "STORED HERE", "RULE", "CAUSE", "FILES", "STEP", "BECAUSE OF"],
        [
            [
                _size(each.size),
                _size(each.stored),
                f"{each.rule}{' (advice)' if each.advice else ''}",
                each.cause,
                str(each.files),
                _step(each.step),
                "" if each.by is None else _step(each.by),
            ]
            for each in shown
        ],
    )
    if len(image.findings) > len(shown):
        write_line(f"and {len(image.findings) - len(shown)} more: --limit 0 lists all")
    write_line()
    _print_fixes(shown)


def _print_fixes(findings: Sequence[Finding]) -> None:
    """Print each fix once for its step, with the largest path that it is about."""
    told = set()
    for each in findings:
        if (each.step.number, each.fix) in told:
            continue
        told.add((each.step.number, each.fix))
        largest = each.paths[0]
        write_line(f"{_step(each.step)}")
        write_line(f"    /{os.fsdecode(largest.path)} {_size(largest.size)}")
        write_line(f"    {each.fix}")


def _print_causes(found: Waste, names: Mapping[str, str], limit: int | None) -> None:
    write_table(
        ["SIZE", "STORED HERE", "RULE", "CAUSE", "FILES", "IMAGES"],
        [
            [
                _size(each.size),
                _size(each.stored),
                f"{each.rule}{' (advice)' if each.advice else ''}",
                each.cause,
                str(each.files),
                str(each.images),
            ]
            for each in found.causes[:limit]
        ],
    )
    write_line("shared layers are counted once")
    write_line()
    _print_steps(found.steps[:limit], names)
    ranked = sorted(found.images, key=lambda image: -image.size())
    write_table(
        ["IMAGE", "LAYERS", "WASTED", "", "STORED HERE"],
        [
            [
                names[image.image_id],
                _size(image.layers_size),
                _size(image.size()),
                _percent(image),
                _size(image.stored()),
            ]
            for image in ranked[:limit]
        ],
    )


def _print_steps(steps: Sequence[StepTotal], names: Mapping[str, str]) -> None:
    write_table(
        ["SIZE", "STORED HERE", "RULE", "CAUSE", "STEP", "IMAGES"],
        [
            [
                _size(each.size),
                _size(each.stored),
                f"{each.rule}{' (advice)' if each.advice else ''}",
                each.cause,
                shorten(f"{each.where} {each.text}".rstrip(), STEP_WIDTH),
                _some(each.images, names),
            ]
            for each in steps
        ],
    )
    write_line("layerstore waste IMAGE says what to type")
    write_line()


def _some(images: Sequence[str], names: Mapping[str, str]) -> str:
    more = len(images) - 1
    return names[images[0]] + (f" and {more} more" if more else "")


def _sums(image: ImageWaste) -> str:
    return (
        f"{_size(image.size())} of {_size(image.layers_size)} in its layers are needless "
        f"({_percent(image)}), {_size(image.stored())} of them are stored here"
    )


def _percent(image: ImageWaste) -> str:
    share = image.size() / image.layers_size if image.layers_size else 0.0
    return f"{100 * share:.1f}%"


def _step(step: Step) -> str:
    return f"{step.number} {shorten(step.words, STEP_WIDTH)}".rstrip()


def _size(size: int) -> str:
    from layerstore.units import format_size

    return format_size(size)


def waste_to_json(
    found: Waste, names: Mapping[str, str], verdicts: Mapping[str, Sequence[Verdict]]
) -> dict[str, object]:
    """Return everything as JSON has it."""
    return {
        "images": [
            _image_to_json(image, names[image.image_id], verdicts[names[image.image_id]])
            for image in found.images
        ],
        "causes": [msgspec.structs.asdict(each) for each in found.causes],
        "steps": [msgspec.to_builtins(each) for each in found.steps],
    }


def _image_to_json(image: ImageWaste, name: str, verdicts: Sequence[Verdict]) -> dict[str, object]:
    return {
        "name": name,
        "image": image.image_id,
        "layers_size": image.layers_size,
        "size": image.size(),
        "stored": image.stored(),
        "verdicts": [
            {
                "check": each.check,
                "size": each.size,
                "limit": each.limit,
                "kept": each.is_kept,
            }
            for each in verdicts
        ],
        "findings": [_finding_to_json(each) for each in image.findings],
    }


def _finding_to_json(finding: Finding) -> dict[str, object]:
    return {
        **finding._asdict(),
        "step": finding.step._asdict(),
        "by": None if finding.by is None else finding.by._asdict(),
        "paths": [
            {"path": "/" + os.fsdecode(each.path), "size": each.size} for each in finding.paths
        ],
    }
