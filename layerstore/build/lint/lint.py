"""All rules over one Dockerfile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.build.dockerfile.checks import CheckOptions, parse_check
from layerstore.build.dockerfile.syntax import SourceSpan
from layerstore.build.lint.meaning import Surroundings, meaning_findings
from layerstore.build.lint.shape import shape_findings

if TYPE_CHECKING:
    from layerstore.build.dockerfile.syntax import Dockerfile
    from layerstore.build.lint.rules import Finding

CHECK_ARG = "BUILDKIT_DOCKERFILE_CHECK"
"""The build argument that goes before the file's own ``# check=``."""


def lint(dockerfile: Dockerfile, lines: list[str], around: Surroundings) -> list[Finding]:
    """Return everything the rules find that are not skipped, by line.

    Args:
        dockerfile: The file.
        lines: Its physical lines.
        around: What it is checked against.

    Raises:
        SpecError: The build argument ``BUILDKIT_DOCKERFILE_CHECK`` is not understood.
    """
    options = check_options(dockerfile, around)
    findings = [
        *shape_findings(dockerfile, lines, around.native),
        *meaning_findings(dockerfile, around),
    ]
    kept = [
        each
        for each in findings
        if options.runs(each.rule.name, experimental=each.rule.experimental)
    ]
    return sorted(kept, key=lambda each: (each.span.line, each.rule.name))


def check_options(dockerfile: Dockerfile, around: Surroundings) -> CheckOptions:
    """Return which rules run, as the build argument or else the directive says."""
    given = around.build_args.get(CHECK_ARG)
    if given is not None:
        span = SourceSpan(f"--build-arg {CHECK_ARG}", 1, 1, 1, given)
        return parse_check(given, span) if given.strip() else CheckOptions()
    for directive in dockerfile.directives:
        if directive.name == "check":
            return parse_check(directive.value, directive.span)
    return CheckOptions()
