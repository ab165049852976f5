"""How ``savings`` is shown: tables, JSON, CSV, a page, a picture."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from layerstore.cli.output import write_json, write_line, write_note
from layerstore.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.cli.settings import Settings
    from layerstore.measure.report.collect import Collected
    from layerstore.measure.table import Table

BAR_CELLS = 40
"""Characters of the longest bar: the chart fits 100 columns with its labels."""

_STDOUT = "-"


class Output(NamedTuple):
    """What is wanted.

    Attributes:
        html: The file that gets a page; ``-`` for stdout.
        plot: The file that gets a picture.
        csv: Print numbers for spreadsheets.
        as_json: Print JSON.
        mounted: The containers are those that are mounted.
    """

    html: str | None = None
    plot: str | None = None
    csv: bool = False
    as_json: bool = False
    mounted: bool = False

    def refuse_impossible(self) -> None:
        """Refuse before anything is read what could not be shown at its end.

        Raises:
            InputError: Two things for stdout, or a picture of no kind, or a directory for a file.
            NotFoundError: The directory of a file that is to be written is missing.
            UnsupportedError: What draws pictures is not installed.
        """
        if self.csv and self.as_json:
            raise InputError("--csv and --json exclude each other")
        if self.html == _STDOUT and (self.csv or self.as_json):
            raise InputError("stdout takes one thing: name a file with --html")
        if self.html == _STDOUT and sys.stdout.isatty():
            raise InputError(
                "refusing to write a page to a terminal", hint="name a file with --html FILE"
            )
        if self.plot is not None:
            from layerstore.measure.plots import require_plots

            require_plots(self.plot)
        for path in (self.html, self.plot):
            if path not in (None, _STDOUT):
                _refuse_missing_directory(path)


def _refuse_missing_directory(path: str) -> None:
    if os.path.isdir(path):
        raise InputError(f"{path} is a directory, expected a file")
    if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
        raise NotFoundError(f"{path}: its directory does not exist")


def write_savings(collected: Collected, output: Output) -> None:
    """Show a report as it is wanted: files first, for who reads stdout wants them there."""
    if output.html is not None:
        _write_page(collected, output.html)
    if output.plot is not None:
        _draw(collected, output.plot)
    if output.as_json:
        from layerstore.measure.report.collect import to_builtins

        write_json(to_builtins(collected.report))
    elif output.csv:
        from layerstore.measure.savings_report import csv_rows

        for row in csv_rows(collected.report):
            write_line(row)
    elif output.mounted and not any(image.copies for image in collected.report.images):
        write_line("nothing is mounted, so there is nothing to compare; --copies N asks what if")
    elif output.html != _STDOUT:
        _print_savings(collected)
    for path in (output.html, output.plot):
        if path not in (None, _STDOUT):
            write_note(f"wrote {path}")


def write_memory(settings: Settings, names: Sequence[str], *, as_json: bool) -> None:
    """Show what the running views hold in memory."""
    import msgspec

    from layerstore.measure.memory import memory_table, take_memory

    with settings.open_store() as store:
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


def _draw(collected: Collected, path: str) -> None:
    from layerstore.cli.outfile import output_stream
    from layerstore.measure.plots import draw

    with output_stream(path, what="a picture") as stream:
        draw(collected.report, stream, path.rpartition(".")[2].lower())


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
