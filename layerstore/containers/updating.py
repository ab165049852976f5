"""Changing what a container was asked to be: its limits and its policy of restarts.

A container that runs gets new limits by its runtime, first. That writes one file of its control
groups after the other, and the kernel may refuse the third: then what the files said is written
back, so that what is refused changes nothing. The monitor reads the policy of restarts at each end
(:mod:`layerstore.containers.monitor`).
"""

from __future__ import annotations

import contextlib
import os

from layerstore import light_json as json
from layerstore.containers.records import (
    containers_lock,
    publish,
    put_container,
    require_container,
    restart_path,
)
from layerstore.containers.states import RUNNING
from layerstore.errors import ConflictError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.namespaces import mapped_ids
from layerstore.runtime.limits import require_enforceable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from layerstore.containers.records import Container
    from layerstore.containers.settings import Settings


def change(store_root: str, container_id: str, to: Callable[[Settings], Settings]) -> None:
    """Change a container that is there.

    Args:
        store_root: The store.
        container_id: Its whole id.
        to: Returns its settings with what is new in them.

    Raises:
        ConflictError: A container that goes at its end is to be restarted.
        ContainerError: The runtime refused the limits.
        InputError: What is asked for contradicts what there is.
        NotFoundError: The container is gone.
        UnsupportedError: Nothing here would enforce a limit.
    """
    from layerstore.containers.lifecycle import settle

    settle(store_root, require_container(store_root, container_id))
    with containers_lock(store_root):
        container = require_container(store_root, container_id)
        before, after = container.settings, to(container.settings)
        if after.auto_remove and after.restart != "no":
            raise ConflictError(
                f"container {container.name} is removed at its end: it cannot be restarted",
                hint="run one without --rm",
            )
        if (after.limits, after.pids) != (before.limits, before.pids):
            require_enforceable(after.limits, rootless=bool(mapped_ids()), pids=after.pids)
            made: AbstractContextManager[None] = _limited(store_root, container, after)
        else:
            made = contextlib.nullcontext()
        with made:
            put_container(store_root, container._replace(settings=after), durable=True)
        policy = f"{after.restart} {after.restart_max}\n"
        publish(restart_path(store_root, container_id), policy.encode(), durable=False)


@contextlib.contextmanager
def _limited(store_root: str, container: Container, settings: Settings) -> Iterator[None]:
    """Give new limits to a container if it runs, for good if what is done under them succeeds."""
    from layerstore.containers.running import call_runtime
    from layerstore.containers.states import state_of
    from layerstore.containers.usage import groups_of
    from layerstore.runtime.cgroups import counts_swap
    from layerstore.runtime.oci_spec import resources_of

    state = state_of(store_root, container)
    if state.status != RUNNING:
        yield
        return
    resources = resources_of(settings.limits, counts_swap=counts_swap())
    resources["pids"] = {"limit": settings.pids or -1}
    before = _limits_in(set(groups_of(container.container_id, state.pid).values()))
    try:
        call_runtime(container, "update", "--resources", "-", told=json.dumps(resources).encode())
        yield
    except BaseException:
        _put_back(before)
        raise


_FILES = (
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.soft_limit_in_bytes",
    "memory.max", "memory.swap.max", "memory.low", "memory.high",
    "cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.shares", "cpu.max", "cpu.weight", "cpu.idle",
    "cpuset.cpus", "cpuset.mems", "pids.max",
    "blkio.weight", "blkio.bfq.weight", "io.weight", "io.bfq.weight",
)  # fmt: skip
"""What runtimes write of a group's limits, of version 1 and 2 (cgroups(7))."""

_ROUNDS = 2
"""Limits of memory, and of memory and swap, bound each other: the first may have to wait."""


def _limits_in(groups: set[str]) -> dict[str, str]:
    """Return what the files say that limit control groups."""
    found = {}
    for group in groups:
        for name in _FILES:
            with contextlib.suppress(OSError), open(f"{group}/{name}", encoding="ascii") as file:
                found[f"{group}/{name}"] = file.read()
    return found


def _put_back(before: dict[str, str]) -> None:
    """Write back what :func:`_limits_in` found, where something else stands there."""
    for _ in range(_ROUNDS):
        for path, text in before.items():
            with contextlib.suppress(OSError):  # gone with its container, or in the next round
                fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    if os.read(fd, len(text) + 1).decode("ascii") != text:
                        os.pwrite(fd, text.encode("ascii"), 0)
                finally:
                    os.close(fd)
