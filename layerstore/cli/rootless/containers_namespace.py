"""Commands of containers for users who are not root: they become it where their containers are.

As a program it sweeps a store's containers there, for commands that must not enter themselves.
"""

from __future__ import annotations

import contextlib
import os
import sys

from layerstore.errors import LayerstoreError, UnsupportedError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerstore.cli.settings import Settings


def be_root(store_root: str) -> None:
    """Be root, if need be of the user namespace that all containers of this user share.

    Call it before threads start.

    Raises:
        UnsupportedError: The user is not root, and a namespace is not to be had.
        MountError: The kernel refused.
    """
    from layerstore.store.paths import StorePaths

    if os.geteuid() == 0 or not os.path.exists(StorePaths(store_root).config):
        return  # that there is no store is told by who opens it
    from fuse_mount import unshare
    from fuse_mount.common import enter_common

    if not unshare.may_enter():
        raise UnsupportedError(
            "without root containers run where user namespaces are allowed",
            hint="layerstore doctor says what is allowed",
        )
    enter_common(store_root, lambda: _user_namespace(store_root))


def _user_namespace(store_root: str) -> int:
    """Open the user namespace of a container that runs; return -1 if none does."""
    from layerstore.containers.records import container_ids
    from layerstore.containers.states import is_process, read_state

    for container_id in container_ids(store_root):
        state = read_state(store_root, container_id)
        with contextlib.suppress(OSError):
            fd = os.open(f"/proc/{state.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            if is_process(state):  # nobody else had got its pid before we opened it
                return fd
            os.close(fd)
    return -1


def join(store_root: str) -> None:
    """Be root like :func:`be_root`, if there is a container in the store that takes it.

    Where no namespace is to be had no container can run, and what is told of others is true.
    """
    if os.geteuid() == 0 or not _has_containers(store_root):
        return
    with contextlib.suppress(UnsupportedError, OSError):
        be_root(store_root)


def join_to_read(store_root: str) -> None:
    """Be root like :func:`join`, also where views and builds left what only others may read."""
    from layerstore.store.paths import StorePaths

    if os.geteuid() == 0:
        return
    with contextlib.suppress(UnsupportedError, OSError):
        paths = StorePaths(store_root)
        left = any(os.listdir(place) for place in (paths.uppers, paths.cache_mounts))
        if left or _has_containers(store_root):
            be_root(store_root)


def join_for(settings: Settings) -> None:
    """Be root like :func:`join`, over the store that the settings mean now: root's is another."""
    root = settings.root
    join(root)
    settings.store_option = root


def join_to_read_for(settings: Settings) -> None:
    """Be root like :func:`join_to_read`, over the store that the settings mean now."""
    root = settings.root
    join_to_read(root)
    settings.store_option = root


def _has_containers(store_root: str) -> bool:
    from layerstore.containers.records import container_ids

    return bool(container_ids(store_root))


def sweep_outside(store_root: str) -> None:
    """Sweep the containers of a store from a process of its own, which goes where they are.

    From inside nobody can tell which processes of others live, so the collector stays outside.
    """
    import subprocess

    module = "layerstore.cli.rootless.containers_namespace"
    program = [sys.executable, "-P", "-m", module, store_root]
    subprocess.run(program, check=False, stdin=subprocess.DEVNULL)


def _main(store_root: str) -> None:
    from layerstore.cli.settings import current_run_base
    from layerstore.containers.lifecycle import sweep

    with contextlib.suppress(LayerstoreError, OSError):  # what is left is left for the next one
        join(store_root)
        sweep(store_root, current_run_base(store_root))


if __name__ == "__main__":
    _main(sys.argv[1])
