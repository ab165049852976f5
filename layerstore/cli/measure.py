"""Commands that measure: savings. What the disk holds is :mod:`layerstore.cli.disk_usage`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json, settings_of
from layerstore.cli.output import write_json, write_line
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.measure.savings import Savings
    from layerstore.measure.table import Table

BAR_CELLS = 40
"""Characters of the longest bar: the chart fits 100 columns with its labels."""


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
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
        bool, typer.Option("--memory", help="What the running views hold in memory instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare full copies, plain layers and this store."""
    import msgspec

    from layerstore.measure.savings import take_savings

    if memory:
        if mounted or copies is not None:
            raise InputError("--memory is of running views: leave out --copies and --mounted")
        _memory(context, images or (), as_json=as_json)
        return
    if mounted and copies is not None:
        raise InputError("--mounted counts the containers: leave out --copies")
    number = None if mounted else 1 if copies is None else copies
    with settings_of(context).open_store() as store:
        taken = take_savings(store, images or (), copies=number)
    if as_json:
        write_json(msgspec.to_builtins(taken))
    else:
        _print_savings(taken)


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


def _print_savings(taken: Savings) -> None:
    from layerstore.measure.savings_report import images_table, schemes_chart, schemes_table
    from layerstore.measure.table import chart_lines

    _print_table(schemes_table(taken))
    write_line()
    for line in chart_lines(schemes_chart(taken), BAR_CELLS):
        write_line(line)
    write_line()
    _print_table(images_table(taken))


def _print_table(table: Table) -> None:
    from layerstore.measure.table import table_lines

    for line in table_lines(table):
        write_line(line)
