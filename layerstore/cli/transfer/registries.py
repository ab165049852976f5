"""How the command line reaches registries: its options, and the files and variables it heeds.

The one place that reads the environment for it. Imports next to nothing until it is asked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.output import write_note

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from layerstore.net.lifelines import Lifelines
    from layerstore.registry.client import RegistryClient
    from layerstore.registry.credentials import Credentials

TlsVerify = Annotated[
    bool | None,
    typer.Option(
        "--tls-verify/--no-tls-verify",
        help="Whether certificates of registries are checked; also --tls-verify=false.",
    ),
]


@contextlib.contextmanager
def registry_client(
    tls_verify: bool | None = None,
    *,
    credentials: Credentials | None = None,
    lifelines: Lifelines | None = None,
) -> Iterator[RegistryClient]:
    """Give a client of registries with what files and variables say, until the block ends.

    Args:
        tls_verify: Of the command line; None for what the files say.
        credentials: Who we are everywhere; None for what is kept.
        lifelines: Cut when what is asked for is not wanted any more.

    Raises:
        RegistryConfigError: A file cannot be understood.
    """
    from layerstore.net.lifelines import Lifelines
    from layerstore.registry.surroundings import client_of

    lifelines = lifelines or Lifelines()
    client = client_of(
        os.environ,
        tls_verify=tls_verify,
        credentials=credentials,
        lifelines=lifelines,
        note=write_note,
    )
    with contextlib.closing(client), _cut_by_signals(lifelines):
        yield client


@contextlib.contextmanager
def _cut_by_signals(lifelines: Lifelines) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end what other threads wait for, before they unwind this one.

    Who unwinds waits for those threads, and a silent server would have them wait for minutes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def cut(number: int, frame: FrameType | None) -> None:
        lifelines.cut()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, cut)
    try:
        yield
    finally:
        for number, handler in before.items():
            if callable(handler):
                signal.signal(number, handler)
