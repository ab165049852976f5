"""Parsers of the fast path: argparse's, which raise our errors."""

from __future__ import annotations

import argparse

from layerstore.cli.output import HELP_WIDTH
from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layerstore.light_typing import NoReturn

PROGRAM = "layerstore"

# Looking for a translation of argparse's words imports locale and searches the disk, 1 ms; ours
# are English, and a mixture is no help. There is no public way to say so.
vars(argparse)["_"] = str
vars(argparse)["ngettext"] = lambda one, many, count: one if count == 1 else many


class _Parser(argparse.ArgumentParser):
    """Raises our error instead of printing its own and exiting; gives switches docker's values."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - as argparse has it
        """Parse; options may stand between operands, too, as docker's users type them."""
        parsed, rest = self.parse_known_args(args, namespace)
        if rest and not any(word.startswith("-") for word in rest):
            # argparse takes operands from where the first ones stand alone. This takes them from
            # everywhere, and much longer.
            parsed, rest = self.parse_known_intermixed_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return parsed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # noqa: ANN401 - as argparse has it
        if args and any("=" in word for word in args):
            from layerstore.cli.parsing.switches import without_values_for

            args = without_values_for(self, args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        told, _, words = message.partition("unrecognized arguments: ")
        meant = "" if told or not words else self._meant(words.split(" ")[0].partition("=")[0])
        raise InputError(message + meant, hint=f"'{self.prog} --help' lists what it takes")

    def _meant(self, word: str) -> str:
        """Return the options that are spelled nearly so, as the other commands' parser says it."""
        import difflib

        near = difflib.get_close_matches(word, self._option_string_actions, n=2, cutoff=0.8)
        return f". Did you mean {', '.join(map(repr, near))}?" if word[:2] == "--" and near else ""


def make_parser(name: str, summary: str, *, has_help: bool = True) -> argparse.ArgumentParser:
    """Return an empty parser that raises our errors."""
    return _Parser(
        prog=f"{PROGRAM} {name}",
        description=summary,
        allow_abbrev=False,
        add_help=has_help,
        # A width of its own: asking for the terminal's imports shutil, 3 ms.
        formatter_class=lambda prog: argparse.HelpFormatter(prog, width=HELP_WIDTH),
    )


def json_option(parser: argparse.ArgumentParser, *, csv: bool = False) -> None:
    """Declare ``--format table|json``, perhaps ``csv``, and the short words for these."""
    parser.add_argument(
        "--format",
        choices=("table", "json", *(["csv"] if csv else [])),
        default="table",
        help="json for machines" + (", csv for spreadsheets" if csv else ""),
    )
    same_as_json(parser)
    if csv:
        parser.add_argument(
            "--csv",
            dest="format",
            action="store_const",
            const="csv",
            help="the same as --format csv",
        )


def same_as_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json`` of a command that has a ``--format`` of its own."""
    parser.add_argument(
        "--json",
        dest="format",
        action="store_const",
        const="json",
        help="the same as --format json",
    )
