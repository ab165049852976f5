"""``build --call=targets`` and ``--call=outline``, as buildx prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.cli.build.calls import location
from layerstore.cli.output import printable, write_json, write_line, write_table

if TYPE_CHECKING:
    from layerstore.build.checking import Checked
    from layerstore.build.outline import Need, Outline


def tell_targets(checked: Checked, *, as_json: bool) -> None:
    """Print the stages of a Dockerfile."""
    from layerstore.build.outline import targets

    found = targets(checked.tree(), checked.lines)
    if as_json:
        write_json(
            {
                "targets": [
                    {
                        "name": each.name,
                        "default": each.is_default,
                        "description": each.description,
                        "base": each.stage.base,
                        "platform": each.stage.platform or "",
                        "location": location(each.stage.span),
                    }
                    for each in found
                ]
            }
        )
        return
    rows = []
    for each in found:
        mark = " (default)" if each.is_default else ""
        rows.append((f"{each.name or each.stage.index}{mark}", printable(each.description)))
    write_table(("TARGET", "DESCRIPTION"), rows)


def tell_outline(checked: Checked, target: str | None, *, as_json: bool) -> None:
    """Print what a target takes, by default the last stage.

    Raises:
        SpecError: There is no such stage.
    """
    from layerstore.build.lower import target_stage
    from layerstore.build.outline import outline

    stage = target_stage(checked.tree(), target)
    found = outline(checked.tree(), checked.lines, checked.around, stage)
    if as_json:
        write_json(_outline_json(found))
        return
    write_line(f"TARGET:      {found.target.name or 'default'}")
    if found.target.description:
        write_line(f"DESCRIPTION: {printable(found.target.description)}")
    if found.arguments:
        write_line()
        write_table(
            ("BUILD ARG", "VALUE", "DESCRIPTION"),
            [
                (each.name, printable(each.value or ""), printable(each.description))
                for each in found.arguments
            ],
        )
    for kind, title in (("secret", "SECRET"), ("ssh", "SSH")):
        needs = _of(found, kind)
        if needs:
            write_line()
            rows = [(printable(e.name), str(e.is_required).lower()) for e in needs]
            write_table((title, "REQUIRED"), rows)


def _of(found: Outline, kind: str) -> list[Need]:
    return [need for need in found.needs if need.kind == kind]


def _outline_json(found: Outline) -> dict[str, object]:
    return {
        "name": found.target.name,
        "description": found.target.description,
        "args": [
            {
                "name": each.name,
                "value": each.value,
                "description": each.description,
                "location": location(each.span),
            }
            for each in found.arguments
        ],
        "secrets": [_need(each) for each in _of(found, "secret")],
        "ssh": [_need(each) for each in _of(found, "ssh")],
        "cache": [
            {"ID": each.name, "location": location(each.span)} for each in _of(found, "cache")
        ],
    }


def _need(need: Need) -> dict[str, object]:
    return {"name": need.name, "required": need.is_required, "location": location(need.span)}
