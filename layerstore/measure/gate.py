"""Limits on images for continuous integration, and whether images keep them. Pure.

Source of the test report's form: the JUnit XML that Ant writes and CI servers read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import InputError
from layerstore.measure.waste_rules import Rule
from layerstore.units import format_size, parse_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.measure.steps import Step
    from layerstore.measure.waste import Finding, ImageWaste

_HINT = "--max-waste 10m, --max-waste 2%, or of one rule --max-waste caches=0"


class WasteLimit(NamedTuple):
    """How much an image may waste.

    Attributes:
        rule: Of what rule alone; None for all that count.
        size: Logical bytes; None if ``percent`` says it.
        percent: Of the logical bytes of the image's layers.
    """

    rule: Rule | None
    size: int | None
    percent: float | None
    text: str

    def bytes_of(self, image: ImageWaste) -> int:
        """Return the limit in bytes."""
        if self.size is not None:
            return self.size
        assert self.percent is not None
        return int(image.layers_size * self.percent / 100)


class Verdict(NamedTuple):
    """Whether an image keeps one limit, or what was found where there is none.

    Attributes:
        check: What was measured: a rule, ``waste`` or ``new-bytes``.
        size: What was found, in bytes.
        limit: The most that it may be; None for no limit.
        lines: What people should know.
    """

    check: str
    size: int
    limit: int | None
    lines: tuple[str, ...] = ()

    @property
    def is_kept(self) -> bool:
        """Whether the limit is kept."""
        return self.limit is None or self.size <= self.limit

    @property
    def words(self) -> str:
        """One line that says what was found and what may be."""
        most = "" if self.limit is None else f", at most {format_size(self.limit)} allowed"
        return f"{self.check}: {format_size(self.size)}{most}"


def parse_limit(text: str) -> WasteLimit:
    """Return the limit in ``10m``, ``2%``, ``caches=0`` or ``deleted=1%``.

    Raises:
        InputError: Not that.
    """
    name, equals, rest = text.rpartition("=")
    rule = None
    if equals:
        if name not in list(Rule):
            raise InputError(f"{name!r} is no rule", hint="one of " + ", ".join(Rule))
        rule = Rule(name)
    if not rest.endswith("%"):
        try:
            return WasteLimit(rule, parse_size(rest), None, text)
        except InputError as err:
            raise InputError(f"{text!r} is not a limit", hint=_HINT) from err
    try:
        percent = float(rest[:-1])
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise InputError(f"{text!r} is not a limit", hint=_HINT)
    return WasteLimit(rule, None, percent, text)


def judge(
    image: ImageWaste, limits: Sequence[WasteLimit], new_bytes: Verdict | None
) -> list[Verdict]:
    """Return a verdict for each rule, one for all waste, and the one on new bytes.

    Of several limits on the same thing the smallest counts.
    """
    verdicts = []
    for rule in (None, *Rule):
        most = [limit.bytes_of(image) for limit in limits if limit.rule is rule]
        lines = [_line(each) for each in image.findings_of(rule)]
        verdicts.append(
            Verdict(
                check="waste" if rule is None else rule.value,
                size=image.size(rule),
                limit=min(most) if most else None,
                lines=tuple(lines),
            )
        )
    return [*verdicts, *([new_bytes] if new_bytes is not None else [])]


def _line(finding: Finding) -> str:
    files = f"{finding.files} file" + ("" if finding.files == 1 else "s")
    because = "" if finding.by is None else f" because of {_place(finding.by)}"
    return (
        f"{_place(finding.step)}, {finding.cause}: {format_size(finding.size)} "
        f"in {files}{because}; {finding.fix}"
    )


def _place(step: Step) -> str:
    return f"step {step.number}" + (f" at {step.where}" if step.where else "")
