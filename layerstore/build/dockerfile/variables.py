"""The variables of a stage, which stay small together."""

from __future__ import annotations

from collections import UserDict
from typing import TYPE_CHECKING

from layerstore.build.dockerfile import limits

if TYPE_CHECKING:
    from collections.abc import Sized

    from layerstore.build.dockerfile.syntax import SourceSpan


class Variables(UserDict[str, str]):
    """Values by name.

    Each change is counted when it is made: to count all of them after each instruction would
    take time in the square of the file.
    """

    def __init__(self, values: UserDict[str, str] | dict[str, str] | None = None) -> None:
        self._characters = 0
        super().__init__(values or {})

    def __setitem__(self, name: str, value: str) -> None:
        """Set a variable."""
        if name in self.data:
            self._characters -= self._cost(name)
        self.data[name] = value
        self._characters += self._cost(name)

    def __delitem__(self, name: str) -> None:
        """Unset a variable."""
        self._characters -= self._cost(name)
        del self.data[name]

    def check(self, span: SourceSpan) -> None:
        """Refuse an environment that has grown absurdly large; call it after each ENV and ARG.

        Raises:
            LimitExceededError: More than `limits.MAX_ENVIRONMENT_BYTES` in all, or
                `limits.MAX_VARIABLES`.
        """
        if self._characters > limits.MAX_ENVIRONMENT_BYTES:
            what = f"the variables have {self._characters:,} characters"
            raise limits.limit_exceeded(span, what, limits.MAX_ENVIRONMENT_BYTES)
        check_count(self.data, span)

    def _cost(self, name: str) -> int:
        return len(name) + len(self.data[name]) + 2  # as the kernel counts: = and the end


def check_count(variables: Sized, span: SourceSpan) -> None:
    """Refuse too many variables, with a value or without.

    Raises:
        LimitExceededError: More than `limits.MAX_VARIABLES`.
    """
    if len(variables) > limits.MAX_VARIABLES:
        raise limits.limit_exceeded(span, "there are too many variables", limits.MAX_VARIABLES)
