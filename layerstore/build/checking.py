"""Build checks of a request: alone, and beside a build.

A build says what it found when it is over, and nothing of stages that it did not need;
a check tells everything. Imports the rules only when they are asked.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.syntax import Notice
from layerstore.build.errors import BuildStepError
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from layerstore.build.dockerfile.syntax import Dockerfile
    from layerstore.build.lint.meaning import Surroundings
    from layerstore.build.lint.rules import Finding
    from layerstore.build.ui import BuildUi


class Checked(NamedTuple):
    """A spec and what the build checks say about it.

    Attributes:
        lines: Its physical lines.
        dockerfile: None for a native spec.
        around: What it was checked against.
    """

    filename: str
    lines: list[str]
    dockerfile: Dockerfile | None
    findings: list[Finding]
    around: Surroundings

    def tree(self) -> Dockerfile:
        """Return the Dockerfile.

        Raises:
            InputError: It is a native spec.
        """
        if self.dockerfile is None:
            raise InputError(
                f"{self.filename} is no Dockerfile, and only these have an outline",
                hint="layerstore build --check, or --plan",
            )
        return self.dockerfile


def findings_of(
    dockerfile: Dockerfile,
    text: bytes,
    around: Surroundings,
    stages: Collection[int] | None = None,
) -> list[Finding]:
    """Return what the rules find, in ``stages`` only when these are given.

    Raises:
        SpecError: ``BUILDKIT_DOCKERFILE_CHECK`` is not understood; or the options make findings
            an error and this is a build (``stages`` is given).
    """
    from layerstore.build.lint.lint import check_options, lint

    found = lint(dockerfile, physical_lines(text), around)
    if stages is None:
        return found
    found = [each for each in found if each.stage is None or each.stage in stages]
    if found and check_options(dockerfile, around).is_error:
        names = ", ".join(sorted({each.rule.name for each in found}))
        reason = f"lint violation found for rules: {names}"
        hint = f"{found[0].detail}; layerstore build --check shows all"
        raise SpecError(reason, found[0].span, hint=hint)
    return found


def physical_lines(text: bytes) -> list[str]:
    """Return the lines of a Dockerfile as the parser counts them."""
    return text.removeprefix(b"\xef\xbb\xbf").decode(errors="replace").split("\n")


@contextlib.contextmanager
def told_at_the_end(findings: list[Finding], ui: BuildUi) -> Iterator[None]:
    """Tell a build's findings when it is over, well or by a step that failed.

    A build that begins anew tells them then.
    """
    try:
        yield
    except BuildStepError:
        _tell(findings, ui)
        raise
    _tell(findings, ui)


def _tell(findings: list[Finding], ui: BuildUi) -> None:
    """Tell a build's watcher what was found, in buildx' manner: how much, then each."""
    if not findings:
        return
    count = f"{len(findings)} warning" + ("s" if len(findings) > 1 else "")
    ui.message(f"{count} found (layerstore build --check shows the lines):")
    for each in findings:
        ui.warning(Notice(str(each), each.span, each.rule.name))
