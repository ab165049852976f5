"""The JSON schema of ``layerstore.toml``, for editors that complete and check TOML by one."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from layerstore.build.native.spec import Spec

TITLE = "layerstore.toml"
_ATTRIBUTE = re.compile(r"^ *([a-z][a-z-]*): (.*)$")


def schema() -> dict[str, Any]:
    """Return the schema; descriptions come from the records' docstrings."""
    made = msgspec.json.schema(Spec)
    definitions: dict[str, Any] = made.pop("$defs")
    for definition in definitions.values():
        _describe(definition)
    top = definitions.pop("Spec")
    for key, member in definitions["StageSpec"]["properties"].items():
        top["properties"][key].setdefault("description", member["description"])
    top["title"] = TITLE
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **top,
        "$defs": dict(sorted(definitions.items())),
    }


def _describe(definition: dict[str, Any]) -> None:
    """Split a record's docstring into the table's description and its keys'."""
    text = definition.get("description", "")
    summary, _, attributes = text.partition("\n\n")
    definition["description"] = " ".join(summary.split())
    for line in attributes.splitlines():
        found = _ATTRIBUTE.match(line)
        if found and found[1] in definition["properties"]:
            definition["properties"][found[1]]["description"] = found[2]
