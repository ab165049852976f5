"""From nodes to the typed records of a spec, with every mistake at its place.

Driven by the records' own annotations, so a key exists in one place only. ``msgspec.convert``
would do the same without places.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import inspect

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import nearest

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.native.reader import Node

_Record = TypeVar("_Record", bound=msgspec.Struct)

_WORDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "a whole number"),
    (str, "a string"),
    (dict, "a table"),
    (list, "a list"),
)


def decode(record: type[_Record], node: Node, what: str) -> _Record:
    """Return the record that a table describes.

    Args:
        record: Its type.
        node: The table.
        what: What the table is, for messages: ``the spec``.

    Raises:
        SpecError: An unknown key, a missing one, or a value of another type.
    """
    made = _struct(_type_of(record), node, what)
    assert isinstance(made, record)
    return made


@cache
def _type_of(record: type) -> inspect.StructType:
    found = inspect.type_info(record)
    assert isinstance(found, inspect.StructType)
    return found


def _struct(kind: inspect.StructType, node: Node, what: str) -> object:
    if not isinstance(node.value, dict):
        raise _wrong(node, what, ["a table"])
    fields = {field.encode_name: field for field in kind.fields}
    values: dict[str, object] = {}
    for key, item in node.value.items():
        field = fields.get(key)
        if field is None:
            raise unknown_key(key, fields, item.key_span, what)
        values[field.name] = _value(field.type, item, key)
    for field in kind.fields:
        if field.required and field.name not in values:
            raise SpecError(f"{what} needs the key {field.encode_name!r}", node.key_span)
    return kind.cls(**values)


def unknown_key(key: str, known: dict[str, Any], span: SourceSpan, what: str) -> SpecError:
    """Return the error for a key that means nothing, with the nearest that does."""
    near = nearest(key, list(known))
    hint = f"did you mean {near}?" if near else "the keys are " + ", ".join(sorted(known))
    return SpecError(f"{what} has no key {key!r}", span, hint=hint)


def _value(kind: inspect.Type, node: Node, what: str) -> object:
    match kind:
        case inspect.UnionType(types=types):
            return _union(types, node, what)
        case inspect.StructType():
            return _struct(kind, node, what)
        case inspect.DictType(value_type=below):
            if not isinstance(node.value, dict):
                raise _wrong(node, what, ["a table"])
            return {key: _value(below, item, f"{what}.{key}") for key, item in node.value.items()}
        case inspect.VarTupleType(item_type=below):
            if not isinstance(node.value, list):
                raise _wrong(node, what, ["a list"])
            return tuple(_value(below, item, f"an item of {what}") for item in node.value)
        case inspect.LiteralType(values=values):
            return _literal(values, node, what)
        case inspect.StrType():
            return _text(node, what)
        case inspect.BoolType():
            if not isinstance(node.value, bool):
                raise _wrong(node, what, ["true or false"])
            return node.value
        case inspect.IntType():
            return _number(kind, node, what)
    raise AssertionError(f"{kind} is not decoded")


def _text(node: Node, what: str) -> str:
    if not isinstance(node.value, str):
        raise _wrong(node, what, ["a string"])
    if "\0" in node.value:
        raise SpecError(f"{what} holds a NUL character", node.span)
    return node.value


def _number(kind: inspect.IntType, node: Node, what: str) -> int:
    value = node.value
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(node, what, ["a whole number"])
    low = kind.ge if kind.ge is not None else value
    high = kind.le if kind.le is not None else value
    if not low <= value <= high:
        raise SpecError(f"{what} is {value}, expected {low} to {high}", node.span)
    return value


def _literal(values: tuple[Any, ...], node: Node, what: str) -> object:
    if node.value in values and isinstance(node.value, str):
        return node.value
    words = ", ".join(map(repr, values))
    if not isinstance(node.value, str):
        raise _wrong(node, what, [f"one of {words}"])
    near = nearest(node.value, list(values))
    hint = f"did you mean {near}?" if near else f"it is one of {words}"
    raise SpecError(f"{what} cannot be {node.value!r}", node.span, hint=hint)


def _union(kinds: tuple[inspect.Type, ...], node: Node, what: str) -> object:
    """Return the value as the one kind that its TOML type can be."""
    for kind in kinds:
        if _fits(kind, node.value):
            return _value(kind, node, what)
    raise _wrong(node, what, [_word_for(kind) for kind in kinds if not _is_none(kind)])


def _fits(kind: inspect.Type, value: object) -> bool:
    match kind:
        case inspect.StructType() | inspect.DictType():
            return isinstance(value, dict)
        case inspect.VarTupleType():
            return isinstance(value, list)
        case inspect.StrType() | inspect.LiteralType():
            return isinstance(value, str)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool)
    return False


def _is_none(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.NoneType)


def _word_for(kind: inspect.Type) -> str:
    match kind:
        case inspect.StructType() | inspect.DictType():
            return "a table"
        case inspect.VarTupleType():
            return "a list"
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return "a whole number"
    return "a string"


def _wrong(node: Node, what: str, expected: list[str]) -> SpecError:
    got = next(
        (word for kind, word in _WORDS if isinstance(node.value, kind)), "a date or a fraction"
    )
    return SpecError(f"{what} is {got}, expected {' or '.join(expected)}", node.span)
