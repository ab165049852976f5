"""The solver against fakes: what is looked up, what is executed, what is remembered."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from layerstore.build import cache_key
from layerstore.build.cache_key import KEY_VERSION, key_rules
from layerstore.build.graph import BaseOp, ContextOp, CopyOp, MkdirOp, RunOp, Vertex, topological
from layerstore.build.solver import Made, Result, Solver
from layerstore.build.ui import SilentUi
from layerstore.digest import DiffId, sha256_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from layerstore.build.ui import StepOutcome
    from layerstore.store.records import CacheRecord


def diff_id(text: str) -> DiffId:
    return DiffId(sha256_digest(text.encode()))


def run(command: str, *inputs: Vertex) -> Vertex:
    op = RunOp((command,), (), "/", "", True, ())
    return Vertex(op, inputs, None, command)


def copy(*inputs: Vertex, link: bool = False) -> Vertex:
    op = CopyOp(("a",), (), "/", "", "", False, False, link, ())
    return Vertex(op, inputs, None, "copy")


class FakeExecutor:
    """Makes a layer of the step's label and of what ``content`` holds."""

    def __init__(self) -> None:
        self.content = "v1"
        self.executed: list[str] = []
        self.results: dict[int, tuple[int, Result]] = {}
        self.read = 0
        self.stopping = threading.Event()

    def expect(self, commands_over: Mapping[int, int]) -> None:
        self.commands_over = commands_over

    def solved(self, number: int, vertex: Vertex, result: Result) -> None:
        self.results[id(vertex)] = (number, result)

    def stop(self, *, abort: bool) -> None:
        self.stopping.set()

    def content_key(self, vertex: Vertex, inputs: Sequence[Result]) -> list[str]:
        if len(vertex.inputs) < 2:
            return []
        self.read += 1
        return [self.content]

    def execute(self, number: int, vertex: Vertex, inputs: Sequence[Result]) -> Made:
        if vertex.label == "fail":
            raise RuntimeError("failed")
        self.executed.append(vertex.label)
        if vertex.label == "nothing":
            return Made(None)
        return Made(diff_id(f"{vertex.label}{self.content if len(inputs) > 1 else ''}"))


class FakeCache(dict[str, "CacheRecord"]):
    def put(self, records: Sequence[CacheRecord]) -> None:
        for record in records:
            self[record.key] = record


class Ui(SilentUi):
    def __init__(self) -> None:
        self.cached: list[str] = []
        self.failures: list[str] = []

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        if outcome.cached:
            self.cached.append(label)

    def failed(self, number: int, label: str) -> None:
        self.failures.append(label)


class FakeNotes:
    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def planned(self, vertices: Mapping[int, Vertex]) -> None:
        self.heard = [("planned", each.label) for each in vertices.values()]

    def hit(self, number: int, vertex: Vertex, keys: Sequence[str], record: CacheRecord) -> None:
        assert keys[-1] == record.key
        self.heard.append(("hit", vertex.label))

    def missed(
        self, number: int, vertex: Vertex, inputs: Sequence[Result], keys: Sequence[str]
    ) -> None:
        self.heard.append(("missed", vertex.label))

    def made(
        self, number: int, vertex: Vertex, keys: Sequence[str], made: Made, *,
        seconds: float, created: float,
    ) -> list[bytes]:  # fmt: skip
        self.heard.append(("made", vertex.label))
        return [f"{vertex.label} {index}".encode() for index in range(len(keys))]


class Rig:
    def __init__(self) -> None:
        self.executor = FakeExecutor()
        self.cache = FakeCache()
        self.ui = Ui()
        self.notes = FakeNotes()

    def solve(self, target: Vertex, *, no_cache: bool = False, epoch: int | None = None) -> Result:
        self.executor.executed.clear()
        self.executor.stopping.clear()
        self.ui.cached.clear()
        solver = Solver(
            self.executor,
            cache=None if no_cache else self.cache,
            remember=self.cache,
            notes=self.notes,
            ui=self.ui,
            epoch=epoch,
        )
        return solver.solve(target)


BASE = Vertex(BaseOp((diff_id("base"),)), (), None)
CONTEXT = Vertex(ContextOp(), (), None)


def test_a_second_build_executes_nothing() -> None:
    rig = Rig()
    target = run("two", run("one", BASE))
    first = rig.solve(target)
    assert rig.executor.executed == ["one", "two"]
    assert first.layers == (diff_id("base"), diff_id("one"), diff_id("two"))
    assert rig.solve(target) == first
    assert rig.executor.executed == []
    assert rig.ui.cached == ["one", "two"]


def test_an_early_change_runs_what_follows() -> None:
    rig = Rig()
    rig.solve(run("three", run("two", run("one", BASE))))
    rig.solve(run("three", run("changed", run("one", BASE))))
    assert rig.executor.executed == ["changed", "three"]
    assert rig.ui.cached == ["one"]


def test_a_step_without_a_layer_leaves_the_chain_as_it_is() -> None:
    rig = Rig()
    result = rig.solve(run("two", run("nothing", BASE)))
    assert result.layers == (diff_id("base"), diff_id("two"))
    rig.solve(run("two", BASE))
    assert rig.ui.cached == ["two"]  # the same work over the same layers


def test_files_of_the_context_are_part_of_the_key() -> None:
    rig = Rig()
    target = copy(BASE, CONTEXT)
    rig.solve(target)
    rig.solve(target)
    assert rig.executor.executed == []
    rig.executor.content = "v2"
    rig.solve(target)
    assert rig.executor.executed == ["copy"]


def test_layers_of_operations_that_make_others_today_are_not_taken(monkeypatch) -> None:
    rig = Rig()
    target = run("use", copy(run("one", BASE), CONTEXT))
    rig.solve(target)
    monkeypatch.setitem(cache_key._MADE_ANEW, "copy", 3)
    rig.solve(target)
    assert rig.executor.executed == ["copy"]  # of a RUN below or above it none
    assert key_rules(target.op) == KEY_VERSION


def test_a_rebuilt_stage_with_the_same_files_does_not_reach_further() -> None:
    rig = Rig()
    rig.solve(run("use", copy(BASE, run("build", BASE))))
    read = rig.executor.read
    rig.solve(run("use", copy(BASE, run("build", BASE))))
    assert rig.executor.read == read  # the stage's identity was enough
    rig.solve(run("use", copy(BASE, run("build differently", BASE))))
    assert rig.executor.executed == ["build differently"]
    assert rig.ui.cached == ["copy", "use"]
    rig.solve(run("use", copy(BASE, run("build differently", BASE))))
    assert rig.executor.read == read + 1  # the cheap key was remembered for the new stage


def test_linked_copies_do_not_depend_on_what_lies_below() -> None:
    rig = Rig()
    rig.solve(copy(run("one", BASE), CONTEXT, link=True))
    rig.solve(copy(run("other", BASE), CONTEXT, link=True))
    assert rig.executor.executed == ["other"]


def test_no_cache_runs_all_and_remembers() -> None:
    rig = Rig()
    target = run("one", BASE)
    rig.solve(target)
    rig.solve(target, no_cache=True)
    assert rig.executor.executed == ["one"]
    rig.solve(target)
    assert rig.executor.executed == []


def test_what_was_finished_stays_when_a_later_step_fails() -> None:
    rig = Rig()
    with pytest.raises(RuntimeError):
        rig.solve(run("fail", run("one", BASE)))
    assert rig.ui.failures == ["fail"]
    rig.solve(run("two", run("one", BASE)))
    assert rig.executor.executed == ["two"]


def test_the_epoch_is_part_of_the_key_and_of_the_time() -> None:
    rig = Rig()
    assert rig.solve(run("one", BASE), epoch=5).created == 5.0
    rig.solve(run("one", BASE))
    assert rig.executor.executed == ["one"]


def test_only_what_the_target_needs_is_ordered() -> None:
    one = run("one", BASE)
    unused = run("unused", one)
    target = copy(Vertex(MkdirOp("/", ""), (one,), None), one)
    order = topological(target)
    assert unused not in order
    assert order.index(one) < order.index(target)
    assert len(order) == 4


def test_ten_thousand_steps_need_no_stack() -> None:
    vertex = BASE
    for number in range(10_000):
        vertex = run(str(number), vertex)
    assert len(topological(vertex)) == 10_001


def test_notes_hear_of_every_step_and_are_kept_with_its_keys() -> None:
    rig = Rig()
    rig.solve(copy(run("one", BASE), run("stage", BASE)))
    assert sorted(rig.notes.heard) == sorted(
        (what, label)
        for what in ("planned", "missed", "made")
        for label in ("one", "stage", "copy")
    )
    values = sorted(record.value for record in rig.cache.values())
    assert values == [b"copy 0", b"copy 1", b"one 0", b"stage 0"]
    rig.solve(copy(run("one", BASE), run("stage", BASE)))
    assert [what for what, _ in rig.notes.heard] == ["planned"] * 3 + ["hit"] * 3


def test_it_is_known_what_commands_lie_over() -> None:
    rig = Rig()
    first, copied, mounted = (run(name, BASE) for name in ("first", "copied from", "mounted"))
    below = copy(first, copied)
    last = run("last", below, mounted)
    top = copy(last, CONTEXT)
    result = rig.solve(top)
    results = rig.executor.results
    assert results[id(top)] == (6, result)
    bit = {id(each): 1 << results[id(each)][0] for each in (first, copied, mounted, last)}
    assert rig.executor.commands_over == {
        id(BASE): sum(bit.values()),
        id(first): bit[id(last)],
        id(mounted): bit[id(last)],
        id(below): bit[id(last)],
    }
