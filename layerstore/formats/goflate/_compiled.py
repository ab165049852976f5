"""How the encoder's inner loops run: compiled by numba when they are first called.

Needs the extra ``layerstore[go]``; importing this module without it raises ImportError.
"""

from __future__ import annotations

import os
import pickle
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


def run(function: Callable[..., None], *arguments: object) -> None:
    """Call a compiled function; what numba remembers of it and a power cut damaged is made anew."""
    try:
        function(*arguments)
    except (EOFError, pickle.UnpicklingError):  # before anything ran: while it was loaded
        directory = cast("Any", function).stats.cache_path
        for name in os.listdir(directory):
            if name.endswith(".nbi"):
                os.unlink(os.path.join(directory, name))
        function(*arguments)
