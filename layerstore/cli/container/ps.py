"""The commands that tell of containers: ``ps``, ``logs``."""

from __future__ import annotations

import os
import sys
import time

from layerstore.cli.failure import tell_all
from layerstore.cli.output import (
    age,
    printable,
    shorten,
    write_json,
    write_line,
    write_table,
)
from layerstore.containers.freezing import is_paused
from layerstore.containers.lifecycle import settle
from layerstore.containers.records import (
    SHORT_ID_HEX,
    Container,
    all_containers,
    directory_of,
    find,
)
from layerstore.containers.states import (
    CREATED,
    EXITED,
    PAUSED,
    RESTARTING,
    RUNNING,
    State,
    health_of,
)
from layerstore.errors import FormatError, InputError, LayerstoreError
from layerstore.light_re import DIGITS, LETTERS, only
from layerstore.light_typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

_COMMAND_WIDTH = 20
_MICROSECONDS = len("2026-11-26T18:00:00.000000")
_FILTERS = (
    "id", "name", "status", "label", "ancestor", "exited", "restart-policy", "volume", "network",
    "health", "before", "since", "until",
)  # fmt: skip
_VALUES = {
    "status": (CREATED, RUNNING, PAUSED, RESTARTING, EXITED, "removing", "dead", "stopped"),
    "health": ("starting", "healthy", "unhealthy", "none"),
}
"""Of filters whose other values would find nothing: docker's, and podman's word for exited."""


def status_of(container: Container, state: State) -> str:
    """Return how a container fares in one word, as docker's."""
    return PAUSED if state.status == RUNNING and is_paused(container) else state.status


class Row(NamedTuple):
    """A container as it is listed."""

    container: Container
    state: State

    @property
    def status(self) -> str:
        """How it fares in one word, as docker's."""
        return status_of(self.container, self.state)


# -- ps


def ps_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``ps`` takes."""
    add = parser.add_argument
    add("-a", "--all", action="store_true", help="those too that do not run")
    add("-q", "--quiet", action="store_true", help="print ids only")
    add("-l", "--latest", action="store_true", help="the newest one, whatever it does")
    add("-n", "--last", type=int, default=-1, metavar="N", help="the newest ones")
    add("--no-trunc", action="store_true", help="print whole ids and commands")
    add("-s", "--size", action="store_true", help="what each has written, and sees in all")
    add("--noheading", action="store_true", help="print no line of titles")
    add("-f", "--filter", action="append", default=[], metavar="NAME=VALUE", help=_FILTER_HELP)
    add("--format", default="table", metavar="table|json|TEMPLATE", help=_FORMAT_HELP)
    add("--json", dest="format", action="store_const", const="json", help="as --format json")


_FILTER_HELP = "only these: " + ", ".join(_FILTERS) + "; may be repeated"
_FORMAT_HELP = "json, or a template: '{{.Names}}: {{.Status}}'"


def ps(options: argparse.Namespace, root: str) -> int:
    """List containers."""
    unreadable: list[FormatError] = []
    rows = filtered(root, options.filter, unreadable)
    wanted = 1 if options.latest else options.last
    every = options.all or wanted >= 0 or any(word.startswith("status=") for word in options.filter)
    if not every:
        rows = [row for row in rows if row.state.status in (RUNNING, RESTARTING)]
    rows = rows[:wanted] if wanted >= 0 else rows
    cut = not options.no_trunc
    if options.quiet:
        for row in rows:
            name = row.container.container_id
            write_line(name[:SHORT_ID_HEX] if cut else name)
    elif options.format == "json":
        write_json([row_to_json(row) for row in rows])
    elif options.format == "table":
        _print_table(rows, root, options)
    else:
        from layerstore.cli.parsing.templates import print_rows

        told = [_fields(row, cut=cut) for row in rows]
        if options.size or ".Size" in options.format:
            for fields, size in zip(told, _sizes(rows, root), strict=True):
                fields["Size"] = size
        print_rows(options.format, told, _TITLES)
    tell_all(unreadable)
    return 0


def filtered(
    root: str, words: Sequence[str], unreadable: list[FormatError] | None = None
) -> list[Row]:
    """Return the containers that filters leave, newest first; ends that nobody saw are settled.

    Raises:
        InputError: No filter is called that.
    """
    tests = []
    for word in words:
        name, equals, value = word.partition("=")
        if name not in _FILTERS or not equals:
            raise InputError(f"no filter {word!r}", hint=", ".join(_FILTERS))
        _require_value(name, value)
        tests.append((name, value))
    # Of one name any value will do, of several names each must: as docker.
    by_name: dict[str, list[str]] = {}
    for name, value in tests:
        by_name.setdefault(name, []).append(value)
    for name in ("before", "since"):
        by_name[name] = [_created(root, value) for value in by_name.get(name, ())]
    by_name["until"] = [log_time(v, "--filter until") for v in by_name.get("until", ())]
    rows = []
    for container in list(all_containers(root, unreadable)):
        state = settle(root, container)
        if not os.path.isdir(directory_of(root, container.container_id)):
            continue  # it was to go at its end
        row = Row(container, state)
        if all(any(_passes(row, n, v) for v in values) for n, values in by_name.items() if values):
            rows.append(row)
    return sorted(rows, key=lambda row: -row.container.created)


def _require_value(name: str, value: str) -> None:
    """Refuse a value that no container can have: it would look as if there were none.

    Raises:
        InputError: It is such a one.
    """
    known = _VALUES.get(name)
    if known is not None and value not in known:
        raise InputError(f"--filter {name}={value}: none is ever so", hint=", ".join(known))
    if name == "until" and not value:
        raise InputError("--filter until= names no time", hint="until=24h")
    if name == "exited" and not value.removeprefix("-").isdecimal():
        raise InputError(f"--filter exited={value}: {value!r} is no exit code", hint="exited=0")


def _created(root: str, reference: str) -> str:
    return repr(find(root, reference).created)


_PLAIN = LETTERS + DIGITS + "_-"


def _is_named(container: Container, wanted: str) -> bool:
    """Whether a name is what a filter wants: a part of it, or docker's regular expression."""
    if only(wanted, _PLAIN):
        return wanted in container.name
    import re

    try:
        # docker's names begin with a slash inside, and its users write it.
        return any(re.search(wanted, name) for name in (container.name, f"/{container.name}"))
    except re.error as err:
        raise InputError(f"{wanted!r} in --filter name is no expression: {err}") from err


def _was_made(container: Container, name: str, value: str) -> bool:
    if name == "until":  # both in UTC, and with zeros where digits lack
        return docker_time(container.created)[:_MICROSECONDS] < value[:_MICROSECONDS]
    other = float(value)
    return container.created < other if name == "before" else container.created > other


def _passes(row: Row, name: str, value: str) -> bool:
    container, state = row
    settings = container.settings
    match name:
        case "id":
            return container.container_id.startswith(value)
        case "name":
            return _is_named(container, value)
        case "before" | "since" | "until":
            return _was_made(container, name, value)
        case "status":
            return row.status == (EXITED if value == "stopped" else value)
        case "label":
            key, equals, wanted = value.partition("=")
            labels = dict(settings.labels)
            return key in labels and (not equals or labels[key] == wanted)
        case "ancestor":
            return value in (container.image, container.image_id) or (
                container.image.partition(":")[0] == value
                or container.image_id.partition(":")[2].startswith(value)
            )
        case "exited":
            return state.status == EXITED and str(state.exit_code) == value
        case "health":
            return value == (_health_word(row) or "none")
        case "restart-policy":
            return settings.restart == value
        case "volume":
            return any(value in (mount.source, mount.target) for mount in settings.mounts)
        case _:
            return settings.network == value


def _health_word(row: Row) -> str:
    """Return what a container's checks say while it runs; "" if nothing says anything."""
    container, state = row
    if state.status != RUNNING or not state.monitor:
        return ""
    health = health_of(container)
    return health.status if health is not None else ""


def describe_state(state: State, health: str = "", *, paused: bool = False) -> str:
    """Return a state as docker's ``ps`` says it."""
    now_s = time.time()
    if state.status == CREATED:
        return "Created"
    if state.status == RUNNING:
        for_how_long = age(docker_time(state.started), now_s).removesuffix(" ago")
        shown = "health: starting" if health == "starting" else health
        if paused:
            shown = "Paused"
        if not state.monitor:
            shown = "Paused, its monitor is gone" if paused else "its monitor is gone"
        return f"Up {for_how_long}" + (f" ({shown})" if shown else "")
    when = age(docker_time(state.finished), now_s)
    if state.status == RESTARTING:
        return f"Restarting ({state.exit_code}) {when}"
    return f"Exited ({state.exit_code}) {when}"


def docker_time(seconds: float) -> str:
    """Return a time of a container's as RFC 3339 has it; Go's zero time for none."""
    if seconds <= 0:
        return "0001-01-01T00:00:00Z"
    whole, fraction = divmod(seconds, 1)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{stamp}.{int(fraction * 1e6):06d}+00:00"


_TITLES = {"ID": "CONTAINER ID", "RunningFor": "CREATED", "CreatedAt": "CREATED AT"}


def _fields(row: Row, *, cut: bool) -> dict[str, object]:
    container, state = row
    settings = container.settings
    command = f'"{" ".join(settings.args)}"'
    name = container.container_id
    mounts = [mount.source or mount.target for mount in settings.mounts]
    return {
        "ID": name[:SHORT_ID_HEX] if cut else name,
        "Image": container.image,
        "Command": f'"{shorten(command[1:-1], _COMMAND_WIDTH)}"' if cut else command,
        "CreatedAt": docker_time(container.created),
        "RunningFor": age(docker_time(container.created), time.time()),
        "Status": describe_state(state, _health_word(row), paused=row.status == PAUSED),
        "State": row.status,
        "Ports": "",
        "Names": container.name,
        "Labels": ",".join(f"{key}={value}" for key, value in settings.labels),
        "Mounts": ",".join(mounts),
        "Networks": settings.network,
        "LocalVolumes": str(sum(mount.kind == "volume" for mount in settings.mounts)),
        "Pid": str(state.pid),
        "ExitCode": str(state.exit_code),
    }


def _sizes(rows: Sequence[Row], root: str) -> list[str]:
    from layerstore.cli.container.sizes import sizes_of

    found = sizes_of(root, [row.container for row in rows])
    return [str(found[row.container.container_id]) for row in rows]


def _print_table(rows: Sequence[Row], root: str, options: argparse.Namespace) -> None:
    columns = ("ID", "Image", "Command", "RunningFor", "Status", "Names")
    headers = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"]
    fields = [_fields(row, cut=not options.no_trunc) for row in rows]
    lines = [[str(found[column]) for column in columns] for found in fields]
    if options.size:
        headers.append("SIZE")
        lines = [[*line, size] for line, size in zip(lines, _sizes(rows, root), strict=True)]
    write_table([] if options.noheading else headers, lines)


def row_to_json(row: Row) -> dict[str, object]:
    """Return a container as machines are told of it in lists."""
    container, state = row
    return {
        "id": container.container_id,
        "name": container.name,
        "image": container.image,
        "image_id": container.image_id,
        "command": list(container.settings.args),
        "created": docker_time(container.created),
        "labels": dict(container.settings.labels),
        "status": row.status,
        "health": _health_word(row) or None,
        "pid": state.pid,
        "exit_code": state.exit_code,
        "started": docker_time(state.started) if state.started else None,
        "finished": docker_time(state.finished) if state.finished else None,
    }


# -- logs


def logs_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``logs`` takes."""
    add = parser.add_argument
    add("-f", "--follow", action="store_true", help="go on until the container ends")
    add("-n", "--tail", default="all", metavar="N", help="only so many lines from the end")
    add("-t", "--timestamps", action="store_true", help="print when each line was written")
    add("--since", default="", metavar="TIME", help="2026-11-26T18:00:00Z, seconds, or 10m ago")
    add("--until", default="", metavar="TIME", help="up to then")
    add("container", metavar="CONTAINER", help="name or id")


def logs(options: argparse.Namespace, root: str) -> int:
    """Print what a container has printed, its standard error to ours."""
    from layerstore.containers.logs import follow_log, read_log

    container = find(root, options.container)
    settle(root, container)
    if container.settings.log_max_bytes < 0:
        raise InputError(f"container {container.name} keeps no log", hint="--log-opt max-size=10m")
    since, until = log_time(options.since, "--since"), log_time(options.until, "--until")
    lines, end = read_log(root, container, since=since, until=until, tail=_tail(options.tail))
    printer = _Printer(timestamps=options.timestamps, tty=container.settings.tty)
    printer.write(lines)
    if options.follow and not until:
        for line in follow_log(root, container, end):
            if line.time >= since:
                printer.write([line])
    return 0


class _Printer:
    """Writes lines as they were written, to the same stream."""

    def __init__(self, *, timestamps: bool, tty: bool) -> None:
        self._timestamps = timestamps
        self._goes_on = {"stdout": False, "stderr": False}
        self._outputs = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
        # Of a stranger's text a terminal gets what can be read; a terminal's own text is as it is.
        self._cleans = not tty and sys.stdout.isatty()

    def write(self, lines: Iterable[Any]) -> None:
        for line in lines:
            if line.stream not in self._outputs:
                continue
            output = self._outputs[line.stream]
            stamp = b""
            if self._timestamps and not self._goes_on[line.stream]:
                stamp = f"{line.time} ".encode()
            self._goes_on[line.stream] = not line.text.endswith(b"\n")
            output.write(stamp + (self._clean(line.text) if self._cleans else line.text))
        for output in self._outputs.values():
            output.flush()

    def _clean(self, text: bytes) -> bytes:
        """Return text without what acts on a terminal, but for colours and tabs."""
        shown = text.decode("utf-8", "replace")
        if "\x1b" not in shown and shown.isprintable():
            return text
        ended = shown.endswith("\n")
        body = shown.removesuffix("\n")
        parts = body.split("\t")
        return ("\t".join(map(_without_control, parts)) + ("\n" if ended else "")).encode()


def _without_control(text: str) -> str:
    import re

    kept = re.split(r"(\x1b\[[0-9;]*m)", text)
    return "".join(part if index % 2 else printable(part) for index, part in enumerate(kept))


def _tail(word: str) -> int:
    if word in ("all", "-1"):
        return -1
    if not (word.isascii() and word.isdigit()):
        raise InputError(f"--tail {word!r} is no number of lines", hint="--tail 100, or all")
    return int(word[:12])


def log_time(word: str, option: str) -> str:
    """Return a time as logs have it: of RFC 3339, of seconds since the epoch, or of an age.

    Raises:
        InputError: It is none.
    """
    if not word:
        return ""
    import re
    from datetime import UTC, datetime

    from layerstore.units import parse_age

    try:
        # Not by floats, which have no nanoseconds of our times: a line's own time is to find it.
        if word.isascii() and word.replace(".", "", 1).isdigit():
            whole, _, fraction = word.partition(".")
            seconds = int(whole or "0")
        elif word[0].isdigit() and word[-1] in "smhdwy":
            seconds, fraction = int(time.time() - parse_age(word)), ""
        else:
            moment = datetime.fromisoformat(word).replace(microsecond=0)
            seconds = int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
            found = re.search(r":[0-9]{2}[.,]([0-9]+)", word)
            fraction = found[1] if found else ""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError, LayerstoreError) as err:
        raise InputError(
            f"{option} {word!r} is no time", hint="2026-11-26T18:00:00Z, 1790000000, or 10m"
        ) from err
    return f"{stamp}.{fraction[:9]:0<9}Z"
