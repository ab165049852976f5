"""Changing what a container was asked to be: its limits and its policy of restarts.

A container that runs gets new limits by its runtime, first: what that refuses changes nothing. Its
monitor reads the policy at each end (:mod:`layerstore.containers.monitor`).
"""

from __future__ import annotations

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
    from collections.abc import Callable

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
            _limit(store_root, container_id, after)
        put_container(store_root, container._replace(settings=after), durable=True)
        policy = f"{after.restart} {after.restart_max}\n"
        publish(restart_path(store_root, container_id), policy.encode(), durable=False)


def _limit(store_root: str, container_id: str, settings: Settings) -> None:
    """Give new limits to a container if it runs."""
    from layerstore.containers.running import call_runtime
    from layerstore.containers.states import state_of
    from layerstore.runtime.cgroups import counts_swap
    from layerstore.runtime.oci_spec import resources_of

    container = require_container(store_root, container_id)
    if state_of(store_root, container).status != RUNNING:
        return
    resources = resources_of(settings.limits, counts_swap=counts_swap())
    resources["pids"] = {"limit": settings.pids or -1}
    call_runtime(container, "update", "--resources", "-", told=json.dumps(resources).encode())
