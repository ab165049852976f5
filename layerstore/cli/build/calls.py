"""``build --check`` and ``--call``: findings, targets and outlines as docker prints them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.cli.output import printable, write_json, write_line
from layerstore.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from layerstore.build.checking import Checked
    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.lint.rules import Finding
    from layerstore.build.request import BuildRequest
    from layerstore.cli.settings import Settings
    from layerstore.store.store import Store

METHODS = ("build", "check", "outline", "targets")
EXIT_FOUND = 1
"""As docker's: there are findings."""

_RULE = "-" * 20
_CONTEXT_LINES = 2


def parse_call(text: str, *, check: bool) -> tuple[str, bool]:
    """Return what ``--call`` asks for, and whether as JSON (``check,format=json``).

    Raises:
        InputError: Not a method, or no format of one.
    """
    method, *options = text.split(",")
    if check and method in ("", "build"):
        method = "check"
    if method not in METHODS:
        raise InputError(f"{method!r} cannot be called", hint="one of " + ", ".join(METHODS))
    for option in options:
        if option not in ("format=json", "format=text"):
            raise InputError(f"{option!r} is no option of --call", hint="--call=check,format=json")
    return method, "format=json" in options


def run_call(settings: Settings, request: BuildRequest, method: str, *, as_json: bool) -> int:
    """Print what a method says about a request; return the exit code."""
    from layerstore.build.api import check

    store = _store(settings)
    try:
        checked = check(store, request)
    finally:
        if store is not None:
            store.close()
    if method != "check":
        from layerstore.cli.build.outline import tell_outline, tell_targets

        if method == "targets":
            tell_targets(checked, as_json=as_json)
        else:
            tell_outline(checked, request.target, as_json=as_json)
        return 0
    if as_json:
        write_json(_as_json(checked))
    else:
        for line in report(checked):
            write_line(line)
    return EXIT_FOUND if checked.findings else 0


def _store(settings: Settings) -> Store | None:
    """Return the store, which tells base images; a check needs none and makes none."""
    if not Path(settings.root).exists():
        return None
    try:
        return settings.open_store()
    except NotFoundError:
        return None


def report(checked: Checked) -> list[str]:
    """Return the report's lines, in the words of ``docker build --check``."""
    count = len(checked.findings)
    if not count:
        return ["Check complete, no warnings found."]
    found = "1 warning has" if count == 1 else f"{count} warnings have"
    lines = [f"Check complete, {found} been found!"]
    for finding in checked.findings:
        url = f" - {finding.rule.url}" if finding.rule.url else ""
        lines += ["", f"WARNING: {finding.rule.name}{url}", printable(finding.detail)]
        lines += excerpt(checked, finding)
    return lines


def excerpt(checked: Checked, finding: Finding) -> list[str]:
    """Return a finding's place with the lines around it, its own ones marked."""
    first, last = finding.span.line, finding.span.end_line
    shown = range(
        max(1, first - _CONTEXT_LINES), min(len(checked.lines), last + _CONTEXT_LINES) + 1
    )
    lines = [f"{printable(checked.filename)}:{first}", _RULE]
    for number in shown:
        mark = ">>>" if first <= number <= last else "   "
        text = printable(checked.lines[number - 1].rstrip("\r").expandtabs())
        lines.append(f"{number:4} | {mark} {text}".rstrip())
    return [*lines, _RULE]


def _as_json(checked: Checked) -> dict[str, object]:
    source = "\n".join(checked.lines).encode()
    return {
        "warnings": [
            {
                "ruleName": finding.rule.name,
                "description": finding.rule.description,
                "url": finding.rule.url,
                "detail": finding.detail,
                "location": location(finding.span),
            }
            for finding in checked.findings
        ],
        "sources": [
            {
                "fileName": checked.filename,
                "language": "Dockerfile" if checked.dockerfile else "TOML",
                "data": base64.b64encode(source).decode(),
            }
        ],
    }


def location(span: SourceSpan) -> dict[str, object]:
    """Return a place as docker's JSON has it."""
    lines = {"start": {"line": span.line}, "end": {"line": span.end_line}}
    return {"sourceIndex": 0, "ranges": [lines]}
