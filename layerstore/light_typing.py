"""A few names of ``typing`` without the time it takes, for what commands that run in loops import.

To import ``typing`` takes 3 ms, a tenth of what an answer from the cache takes. Its ``NamedTuple``
compiles the annotation of every field to find out early that one is no type; mypy finds that
out, too, and the forty tuples of a ``run`` cost 3 ms. To mypy these are the names of ``typing``.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any as Any
    from typing import NamedTuple as NamedTuple
    from typing import NewType as NewType
    from typing import NoReturn as NoReturn
    from typing import Protocol as Protocol
    from typing import Self as Self
    from typing import TypedDict as TypedDict
else:
    from collections import namedtuple

    Protocol = object
    Any = NoReturn = Self = None  # for annotations, which nobody evaluates

    class TypedDict(dict):
        """A dict, whatever a class says of its keys."""

        def __init_subclass__(cls, *, total: bool = True) -> None:
            """Take note of nothing."""

    def NewType(_name: str, of: type) -> type:  # noqa: N802 -- as typing calls it
        """Return the type itself."""
        return of

    class _OfAnnotations(type):
        """Makes a named tuple of a class body, whose annotated names are the fields."""

        def __new__(cls, name: str, _bases: object, body: dict[str, Any]) -> type:
            fields = body.get("__annotations__", {})
            optional = [field for field in fields if field in body]
            if optional != list(fields)[len(fields) - len(optional) :]:
                raise TypeError(f"{name}: a field without a default follows one that has one")
            defaults = [body[field] for field in optional]
            made = namedtuple(  # noqa: PYI024 -- what typing calls, too
                name, fields, defaults=defaults, module=body["__module__"]
            )
            for key, value in body.items():
                if key not in fields and key != "__orig_bases__":
                    setattr(made, key, value)
            return made

    NamedTuple = type.__new__(_OfAnnotations, "NamedTuple", (), {})
