"""Importing libraries that take from ``typing_extensions`` what ``typing`` has here.

That module, with the ``inspect`` that it imports, takes longer than all of msgspec. msgspec asks it
for ``get_type_hints``, ``Required`` and ``NotRequired``, pyfastcdc for ``Literal``, ``Protocol``
and ``Final``: since Python 3.11 these are ``typing``'s own. Why: docs/decisions/0283.
"""

from __future__ import annotations

import contextlib
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_NAME = "typing_extensions"


def load_msgspec() -> None:
    """Import msgspec; call it before anything does that imports it."""
    with _typing_alone():
        import msgspec  # noqa: F401


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
