"""The command line's root: registers the commands of every noun.

Modules of a noun import typer at their top and everything else inside functions,
so that a command pays only for what it uses. Commands of the fast path appear
here for the help; their options live in :mod:`layerstore.cli.fast` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.collector import collect_rarely
from layerstore.cli.common import fast_command
from layerstore.cli.container.commands import NAMES as CONTAINER_COMMANDS
from layerstore.cli.output import HELP_WIDTH
from layerstore.cli.parsing.docker_words import INSTEAD, missing
from layerstore.cli.parsing.switches import without_values
from layerstore.cli.settings import Settings
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "layerstore"
_FORMATS: dict[str, tuple[str, ...]] = {"json": ("--json",), "table": ()}


def build_app() -> typer.Typer:
    """Return the command line as typer sees it."""
    from layerstore.cli.about import completion, doctor, version
    from layerstore.cli.build import build, native, why
    from layerstore.cli.image import history, manifest, pin, remove
    from layerstore.cli.measure import diff, find, fleet, savings, suggest, waste
    from layerstore.cli.rootless import unshare
    from layerstore.cli.store import check, gc, init, optimize
    from layerstore.cli.transfer import (
        bootstrap,
        bundles,
        copy_images,
        load,
        login,
        originals,
        pull,
        saving,
        signatures,
    )
    from layerstore.cli.views import commit, podman_store, prepare, snapshotter

    app = typer.Typer(
        name=PROGRAM,
        help="Build images, store every byte once, mount shared root file systems, "
        "and account for the savings.",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": HELP_WIDTH},
    )
    app.callback()(_root)
    build.register(app)
    why.register(app)
    native.register(app)
    fast_command(app, "import")
    bootstrap.register(app)
    saving.register(app)
    pull.register(app)
    login.register(app)
    copy_images.register(app)
    bundles.register(app)
    signatures.register(app)
    load.register(app)
    originals.register(app)
    fast_command(app, "inspect")
    history.register(app)
    manifest.register(app)
    pin.register(app)
    remove.register(app)
    fast_command(app, "images")
    for name in ("mount", "mounts", "umount"):
        fast_command(app, name)
    prepare.register(app)
    commit.register(app)
    diff.register(app)
    for name in CONTAINER_COMMANDS:
        fast_command(app, name)
    podman_store.register(app)
    unshare.register(app)
    snapshotter.register(app)
    fast_command(app, "df")
    savings.register(app)
    fleet.register(app)
    waste.register(app)
    find.register(app)
    suggest.register(app)
    gc.register(app)
    check.register(app)
    init.register(app)
    version.register(app)
    optimize.register(app)
    doctor.register(app)
    completion.register(app)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from layerstore.cli.about.version import print_version

        print_version(wanted)


def _root(
    context: typer.Context,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="The store; by default $LAYERSTORE_ROOT, else /var/lib/layerstore for root and "
            "$XDG_DATA_HOME/layerstore for everyone else. May stand after the command too.",
        ),
    ] = None,
    *,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    context.obj = Settings(store)


def run(arguments: Sequence[str], store: str | None) -> int:
    """Run a command line without its ``--store`` and return the exit code.

    Raises:
        LayerstoreError: The command failed.
    """
    collect_rarely()
    prefix = ["--store", store] if store else []
    if arguments and arguments[0] in INSTEAD:
        raise missing(arguments[0])
    words = _format_as_flag(arguments)
    if words[:1] == ["build"]:
        from layerstore.cli.build.bases import spelled_out

        words = spelled_out(words)
    words = words or ["--help"]
    command = typer.main.get_command(_app_for(words[0]))
    line = [*prefix, *without_values(command, words)]
    try:
        # Not command.main(): it ends the process by itself on broken pipes and Ctrl-C.
        with command.make_context(PROGRAM, line) as context:
            command.invoke(context)
    except typer.Exit as err:
        return err.exit_code
    return 0


def _app_for(word: str) -> typer.Typer:
    """Return the app with one command alone if ``word`` names one.

    typer inspects every function it is given, 1.3 ms of CPU each.
    """
    app = build_app()
    alone = [command for command in app.registered_commands if command.name == word]
    app.registered_commands = alone or app.registered_commands
    return app


def _format_as_flag(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with ``--format json`` written as ``--json``, which means the same.

    Scripts written for docker say the former; every command takes both. Tables are what
    commands print without either.

    Raises:
        InputError: Another format.
    """
    line: list[str] = []
    rest = iter(arguments)
    for word in rest:
        if word == "--":
            return [*line, word, *rest]
        option, equals, value = word.partition("=")
        if option != "--format":
            line.append(word)
            continue
        value = value if equals else next(rest, "")
        if arguments[:1] == ["save"] and value != "json":
            line.append(f"--format={value}")  # docker's and podman's word for kinds of archives
            continue
        if arguments[:1] == ["savings"] and value == "csv":
            line.append("--csv")
            continue
        if arguments[:1] == ["history"] and value not in _FORMATS:
            line.append(f"--template={value}")
            continue
        if value not in _FORMATS:
            plan = arguments[:1] == ["build"] and value in ("dot", "text")
            hint = f"--plan={value}" if plan else "--format table or --format json"
            raise InputError(f"{value!r} is not a format", hint=hint)
        line += _FORMATS[value]
    return line
