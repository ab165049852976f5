"""The command that looks at many stores together."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.common import Json  # noqa: TC001 -- typer reads annotations
from layerstore.cli.failure import tell_all
from layerstore.cli.output import write_json, write_line
from layerstore.errors import InputError

if TYPE_CHECKING:
    from layerstore.measure.fleet.analysis import Fleet, LocalEngine, Place
    from layerstore.measure.fleet.dask_engine import DaskEngine

ENGINES = ("local", "dask")
_WORKER = re.compile(r"([^/:\s]+):(/.*)", re.DOTALL)


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("fleet")(fleet)


def fleet(
    stores: Annotated[
        list[str],
        typer.Argument(
            metavar="[WORKER:]STORE...",
            help="Directories of stores; with a cluster, which worker reads each.",
        ),
    ],
    *,
    engine: Annotated[
        str, typer.Option(metavar="local|dask", help="Who does the work: this process, or Dask.")
    ] = "local",
    scheduler: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="A running Dask scheduler, tls://HOST:8786; without one, workers are started "
            "here. Trust it: Dask runs code for whoever reaches it.",
        ),
    ] = "",
    workers: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Workers to start; one a processor if not given."),
    ] = None,
    tls_ca: Annotated[
        str,
        typer.Option("--tls-ca", metavar="FILE", help="Certificate of who signs the cluster's."),
    ] = "",
    tls_cert: Annotated[
        str, typer.Option("--tls-cert", metavar="FILE", help="Certificate to show the scheduler.")
    ] = "",
    tls_key: Annotated[
        str, typer.Option("--tls-key", metavar="FILE", help="Its private key.")
    ] = "",
    top: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=1000, help="Shared images, layers, chunks to list."),
    ] = 10,
    as_json: Json = False,
) -> None:
    """Say what many stores hold, and what they would hold as one.

    Each store is read where it is and only read; images, layers, files and chunks that several
    hold are counted once. The result is the same with every engine. A store that cannot be read is
    told, left out of the numbers, and its error gives the exit code.
    """
    import msgspec

    from layerstore.measure.fleet.analysis import analyse

    if engine not in ENGINES:
        raise InputError(f"{engine!r} is no engine", hint="--engine local or --engine dask")
    certificates = (tls_ca, tls_cert, tls_key)
    if engine == "local" and (scheduler or workers is not None or any(certificates)):
        raise InputError("--scheduler, --workers and --tls-* are of Dask", hint="add --engine dask")
    if scheduler and workers is not None:
        raise InputError("--workers are started here, and --scheduler names a running cluster")
    places = [_place(word, remote=bool(scheduler)) for word in stores]
    with _engine(engine, scheduler, workers, certificates) as chosen:
        found = analyse(places, chosen, top=top)
    if as_json:
        write_json(msgspec.to_builtins(found.fleet))
    elif found.fleet.stores:
        _print(found.fleet)
    tell_all(found.failures)


def _place(word: str, *, remote: bool) -> Place:
    from layerstore.measure.fleet.analysis import Place

    named = _WORKER.fullmatch(word)
    if named is not None:
        return Place(named[1], named[2])
    return Place("", word if remote else os.path.realpath(word))


def _engine(
    name: str, scheduler: str, workers: int | None, certificates: tuple[str, str, str]
) -> LocalEngine | DaskEngine:
    if name == "local":
        from layerstore.measure.fleet.analysis import LocalEngine

        return LocalEngine()
    from layerstore.measure.fleet.dask_engine import Certificates, DaskEngine

    return DaskEngine(
        scheduler=scheduler,
        workers=workers or os.cpu_count() or 1,
        certificates=Certificates(*certificates),
    )


def _print(found: Fleet) -> None:
    from layerstore.measure.fleet.tables import fleet_tables
    from layerstore.measure.table import table_lines

    for number, table in enumerate(fleet_tables(found)):
        if number:
            write_line()
        for line in table_lines(table):
            write_line(line)
