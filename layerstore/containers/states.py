"""What is true of a container now: its files tell, checked against its locks and processes.

A monitor that lives holds ``alive`` and keeps ``state.json`` true. Where nobody holds it, the
container has ended, or its monitor was killed: then its first process is looked for by its pid
and the time it began, and if there is none the end is written down, with the status 255 that
docker gives containers of whose end it knows nothing.

On the fast path: imports little.
"""

from __future__ import annotations

import contextlib

from layerstore import light_json as json
from layerstore.containers.records import directory_of, publish
from layerstore.light_typing import TYPE_CHECKING, Any, NamedTuple
from layerstore.linux.boot import boot_id as boot_id
from layerstore.linux.files import read_file
from layerstore.linux.locks import is_held
from layerstore.linux.process_stat import START_TIME, STATE, stat_fields

if TYPE_CHECKING:
    from layerstore.containers.records import Container

CREATED = "created"
RUNNING = "running"
RESTARTING = "restarting"
EXITED = "exited"
PAUSED = "paused"
"""In the place of ``running``, of a container that stands still; no state of its file."""

UNKNOWN_CODE = 255
_STATE_MAX_BYTES = 1 << 20


class State(NamedTuple):
    """How a container fares.

    Attributes:
        pid: Of its first process, as we see it; 0 unless it runs.
        pid_started: When that began, in ticks since boot.
        monitor: Its pid; 0 if there is none.
        started: Of the last start, in seconds since the epoch; 0 for never.
        finished: 0 while it runs.
        exit_code: Of the last run.
        oom_killed: Whether the kernel killed something in it for lack of memory.
        error: Why it did not start, in the runtime's words.
    """

    status: str
    pid: int = 0
    pid_started: int = 0
    monitor: int = 0
    boot_id: str = ""
    started: float = 0.0
    finished: float = 0.0
    exit_code: int = 0
    oom_killed: bool = False
    restarts: int = 0
    error: str = ""


def alive_path(store_root: str, container_id: str) -> str:
    """Return the file that a container's monitor holds locked."""
    return f"{directory_of(store_root, container_id)}/alive"


def state_of(store_root: str, container: Container) -> State:
    """Return how a container fares; changes nothing."""
    if is_held(alive_path(store_root, container.container_id)):
        return read_state(store_root, container.container_id)
    return unattended_state(store_root, container)


def unattended_state(store_root: str, container: Container) -> State:
    """Return how a container fares whose ``alive`` nobody holds, or we do."""
    state = read_state(store_root, container.container_id)
    if state.status in (RUNNING, RESTARTING):
        if is_process(state):
            return state._replace(monitor=0)
        # It may have ended between the two looks.
        state = read_state(store_root, container.container_id)
    if state.status in (RUNNING, RESTARTING):
        return state._replace(
            status=EXITED, pid=0, monitor=0, exit_code=UNKNOWN_CODE,
            finished=state.finished or state.started,
        )  # fmt: skip
    return state._replace(monitor=0)


def read_state(store_root: str, container_id: str) -> State:
    """Return what a container's file says, which may not be true any more."""
    try:
        path = f"{directory_of(store_root, container_id)}/state.json"
        value = json.loads(read_file(path, max_bytes=_STATE_MAX_BYTES))
        return State(**value)
    except FileNotFoundError:
        return State(CREATED)
    except (OSError, ValueError, TypeError, RecursionError):
        return State(EXITED, exit_code=UNKNOWN_CODE)


def write_state(store_root: str, container_id: str, state: State) -> None:
    """Write down how a container that has no monitor fares."""
    path = f"{directory_of(store_root, container_id)}/state.json"
    publish(path, json.dumps(state._asdict()).encode(), durable=True)


class Health(NamedTuple):
    """What the checks of a container said, as docker calls it.

    Attributes:
        status: ``starting``, ``healthy`` or ``unhealthy``.
        failures: The last ones, in a row.
        checks: The last few, each with ``start``, ``end``, ``exit_code`` and ``output``.
    """

    status: str
    failures: int
    checks: tuple[dict[str, Any], ...]


def health_path(run_dir: str) -> str:
    """Return the file in memory that says what the checks of a container said."""
    return f"{run_dir}/health.json"


def health_of(container: Container) -> Health | None:
    """Return what the checks of a container say that runs; None if it has none."""
    if container.settings.health is None:
        return None
    try:
        value = json.loads(read_file(health_path(container.run_dir), max_bytes=_STATE_MAX_BYTES))
        names = ("start", "end", "exit_code", "output")
        numbers = range(sum(key.startswith("start_") for key in value))
        checks = tuple({name: value[f"{name}_{at}"] for name in names} for at in numbers)
        return Health(str(value["status"]), int(value["failures"]), checks)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Health("starting", 0, ())


def is_process(state: State) -> bool:
    """Whether the first process of a container's last run is still there."""
    return (
        bool(state.pid)
        and state.boot_id == boot_id()
        and (started_at(state.pid) == state.pid_started)
    )


def started_at(pid: int) -> int:
    """Return when a process began, in ticks since boot; -1 if there is none, or a zombie."""
    with contextlib.suppress(OSError):
        fields = stat_fields(pid)
        return -1 if fields[STATE] in (b"Z", b"X") else int(fields[START_TIME])
    return -1
