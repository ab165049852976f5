"""The command df. On the fast path: it is what people look at first, and scripts in loops."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from layerstore.cli.output import write_json, write_line, write_note
from layerstore.errors import InputError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from layerstore.measure.table import Table

ROWS_SHOWN = 20
"""Rows of a table when nobody said how many."""

_DIGITS_MAX = 9


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of df."""
    parser.add_argument(
        "image", nargs="*", metavar="IMAGE", help="with --by: these images only, names or ids"
    )
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="each image's bytes, and the ledger exactly"
    )
    parser.add_argument(
        "--by",
        choices=("image", "layer", "step", "package", "directory", "file"),
        help="what file contents take, by what; step: the line of the image's history; package: "
        "of dpkg, apk, rpm, pip and npm",
    )
    parser.add_argument(
        "--sort",
        choices=("share", "exclusive", "shared", "size", "name"),
        help="with --by: the order of rows (default: share)",
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        help=f"with --by: at most N rows, 0 for all; {ROWS_SHOWN} in tables",
    )
    parser.add_argument(
        "--depth", metavar="N", help="with --by directory: levels of directories (default: 2)"
    )


def show_disk_usage(options: argparse.Namespace, root: str) -> None:
    """Print what a store's disk holds.

    Raises:
        LayerstoreError: The store cannot be read.
    """
    from layerstore.cli.rootless.containers_namespace import join_to_read

    join_to_read(root)
    as_json = options.format == "json"
    if options.by is not None:
        _show_by(options, root)
        return
    _refuse_without_by(options)
    if options.format == "csv" and options.verbose:
        raise InputError("--csv has the rows of df alone", hint="--json has all of it, to the byte")
    from layerstore.measure.df import df_csv, df_images_table, df_table, ledger_table, take_df
    from layerstore.store.store import Store

    with Store.open(root) as store:
        running = _running(store.paths.root)
        usage = take_df(store, with_images=as_json or options.verbose, running=running)
    if as_json:
        import msgspec

        write_json(msgspec.to_builtins(usage))
        return
    if options.format == "csv":
        _write_lines(df_csv(usage))
        return
    _print_table(df_table(usage))
    if options.verbose:
        for table in (df_images_table(usage), ledger_table(usage.ledger)):
            write_line()
            _print_table(table)


def _running(root: str) -> set[str]:
    """Return the ids of containers that run, as ``ps`` tells it."""
    if not os.path.isdir(f"{root}/containers"):
        return set()
    from layerstore.containers.records import all_containers  # lazily: most stores have none
    from layerstore.containers.states import RESTARTING, RUNNING, state_of

    return {
        container.container_id
        for container in all_containers(root, [])
        if state_of(root, container).status in (RUNNING, RESTARTING)
    }


def _show_by(options: argparse.Namespace, root: str) -> None:
    import msgspec

    from layerstore.measure.usage_by import (
        DEPTH,
        By,
        Sort,
        take_usage_by,
        usage_by_csv,
        usage_by_table,
    )
    from layerstore.store.store import Store

    if options.verbose:
        raise InputError("--verbose is of df without --by")
    if options.depth is not None and options.by != By.DIRECTORY:
        raise InputError("--depth is of --by directory")
    limit = _number("--limit", options.limit, ROWS_SHOWN if options.format == "table" else 0)
    with Store.open(root) as store:
        usage = take_usage_by(
            store,
            By(options.by),
            options.image,
            depth=_number("--depth", options.depth, DEPTH),
            sort=Sort(options.sort or "share"),
            limit=limit or None,
        )
    if options.format == "json":
        write_json(msgspec.to_builtins(usage))
    elif options.format == "csv":
        _write_lines(usage_by_csv(usage))
        for each in usage_by_table(usage).notes:
            write_note(each)
    else:
        _print_table(usage_by_table(usage))


def _refuse_without_by(options: argparse.Namespace) -> None:
    for name in ("image", "sort", "limit", "depth"):
        if getattr(options, name) not in (None, []):
            what = "images are" if name == "image" else f"--{name} is"
            raise InputError(
                f"{what} of --by", hint="layerstore df --by image|layer|step|package|directory|file"
            )


def _number(option: str, text: str | None, otherwise: int) -> int:
    if text is None:
        return otherwise
    if not text.isdecimal() or len(text) > _DIGITS_MAX:
        raise InputError(f"{option} takes a number from 0, not {text!r}")
    return int(text)


def _print_table(table: Table) -> None:
    from layerstore.measure.table import table_lines

    _write_lines(table_lines(table))


def _write_lines(lines: Iterable[str]) -> None:
    for line in lines:
        write_line(line)
