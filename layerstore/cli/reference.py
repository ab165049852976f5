"""docs/reference/cli.md, written from the commands themselves.

    python -m layerstore.cli.reference > docs/reference/cli.md

A test compares the file with what this prints, so that help and reference are one.
"""

from __future__ import annotations

import sys
from typing import Any

import typer

from layerstore.cli import fast
from layerstore.cli.app import PROGRAM, build_app
from layerstore.cli.main import FAST_COMMANDS
from layerstore.cli.output import HELP_WIDTH

_HEAD = """\
# Command line

Written by `python -m layerstore.cli.reference` from the commands' own help; do not edit.

The store is `--store DIR`, else `$LAYERSTORE_ROOT`, else `/var/lib/layerstore` for root and
`$XDG_DATA_HOME/layerstore` (`~/.local/share/layerstore`) for everyone else. `import`,
`bootstrap` and `build` make it when it is not there. `--store` may stand before or after the
command. Every command that prints a table or a report takes `--json` or `--format json`.

Results go to stdout, everything else to stderr. Exit codes and errors: [errors.md](errors.md).

Environment: `LAYERSTORE_ROOT` (the store), `LAYERSTORE_RUNTIME` (the OCI runtime of builds),
`LAYERSTORE_WARM` (`no`, or another socket of `warm`), `LAYERSTORE_ORIGINALS` (what `pull` and
`load` keep), `SOURCE_DATE_EPOCH` (time of new images), `LAYERSTORE_DEBUG=1` (tracebacks with
errors).
"""


def render() -> str:
    """Return the whole document."""
    root = typer.main.get_command(build_app())
    context = root.make_context(PROGRAM, ["--help-is-not-wanted"], resilient_parsing=True)
    sections = [_section(PROGRAM, root.get_help(_wide(context)))]
    commands = getattr(root, "commands", {})
    for name in sorted(commands):
        command = commands[name]
        if command.hidden:
            continue
        if name in FAST_COMMANDS:
            text = fast.parser_of(name).format_help()
        else:
            text = command.get_help(_wide(type(context)(command, info_name=name, parent=context)))
        sections.append(_section(f"{PROGRAM} {name}", text))
    return _HEAD + "".join(sections)


def _wide(context: Any) -> Any:  # noqa: ANN401 - typer's or click's, by version
    context.terminal_width = HELP_WIDTH
    return context


def _section(title: str, text: str) -> str:
    lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
    return f"\n## {title}\n\n```text\n{lines}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(render())
