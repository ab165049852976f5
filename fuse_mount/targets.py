"""Directories that views are mounted at: resolved, and none that would hide the store."""

from __future__ import annotations

import errno
import os
import stat

from layerstore.errors import InputError


def checked_target(store_root: str, target: str) -> str:
    """Return a directory to mount at, resolved.

    Raises:
        InputError: It is missing, no directory, or would hide the store.
    """
    resolved = outside_of_store(store_root, target)
    try:
        mode = os.stat(resolved).st_mode
    except FileNotFoundError as err:
        raise InputError(
            f"mount point {target} does not exist", hint=f"make it: mkdir -p {target}"
        ) from err
    except OSError as err:
        if err.errno == errno.ENOTCONN:
            return resolved  # a dead view: told apart below, with the remedy
        raise InputError(f"mount point {target} cannot be used: {err.strerror}") from err
    if not stat.S_ISDIR(mode):
        raise InputError(f"mount point {target} is not a directory")
    return resolved


def outside_of_store(store_root: str, target: str) -> str:
    """Return a target resolved, which may be missing; one that would hide the store is refused."""
    if not target:  # os.path takes it for the current directory, a script's unset variable is not
        raise InputError("the mount point is empty", hint="name an existing directory")
    resolved = os.path.realpath(target)
    store, place = f"{os.path.realpath(store_root)}/", f"{resolved.rstrip('/')}/"
    if store.startswith(place) or place.startswith(store):
        raise InputError(
            f"a view at {target} would hide the store {store_root} or a part of it",
            hint="choose another directory",
        )
    return resolved
