"""Containers that stand still: their processes are frozen by the kernel (cgroups(7), freezer).

Whether one does is asked of its control group, and kept nowhere else, so it is always true.
"""

from __future__ import annotations

from layerstore.containers.monitor_files import is_frozen, thaw
from layerstore.containers.records import group_of
from layerstore.errors import ConflictError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerstore.containers.records import Container


def cgroup_of(container: Container) -> str:
    """Return the path of a container's control group, from the root of each hierarchy."""
    return group_of(container.container_id, container.settings.limits.cgroup_parent)


def is_paused(container: Container) -> bool:
    """Whether a container that runs stands still; of others there is no group."""
    return is_frozen(cgroup_of(container))


def go_on(container: Container) -> None:
    """Let a container go on that stands still, to take note of a signal."""
    thaw(cgroup_of(container))


def refuse_paused(container: Container) -> None:
    """Refuse what cannot be asked of a container that stands still.

    Raises:
        ConflictError: It does.
    """
    if is_paused(container):
        raise ConflictError(
            f"container {container.name} is paused", hint=f"layerstore unpause {container.name}"
        )


def pause(store_root: str, container: Container) -> None:
    """Let a container stand still.

    Raises:
        ConflictError: It does not run, or does already.
        UnsupportedError: It has no control group of its own.
        ContainerError: The runtime failed.
    """
    from layerstore.containers.running import call_runtime, require_groups, require_running

    require_running(store_root, container)
    require_groups("pause")
    if is_paused(container):
        raise ConflictError(
            f"container {container.name} is already paused",
            hint=f"layerstore unpause {container.name}",
        )
    call_runtime(container, "pause")


def unpause(store_root: str, container: Container) -> None:
    """Let a container go on.

    Raises:
        ConflictError: It does not stand still.
        ContainerError: The runtime failed.
    """
    from layerstore.containers.running import call_runtime, require_running

    require_running(store_root, container)
    if not is_paused(container):
        raise ConflictError(f"container {container.name} is not paused")
    call_runtime(container, "resume")
