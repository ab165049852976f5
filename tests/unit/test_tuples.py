from __future__ import annotations

import pickle
import typing

import pytest

from layerstore.light_typing import NamedTuple


class Point(NamedTuple):
    """A place."""

    x: int
    y: int = 2
    names: tuple[NoSuchType, ...] = ()  # type: ignore[name-defined]  # noqa: F821 -- never asked

    @property
    def both(self) -> int:
        return self.x + self.y

    @classmethod
    def origin(cls) -> Point:
        return cls(0, 0)

    def __str__(self) -> str:
        return f"{self.x}:{self.y}"


class _Same(typing.NamedTuple):
    """A place."""

    x: int
    y: int = 2


def test_is_what_typing_makes() -> None:
    made, same = Point(1), _Same(1)
    assert made == (1, 2, ())
    assert made[:2] == same
    assert made._replace(y=5) == (1, 5, ())
    assert Point._fields[:2] == _Same._fields
    assert Point._field_defaults == {"y": 2, "names": ()}
    assert Point.__mro__[1:] == _Same.__mro__[1:]
    assert (Point.__doc__, Point.__module__, Point.__qualname__) == ("A place.", __name__, "Point")
    assert list(Point.__annotations__) == ["x", "y", "names"]


def test_keeps_what_the_class_says() -> None:
    assert Point(1).both == 3
    assert Point.origin() == (0, 0, ())
    assert str(Point(1)) == "1:2"


def test_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(Point(7))) == Point(7)


def test_refuses_fields_without_a_value_behind_those_with_one() -> None:
    with pytest.raises(TypeError):

        class _Wrong(NamedTuple):
            x: int = 1
            y: int  # type: ignore[misc]
