"""``{{name}}`` in the strings of a spec: arguments, and the values of a variant.

Braces around anything but a name stay as they are, so that shell and Go templates in commands
need no escapes; ``{{!name}}`` is ``{{name}}`` itself. What a value holds is not expanded again.
``{{env.NAME}}`` is left for the place that knows the environment. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import nearest
from layerstore.build.native.limits import (
    MAX_EXPANDED_CHARS,
    MAX_EXPANDED_TOTAL_CHARS,
    limit_exceeded,
)
from layerstore.build.native.reader import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from layerstore.build.dockerfile.syntax import SourceSpan

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,127}", re.ASCII)
_FIELD = re.compile(
    r"\{\{(!?)[ \t]{0,8}((?:env\.)?[A-Za-z_][A-Za-z0-9_-]{0,127})[ \t]{0,8}\}\}", re.ASCII
)
_ENVIRONMENT = "env."


class Expander:
    """Expands strings with one set of values and remembers which were used.

    Attributes:
        used: Names that some string held.

    Args:
        values: By name.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._total = 0
        self.used: set[str] = set()

    def node(self, node: Node, *, in_environment: bool = False) -> Node:
        """Return a node with every string below it expanded; keys stay as they are.

        Raises:
            SpecError: A name that nothing defines.
            LimitExceededError: The strings grow beyond the limits.
        """
        value = node.value
        if isinstance(value, dict):
            below = {
                key: self.node(item, in_environment=in_environment or key == "env")
                for key, item in value.items()
            }
            return Node(below, node.span, node.key_span)
        if isinstance(value, list):
            items = [self.node(item, in_environment=in_environment) for item in value]
            return Node(items, node.span, node.key_span)
        if isinstance(value, str) and "{{" in value:
            text = self.text(value, node.span, in_environment=in_environment)
            return Node(text, node.span, node.key_span)
        return node

    def text(self, text: str, span: SourceSpan, *, in_environment: bool = False) -> str:
        """Return one string, expanded."""

        def replacement(name: str) -> str | None:
            if name.startswith(_ENVIRONMENT):
                if in_environment:
                    return None
                raise SpecError(
                    f"{{{{{name}}}}} means something in env only", span,
                    hint=f"in a command the shell knows it: ${name.removeprefix(_ENVIRONMENT)}",
                )  # fmt: skip
            if name not in self._values:
                raise _undefined(name, self._values, span)
            self.used.add(name)
            return self._values[name]

        expanded = substitute(text, replacement, span)
        self._total += len(expanded)
        if self._total > MAX_EXPANDED_TOTAL_CHARS:
            raise limit_exceeded(
                span, "the expanded strings are too long together", MAX_EXPANDED_TOTAL_CHARS
            )
        return expanded


def expand_environment(text: str, env: Mapping[str, str], span: SourceSpan) -> str:
    """Return a value of ``env`` with ``{{env.NAME}}`` replaced; unset names are empty."""

    def replacement(name: str) -> str | None:
        return env.get(name.removeprefix(_ENVIRONMENT), "")

    return substitute(text, replacement, span, only=_ENVIRONMENT)


def substitute(
    text: str, replacement: Callable[[str], str | None], span: SourceSpan, *, only: str = ""
) -> str:
    """Return ``text`` with its fields replaced.

    Args:
        text: What to look through.
        replacement: Returns a name's value, None to leave the field alone.
        span: For messages.
        only: Fields whose names do not begin so are left alone.

    Raises:
        LimitExceededError: The result is longer than ``MAX_EXPANDED_CHARS``.
    """
    parts: list[str] = []
    size = end = 0
    for found in _FIELD.finditer(text):
        if not found[2].startswith(only):
            continue
        if found[1]:
            value: str | None = None if only else "{{" + found[2] + "}}"
        else:
            value = replacement(found[2])
        piece = text[end : found.start()] + (found[0] if value is None else value)
        parts.append(piece)
        end = found.end()
        size += len(piece)
        if size > MAX_EXPANDED_CHARS:
            raise limit_exceeded(span, "the expanded string is too long", MAX_EXPANDED_CHARS)
    return "".join(parts) + text[end:]


def _undefined(name: str, values: Mapping[str, str], span: SourceSpan) -> SpecError:
    near = nearest(name, sorted(values))
    hint = f"did you mean {{{{{near}}}}}?" if near else f'define it: [args] {name} = "..."'
    hint += f"; {{{{!{name}}}}} is the text itself"
    return SpecError(f"nothing defines {{{{{name}}}}}", span, hint=hint)
