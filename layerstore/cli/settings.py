"""Where the store is and which runtime builds use: the one place that reads the environment for it.

On the fast path: imports next to nothing.
"""

from __future__ import annotations

import os

from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.store import Store

ROOT_VARIABLE = "LAYERSTORE_ROOT"
DEBUG_VARIABLE = "LAYERSTORE_DEBUG"
RUNTIME_VARIABLE = "LAYERSTORE_RUNTIME"
SYSTEM_ROOT = "/var/lib/layerstore"
STORE_OPTION = "--store"
COMMANDS_WITH_COMMANDS = ("run", "create", "exec", "top", "bundle", "container")
"""Behind their first positional word everything is somebody else's."""

_RUN_NAME_HEX = 16


def store_root(option: str | None, environ: Mapping[str, str], *, is_root: bool) -> str:
    """Return the absolute path of the store, through no symlink: runtimes refuse such roots.

    ``--store`` wins over ``$LAYERSTORE_ROOT``; then root has ``/var/lib/layerstore``
    and everyone else ``$XDG_DATA_HOME/layerstore`` (XDG base directory specification).

    Raises:
        InputError: Nothing says where the store is.
    """
    chosen = option or environ.get(ROOT_VARIABLE)
    if chosen:
        return os.path.realpath(chosen)
    if is_root:
        return os.path.realpath(SYSTEM_ROOT)
    data_home = environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data_home):  # the specification: relative values are ignored
        home = environ.get("HOME", "")
        if not os.path.isabs(home):
            raise InputError(
                "cannot tell where the store is: HOME is not set",
                hint=f"pass --store DIR or set ${ROOT_VARIABLE}",
            )
        data_home = f"{home}/.local/share"
    return os.path.realpath(f"{data_home}/layerstore")


def current_root(option: str | None) -> str:
    """Return the store's path for this process."""
    return store_root(option, os.environ, is_root=os.geteuid() == 0)


class Settings:
    """What the root's options say."""

    __slots__ = ("store_option",)

    def __init__(self, store_option: str | None) -> None:
        self.store_option = store_option

    @property
    def root(self) -> str:
        """Path of the store."""
        return current_root(self.store_option)

    def open_store(self, *, create: bool = False) -> Store:
        """Open the store, for writing commands making it when it is absent.

        Raises:
            NotFoundError: There is no store and the command only reads.
        """
        from pathlib import Path

        from layerstore.store.store import Store

        return Store.open(Path(self.root), create=create)


def require_store(root: str) -> None:
    """Refuse to go on where there is no store, or none of ours.

    Raises:
        NotFoundError: There is none.
        FormatError: It is damaged, or of a version that is not known here.
    """
    from layerstore.store.config import load_config
    from layerstore.store.paths import StorePaths

    load_config(StorePaths(root))


def open_catalog(root: str) -> Catalog:
    """Return the catalog of a store alone, which costs less than opening all of it.

    Raises:
        NotFoundError: There is no store.
        FormatError: It is damaged, or of a version that is not known here.
    """
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.paths import StorePaths

    require_store(root)
    return Catalog(StorePaths(root))


def chosen_runtime(environ: Mapping[str, str]) -> str:
    """Return the OCI runtime that the environment asks for; empty to choose one by trial."""
    return environ.get(RUNTIME_VARIABLE, "")


def run_base(root: str, environ: Mapping[str, str], *, is_root: bool) -> str:
    """Return the directory in memory for what runs of a store.

    Of root ``/run/layerstore``, of everyone else ``$XDG_RUNTIME_DIR/layerstore``; in the store
    where there is none. Below it each store has one of its own.
    """
    from layerstore.digest import hex_of, sha256_digest

    name = hex_of(sha256_digest(os.fsencode(os.path.realpath(root))))[:_RUN_NAME_HEX]
    if is_root:
        return f"/run/layerstore/{name}"
    base = environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(base) and os.access(base, os.W_OK):
        return f"{base}/layerstore/{name}"
    return f"{root}/containers/run"


def current_run_base(root: str) -> str:
    """Return that directory for this process."""
    from layerstore.linux.namespaces import in_user_namespace

    is_root = os.geteuid() == 0 and not in_user_namespace()
    return run_base(root, os.environ, is_root=is_root)


def take_store_option(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split ``--store DIR`` off the arguments, wherever before ``--`` it stands.

    People write it before the command and after it; both work, for every command. Of commands
    that are given command lines of containers only what stands before them is looked at.

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
            if len(rest) == 1 and argument in COMMANDS_WITH_COMMANDS:
                return chosen, [*rest, *remaining]
            continue
        if not chosen:
            raise InputError("--store needs a directory", hint="layerstore --store DIR COMMAND")
    return chosen, rest
