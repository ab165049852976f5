"""Native specs on the command line: lock files, the schema, and results of several variants."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from layerstore.cli.common import Quiet, settings_of
from layerstore.cli.output import write_json, write_note
from layerstore.cli.rootless.own_namespace import become_root

if TYPE_CHECKING:
    from layerstore.build.request import BuildRequest
    from layerstore.build.ui import BuildUi
    from layerstore.store.store import Store

_Many = list[str] | None


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("lock")(lock)
    app.command("schema")(print_schema)


def lock(
    context: typer.Context,
    directory: Annotated[
        str, typer.Argument(metavar="CONTEXT", help="Directory with the layerstore.toml.")
    ],
    *,
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="The native spec.")
    ] = None,
    build_args: Annotated[
        _Many,
        typer.Option("--build-arg", metavar="NAME[=VALUE]", help="Value of an argument."),
    ] = None,
    secrets: Annotated[
        _Many,
        typer.Option(
            "--secret",
            metavar="id=ID[,src=FILE|,env=NAME]",
            help="For package managers: pip.conf, npmrc, apt-auth.conf, ca-certificates.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the file is out of date.")
    ] = False,
    progress: Annotated[
        str, typer.Option(metavar="auto|plain|tty|quiet|json", help="How steps are shown.")
    ] = "auto",
    quiet: Quiet = False,
) -> None:
    """Resolve the packages of a native spec and write its lock file."""
    from layerstore.cli.build.bases import registry_puller
    from layerstore.cli.build.request import new_request
    from layerstore.cli.build.ui import check_progress, watching
    from layerstore.cli.build.values import with_values
    from layerstore.errors import ConflictError

    settings = settings_of(context)
    become_root(settings)
    request = new_request(directory, file, None, None, no_cache=False, network="default")
    request = with_values(request, build_args, None, secrets)
    request = msgspec.structs.replace(request, puller=registry_puller())
    check_progress(progress)
    with (
        settings.open_store(create=True) as store,
        watching(progress, quiet=quiet) as ui,
    ):
        if not check:
            write_lock(store, request, ui, quiet=quiet)
            return
        from layerstore.build.api import resolve_lock

        resolved = resolve_lock(store, request, ui)
    if not resolved.path.is_file() or resolved.path.read_bytes() != resolved.data:
        raise ConflictError(f"{resolved.path} is out of date", hint=f"layerstore lock {directory}")


def write_lock(store: Store, request: BuildRequest, ui: BuildUi, *, quiet: bool) -> None:
    """Resolve a spec and write its lock file, whole or not at all."""
    from layerstore.build.api import resolve_lock
    from layerstore.cli.build.told import write_whole

    resolved = resolve_lock(store, msgspec.structs.replace(request, variants=(), locked=False), ui)
    old = resolved.path.read_bytes() if resolved.path.is_file() else None
    if old != resolved.data:
        write_whole(resolved.path, resolved.data.decode())
    if not quiet:
        state = "is up to date" if old == resolved.data else "written"
        write_note(f"{os.fspath(resolved.path)} {state}")


def print_schema() -> None:
    """Print the JSON schema of layerstore.toml, for editors."""
    from layerstore.build.native.schema import schema

    write_json(schema())
