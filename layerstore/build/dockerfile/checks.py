"""Which build checks run, and whether they end a build: ``# check=``.

The build argument BUILDKIT_DOCKERFILE_CHECK says it in the same words.

Source: docker's "Checking your build configuration"; the rules are `layerstore.build.lint`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.hints import suggestion

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import SourceSpan

ALL = "all"
_OPTIONS = ("skip", "error", "experimental")
_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")


class CheckOptions(NamedTuple):
    """Which checks run.

    Attributes:
        skip: Names of rules, or ``all``, that do not; experimental ones do not care for ``all``.
        experimental: Names of experimental rules, or ``all``, that run as well.
        is_error: Findings end the build before its first step.
    """

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    is_error: bool = False

    def runs(self, name: str, *, experimental: bool) -> bool:
        """Return whether the rule of that name runs."""
        if name in self.skip:
            return False
        if experimental:
            return ALL in self.experimental or name in self.experimental
        return ALL not in self.skip


def parse_check(value: str, span: SourceSpan) -> CheckOptions:
    """Return the options that a text such as ``skip=RULE,RULE;error=true`` gives.

    Raises:
        SpecError: An option that does not exist, or a value it cannot have.
    """
    given: dict[str, str] = {}
    for option in value.split(";"):
        key, equals, text = option.partition("=")
        if key.strip() not in _OPTIONS or not equals:
            hint = suggestion(
                key.strip() if equals else "", _OPTIONS, "write skip=RULE,RULE;error=true"
            )
            raise SpecError(f"{option.strip()!r} is not an option of check", span, hint=hint)
        given[key.strip()] = text.strip()
    is_error = given.get("error", "false").lower()
    if is_error not in (*_TRUE, *_FALSE):
        raise SpecError(f"error of a check cannot be {given['error']!r}", span, hint="error=true")
    return CheckOptions(
        _names(given.get("skip", "")), _names(given.get("experimental", "")), is_error in _TRUE
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())
