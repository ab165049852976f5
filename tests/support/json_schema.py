"""JSON held against a schema: the part of JSON Schema that the project's own schemas use.

Stricter than the standard in one thing: a key that no schema describes is a fault, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_KNOWN = {
    "$ref", "type", "anyOf", "enum", "items", "prefixItems", "minItems", "maxItems", "properties",
    "required", "additionalProperties", "default", "title", "description",
}  # fmt: skip


def faults(value: Any, schema: Any, defs: dict[str, Any], at: str = "$") -> Iterator[str]:
    """Yield what is wrong with a value, each with its place."""
    assert schema.keys() <= _KNOWN, schema.keys() - _KNOWN
    if "$ref" in schema:
        yield from faults(value, defs[schema["$ref"].removeprefix("#/$defs/")], defs, at)
        return
    if "anyOf" in schema:
        each = [list(faults(value, option, defs, at)) for option in schema["anyOf"]]
        yield from min(each, key=len)
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{at}: {value!r} is none of {schema['enum']}"
    if "type" in schema and not _TYPES[schema["type"]](value):
        yield f"{at}: {value!r} is no {schema['type']}"
    elif schema.get("type") == "array":
        yield from _of_array(value, schema, defs, at)
    elif schema.get("type") == "object":
        yield from _of_object(value, schema, defs, at)


def _of_array(
    value: list[Any], schema: dict[str, Any], defs: dict[str, Any], at: str
) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{at}: {len(value)} items"
    first = schema.get("prefixItems", [])
    for number, item in enumerate(value):
        own = first[number] if number < len(first) else schema.get("items", {})
        if own is not False:
            yield from faults(item, own, defs, f"{at}[{number}]")


def _of_object(
    value: dict[str, Any], schema: dict[str, Any], defs: dict[str, Any], at: str
) -> Iterator[str]:
    known = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{at}: {name} is missing"
    for name, item in value.items():
        if name in known:
            yield from faults(item, known[name], defs, f"{at}.{name}")
        elif "additionalProperties" in schema:
            yield from faults(item, schema["additionalProperties"], defs, f"{at}.{name}")
        else:
            yield f"{at}: {name} is described nowhere"
