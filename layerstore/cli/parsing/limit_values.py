"""Limits and hosts that builds and containers take alike, from words to values.

On the fast path of containers: no typer.
"""

from __future__ import annotations

import os

from layerstore.errors import InputError
from layerstore.light_re import Pattern
from layerstore.light_typing import TYPE_CHECKING
from layerstore.runtime.settings import ULIMITS, Limits, Ulimit
from layerstore.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence

HOST_GATEWAY = "host-gateway"
_GATEWAY_ADDRESS = "127.0.0.1"
"""Steps share the host's network, so the host is where they are themselves."""

_HOST_NAME = Pattern(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?")
_CPU_PERIOD_US = 100_000
_CPU_PERIODS_US = (1000, 1_000_000)
_CPU_LIST = Pattern(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*")
_MEMORY_MIN = 6 << 20
"""What docker takes at least: below it a container does not even start."""

_NUMBER = Pattern(r"-?\d{1,19}")


def parse_extra_hosts(words: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Return names and addresses of ``NAME:IP`` or ``NAME=IP``, as docker takes both.

    Raises:
        InputError: Not a name, or not an address.
    """
    return tuple(_extra_host(word) for word in words)


def _extra_host(word: str) -> tuple[str, str]:
    separator = "=" if "=" in word else ":"
    name, _, address = word.partition(separator)
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    if _HOST_NAME.fullmatch(name) is None:
        raise InputError(f"{word!r} names no host", hint="--add-host NAME:IP")
    if address == HOST_GATEWAY:
        return name, _GATEWAY_ADDRESS
    import ipaddress

    try:
        return name, str(ipaddress.ip_address(address))
    except ValueError as err:
        raise InputError(
            f"{address!r} in --add-host {word} is no IP address",
            hint=f"--add-host {name}:192.0.2.1, or {name}:{HOST_GATEWAY} for this host",
        ) from err


def parse_ulimit(word: str) -> Ulimit:
    """Return what ``NAME=SOFT[:HARD]`` means; -1 is no limit.

    Raises:
        InputError: Not a limit, or the soft one is above the hard one.
    """
    name, _, values = word.partition("=")
    soft, _, hard = values.partition(":")
    hard = hard or soft
    if name not in ULIMITS:
        raise InputError(f"{name!r} is no ulimit", hint="one of " + ", ".join(ULIMITS))
    if not all(_NUMBER.fullmatch(value) and int(value) >= -1 for value in (soft, hard)):
        raise InputError(
            f"{word!r} is not a ulimit", hint=f"--ulimit {name}=SOFT:HARD, numbers or -1 for none"
        )
    limit = Ulimit(name, int(soft), int(hard))
    if limit.hard >= 0 and not 0 <= limit.soft <= limit.hard:
        raise InputError(f"ulimit {name}: the soft limit {soft} is above the hard limit {hard}")
    return limit


def parse_limits(
    *,
    memory: str | None,
    memory_swap: str | None,
    cpus: str | None,
    cpu_period: int | None,
    cpu_quota: int | None,
    cpu_shares: int | None,
    cpuset_cpus: str | None,
    cpuset_mems: str | None,
    shm_size: str | None,
    cgroup_parent: str | None,
    ulimits: Sequence[str],
    memory_reservation: str | None = None,
    memory_swappiness: int | None = None,
    blkio_weight: int | None = None,
) -> Limits:
    """Return what steps may use, by docker's rules for what goes with what.

    Raises:
        InputError: A value that means nothing, or two that contradict each other.
    """
    bytes_memory = parse_size(memory) if memory else 0
    if memory and bytes_memory < _MEMORY_MIN:
        raise InputError(f"--memory {memory} is less than 6m, with which no container starts")
    period, quota = _cpu_time(cpus, cpu_period, cpu_quota)
    if cpu_shares is not None and cpu_shares < 2:  # the kernel's smallest
        raise InputError(f"--cpu-shares {cpu_shares} is less than 2", hint="1024 is usual")
    if memory_swappiness is not None and not -1 <= memory_swappiness <= 100:
        raise InputError(
            f"--memory-swappiness {memory_swappiness} is not between 0 and 100",
            hint="-1 leaves it to the host",
        )
    if blkio_weight and not 10 <= blkio_weight <= 1000:
        raise InputError(
            f"--blkio-weight {blkio_weight} is not between 10 and 1000", hint="500 is usual"
        )
    return Limits(
        memory=bytes_memory,
        memory_swap=_swap(memory_swap, bytes_memory),
        cpu_period=period,
        cpu_quota=quota,
        cpu_shares=cpu_shares or 0,
        cpuset_cpus=_cpu_list("--cpuset-cpus", cpuset_cpus),
        cpuset_mems=_cpu_list("--cpuset-mems", cpuset_mems),
        shm_size=_shm_size(shm_size),
        cgroup_parent=_cgroup_parent(cgroup_parent),
        memory_reservation=_reservation(memory_reservation, bytes_memory),
        memory_swappiness=-1 if memory_swappiness is None else memory_swappiness,
        blkio_weight=blkio_weight or 0,
        ulimits=tuple({limit.name: limit for limit in map(parse_ulimit, ulimits)}.values()),
    )


def unlimited(word: str | None) -> str | None:
    """Return a limit's word, None for docker's word for none: 0."""
    try:
        return None if word is not None and float(word) == 0 else word
    except ValueError:
        return word


def _cpu_time(cpus: str | None, period: int | None, quota: int | None) -> tuple[int, int]:
    """Return period and quota in microseconds, 0 for what is not limited."""
    low, high = _CPU_PERIODS_US
    if period is not None and not low <= period <= high:
        raise InputError(f"--cpu-period {period} is not between {low} and {high} microseconds")
    if quota is not None and quota < low:
        raise InputError(f"--cpu-quota {quota} is less than {low} microseconds")
    if cpus is None:
        return period or 0, quota or 0
    if period is not None or quota is not None:
        raise InputError(
            "--cpus says the same as --cpu-period and --cpu-quota together",
            hint="use one or the other",
        )
    try:
        number = float(cpus)
    except ValueError:
        number = -1.0
    there = os.cpu_count() or 1
    if not 0.01 <= number <= there:
        raise InputError(
            f"--cpus {cpus} is not between 0.01 and {there}.00, the processors of this host",
            hint=f"--cpus {there}",
        )
    return _CPU_PERIOD_US, round(number * _CPU_PERIOD_US)


def _swap(text: str | None, memory: int) -> int:
    if not text:
        return 0
    if not memory:
        raise InputError("--memory-swap is memory and swap together: it needs --memory")
    if text == "-1":
        return -1
    value = parse_size(text)
    if value < memory:
        raise InputError("--memory-swap is memory and swap together: it cannot be below --memory")
    return value


def _reservation(text: str | None, memory: int) -> int:
    value = parse_size(text) if text else 0
    if memory and value > memory:
        raise InputError(
            f"--memory-reservation {text} is above --memory",
            hint="it is what is left to a container when memory is short: less than it may have",
        )
    return value


def _cpu_list(option: str, text: str | None) -> str:
    if text and _CPU_LIST.fullmatch(text) is None:
        raise InputError(f"{option} {text} is no list", hint=f"{option} 0-2,4")
    return text or ""


def _shm_size(text: str | None) -> int:
    if not text:
        return 0
    value = parse_size(text)
    if not value:
        raise InputError(f"--shm-size {text}: it must be greater than 0")
    return value


def _cgroup_parent(text: str | None) -> str:
    parts = [part for part in (text or "").split("/") if part]
    if ".." in parts or "." in parts or "\0" in (text or ""):
        raise InputError(f"--cgroup-parent {text!r} is no path from the root of the hierarchies")
    return "/".join(parts)
