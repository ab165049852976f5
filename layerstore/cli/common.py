"""What the commands share: the store they open, options that many have, pass-through."""

from __future__ import annotations

from typing import Annotated

import typer

from layerstore.cli.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines; also --format json.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen; change nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print ids only.")]
NoTrunc = Annotated[bool, typer.Option("--no-trunc", help="Do not shorten ids and commands.")]


def settings_of(context: typer.Context) -> Settings:
    """Return what the root's options say."""
    settings = context.obj
    assert isinstance(settings, Settings)
    return settings


def fast_command(app: typer.Typer, name: str) -> None:
    """List a command of the fast path; its arguments pass through untouched."""
    from layerstore.cli import fast

    def pass_through(context: typer.Context) -> None:
        store = settings_of(context).store_option
        raise typer.Exit(fast.run(name, list(context.args), store))

    app.command(
        name,
        help=fast.summary_of(name),
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(pass_through)
