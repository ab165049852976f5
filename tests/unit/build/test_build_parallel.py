"""The solver's schedule: what runs beside what, what runs once, and how a build ends early."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

from layerstore.build.dockerfile.syntax import SourceSpan
from layerstore.build.errors import BuildCanceledError, StepFailedError
from layerstore.build.graph import BaseOp, ContextOp, CopyOp, MergeOp, RunOp, Vertex
from layerstore.build.schedule import Schedule
from layerstore.build.solver import Made, Result, Solver
from layerstore.build.ui import SilentUi, StepOutcome
from layerstore.digest import DiffId, sha256_digest
from layerstore.store.records import CacheRecord
from tests.support.build import SilentNotes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BASE = Vertex(BaseOp((DiffId(sha256_digest(b"base")),)), (), None)


def layer(text: str) -> DiffId:
    return DiffId(sha256_digest(text.encode()))


def step(name: str, *inputs: Vertex, line: int = 0) -> Vertex:
    span = SourceSpan("Dockerfile", line, 1, line) if line else None
    return Vertex(RunOp((name,), (), "/", "", True, ()), inputs or (BASE,), span, name)


def linked(name: str, below: Vertex, source: Vertex) -> Vertex:
    op = CopyOp((name,), (), "/", "", "", False, False, True, ())
    return Vertex(op, (below, source), None, name)


class Executor:
    """Steps end when the test lets them: each waits at its gate if it has one."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self.aborted = False
        self.gates: dict[str, threading.Event] = {}
        self.failing: set[str] = set()
        self.begun: dict[str, threading.Event] = {}
        self.executed: list[str] = []
        self.meeting: threading.Barrier | None = None

    def gate(self, *names: str) -> None:
        self.gates |= {name: threading.Event() for name in names}
        self.begun |= {name: threading.Event() for name in names}

    def content_key(self, vertex: Vertex, inputs: Sequence[Result]) -> list[str]:
        return []

    def expect(self, commands_over: object) -> None:
        pass

    def solved(self, number: int, vertex: Vertex, result: Result) -> None:
        pass

    def execute(self, number: int, vertex: Vertex, inputs: Sequence[Result]) -> Made:
        name = vertex.label
        self.executed.append(name)
        if name in self.gates:
            self.begun[name].set()
            assert self.gates[name].wait(60)
            if self.stopping.is_set() and name not in self.failing:
                raise BuildCanceledError
        if self.meeting is not None:
            self.meeting.wait(60)
        if name in self.failing:
            raise StepFailedError(name, 1, "", None, name)
        return Made(layer(f"{name} over {[each.layers for each in inputs]}"))

    def stop(self, *, abort: bool) -> None:
        self.stopping.set()
        self.aborted = abort
        for gate in self.gates.values():
            gate.set()

    def stand_alone(self, shared: object, below: object, layer: DiffId) -> None:
        return None


class Cache(dict[str, CacheRecord]):
    def put(self, records: Sequence[CacheRecord]) -> None:
        for record in records:
            self[record.key] = record


class Locks:
    """Remembers who held what, and lets another build be first."""

    def __init__(self) -> None:
        self.held_by: list[str] = []
        self.cache: Cache | None = None

    @contextlib.contextmanager
    def held(self, key: str, label: str) -> Iterator[None]:
        if self.cache is not None:
            self.cache.put([CacheRecord(key, layer("theirs"), b"", 5.0)])
        self.held_by.append(label)
        yield


class Ui(SilentUi):
    def __init__(self) -> None:
        self.events: list[tuple[str, int, str]] = []

    def started(self, number: int, label: str) -> None:
        self.events.append(("started", number, label))

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        self.events.append(("cached" if outcome.cached else "finished", number, label))

    def failed(self, number: int, label: str) -> None:
        self.events.append(("failed", number, label))

    def canceled(self, number: int, label: str) -> None:
        self.events.append(("canceled", number, label))

    def of(self, label: str) -> list[str]:
        return [event for event, _, each in self.events if each == label]


class Rig:
    def __init__(self) -> None:
        self.executor = Executor()
        self.cache = Cache()
        self.ui = Ui()
        self.locks = Locks()

    def solver(self, jobs: int = 8, *, no_cache: bool = False) -> Solver:
        return Solver(
            self.executor, cache=None if no_cache else self.cache, remember=self.cache,
            notes=SilentNotes(), ui=self.ui, epoch=None, jobs=jobs, locks=self.locks,
        )  # fmt: skip

    def solve(self, *targets: Vertex, jobs: int = 8, no_cache: bool = False) -> Result:
        target = targets[0] if len(targets) == 1 else Vertex(MergeOp(), targets, None)
        return self.solver(jobs, no_cache=no_cache).solve(target)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_independent_steps_run_at_the_same_time(rig: Rig) -> None:
    rig.executor.meeting = threading.Barrier(3)
    rig.solve(*(step(name) for name in "abc"))
    assert sorted(rig.executor.executed) == ["a", "b", "c"]


def test_no_more_steps_run_than_may(rig: Rig) -> None:
    rig.executor.gate("a", "b", "c")
    solved = threading.Thread(target=lambda: rig.solve(*map(step, "abc"), jobs=2))
    solved.start()
    assert rig.executor.begun["a"].wait(60)
    assert rig.executor.begun["b"].wait(60)
    assert not rig.executor.begun["c"].is_set()
    rig.executor.gates["a"].set()
    assert rig.executor.begun["c"].wait(60)
    rig.executor.gates["b"].set()
    rig.executor.gates["c"].set()
    solved.join()
    assert [event[0] for event in rig.ui.events].count("finished") == 3


def test_a_result_does_not_depend_on_the_schedule(rig: Rig) -> None:
    def target() -> tuple[Vertex, Vertex]:
        left = step("b", step("a"))
        return step("d", step("c")), step("e", left)

    alone = rig.solve(*target(), jobs=1).layers
    for first in ("ca", "ac"):
        other = Rig()
        other.executor.gate(*first)
        solved: list[Result] = []
        thread = threading.Thread(
            target=lambda other=other, solved=solved: solved.append(other.solve(*target()))
        )
        thread.start()
        for name in first:
            assert other.executor.begun[name].wait(60)
        for name in first:
            other.executor.gates[name].set()
        thread.join()
        assert solved[0].layers == alone


def test_numbers_are_those_of_the_file_whatever_runs_first(rig: Rig) -> None:
    builder = step("build", step("fetch", line=2), line=3)
    target = step("last", step("first", line=5), builder, line=6)
    rig.solve(target)
    numbers = {label: number for _, number, label in rig.ui.events}
    assert numbers == {"fetch": 1, "build": 2, "first": 3, "last": 4}


def test_equal_steps_of_one_build_run_once(rig: Rig) -> None:
    rig.executor.gate("same")
    one, two = step("same"), step("same")
    rig.executor.gates["same"].set()
    result = rig.solve(step("x", one), step("y", two), no_cache=True)
    assert sorted(rig.executor.executed) == ["same", "x", "y"]
    assert sorted(rig.ui.of("same")) == ["cached", "finished", "started"]
    assert len(result.layers) == 4  # base, same, x, y


def test_equal_steps_after_each_other_run_once_without_the_cache(rig: Rig) -> None:
    late = step("same", step("before"))
    again = step("same", step("before"))
    rig.solve(step("x", late), step("y", again), jobs=1, no_cache=True)
    assert rig.executor.executed.count("same") == 1


def test_what_another_build_did_meanwhile_is_taken(rig: Rig) -> None:
    rig.locks.cache = rig.cache
    result = rig.solve(step("a"))
    assert rig.executor.executed == []
    assert result.layers[-1] == layer("theirs")
    assert result.created == 5.0
    assert rig.ui.of("a") == ["started", "cached"]


def test_steps_that_must_run_ask_no_other_build(rig: Rig) -> None:
    rig.locks.cache = rig.cache
    forced = step("forced", step("kept"))
    forced.no_cache = True
    rig.solve(forced)
    assert rig.executor.executed == ["forced"]
    assert rig.locks.held_by == ["kept"]
    rig.solve(step("a"), no_cache=True)
    assert rig.locks.held_by == ["kept"]


def test_a_stage_without_cache_runs_what_is_known(rig: Rig) -> None:
    rig.solve(step("two", step("one")))
    again = step("two", step("one"))
    again.no_cache = True
    rig.solve(again)
    assert rig.executor.executed == ["one", "two", "two"]


def test_the_first_failure_in_the_file_is_reported(rig: Rig) -> None:
    rig.executor.gate("early", "late")
    rig.executor.failing = {"early", "late"}
    errors: list[BaseException] = []

    def solve() -> None:
        try:
            rig.solve(step("early", line=1), step("late", line=2))
        except StepFailedError as err:
            errors.append(err)

    thread = threading.Thread(target=solve)
    thread.start()
    for name in ("early", "late"):
        assert rig.executor.begun[name].wait(60)
    rig.executor.gates["late"].set()  # fails first, which ends the other as well
    thread.join()
    assert [error.label for error in errors] == ["early"]  # type: ignore[attr-defined]
    assert rig.ui.of("early") == ["started", "failed"]
    assert rig.ui.of("late") == ["started", "failed"]


def test_a_failure_ends_what_runs_and_nothing_begins(rig: Rig) -> None:
    rig.executor.gate("slow", "fails")
    rig.executor.failing = {"fails"}

    def let_it_fail() -> None:
        assert rig.executor.begun["slow"].wait(60)
        rig.executor.gates["fails"].set()

    helper = threading.Thread(target=let_it_fail)
    helper.start()
    with pytest.raises(StepFailedError, match="fails"):
        rig.solve(step("done"), step("slow"), step("fails"), step("never"), jobs=2)
    helper.join()
    assert not rig.executor.aborted
    assert rig.ui.of("slow") == ["started", "canceled"]
    assert rig.ui.of("never") == []
    assert len(rig.cache) == 1  # what was finished


def test_a_step_that_ends_well_after_a_failure_is_kept(rig: Rig) -> None:
    rig.executor.gate("fails")
    rig.executor.failing = {"fails"}
    rig.executor.gates["fails"].set()
    execute = rig.executor.execute

    def last_words(number: int, vertex: Vertex, inputs: Sequence[Result]) -> Made:
        if vertex.label == "publishing":
            assert rig.executor.stopping.wait(60)
        return execute(number, vertex, inputs)

    rig.executor.execute = last_words  # type: ignore[method-assign]
    with pytest.raises(StepFailedError):
        rig.solve(step("publishing"), step("fails"))
    assert rig.ui.of("publishing") == ["started", "finished"]
    assert len(rig.cache) == 1


def test_an_interrupt_gives_up_everything(rig: Rig) -> None:
    rig.executor.gate("slow")
    solver = rig.solver()

    def interrupted() -> None:
        assert rig.executor.begun["slow"].wait(60)
        raise KeyboardInterrupt

    solver._workers.next = interrupted  # type: ignore[assignment, method-assign]
    with pytest.raises(KeyboardInterrupt):
        solver.solve(step("slow"))
    assert rig.executor.aborted
    assert rig.ui.of("slow") == ["started", "canceled"]
    assert not [each for each in threading.enumerate() if each.name.startswith("build-step")]


def test_a_linked_copy_does_not_wait_for_what_it_lies_over(rig: Rig) -> None:
    context = Vertex(ContextOp(), (), None)
    rig.executor.meeting = threading.Barrier(2)
    result = rig.solve(linked("copy", step("below"), context))
    rig.executor.meeting = None
    assert rig.ui.of("copy") == ["started", "finished"]
    assert len(result.layers) == 3
    other = rig.solve(linked("copy", step("other"), context))
    assert rig.ui.of("copy") == ["started", "finished", "cached"]
    assert other.layers[-1] == result.layers[-1]


def test_thousands_of_linked_copies_need_no_stack(rig: Rig) -> None:
    context = Vertex(ContextOp(), (), None)
    target = step("below")
    for _ in range(5000):
        target = linked("same", target, context)
    assert len(rig.solve(target).layers) == 2 + 5000
    assert rig.executor.executed.count("same") == 1


def test_a_schedule_gives_out_what_is_ready_in_file_order() -> None:
    steps = [step(str(number), line=number) for number in (3, 1, 2)]
    schedule = Schedule(Vertex(MergeOp(), tuple(steps), None))
    assert [each.label for each in schedule.steps.values()] == ["1", "2", "3"]
    assert schedule.next_ready() is BASE  # no step: before all
    assert schedule.next_ready() is None
    schedule.solved(BASE)
    ready = [schedule.next_ready() for _ in range(4)]
    assert [each.label if each else None for each in ready] == ["1", "2", "3", None]
    assert not schedule.is_done


def test_what_most_waits_for_begins_first() -> None:
    short = step("short", line=1)
    long = step("long 2", step("long 1", line=2), line=3)
    schedule = Schedule(Vertex(MergeOp(), (short, long), None))
    assert schedule.next_ready() is BASE
    schedule.solved(BASE)
    ready = [schedule.next_ready() for _ in range(2)]
    assert [each.label if each else None for each in ready] == ["long 1", "short"]


def test_steps_of_a_file_in_no_order_are_numbered_as_they_need_each_other() -> None:
    first = step("first", line=3)
    second = step("second", first, line=1)
    third = step("third", second, line=2)
    assert [each.label for each in Schedule(third).steps.values()] == ["first", "second", "third"]
