"""The command ``savings``: what the same containers cost, kept in one way or another.

How it is shown is :mod:`layerstore.cli.measure.savings_output`'s.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, settings_of
from layerstore.cli.output import write_note
from layerstore.cli.progress import terminal_progress
from layerstore.cli.transfer.engines import EngineHost  # noqa: TC001 - typer reads it
from layerstore.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.cli.settings import Settings
    from layerstore.measure.report.collect import Collected, Wishes
    from layerstore.measure.savings import Savings
    from layerstore.measure.survey import Survey
    from layerstore.measure.transfers import Hosts
    from layerstore.progress import Progress
    from layerstore.store.store import Store

_HOSTS_FILE_BYTES = 64 << 20
_MAX_COPIES = 1_000_000_000
"""More than anybody runs; sums stay numbers that every reader of JSON and every picture has."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("savings")(savings)


def savings(
    context: typer.Context,
    images: Annotated[
        list[str] | None,
        typer.Argument(metavar="[IMAGE...]", help="Names or ids; all named images if none."),
    ] = None,
    *,
    copies: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=_MAX_COPIES,
            help="Containers of each image; 1 if not given.",
        ),
    ] = None,
    mounted: Annotated[
        bool, typer.Option("--mounted", help="Count the mounted views as containers.")
    ] = False,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory",
            help="What the running views hold in memory instead; with --html beside the rest.",
        ),
    ] = False,
    all_schemes: Annotated[
        bool | None,
        typer.Option(
            "--all-schemes/--no-all-schemes",
            help="Read all content for compressed layers and fixed blocks as well, a minute of "
            "processor time for 1.5 GB; with --html, --plot and --hosts unless you say no.",
        ),
    ] = None,
    with_optimize: Annotated[
        bool,
        typer.Option(
            "--with-optimize",
            help="What 'optimize' would make of it, tried in a scratch copy: minutes a gigabyte.",
        ),
    ] = False,
    optimize_level: Annotated[
        int | None,
        typer.Option(
            "--optimize-level",
            metavar="N",
            min=1,
            max=19,
            help="With --with-optimize: its --level, 19 if not given; 9 is ten times as fast.",
        ),
    ] = None,
    hosts: Annotated[
        str | None,
        typer.Option(
            metavar="N|FILE",
            help="What pulls carry: to N hosts that pull all images in order, or as a file says, "
            "each line a host and its images.",
        ),
    ] = None,
    of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Of images that are not here: an archive, an OCI layout, a root file system as "
            "tar or directory, docker:NAME, podman:NAME, 'docker:*' for all; repeatable. The "
            "store is left alone.",
        ),
    ] = None,
    host: EngineHost = None,
    work: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="With --of and --with-optimize: where a store is made and removed again; "
            "$TMPDIR or /var/tmp if not given.",
        ),
    ] = None,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a report with pictures, one file.")
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.png|FILE.svg", help="Draw schemes and growth; needs the extra 'plots'."
        ),
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print numbers for spreadsheets; also --format csv.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare full copies, plain layers and this store."""
    from layerstore.cli.measure.savings_output import Output, write_memory, write_savings
    from layerstore.cli.measure.step_places import step_places
    from layerstore.measure.report.collect import Wishes

    if memory and html is None:
        if mounted or copies is not None or of:
            raise InputError("--memory is of running views: leave out --copies, --mounted and --of")
        write_memory(settings_of(context), images or (), as_json=as_json)
        return
    if mounted and copies is not None:
        raise InputError("--mounted counts the containers: leave out --copies")
    if of and (mounted or memory or images):
        raise InputError(
            "--of is of images that are not here: leave out names, --mounted and --memory",
            hint="name several sources by several --of",
        )
    if host is not None and not of:
        raise InputError("--host is where the engine of --of docker:NAME listens")
    if optimize_level is not None and not with_optimize:
        raise InputError("--optimize-level is for --with-optimize", hint="add --with-optimize")
    output = Output(html=html, plot=plot, csv=csv, as_json=as_json, mounted=mounted)
    output.refuse_impossible()
    reads_content = bool(html or plot or hosts) if all_schemes is None else all_schemes
    wishes = Wishes(
        copies=None if mounted else 1 if copies is None else copies,
        reads_content=reads_content,
        hosts=None if hosts is None else _hosts(hosts),
        memory=memory,
        details=as_json or html is not None,
        waste=html is not None or (as_json and reads_content),
        places=step_places,
    )
    place = _Place(settings_of(context), of or (), host, work or _work_directory())
    level = (optimize_level or 19) if with_optimize else None
    write_savings(place.measured(images or (), wishes, level), output)


class _Place:
    """Where the images are, and where there is room to work."""

    def __init__(
        self, settings: Settings, sources: Sequence[str], host: str | None, work: str
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._host = host
        self._work = work

    def measured(
        self, names: Sequence[str], wishes: Wishes, optimize_level: int | None
    ) -> Collected:
        """Take the report; what was made for it is gone again when this returns.

        With an ``optimize_level`` it tells what ``optimize`` would make of the store with that.
        """
        from layerstore.cli.rootless.containers_namespace import join_to_read_for
        from layerstore.measure.report.collect import collect

        if not self._sources:
            join_to_read_for(self._settings)
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(terminal_progress())
            if self._sources:
                from layerstore.cli.measure.savings_of import store_of

                made = store_of(self._sources, self._host, self._work, progress)
                store, names = stack.enter_context(made)
            else:
                store = stack.enter_context(self._settings.open_store())
            optimized = None
            if optimize_level is not None:
                optimized = self._rehearsal(store, stack, progress, optimize_level)
            collected = collect(store, names, wishes, progress, optimized)
            if self._sources:
                self._tell_scratch(store)
        return collected

    def _rehearsal(
        self, store: Store, stack: contextlib.ExitStack, progress: Progress, level: int
    ) -> Callable[[Survey], Savings]:
        from layerstore.measure.rehearsal import optimized_savings
        from layerstore.measure.scratch import scratch_directory

        scratch = stack.enter_context(scratch_directory(self._work))
        return lambda survey: optimized_savings(store, survey, f"{scratch}/copy", progress, level)

    def _tell_scratch(self, store: Store) -> None:
        from layerstore.measure.disk import walk_sizes
        from layerstore.units import format_size

        size = sum(file.allocated_size for file in walk_sizes(Path(store.root)))
        write_note(f"measured in a store of {format_size(size)} in {self._work}, which is removed")


def _work_directory() -> str:
    return os.environ.get("TMPDIR") or "/var/tmp"  # noqa: S108 - a private directory is made there


def _hosts(text: str) -> Callable[[Store, Survey], Sequence[Hosts]]:
    """Return what tells the hosts, from their number or from a file.

    Raises:
        InputError: The number makes no sense.
        NotFoundError: There is no such file.
    """
    from layerstore.linux.files import read_file
    from layerstore.measure.transfers import MAX_HOSTS, read_hosts, same_hosts

    if text.isascii() and text.isdecimal():
        count = int(text) if len(text) < 12 else MAX_HOSTS + 1
        if not 0 < count <= MAX_HOSTS:
            raise InputError(f"{text[:20]} hosts: expected 1 to {MAX_HOSTS}")
        return lambda _, survey: same_hosts(survey, count)
    try:
        raw = read_file(text, max_bytes=_HOSTS_FILE_BYTES)
    except FileNotFoundError as err:
        raise NotFoundError(
            f"{text} does not exist", hint="--hosts takes a number of hosts, or a file of them"
        ) from err
    lines = raw.decode("utf-8", "replace").splitlines()
    return lambda store, survey: read_hosts(store, survey, lines, text)
