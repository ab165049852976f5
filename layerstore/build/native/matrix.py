"""Arguments of a spec and the variants that its matrix makes. Pure."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import nearest
from layerstore.build.native.limits import MAX_AXIS_VALUES, MAX_VARIANTS, limit_exceeded
from layerstore.build.native.templates import NAME
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from layerstore.build.native.reader import Node

EXCLUDE = "exclude"


class Variant(NamedTuple):
    """One combination of the matrix's values; the only one is empty if there is no matrix."""

    values: tuple[tuple[str, str], ...]

    @property
    def label(self) -> str:
        """Return ``python=3.12,os=slim``, empty without a matrix."""
        return ",".join(f"{name}={value}" for name, value in self.values)


def argument_defaults(node: Node | None) -> dict[str, str]:
    """Return the arguments that ``[args]`` declares, with their defaults.

    Raises:
        SpecError: Not a table of strings, or a name that cannot stand in ``{{...}}``.
    """
    if node is None:
        return {}
    if not isinstance(node.value, dict):
        raise SpecError('args is a table: name = "default"', node.span)
    values = {}
    for name, item in node.value.items():
        _check_name(name, item)
        values[name] = _scalar(item, f"the argument {name}")
    return values


def variants(node: Node | None, args: Mapping[str, str]) -> list[Variant]:
    """Return every combination of the values in ``[matrix]``, first axis slowest.

    Axes are taken in the order of their names, so that the order in the file says nothing.

    Args:
        node: The table, None if there is none.
        args: Names that are taken.

    Raises:
        SpecError: Not a table of lists, a name that is taken, or nothing is left.
        LimitExceededError: More than ``MAX_VARIANTS`` combinations.
    """
    if node is None:
        return [Variant(())]
    if not isinstance(node.value, dict):
        raise SpecError('matrix is a table: name = ["value", ...]', node.span)
    axes = {
        name: _axis(name, item, args)
        for name, item in sorted(node.value.items())
        if name != EXCLUDE
    }
    count = 1
    for values in axes.values():
        count *= len(values)
        if count > MAX_VARIANTS:
            raise limit_exceeded(node.key_span, "the matrix has too many variants", MAX_VARIANTS)
    excluded = list(_excluded(node.get(EXCLUDE), axes))
    made = [
        Variant(tuple(zip(axes, row, strict=True))) for row in itertools.product(*axes.values())
    ]
    left = [each for each in made if not any(rule <= set(each.values) for rule in excluded)]
    if not left:
        raise SpecError("the matrix excludes every variant", node.span_of(EXCLUDE))
    return left


def chosen(all_variants: Sequence[Variant], wanted: Sequence[str]) -> list[Variant]:
    """Return the variants that match what ``--variant`` says.

    Args:
        all_variants: Of the spec.
        wanted: ``axis=value[,axis=value...]`` each; a variant matches if it has all of one.

    Raises:
        InputError: Something matches nothing.
    """
    if not wanted:
        return list(all_variants)
    rules = [_rule(text) for text in wanted]
    for text, rule in zip(wanted, rules, strict=True):
        if not any(rule <= set(each.values) for each in all_variants):
            labels = [each.label for each in all_variants if each.label]
            hint = "the variants are: " + "; ".join(labels[:20]) if labels else None
            raise InputError(f"no variant is {text!r}", hint=hint or "the spec has no matrix")
    return [each for each in all_variants if any(rule <= set(each.values) for rule in rules)]


def _rule(text: str) -> set[tuple[str, str]]:
    pairs = set()
    for part in text.split(","):
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise InputError(f"{text!r} is not a variant", hint="--variant AXIS=VALUE[,AXIS=VALUE]")
        pairs.add((name, value))
    return pairs


def _axis(name: str, node: Node, args: Mapping[str, str]) -> tuple[str, ...]:
    _check_name(name, node)
    if name in args:
        raise SpecError(f"{name} is an argument already", node.key_span)
    if not isinstance(node.value, list) or not node.value:
        raise SpecError(f"matrix.{name} is a list of values", node.span)
    if len(node.value) > MAX_AXIS_VALUES:
        raise limit_exceeded(node.key_span, f"matrix.{name} has too many values", MAX_AXIS_VALUES)
    values = tuple(_scalar(item, f"a value of matrix.{name}") for item in node.value)
    for index, value in enumerate(values):
        if value in values[:index]:
            raise SpecError(f"matrix.{name} has {value!r} twice", node.value[index].span)
        if not value or any(char in value for char in ",=\n\0"):
            raise SpecError(
                f"a value of matrix.{name} is empty or holds a comma, = or a line's end",
                node.value[index].span,
            )
    return values


def _excluded(
    node: Node | None, axes: Mapping[str, tuple[str, ...]]
) -> Iterator[set[tuple[str, str]]]:
    if node is None:
        return
    if not isinstance(node.value, list):
        raise SpecError("matrix.exclude is a list of tables", node.span)
    for item in node.value:
        if not isinstance(item.value, dict) or not item.value:
            raise SpecError('an item of matrix.exclude is a table: { axis = "value" }', item.span)
        rule = set()
        for name, value in item.value.items():
            if name not in axes:
                near = nearest(name, list(axes))
                hint = f"did you mean {near}?" if near else "the axes are " + ", ".join(axes)
                raise SpecError(f"the matrix has no axis {name!r}", value.key_span, hint=hint)
            text = _scalar(value, f"a value of {name}")
            if text not in axes[name]:
                raise SpecError(f"matrix.{name} has no value {text!r}", value.span)
            rule.add((name, text))
        yield rule


def _check_name(name: str, node: Node) -> None:
    if not NAME.fullmatch(name):
        raise SpecError(
            f"{name!r} cannot stand in {{{{...}}}}", node.key_span,
            hint="a name is made of letters, digits, _ and -, and begins with no digit",
        )  # fmt: skip


def _scalar(node: Node, what: str) -> str:
    if not isinstance(node.value, str):
        raise SpecError(f"{what} is no string", node.span, hint="put it in quotes")
    return node.value
