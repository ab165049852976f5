"""How the encoder's inner loops run: compiled by numba when they are first called.

What numba remembers is executed as it is read, so it lies where nobody else writes, under a
digest of all of this package's source: numba itself asks only for that of the function's own
module, not for those of modules that it calls. Needs the extra ``layerstore[go]``; importing
this module without it raises ImportError.
"""

from __future__ import annotations

import contextlib
import glob
import os
import pickle
import stat
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import numba

if TYPE_CHECKING:
    from collections.abc import Callable

    Function = TypeVar("Function", bound=Callable[..., Any])

_config: Any = numba.config


def compiled(function: Function) -> Function:
    """Return a function's compiled form, which is remembered between processes if it can be.

    Compiling takes seconds. The result is kept in ``NUMBA_CACHE_DIR`` or the user's cache
    directory; where that is not safe, or full, each process compiles. It runs beside other
    threads.
    """
    made: Any = None
    if _DIRECTORY is not None:
        before, _config.CACHE_DIR = _config.CACHE_DIR, _DIRECTORY
        try:
            made = numba.njit(cache=True, nogil=True)(function)
        except RuntimeError:  # it cannot be written any more, nor can what numba tries then
            made = None
        finally:
            _config.CACHE_DIR = before
    if made is None or not made.stats.cache_path.startswith(_DIRECTORY):
        made = numba.njit(nogil=True)(function)
    else:
        made._cache = _Memory(made._cache)
    return cast("Function", made)


class _Memory:
    """What numba remembers of a function, in the place of its own: what fails is made anew.

    Files may be damaged by a power cut, and the disk full or read-only since they were looked
    for; numba would raise that from the call of the function.
    """

    def __init__(self, kept: Any) -> None:  # noqa: ANN401 -- numba has no types
        self._kept = kept
        self.cache_path: str = kept.cache_path

    def load_overload(self, *asked: object) -> object:
        try:
            return self._kept.load_overload(*asked)
        except (EOFError, pickle.UnpicklingError):
            self._forget()
        except OSError:
            pass
        return None

    def save_overload(self, *made: object) -> None:
        with contextlib.suppress(OSError, EOFError, pickle.UnpicklingError):
            self._kept.save_overload(*made)

    def _forget(self) -> None:
        for path in glob.glob(f"{glob.escape(self.cache_path)}/*.nbi"):
            with contextlib.suppress(OSError):  # another process's doing, or it stays as it is
                os.unlink(path)


def _directory() -> str | None:
    """Return where what is compiled can be remembered, None if nowhere is safe."""
    base = _config.CACHE_DIR or os.path.expanduser("~/.cache/layerstore")
    if _config.DISABLE_JIT or not os.path.isabs(base):
        return None
    path = os.path.join(base, f"goflate-{_source_digest()}")
    try:
        os.makedirs(path, 0o700, exist_ok=True)
        return path if is_ours(path) else None
    except OSError:
        return None


def _source_digest() -> str:
    here = os.path.dirname(__file__)
    digest = sha256()
    for name in sorted(name for name in os.listdir(here) if name.endswith(".py")):
        with open(os.path.join(here, name), "rb") as file:
            digest.update(sha256(file.read()).digest())
    return digest.hexdigest()[:16]


def is_ours(path: str) -> bool:
    """Tell whether nobody else but root can write a directory, or put another in its place."""
    path, owners = os.path.realpath(path), {0, os.geteuid()}
    own = os.stat(path)
    if own.st_uid != os.geteuid() or own.st_mode & 0o022:
        return False
    while path != "/":
        path = os.path.dirname(path)
        found = os.stat(path)
        is_open = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
        if found.st_uid not in owners or is_open:
            return False
    return True


_DIRECTORY: Final = _directory()
