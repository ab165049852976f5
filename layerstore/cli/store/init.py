"""Commands that make and change whole stores: init, upgrade."""

from __future__ import annotations

from typing import Annotated

import typer

from layerstore.cli.common import DryRun, Json, settings_of
from layerstore.cli.output import write_json, write_line
from layerstore.errors import NotFoundError


def register(app: typer.Typer) -> None:
    """Add this noun's commands."""
    app.command("init")(init)
    app.command("upgrade")(upgrade)


def init(
    context: typer.Context,
    path: Annotated[
        str | None, typer.Argument(metavar="[DIR]", help="Where; by default the store in use.")
    ] = None,
    *,
    shared: Annotated[
        str | None,
        typer.Option(
            "--shared",
            metavar="GROUP",
            help="Let the members of a group read and write it, an existing store too.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a store, which only its owner may enter, or open one to a group."""
    import os

    from layerstore.store.config import create_store, load_config
    from layerstore.store.paths import StorePaths
    from layerstore.store.sharing import share_store

    group = _group_id(shared) if shared is not None else None
    root = os.path.abspath(path or settings_of(context).root)
    paths = StorePaths(root)
    existed = os.path.exists(paths.config)
    create_store(paths)
    if group is not None:
        share_store(paths, group)
    config = load_config(paths)
    if as_json:
        write_json({"store": root, "made": not existed, "shared": config.shared})
        return
    done = "a store is there already" if existed else "made a store"
    whom = "its owner alone" if not config.shared else f"group {_group_name(root)}"
    write_line(f"{done}: {root}, open to {whom}")


def _group_id(name: str) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if name.isascii() and name.isdigit():
            return int(name)
        raise NotFoundError(
            f"there is no group {name!r} on this host", hint="groupadd, or its number"
        ) from None


def _group_name(root: str) -> str:
    import grp
    import os

    number = os.stat(root).st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def upgrade(
    context: typer.Context,
    *,
    undo: Annotated[
        bool,
        typer.Option("--undo", help="Back to the format before, while nothing needs the new one."),
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Bring a store that an older layerstore made to this one's format."""
    import os

    from layerstore.store.paths import StorePaths
    from layerstore.store.rebuild.upgrade import undo_upgrade
    from layerstore.store.rebuild.upgrade import upgrade as upgrade_store

    root = os.path.abspath(settings_of(context).root)
    change = undo_upgrade if undo else upgrade_store
    report = change(StorePaths(root), dry_run=dry_run)
    if as_json:
        write_json({"store": root, "dry_run": dry_run, **report._asdict()})
        return
    if not report.changed:
        write_line(f"{root} has format {report.after} already")
        return
    verb = "would change" if dry_run else "changed"
    write_line(f"{verb} {root} from format {report.before} to {report.after}")
    if not undo:
        write_line("the way back, until something is written: layerstore upgrade --undo")
