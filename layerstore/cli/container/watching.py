"""The commands that watch containers that run: ``top`` and ``stats``."""

from __future__ import annotations

import os
import sys
import time

from layerstore.cli.container.commands import reference_of
from layerstore.cli.output import printable, write_json, write_table
from layerstore.containers.lifecycle import settle
from layerstore.containers.records import SHORT_ID_HEX, all_containers, find
from layerstore.containers.states import RUNNING
from layerstore.containers.usage import TICKS, processes_of, usage_of
from layerstore.errors import ConflictError, InputError, LayerstoreError, UnsupportedError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.process_stat import (
    PARENT,
    START_TIME,
    SYSTEM_TIME,
    TERMINAL,
    USER_TIME,
    stat_fields,
)
from layerstore.linux.users import user_name
from layerstore.units import format_size

if TYPE_CHECKING:
    import argparse
    import subprocess
    from collections.abc import Sequence

    from layerstore.containers.records import Container
    from layerstore.containers.states import State
    from layerstore.containers.usage import Usage

_INTERVALS_S = (0.1, 3600.0)
_CLEAR = "\x1b[H\x1b[2J"


# -- top


def top_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``top`` takes."""
    parser.add_argument(
        "container",
        metavar="CONTAINER",
        help="name or id; then options of ps(1), such as -o pid,comm",
    )


def top(options: argparse.Namespace, root: str) -> int:
    """List the processes of a container, with their pids on the host."""
    container = find(root, reference_of(options.container))
    state = _running(root, container)
    pids = processes_of(container.container_id, state)
    if options.command:
        return _by_ps(options.command, set(pids))
    rows = []
    for pid in pids:
        try:
            rows.append(_row(pid))
        except OSError:
            continue  # it has ended meanwhile
    write_table(["UID", "PID", "PPID", "STIME", "TTY", "TIME", "CMD"], rows)
    return 0


def _running(root: str, container: Container) -> State:
    state = settle(root, container)
    if state.status != RUNNING:
        raise ConflictError(
            f"container {container.name} is not running",
            hint=f"layerstore start {container.name}",
        )
    return state


def _row(pid: int) -> list[str]:
    """Return what ``ps -ef`` says of a process."""
    fields = stat_fields(pid)
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0").replace(b"\0", b" ")
    if not words:  # a zombie, or a thread of the kernel
        with open(f"/proc/{pid}/comm", "rb") as file:
            words = b"[" + file.read().strip() + b"]"
    began = time.time() - _uptime_s() + int(fields[START_TIME]) / TICKS
    seconds = (int(fields[USER_TIME]) + int(fields[SYSTEM_TIME])) // TICKS
    return [
        user_name(os.stat(f"/proc/{pid}").st_uid),
        str(pid),
        fields[PARENT].decode("ascii"),
        _clock(began),
        _terminal(int(fields[TERMINAL])),
        f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}",
        printable(os.fsdecode(words)),
    ]


def _clock(seconds: float) -> str:
    """Return when something began: the time of today, else the day."""
    is_today = time.localtime(seconds)[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if is_today else "%b%d", time.localtime(seconds))


def _terminal(number: int) -> str:
    """Return a terminal's name by its device number, as ps does for those of pts."""
    if not number:
        return "?"
    major, minor = os.major(number), os.minor(number)
    return f"pts/{minor + 256 * (major - 136)}" if 136 <= major < 144 else f"{major}:{minor}"


def _uptime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _by_ps(words: Sequence[str], pids: set[int]) -> int:
    """Print of the host's ``ps`` the lines of a container's processes, as docker does."""
    # ps is told the processes: else ``-o pid,args`` shows those of this terminal. Options that
    # do not go with that (``f``) are tried without.
    done = _ps([*words, "-q", ",".join(map(str, sorted(pids)))])
    if done.returncode:
        done = _ps(words)
    told = printable(os.fsdecode(done.stderr.strip()))
    if done.returncode:
        raise InputError(f"ps: {told or f'status {done.returncode}'}", hint="man ps")
    header, *lines = os.fsdecode(done.stdout).splitlines() or [""]
    titles = header.split()
    if "PID" not in titles:
        raise InputError("such options of ps show no PID", hint="add it: -o pid,comm")
    at = titles.index("PID")
    shown = [line for line in lines if _number_at(line, at) in pids]
    sys.stdout.write("".join(f"{printable(line)}\n" for line in [header, *shown]))
    return 0


def _ps(words: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    import subprocess

    try:
        return subprocess.run(["ps", *words], capture_output=True, check=False)
    except FileNotFoundError as err:
        raise UnsupportedError(
            "there is no ps on this host, which knows such options",
            hint="apt-get install procps; or leave the options out",
        ) from err


def _number_at(line: str, at: int) -> int:
    words = line.split()
    return int(words[at]) if len(words) > at and words[at].isdigit() else -1


# -- stats


class _Sample(NamedTuple):
    """What a container had taken at a moment."""

    at: float
    usage: Usage


class _Watched(NamedTuple):
    """A container, with two looks at it; None where it did not run."""

    container: Container
    before: _Sample | None
    now: _Sample | None


def stats_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``stats`` takes."""
    add = parser.add_argument
    add("containers", nargs="*", metavar="CONTAINER", help="names or ids; by default all that run")
    add("-a", "--all", action="store_true", help="those too that do not run")
    add("--no-stream", action="store_true", help="look once, not until Ctrl-C")
    add("-i", "--interval", type=float, default=1.0, metavar="SECONDS", help=_INTERVAL_HELP)
    add("--no-trunc", action="store_true", help="print whole ids")
    add("--format", default="table", metavar="table|json|TEMPLATE", help=_FORMAT_HELP)
    add("--json", dest="format", action="store_const", const="json", help="as --format json")


_INTERVAL_HELP = "from one look to the next (default: 1)"
_FORMAT_HELP = "json, or a template: '{{.Name}}: {{.CPUPerc}} {{.MemUsage}}'"
_TITLES = {
    "CPUPerc": "CPU %", "MemUsage": "MEM USAGE / LIMIT", "MemPerc": "MEM %", "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O", "PIDs": "PIDS", "ID": "CONTAINER ID",
}  # fmt: skip


def stats(options: argparse.Namespace, root: str) -> int:
    """Show what containers take of processors, memory, and disks."""
    least, most = _INTERVALS_S
    if not least <= options.interval <= most:
        raise InputError(
            f"--interval {options.interval:g} is not between {least:g} and {most:g} seconds"
        )
    before = _look(options, root)
    while True:
        time.sleep(options.interval)
        now = _look(options, root)
        watched = [
            _Watched(container, before.get(container_id, (container, None))[1], sample)
            for container_id, (container, sample) in now.items()
        ]
        _show(watched, options)
        if options.no_stream:
            return 0
        sys.stdout.flush()
        before = now


def _look(options: argparse.Namespace, root: str) -> dict[str, tuple[Container, _Sample | None]]:
    """Return what containers have taken until now, those that are asked for.

    Raises:
        NotFoundError: One that is named is not there.
    """
    if options.containers:
        wanted = [find(root, reference_of(word)) for word in options.containers]
    else:
        wanted = sorted(all_containers(root, []), key=lambda found: -found.created)
    found = {}
    for container in wanted:
        sample = _sample(root, container)
        if sample is not None or options.containers or options.all:
            found[container.container_id] = container, sample
    return found


def _sample(root: str, container: Container) -> _Sample | None:
    try:
        state = settle(root, container)
    except LayerstoreError:
        return None
    if state.status != RUNNING:
        return None
    usage = usage_of(container.container_id, state)
    return _Sample(time.monotonic(), usage) if usage is not None else None


def _show(watched: Sequence[_Watched], options: argparse.Namespace) -> None:
    if options.format == "json":
        write_json([_to_json(one) for one in watched])
        return
    rows = [_fields(one, cut=not options.no_trunc) for one in watched]
    if options.format != "table":
        from layerstore.cli.parsing.templates import print_rows

        print_rows(options.format, rows, _TITLES)
        return
    if not options.no_stream and sys.stdout.isatty():
        sys.stdout.write(_CLEAR)
    columns = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
    titles = [_TITLES.get(column, column.upper()) for column in columns]
    write_table(titles, [[row[column] for column in columns] for row in rows])


def _cpu_share(watched: _Watched) -> float:
    """Return how much of one processor a container took between the two looks."""
    before, now = watched.before, watched.now
    if before is None or now is None or now.at <= before.at:
        return 0.0
    return max(0.0, (now.usage.cpu_s - before.usage.cpu_s) / (now.at - before.at))


def _fields(watched: _Watched, *, cut: bool) -> dict[str, str]:
    """Return a row with docker's names; what does not run takes nothing."""
    container, _, now = watched
    name = container.container_id
    row = {
        "Container": name[:SHORT_ID_HEX] if cut else name,
        "ID": name[:SHORT_ID_HEX] if cut else name,
        "Name": container.name,
    }
    if now is None:
        nothing = {"CPUPerc": "--", "MemUsage": "-- / --", "MemPerc": "--", "PIDs": "--"}
        return row | nothing | {"NetIO": "--", "BlockIO": "--"}
    usage = now.usage
    return row | {
        "CPUPerc": f"{_cpu_share(watched):.2%}",
        "MemUsage": f"{format_size(usage.memory_bytes)} / {format_size(usage.memory_limit_bytes)}",
        "MemPerc": f"{usage.memory_bytes / usage.memory_limit_bytes:.2%}",
        # The network is the host's, or none: nothing is counted for one container.
        "NetIO": "--",
        "BlockIO": f"{format_size(usage.read_bytes)} / {format_size(usage.written_bytes)}",
        "PIDs": str(usage.processes),
    }


def _to_json(watched: _Watched) -> dict[str, object]:
    now = watched.now
    return {
        "id": watched.container.container_id,
        "name": watched.container.name,
        "running": now is not None,
        "cpu_share": round(_cpu_share(watched), 4),
        **(now.usage._asdict() if now is not None else {}),
    }
