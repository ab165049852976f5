"""The command df. On the fast path: it is what people look at first, and scripts in loops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.cli.output import write_json, write_line

if TYPE_CHECKING:
    import argparse

    from layerstore.measure.table import Table


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of df."""
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="each image's bytes, and the ledger exactly"
    )


def show_disk_usage(options: argparse.Namespace, root: str) -> None:
    """Print what a store's disk holds.

    Raises:
        LayerstoreError: The store cannot be read.
    """
    as_json = options.format == "json"
    from layerstore.measure.df import df_images_table, df_table, ledger_table, take_df
    from layerstore.store.store import Store

    with Store.open(root) as store:
        usage = take_df(store, with_images=as_json or options.verbose)
    if as_json:
        import msgspec

        write_json(msgspec.to_builtins(usage))
        return
    _print_table(df_table(usage))
    if options.verbose:
        for table in (df_images_table(usage), ledger_table(usage.ledger)):
            write_line()
            _print_table(table)


def _print_table(table: Table) -> None:
    from layerstore.measure.table import table_lines

    for line in table_lines(table):
        write_line(line)
