"""Importing libraries without the modules of which they need next to nothing.

msgspec and pyfastcdc take from ``typing_extensions`` what ``typing`` has here. That module, with
the ``inspect`` that it imports, takes longer than all of msgspec. msgspec asks it
for ``get_type_hints``, ``Required`` and ``NotRequired``, pyfastcdc for ``Literal``, ``Protocol``
and ``Final``: since Python 3.11 these are ``typing``'s own. Why: docs/decisions/0283.
"""

from __future__ import annotations

import contextlib
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "typing_extensions"
_PLATFORM = "platform"


def load_msgspec() -> None:
    """Import msgspec; call it before anything does that imports it."""
    with _typing_alone(), _no_platform():
        import msgspec  # noqa: F401


def load_zstandard() -> None:
    """Import zstandard; call it before anything does that imports it."""
    with _no_platform():
        import zstandard  # noqa: F401


def load_cutter() -> None:
    """Import what cuts long content, while nobody waits for it; who needs it tells if it cannot."""
    with contextlib.suppress(ImportError), _typing_alone():
        import pyfastcdc  # noqa: F401


@contextlib.contextmanager
def _typing_alone() -> Iterator[None]:
    """Have ``typing`` stand for its extensions, unless somebody has imported those."""
    import typing

    if sys.modules.setdefault(_NAME, typing) is not typing:
        yield
        return
    try:
        yield
    finally:
        del sys.modules[_NAME]


@contextlib.contextmanager
def _no_platform() -> Iterator[None]:
    """Have something small stand for ``platform``, unless somebody has imported that.

    It compiles nine regular expressions, in 3 ms. zstandard asks it what interpreter this is, and
    ``uuid``, which msgspec imports, what system; nothing else.
    """
    if sys.implementation.name != "cpython" or _PLATFORM in sys.modules:
        yield
        return
    stand_in = type(sys)(_PLATFORM)
    vars(stand_in).update(
        python_implementation=lambda: "CPython", system=lambda: os.uname().sysname
    )
    sys.modules[_PLATFORM] = stand_in
    try:
        yield
    finally:
        del sys.modules[_PLATFORM]
