"""A container's files for who reads or writes them from outside, whether it runs or not.

Of one that runs it is what its first process sees, volumes and tmpfs too. The root of another is
mounted in a mount namespace of our own, with its volumes, and gone afterwards; meanwhile nobody
starts or removes it. Paths resolve inside the root, whatever links its programs have made
(openat2(2)); see :mod:`layerstore.containers.places`.
"""

from __future__ import annotations

import contextlib
import os

from layerstore.containers.starting import acquire, hold, release
from layerstore.containers.states import CREATED, EXITED, RUNNING, is_process, unattended_state
from layerstore.errors import ConflictError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux import mounts
from layerstore.linux.files import directory, make_private_dir
from layerstore.linux.namespaces import CLONE_NEWNS, enter_namespace, unshare

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.containers.mounting import Root
    from layerstore.containers.records import Container
    from layerstore.linux.idmaps import IdMap

_KERNELS = frozenset(
    {
        "proc", "sysfs", "cgroup", "cgroup2", "mqueue", "devpts", "securityfs", "debugfs",
        "tracefs", "bpf", "configfs", "pstore",
    }
)  # fmt: skip
"""File systems that are the kernel's words, and no files of a container."""


class Opened(NamedTuple):
    """A container's root.

    Attributes:
        root: Open directory.
        kernels: Device numbers of file systems that are the kernel's.
        idmap: How its ids are ids out here.
    """

    root: int
    kernels: frozenset[int]
    idmap: IdMap


@contextlib.contextmanager
def opened(store_root: str, container: Container) -> Iterator[Opened]:
    """Open a container's root.

    Raises:
        ConflictError: It is about to start, to be removed, or to be restarted.
        LayerstoreError: Its root could not be mounted.
    """
    from layerstore.containers.lifecycle import settle

    state = settle(store_root, container)
    if state.status == RUNNING:
        with directory(f"/proc/{state.pid}/root") as root:
            if not is_process(state):
                raise ConflictError(f"container {container.name} ends just now")
            yield Opened(root, _kernels_of(state.pid), _id_map(container))
        return
    with hold(store_root, container.container_id, to_its_end=True):
        if unattended_state(store_root, container).status not in (CREATED, EXITED):
            raise ConflictError(f"container {container.name} begins or ends just now")
        lower, backend = acquire(store_root, container, None, lambda _, __: None)
        try:
            from layerstore.containers.mounting import root_of

            root_to_be = root_of(store_root, container, lower, backend)
            with _apart(), _mounted(store_root, container, root_to_be) as root:
                yield Opened(root, frozenset(), root_to_be.idmap)
        finally:
            release(store_root, container)


def _id_map(container: Container) -> IdMap:
    from layerstore.containers.mounting import id_map_of

    return id_map_of(container)


def _kernels_of(pid: int) -> frozenset[int]:
    """Return the device numbers of what is mounted in a container and is the kernel's."""
    found = set()
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as file:
        for line in file:
            words = line.split()
            if words[words.index("-") + 1] in _KERNELS:
                major, _, minor = words[2].partition(":")
                found.add(os.makedev(int(major), int(minor)))
    return frozenset(found)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Be in a mount namespace of our own for a while; what is mounted there goes with it."""
    with directory("/proc/self/cwd") as here:
        outside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            unshare(CLONE_NEWNS)
            mounts.set_propagation("/", mounts.MS_SLAVE)
            try:
                yield
            finally:
                enter_namespace(outside, CLONE_NEWNS)
                os.fchdir(here)
        finally:
            os.close(outside)


@contextlib.contextmanager
def _mounted(store_root: str, container: Container, root: Root) -> Iterator[int]:
    """Mount the root of a container that does not run, with what it has mounted in it."""
    from fuse_mount.uppers import make_upper
    from layerstore.containers.mounting import mount_root, root_id
    from layerstore.containers.roots import container_mounts
    from layerstore.runtime.stubs import make_stubs

    place = f"{container.run_dir}/rootfs"
    base = os.path.dirname(container.run_dir)
    for needed in (os.path.dirname(base), base, container.run_dir, place):
        make_private_dir(needed, durable=False)
    make_upper(store_root, root.upper, root.lower)
    mount_root(root, place, keeps=True)
    try:
        wanted = [
            mount
            for mount in container_mounts(store_root, container, place, root_id(root.idmap))
            if mount.type == "bind" and not mount.source.startswith(f"{container.run_dir}/")
        ]
        # They are made as the runtime makes them; their places lead through no link.
        make_stubs(place, [(mount.destination, os.path.isdir(mount.source)) for mount in wanted])
        if container.settings.read_only:
            mounts.mount("none", place, None, mounts.MS_REMOUNT | mounts.MS_BIND | mounts.MS_RDONLY)
        for mount in wanted:
            flags = mounts.MS_RDONLY if "ro" in mount.options else 0
            mounts.bind(mount.source, f"{place}{mount.destination}", flags=flags, recursive=True)
        with directory(place) as fd:
            yield fd
    finally:
        mounts.unmount(place, lazy=True)
        from layerstore.linux.removal import remove_tree

        remove_tree(container.run_dir)
