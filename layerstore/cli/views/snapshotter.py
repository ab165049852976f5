"""The command that serves containerd's snapshots."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from layerstore.cli.common import settings_of
from layerstore.cli.output import write_note
from layerstore.cli.settings import Settings
from layerstore.errors import UnsupportedError

ADDRESS = "/run/layerstore/snapshotter.sock"


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("snapshotter")(serve_snapshots)


def serve_snapshots(
    context: typer.Context,
    *,
    address: Annotated[
        str, typer.Option(metavar="SOCKET", help="The unix socket on which containerd finds it.")
    ] = ADDRESS,
    backend: Annotated[
        str,
        typer.Option(
            metavar="kernel|kernel-packs",
            help="How containers read their images: from files unpacked once for all images, or "
            "from compressed packs, which take less disk and more time for cold reads.",
        ),
    ] = "kernel",
    root: Annotated[
        str | None, typer.Option(metavar="DIR", help="The same as --store: the store to serve.")
    ] = None,
) -> None:
    """Serve containerd's snapshots out of the store, until SIGTERM.

    A proxy plugin: containerd's config.toml names the socket, and images and containers use it
    as the snapshotter of that name. Needs root. Lines of its log go to standard error.
    """
    settings = settings_of(context)
    if root is not None:
        settings = Settings(root)
    # Before any thread is there; and a fork of ours, of a FUSE server say, execs at once.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        from layerstore.snapshotter.server import Server, notify
    except ImportError as err:
        raise UnsupportedError(
            f"the snapshotter needs {err.name}, which is not installed",
            hint="install layerstore[containerd]: pip install grpcio protobuf",
        ) from err
    channel = os.environ.pop("NOTIFY_SOCKET", "")
    # A signal that comes just before a thread waits for a lock would not wake it; a byte does.
    ending, ended_by = os.pipe()
    os.set_blocking(ended_by, False)
    signal.set_wakeup_fd(ended_by)
    with settings.open_store(create=True) as store:
        server = Server(store, address, _tell, backend)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _signal, _frame: None)
        server.start()
        notify(channel, "READY=1")
        server.serve(lambda: os.read(ending, 1))
        notify(channel, "STOPPING=1")
    # The interpreter would wait for every thread, one that waits for a disk too.
    os._exit(0)


def _tell(line: str) -> None:
    write_note(line)
