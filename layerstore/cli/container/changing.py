"""The commands that change containers: ``pause``, ``unpause``, ``rename``, ``update``."""

from __future__ import annotations

from layerstore.cli.container.commands import reference_of
from layerstore.cli.container.several import each, each_or_all, names, names_or_all
from layerstore.containers.records import find_id
from layerstore.containers.states import PAUSED, RUNNING
from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from layerstore.containers.records import Container
    from layerstore.containers.settings import Settings
    from layerstore.runtime.settings import Limits


def pause_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``pause`` takes."""
    names_or_all(parser, "all that run")


def pause(options: argparse.Namespace, root: str) -> int:
    """Let containers stand still."""
    from layerstore.containers import freezing

    return each_or_all(options, root, (RUNNING,), lambda one: freezing.pause(root, one))


def unpause_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``unpause`` takes."""
    names_or_all(parser, "all that are paused")


def unpause(options: argparse.Namespace, root: str) -> int:
    """Let containers go on."""
    from layerstore.containers import freezing

    return each_or_all(options, root, (PAUSED,), lambda one: freezing.unpause(root, one))


def rename_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``rename`` takes."""
    parser.add_argument("container", metavar="CONTAINER", help="name or id")
    parser.add_argument("name", metavar="NEW-NAME", help="what it is to be called")


def rename(options: argparse.Namespace, root: str) -> int:
    """Call a container otherwise, whether it runs or not."""
    from layerstore.containers import records

    records.rename(root, find_id(root, reference_of(options.container)), options.name)
    return 0


# -- update


_LIMITS = (
    "memory", "memory_swap", "cpus", "cpu_period", "cpu_quota", "cpu_shares", "cpuset_cpus",
    "cpuset_mems", "memory_reservation", "blkio_weight",
)  # fmt: skip


def update_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``update`` takes."""
    from layerstore.cli.container.flags import add_changing_limits

    add = parser.add_argument
    add_changing_limits(add)
    add("--restart", metavar="POLICY", help="no, on-failure[:N], always, unless-stopped")
    names(parser)


def update(options: argparse.Namespace, root: str) -> int:
    """Change limits and the policy of restarts, of containers that run as well."""
    from layerstore.containers.updating import change

    if all(getattr(options, name) is None for name in (*_LIMITS, "pids_limit", "restart")):
        raise InputError("nothing is to be changed", hint="layerstore update --memory 512m NAME")

    def act(container: Container) -> None:
        change(root, container.container_id, lambda before: _changed(options, before))

    return each(options, root, act)


def _changed(options: argparse.Namespace, before: Settings) -> Settings:
    from layerstore.cli.container.options import parse_pids, parse_restart

    settings = before._replace(limits=_limits(options, before.limits))
    if options.pids_limit is not None:
        settings = settings._replace(pids=parse_pids(options.pids_limit))
    if options.restart is not None:
        policy, most = parse_restart(options.restart)
        settings = settings._replace(restart=policy, restart_max=most)
    return settings


def _limits(options: argparse.Namespace, before: Limits) -> Limits:
    """Return limits with those that are given; the others stay."""
    from layerstore.cli.parsing.limit_values import parse_limits

    words = {name: getattr(options, name) for name in _LIMITS}
    if words["memory_swap"] and not words["memory"] and before.memory:
        words["memory"] = str(before.memory)
    given = parse_limits(**words, shm_size=None, cgroup_parent=None, ulimits=())
    told = {name: value for name, value in given._asdict().items() if value}
    told.pop("memory_swappiness")  # which update cannot change
    after = before._replace(**told)
    if 0 < after.memory < after.memory_reservation:
        raise InputError(
            "--memory would be below the reservation",
            hint=f"give that, too: --memory-reservation {after.memory}",
        )
    if 0 < after.memory_swap < after.memory:
        raise InputError(
            "--memory would be above the limit of memory and swap together",
            hint=f"give that, too: --memory-swap {2 * after.memory}",
        )
    return after
