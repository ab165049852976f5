"""The command ``savings``: what the same containers cost, kept in one way or another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, settings_of
from layerstore.cli.output import write_json, write_line, write_note
from layerstore.cli.progress import terminal_progress
from layerstore.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.measure.report.collect import Collected, Wishes
    from layerstore.measure.survey import Survey
    from layerstore.measure.table import Table
    from layerstore.measure.transfers import Hosts
    from layerstore.store.store import Store

BAR_CELLS = 40
"""Characters of the longest bar: the chart fits 100 columns with its labels."""

_HOSTS_FILE_BYTES = 64 << 20


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
        typer.Option(metavar="N", min=0, help="Containers of each image; 1 if not given."),
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
    hosts: Annotated[
        str | None,
        typer.Option(
            metavar="N|FILE",
            help="What pulls carry: to N hosts that pull all images in order, or as a file says, "
            "each line a host and its images.",
        ),
    ] = None,
    html: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a report with pictures, one file.")
    ] = None,
    csv: Annotated[
        bool, typer.Option("--csv", help="Print numbers for spreadsheets; also --format csv.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare full copies, plain layers and this store."""
    from layerstore.measure.report.collect import Wishes

    if csv and as_json:
        raise InputError("--csv and --json exclude each other")
    if memory and html is None:
        if mounted or copies is not None:
            raise InputError("--memory is of running views: leave out --copies and --mounted")
        _memory(context, images or (), as_json=as_json)
        return
    if mounted and copies is not None:
        raise InputError("--mounted counts the containers: leave out --copies")
    wishes = Wishes(
        copies=None if mounted else 1 if copies is None else copies,
        reads_content=bool(html or hosts) if all_schemes is None else all_schemes,
        hosts=None if hosts is None else _hosts(hosts),
        memory=memory,
        details=as_json or html is not None,
    )
    with settings_of(context).open_store() as store:
        collected = _collected(store, images or (), wishes)
    if html is not None:
        _write_page(collected, html)
    if as_json:
        from layerstore.measure.report.collect import to_builtins

        write_json(to_builtins(collected.report))
    elif csv:
        _print_csv(collected)
    elif html != "-":
        _print_savings(collected)
    if html not in (None, "-"):
        write_note(f"wrote {html}")


def _collected(store: Store, names: Sequence[str], wishes: Wishes) -> Collected:
    from layerstore.measure.report.collect import collect

    with terminal_progress() as progress:
        return collect(store, names, wishes, progress)


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


def _memory(context: typer.Context, names: Sequence[str], *, as_json: bool) -> None:
    import msgspec

    from layerstore.measure.memory import memory_table, take_memory

    with settings_of(context).open_store() as store:
        taken = take_memory(store, {store.resolve(name).image_id for name in names})
    if as_json:
        write_json(msgspec.to_builtins(taken))
    elif taken.images:
        _print_table(memory_table(taken))
    else:
        write_line("no views are running")


def _write_page(collected: Collected, path: str) -> None:
    import time

    from layerstore.cli.outfile import output_stream
    from layerstore.measure.report.page import page

    made = time.strftime(" on %Y-%m-%d at %H:%M UTC", time.gmtime())
    text = page(collected, made)
    with output_stream(path, what="a page") as stream:
        stream.write(text.encode())


def _print_csv(collected: Collected) -> None:
    from layerstore.measure.savings_report import csv_rows

    for row in csv_rows(collected.report):
        write_line(row)


def _print_savings(collected: Collected) -> None:
    from layerstore.measure.savings_report import (
        growth_lines,
        images_table,
        schemes_chart,
        schemes_table,
        transfers_table,
    )
    from layerstore.measure.table import chart_lines

    report = collected.report
    _print_table(schemes_table(report))
    write_line()
    for line in chart_lines(schemes_chart(report), BAR_CELLS):
        write_line(line)
    write_line()
    growth = growth_lines(report)
    for line in growth:
        write_line(line)
    if growth:
        write_line()
    if report.transfers is not None:
        _print_table(transfers_table(report.transfers))
        write_line()
    _print_table(images_table(report))


def _print_table(table: Table) -> None:
    from layerstore.measure.table import table_lines

    for line in table_lines(table):
        write_line(line)
