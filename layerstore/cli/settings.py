"""Where the store is and which runtime builds use: the one place that reads the environment for it.

On the fast path: imports next to nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT_VARIABLE = "LAYERSTORE_ROOT"
DEBUG_VARIABLE = "LAYERSTORE_DEBUG"
RUNTIME_VARIABLE = "LAYERSTORE_RUNTIME"
SYSTEM_ROOT = "/var/lib/layerstore"
STORE_OPTION = "--store"


def store_root(option: str | None, environ: Mapping[str, str], *, is_root: bool) -> str:
    """Return the absolute path of the store.

    ``--store`` wins over ``$LAYERSTORE_ROOT``; then root has ``/var/lib/layerstore``
    and everyone else ``$XDG_DATA_HOME/layerstore`` (XDG base directory specification).

    Raises:
        InputError: Nothing says where the store is.
    """
    chosen = option or environ.get(ROOT_VARIABLE)
    if chosen:
        return os.path.abspath(chosen)
    if is_root:
        return SYSTEM_ROOT
    data_home = environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data_home):  # the specification: relative values are ignored
        home = environ.get("HOME", "")
        if not os.path.isabs(home):
            raise InputError(
                "cannot tell where the store is: HOME is not set",
                hint=f"pass --store DIR or set ${ROOT_VARIABLE}",
            )
        data_home = f"{home}/.local/share"
    return f"{data_home}/layerstore"


def current_root(option: str | None) -> str:
    """Return the store's path for this process."""
    return store_root(option, os.environ, is_root=os.geteuid() == 0)


def chosen_runtime(environ: Mapping[str, str]) -> str:
    """Return the OCI runtime that the environment asks for; empty to choose one by trial."""
    return environ.get(RUNTIME_VARIABLE, "")


def take_store_option(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split ``--store DIR`` off the arguments, wherever before ``--`` it stands.

    People write it before the command and after it; both work, for every command.

    Raises:
        InputError: ``--store`` without a directory.
    """
    chosen: str | None = None
    rest: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            return chosen, [*rest, argument, *remaining]
        if argument == STORE_OPTION:
            chosen = remaining.pop(0) if remaining else ""
        elif argument.startswith(STORE_OPTION + "="):
            chosen = argument.partition("=")[2]
        else:
            rest.append(argument)
            continue
        if not chosen:
            raise InputError("--store needs a directory", hint="layerstore --store DIR COMMAND")
    return chosen, rest
