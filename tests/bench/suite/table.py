"""What a benchmark is to the suite, and how its figures are shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.bench.result import Result

Axis = Literal["group", "who", "what"]

Show = Literal["value", "both", "times", "speed"]
"""The value; the value and how many times the reference's; that factor alone; or how many times
as fast as the reference, which is the factor the other way round."""


@dataclass(frozen=True)
class Table:
    """A table of figures.

    Attributes:
        title: Its first column's head.
        rows: What its rows are.
        columns: What its columns are.
        only: Which names of an axis take part; the third axis must have one.
        show: What stands in a cell.
        against: Who the reference is, for all but values.
        strip: What heads of columns need not repeat.
    """

    title: str
    rows: Axis = "who"
    columns: Axis = "group"
    only: Mapping[Axis, Sequence[str]] = field(default_factory=dict)
    show: Show = "value"
    against: str = ""
    strip: str = ""


@dataclass(frozen=True)
class Bars:
    """A picture of bars: a panel for each name of an axis, a bar for each who.

    Attributes:
        name: Of the file, behind the benchmark's.
        title: What is counted, and which direction is good.
        panels: The axis; of the other one ``only`` leaves one name.
        only: As for tables.
        show: ``value``, ``times`` or ``speed``.
        against: Who the reference is.
        log: A logarithmic scale.
        columns: Panels side by side.
        promise: A line.
    """

    name: str
    title: str
    panels: Axis = "group"
    only: Mapping[Axis, Sequence[str]] = field(default_factory=dict)
    show: Show = "value"
    against: str = ""
    log: bool = False
    columns: int = 1
    promise: float | None = None


@dataclass(frozen=True)
class Curves:
    """A picture of growth: groups are numbers, each who has a line."""

    name: str
    title: str
    what: str
    x_label: str
    log_x: bool = False
    log_y: bool = False
    only: Mapping[Axis, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """One program of the suite, or one way to run it.

    Attributes:
        name: For ``--only`` and for files.
        title: Its head on the page.
        question: What it answers.
        promise: What of it is promised; empty if it only reports.
        module: The program.
        words: Its arguments; ``{cache}`` is where inputs are, ``{base}`` a Debian root file
            system as a tar, ``{one}`` and ``{two}`` OCI archives of two versions of an image.
        full: Further ones of a full run.
        quick: Further ones of a quick run; None if it has no part in those.
        minutes: About how long a full and a quick run take on two idle processors.
        inputs: What must be made before: ``base``, ``root``, ``versions``, ``registry``, or
            corpora.
        quick_inputs: The same for a quick run, if it needs less.
        needs: Without which there is nothing to run: ``root``, or programs.
        disk_gb: About how much disk it needs for a while.
        explores: It decided how layerstore works and compares nobody a user would choose
            between, or it has a page of its own: it is run with ``--all`` or by name.
        ours: Who is layerstore's default way.
        variants: How names of layerstore's other ways begin.
        tables: What is shown.
        pictures: And drawn.
        read: Makes a result of the program's JSON where that has a form of its own.
    """

    name: str
    title: str
    question: str
    module: str
    promise: str = ""
    words: Sequence[str] = ()
    full: Sequence[str] = ()
    quick: Sequence[str] | None = None
    minutes: tuple[float, float] = (1, 1)
    inputs: Sequence[str] = ()
    quick_inputs: Sequence[str] | None = None
    needs: Sequence[str] = ("root",)
    disk_gb: float = 2
    explores: bool = False
    ours: str = "layerstore"
    variants: Sequence[str] = ("layerstore",)
    tables: Sequence[Table] = ()
    pictures: Sequence[Bars | Curves] = ()
    read: Callable[[Any], Result] | None = None

    def inputs_of(self, kind: str) -> Sequence[str]:
        """Return what a run of a kind needs."""
        quick = self.quick_inputs
        return quick if kind == "quick" and quick is not None else self.inputs
