"""What ``build --plan`` prints: the graph as a tree, as DOT for graphviz, or as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.cli.output import write_json, write_line
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.build.planning import PlannedVertex
    from layerstore.build.request import BuildRequest
    from layerstore.cli.settings import Settings

FORMATS = ("text", "dot", "json")
DEPTH_MAX = 50
"""Nested stages that a tree shows; deeper ones are named only."""

_COLORS = {
    "cached": "palegreen", "runs": "lightsalmon", "unknown": "khaki", "fetches": "lightblue",
}  # fmt: skip


def print_plan(settings: Settings, request: BuildRequest, how: str) -> None:
    """Print the plan of a build.

    Raises:
        InputError: Another format, or whatever is wrong with the request.
    """
    from layerstore.build.api import plan_build

    if how not in FORMATS:
        raise InputError(f"{how!r} is no form of a plan", hint="one of " + ", ".join(FORMATS))
    with settings.open_store() as store:
        plan = plan_build(store, request)
    if how == "json":
        write_json(_to_json(plan))
    else:
        for line in (_to_dot if how == "dot" else _to_text)(plan):
            write_line(line)


def _to_text(plan: Sequence[PlannedVertex]) -> Iterator[str]:
    """Yield a tree: chains of steps from their base on, and below a step what it copies from."""
    tree = _Tree(plan)
    for target in _targets(plan):
        yield from tree.chain(target, "", 0)
    states = [each.state.value for each in plan if each.number]
    known = ("cached", "runs", "unknown", "fetches")
    counts = [f"{states.count(word)} {_MEANING[word]}" for word in known if word in states]
    yield ""
    yield f"{len(states)} steps" + (f": {', '.join(counts)}" if counts else "")


_MEANING = {
    "cached": "cached",
    "runs": "to run",
    "unknown": "unknown until those before them have run",
    "fetches": "to ask a server for",
}


def _targets(plan: Sequence[PlannedVertex]) -> list[int]:
    """Return what nothing else needs: the target, or those of a matrix."""
    needed = {source for each in plan for source in each.inputs}
    return [each.position for each in plan if each.position not in needed]


class _Tree:
    """Draws each chain once, where it is needed first."""

    def __init__(self, plan: Sequence[PlannedVertex]) -> None:
        self._plan = plan
        self._drawn: set[int] = set()

    def chain(self, end: int, indent: str, depth: int) -> Iterator[str]:
        """Yield the lines of everything up to a vertex."""
        chain: list[PlannedVertex] = []
        index: int | None = end
        while index is not None and index not in self._drawn:
            each = self._plan[index]
            chain.append(each)
            self._drawn.add(index)
            index = each.inputs[0] if each.inputs and each.kind != "merge" else None
        if index is not None:
            yield f"{indent}… {_words(self._plan[index])} (above)"
        for each in reversed(chain):
            yield f"{indent}{_line(each)}"
            for number, source in enumerate(each.inputs):
                if number or each.kind == "merge":
                    yield from self._source(source, indent, depth)

    def _source(self, source: int, indent: str, depth: int) -> Iterator[str]:
        each = self._plan[source]
        if each.kind == "context":
            return
        if depth >= DEPTH_MAX:
            yield f"{indent}│    {_words(each)}"
        else:
            yield from self.chain(source, f"{indent}│    ", depth + 1)


def _line(each: PlannedVertex) -> str:
    if not each.number:
        return f"         {_words(each)}"
    return f"{each.state.value:8} #{each.number} {_words(each)}"


def _words(each: PlannedVertex) -> str:
    if each.kind == "context":
        return "the build context"
    if each.kind == "merge":
        return "all of these together"
    if each.kind == "base" and not each.vertex.label:
        return "FROM scratch"
    return " ".join(each.vertex.label.split())


def _to_dot(plan: Sequence[PlannedVertex]) -> Iterator[str]:
    yield "digraph build {"
    yield '  node [shape=box, style="rounded,filled", fillcolor=white, fontname=monospace];'
    for each in plan:
        label = f"#{each.number} {_words(each)}" if each.number else _words(each)
        shape = "" if each.number else ", shape=folder"
        color = _COLORS.get(each.state.value, "white")
        yield f'  n{each.position} [label="{_escaped(label)}", fillcolor={color}{shape}];'
    for each in plan:
        for number, source in enumerate(each.inputs):
            below = number == 0 or each.kind == "merge"
            style = "" if below else " [style=dashed]"
            yield f"  n{source} -> n{each.position}{style};"
    yield "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _to_json(plan: Sequence[PlannedVertex]) -> dict[str, object]:
    return {
        "targets": _targets(plan),
        "vertices": [
            {
                "id": each.position,
                "step": each.number or None,
                "kind": each.kind,
                "state": each.state.value,
                "label": _words(each),
                "inputs": list(each.inputs),
                **_place(each),
            }
            for each in plan
        ],
    }


def _place(each: PlannedVertex) -> dict[str, object]:
    span = each.vertex.span
    if span is None:
        return {"file": None, "line": None}
    return {"file": span.file, "line": span.line}
