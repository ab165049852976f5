"""Reading the fields of decoded JSON objects with messages that say where.

A :class:`Fields` wraps one object; every getter checks the type, ``null`` means
absent (Go programs write it for empty lists and maps), and what no getter asked
for is handed back by :meth:`Fields.rest`, so that unknown fields survive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from layerstore.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

_T = TypeVar("_T")

MAX_INT64 = 2**63 - 1


def object_at(value: object, where: str) -> dict[str, object]:
    """Return ``value`` if it is a JSON object.

    Raises:
        FormatError: It is anything else.
    """
    if not isinstance(value, dict):
        raise FormatError(f"{where} is {kind_of(value)}, expected an object")
    return value


def kind_of(value: object) -> str:
    """Return what a JSON value is, in words for messages."""
    if value is None:
        return "null"
    kinds = {bool: "a boolean", dict: "an object", list: "a list", str: "a string"}
    return kinds.get(type(value), "a number")


class Fields:
    """Typed access to one JSON object.

    Args:
        value: The decoded value; anything but an object is refused.
        where: Path of the object in its document, for messages: ``"manifest.layers[3]"``.
    """

    __slots__ = ("_known", "_values", "where")

    def __init__(self, value: object, where: str) -> None:
        self._values = object_at(value, where)
        self._known: set[str] = set()
        self.where = where

    def text(self, key: str, default: str = "") -> str:
        """Return a string field, ``default`` when absent."""
        value = self._take(key)
        return default if value is None else self._checked_text(value, key)

    def required_text(self, key: str) -> str:
        """Return a string field that must be there and not be empty."""
        value = self.text(key)
        if not value:
            raise FormatError(f"{self.where}.{key} is missing")
        return value

    def integer(
        self, key: str, default: int = 0, *, low: int = -MAX_INT64 - 1, high: int = MAX_INT64
    ) -> int:
        """Return an integer field between ``low`` and ``high``; ``1.0`` and ``1e3`` are refused."""
        value = self._take(key)
        if value is None:
            return default
        if not isinstance(value, int) or isinstance(value, bool):
            raise FormatError(f"{self.where}.{key} is {_shown(value)}, expected an integer")
        if not low <= value <= high:
            raise FormatError(f"{self.where}.{key} is {value}, expected {low} to {high}")
        return value

    def optional_integer(self, key: str) -> int | None:
        """Return an integer field, None when absent."""
        return self.integer(key) if self._take(key) is not None else None

    def present(self, key: str) -> bool:
        """Return whether a field is there and not null; it still has to be read."""
        return self._values.get(key) is not None

    def boolean(self, key: str) -> bool:
        """Return a boolean field, False when absent."""
        value = self._take(key)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise FormatError(f"{self.where}.{key} is {_shown(value)}, expected true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings, None when absent."""
        items = self.items(key)
        if items is None:
            return None
        return tuple(self._checked_text(item, f"{key}[{n}]") for n, item in enumerate(items))

    def words(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings that old writers gave as one bare string."""
        value = self._values.get(key)
        if isinstance(value, str):
            self._known.add(key)
            return (value,)
        return self.texts(key)

    def items(self, key: str) -> list[object] | None:
        """Return a list of anything, None when absent."""
        value = self._take(key)
        if value is not None and not isinstance(value, list):
            raise FormatError(f"{self.where}.{key} is {_shown(value)}, expected a list")
        return value

    def mapping(self, key: str) -> dict[str, str]:
        """Return an object whose values are strings, empty when absent."""
        members = self.members(key)
        return {
            name: self._checked_text("" if value is None else value, f"{key}[{name[:100]!r}]")
            for name, value in members.items()
        }

    def members(self, key: str) -> dict[str, object]:
        """Return an object of anything, empty when absent."""
        value = self._take(key)
        return {} if value is None else object_at(value, f"{self.where}.{key}")

    def part(self, key: str, read: Callable[[object, str], _T]) -> _T | None:
        """Return what ``read(value, where)`` makes of a field, None when absent."""
        value = self._take(key)
        return None if value is None else read(value, f"{self.where}.{key}")

    def parts(self, key: str, read: Callable[[object, str], _T]) -> tuple[_T, ...]:
        """Return what ``read`` makes of every item of a list, empty when absent."""
        items = self.items(key) or []
        return tuple(read(item, f"{self.where}.{key}[{n}]") for n, item in enumerate(items))

    def rest(self) -> dict[str, object]:
        """Return the fields that nobody asked for.

        Raises:
            FormatError: One of them differs from a known field only by case. Go's reader
                takes either for the known one, so the document would mean two things.
        """
        folded = {key.casefold() for key in self._known}
        unknown = {key: value for key, value in self._values.items() if key not in self._known}
        for key in unknown:
            if key.casefold() in folded:
                raise FormatError(f"{self.where}.{key[:100]} is a known field in the wrong case")
        return unknown

    def _take(self, key: str) -> object:
        self._known.add(key)
        return self._values.get(key)

    def _checked_text(self, value: object, key: str) -> str:
        if not isinstance(value, str):
            raise FormatError(f"{self.where}.{key} is {_shown(value)}, expected a string")
        if "\0" in value:
            raise FormatError(f"{self.where}.{key} holds a NUL character")
        return value


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if isinstance(value, int | float) and len(shown) < 40 else kind_of(value)
