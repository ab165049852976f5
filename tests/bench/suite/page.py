"""The page: everything that is kept, with what people wrote about it.

Made wholly of the kept results and the texts beside this module (``texts/NAME.md.in``: what was
done, and below a line ``<!-- figures -->`` how to read what came out; links are the page's).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.suite.cells import escaped, markdown
from tests.bench.suite.kept import best_of, short_version
from tests.bench.suite.pictures import draw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.result import Promise
    from tests.bench.suite.kept import Kept
    from tests.bench.suite.table import Benchmark

TEXTS = Path(__file__).with_name("texts")
_FIGURES = "<!-- figures -->\n"
_VERDICTS = {True: "kept", False: "**missed**", None: "not decided"}


def write_page(place: Path, benchmarks: Sequence[Benchmark]) -> Path:
    """Write the page beside the directory of results, and the pictures into it.

    Raises:
        ValueError: A kept result cannot be read.
    """
    page = place.with_suffix(".md")
    page.write_text(page_of(place, benchmarks))
    return page


def page_of(place: Path, benchmarks: Sequence[Benchmark]) -> str:
    """Return the page, having drawn its pictures into the directory of results."""
    kept = best_of(place, [each.name for each in benchmarks])
    shown = [each for each in benchmarks if each.name in kept]
    for old in place.glob("*.svg"):
        old.unlink()
    parts = [_text("head"), _promises(shown, kept)]
    parts += [_section(each, kept[each.name], place) for each in shown]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def _promises(shown: Sequence[Benchmark], kept: Mapping[str, Kept]) -> str:
    """Return the table of all benchmarks that promise something, with what is missed in full."""
    rows = []
    count = missed = 0
    for each in shown:
        promises = kept[each.name].result.promises
        broken = [promise for promise in promises if promise.met is not True]
        said = "; ".join(
            f"{'' if one.met is False else 'not decided: '}{one.what}: {one.measured},"
            f" wanted {one.wanted}"
            for one in broken
        )
        cells = f"{sum(one.met is True for one in promises)} of {len(promises)} | {escaped(said)}"
        if promises:
            rows.append(f"| [{each.title}](#{_anchor(each.title)}) | {cells} |")
        count += len(promises)
        missed += sum(promise.met is False for promise in promises)
    if not rows:
        return ""
    total = f"Of {count} promises {missed or 'none'} {'are' if missed > 1 else 'is'} missed."
    return "\n".join(["## Promises", "", total, "", "| | kept | missed |", "|---|--:|---|", *rows])


def _promised(promises: Sequence[Promise]) -> str:
    """Return a benchmark's own promises."""
    rows = []
    for promise in promises:
        cells = (promise.what, promise.wanted, promise.measured)
        said = " | ".join(escaped(cell) for cell in cells)
        rows.append(f"| {said} | {_VERDICTS[promise.met]} |")
    return (
        "\n".join(["| promise | wanted | measured | |", "|---|---|---|---|", *rows]) if rows else ""
    )


def _section(benchmark: Benchmark, kept: Kept, place: Path) -> str:
    done, _, reading = _text(benchmark.name).partition(_FIGURES)
    tables = [markdown(kept.result, table) for table in benchmark.tables]
    pictures = draw(benchmark, kept.result, place)
    parts = [
        f"## {benchmark.title}",
        benchmark.question + (f" Promised: {benchmark.promise}." if benchmark.promise else ""),
        done,
        _how(kept),
        _promised(kept.result.promises),
        *tables,
        *(f"![{title}]({place.name}/{name})" for name, title in pictures),
        "\n".join(f"- {note}" for note in kept.result.notes),
        reading,
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part.strip())


def _how(kept: Kept) -> str:
    """Return the command, and what a reader needs to judge absolute numbers."""
    run, facts = kept.run, kept.result.environment
    words = [f"    {run.command}", ""]
    said = [f"{run.at[:10]}"]
    if run.kind == "transcribed":
        said.append(f"transcribed from {run.source}: medians only")
    if run.kind == "quick":
        said.append("a quick run: few rounds")
    if run.commit:
        said.append(f"commit {run.commit}")
    said += [str(facts[name]) for name in ("kernel",) if facts.get(name)]
    if facts.get("cpus"):
        said.append(f"{facts['cpus']} processors")
    if run.load_before is not None and run.load_after is not None:
        said.append(f"load {run.load_before:g} before, {run.load_after:g} after")
    if run.seconds:
        said.append(f"{run.seconds / 60:.1f} minutes")
    versions = [f"{name} {short_version(said)}" for name, said in kept.result.versions.items()]
    lines = ["; ".join(said) + ".", ", ".join(versions)]
    if kept.result.missing:
        lines.append(f"Not there, and left out: {', '.join(kept.result.missing)}.")
    return "\n".join([*words, *(line for line in lines if line)])


def _text(name: str) -> str:
    path = TEXTS / f"{name}.md.in"
    return path.read_text() if path.exists() else ""


def _anchor(title: str) -> str:
    return "".join(c for c in title.lower() if c.isalnum() or c in " -").replace(" ", "-")
