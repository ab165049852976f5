"""How the encoder's inner loops run: compiled by numba when they are first called.

Needs the extra ``layerstore[go]``; importing this module without it raises ImportError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Return a function's compiled form, which is remembered between processes if it can be.

    Compiling takes seconds. numba keeps the result beside the module or in the user's cache
    directory, under the module's age; where it finds neither, each process compiles. It runs
    beside other threads.
    """
    try:
        made: Any = numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:  # no directory to write to
        made = numba.njit(nogil=True)(function)
    return cast("Function", made)
