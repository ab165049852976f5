"""What a benchmark measured, as one document that every program writes with ``--json FILE``.

    result = Result({"layerstore": "0.1.0", "docker": "20.10.24"})
    result.add("cold", "layerstore", "time", "s", [7.6, 7.7])
    result.promise("cold build", "faster than each", "1.5 times docker's speed", met=True)
    result.write(Path("builds.json"))

A figure has three names, and tables and plots are made of any two of them: the *group* (what
was done, or how much of it), *who* did it, and *what* was counted. Its values are those of all
rounds in their order, so that ratios can be taken round by round. Programs know nothing of
pages; :mod:`tests.bench.suite` adds commit, command, load and kernel, and makes the page.
"""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tests.bench.harness import environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

FORMAT = 1
"""Of the document. Readers refuse others."""

Unit = Literal["", "x", "s", "B", "%"]
"""Plain numbers, multiples of something, seconds, bytes, hundredths."""

_DIGITS = 5
"""Significant ones of seconds and ratios that are kept: clocks are not better."""


@dataclass(frozen=True)
class Figure:
    """One thing that was counted.

    Attributes:
        group: What was done ("cold", "first"), or how much of it as a number ("1000").
        who: Who did it.
        what: What was counted ("time", "CPU", "memory", "disk", "stored", "fetched").
        unit: Of the values.
        values: One of each round, in order.
    """

    group: str
    who: str
    what: str
    unit: Unit
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(frozen=True)
class Promise:
    """One promise and what came of it; ``met`` is None where nothing decides it."""

    what: str
    wanted: str
    measured: str
    met: bool | None


@dataclass
class Result:
    """A benchmark's whole outcome.

    Attributes:
        versions: Of everybody who took part.
        figures: What was counted.
        promises: What came of what was promised.
        missing: Who is not installed or not usable here, and was left out.
        notes: What a reader must know of this run, a sentence each.
        environment: Kernel, processors, load and time when it was written.
    """

    versions: dict[str, str] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    promises: list[Promise] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, object] = field(default_factory=environment)

    def add(self, group: str, who: str, what: str, unit: Unit, values: Iterable[float]) -> None:
        """Add a figure; one without values was not measured and is left out."""
        kept = tuple(_rounded(value) for value in values)
        if kept:
            self.figures.append(Figure(group, who, what, unit, kept))

    def promise(self, what: str, wanted: str, measured: str, *, met: bool | None) -> None:
        """Say what came of a promise."""
        self.promises.append(Promise(what, wanted, measured, met))

    def find(self, group: str, who: str, what: str) -> Figure | None:
        """Return the figure of these three names."""
        for figure in self.figures:
            if (figure.group, figure.who, figure.what) == (group, who, what):
                return figure
        return None

    def names(self, axis: Literal["group", "who", "what"], **fixed: Sequence[str]) -> list[str]:
        """Return the names along one axis in their order, of figures with the fixed names."""
        return list(
            dict.fromkeys(
                getattr(figure, axis)
                for figure in self.figures
                if all(getattr(figure, name) in wanted for name, wanted in fixed.items())
            )
        )

    def document(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {"format": FORMAT, **asdict(self)}

    def write(self, path: Path) -> None:
        """Write the document, a figure a line."""
        path.write_text(as_text(self.document()))


def as_text(document: Mapping[str, Any]) -> str:
    """Return a document as JSON with a line for every item of a list, so that diffs are short."""
    parts = []
    for name, value in document.items():
        if isinstance(value, list | tuple) and value:
            items = ",\n".join(f"  {json.dumps(item, ensure_ascii=False)}" for item in value)
            parts.append(f"{json.dumps(name)}: [\n{items}\n ]")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"


def result_of(document: Mapping[str, Any]) -> Result:
    """Return the result that a document holds.

    Raises:
        ValueError: It is not such a document.
    """
    if document.get("format") != FORMAT:
        raise ValueError(f"not a benchmark's result of format {FORMAT}: {document.get('format')!r}")
    return Result(
        versions=dict(document["versions"]),
        figures=[
            Figure(**{**figure, "values": tuple(figure["values"])})
            for figure in document["figures"]
        ],
        promises=[Promise(**promise) for promise in document["promises"]],
        missing=list(document["missing"]),
        notes=list(document["notes"]),
        environment=dict(document["environment"]),
    )


def _rounded(value: float) -> float:
    if value == int(value):
        return int(value)
    return float(f"{value:.{_DIGITS}g}") if abs(value) < 10**_DIGITS else round(value)
