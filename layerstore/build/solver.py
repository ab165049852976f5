"""Walks the graph: what is in the cache is taken from there, the rest is executed.

One thread decides: it computes keys, looks them up, and starts what must be run in
threads of :mod:`layerstore.build.workers`, as many at a time as the build may. A vertex
needs nothing but its inputs' results; an :class:`Executor` carries out one operation
without knowing the others. Steps with equal keys are one step, which runs once: in this
build, and by :class:`Locks` among all builds of a store. What comes out does not depend
on the order in which steps end.
"""

from __future__ import annotations

import heapq
import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from layerstore.build.cache_key import layers_input, step_key
from layerstore.build.errors import StepFailedError
from layerstore.build.graph import BaseOp, ContextOp, MergeOp, RemoteOp
from layerstore.build.merging import own_layers
from layerstore.build.schedule import Schedule, needed_inputs
from layerstore.build.ui import StepOutcome
from layerstore.build.vertex_keys import vertex_keys
from layerstore.build.workers import Workers
from layerstore.store.records import CacheRecord

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from layerstore.build.graph import Vertex
    from layerstore.build.ui import BuildUi
    from layerstore.build.workers import Ended
    from layerstore.digest import DiffId

    Told = Callable[[int, int | None], object]


class Result(NamedTuple):
    """What a vertex came to.

    Attributes:
        layers: The whole stack, lowest first.
        diff_id: The layer of this very vertex, None when it changed nothing.
        created: Seconds since the epoch when that layer was made.
    """

    layers: tuple[DiffId, ...]
    diff_id: DiffId | None = None
    created: float = 0.0


class Made(NamedTuple):
    """What executing an operation gave."""

    diff_id: DiffId | None
    new_bytes: int = 0
    reused_bytes: int = 0


class Source(NamedTuple):
    """What fetching a remote source gave: one layer, with when it was fetched."""

    diff_id: DiffId
    cached: bool
    created: float
    new_bytes: int = 0
    reused_bytes: int = 0


class Executor(Protocol):
    """Carries out operations and knows the content of files.

    Attributes:
        stopping: Set when the build ends early.
    """

    @property
    def stopping(self) -> threading.Event:
        """Set when the build ends early."""

    def stop(self, *, abort: bool) -> None:
        """Set ``stopping`` and kill what runs; give up layers being written as well."""

    def fetch(self, vertex: Vertex, *, fresh: bool, told: Told) -> Source:
        """Return a remote source; ``fresh`` as if nothing were known of it.

        ``told`` hears how many bytes of a file there are, and of how many.
        """

    def content_key(self, vertex: Vertex, inputs: Sequence[Result]) -> list[str]:
        """Return how the files that a vertex takes from its inputs are named in its key."""

    def expect(self, commands_over: Mapping[int, int]) -> None:
        """Hear what commands there are (:meth:`Schedule.commands_over`), before the first runs."""

    def solved(self, number: int, vertex: Vertex, result: Result) -> None:
        """Hear of every vertex that has a result, and of its number."""

    def execute(self, number: int, vertex: Vertex, inputs: Sequence[Result]) -> Made:
        """Carry out an operation and publish its layer; called from several threads."""

    def stand_alone(
        self, shared: Sequence[DiffId], below: Sequence[DiffId], layer: DiffId
    ) -> DiffId | None:
        """Return what replaces a layer that is to lie over others; None when it may stay."""


class Cache(Protocol):
    """Remembers steps."""

    def get(self, key: str) -> CacheRecord | None:
        """Return a remembered step whose layer is there."""

    def put(self, records: Sequence[CacheRecord]) -> None:
        """Remember steps; called from several threads."""


class Notes(Protocol):
    """Keeps what is worth knowing of the steps later; called from several threads."""

    def planned(self, vertices: Mapping[int, Vertex]) -> None:
        """Hear of the steps by their numbers, before the first one."""

    def hit(self, number: int, vertex: Vertex, keys: Sequence[str], record: CacheRecord) -> None:
        """Hear of a step that is cached, and which keys it has; the last one was known."""

    def missed(
        self, number: int, vertex: Vertex, inputs: Sequence[Result], keys: Sequence[str]
    ) -> None:
        """Hear of a step that is to run."""

    def made(
        self, number: int, vertex: Vertex, keys: Sequence[str], made: Made, *,
        seconds: float, created: float,
    ) -> list[bytes]:  # fmt: skip
        """Hear of a step that was made; return what to remember with each of its keys."""


class Locks(Protocol):
    """Keeps builds of one store from running the same step at the same time."""

    def held(self, key: str, label: str) -> AbstractContextManager[None]:
        """Hold a step's lock, waiting for it; called from several threads."""


class _Task(NamedTuple):
    """A step that nobody has done yet."""

    number: int
    vertex: Vertex
    inputs: list[Result]
    keys: list[str]


class _Done(NamedTuple):
    """A step that somebody has done.

    Attributes:
        record: What is remembered of it, or would be.
    """

    record: CacheRecord
    outcome: StepOutcome


class Solver:
    """Solves one graph.

    Args:
        executor: Runs what is not cached.
        cache: Where steps are looked up; None to run everything.
        remember: Where they are remembered.
        notes: Keeps what is worth knowing later.
        ui: Hears of every step.
        epoch: SOURCE_DATE_EPOCH, None for the real time.
        jobs: How many steps run at the same time, at most.
        locks: Held while a step runs whose result may come from another build.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        cache: Cache | None,
        remember: Cache,
        notes: Notes,
        ui: BuildUi,
        epoch: int | None,
        jobs: int = 1,
        locks: Locks | None = None,
    ) -> None:
        self._executor = executor
        self._cache = cache
        self._remember = remember
        self._notes = notes
        self._ui = ui
        self._epoch = epoch
        self._locks = locks
        self._workers: Workers[_Done] = Workers(jobs, executor.stopping)
        self._results: dict[int, Result] = {}
        self._tasks: dict[int, _Task] = {}
        self._pending: list[int] = []
        self._runners: dict[str, int] = {}
        self._followers: dict[int, list[_Task]] = {}
        self._done: dict[str, _Done] = {}
        self._over: dict[int, list[tuple[Vertex, _Done]]] = {}
        self._failures: dict[int, BaseException] = {}

    def solve(self, *targets: Vertex) -> Result:
        """Return the last target's result after solving everything that all of them need.

        Raises:
            BuildError: A step failed; the finished ones stay in the cache.
        """
        self._schedule = Schedule(*targets)
        self._ui.planned(len(self._schedule.steps))
        self._notes.planned(self._schedule.steps)
        self._executor.expect(self._schedule.commands_over())
        try:
            while not self._schedule.is_done:
                while (vertex := self._schedule.next_ready()) is not None:
                    self._begin(vertex)
                    self._start_pending()
                if not self._schedule.is_done:
                    self._settle(self._workers.next())
                    self._start_pending()
        except BaseException as err:
            self._end(err)
            raise
        return self._results[id(targets[-1])]

    def result(self, vertex: Vertex) -> Result:
        """Return the result of a vertex that was solved."""
        return self._results[id(vertex)]

    # -- one vertex

    def _begin(self, vertex: Vertex) -> None:
        """Solve a vertex whose inputs are there, or line it up for being run."""
        match vertex.op:
            case ContextOp():
                self._finish(vertex, Result(()))
            case BaseOp(layers=layers):
                self._finish(vertex, Result(layers))
            case MergeOp():
                inputs = [self._results[id(each)] for each in vertex.inputs]
                self._finish(vertex, self._merge(inputs))
            case _:
                self._begin_step(vertex)

    def _begin_step(self, vertex: Vertex) -> None:
        inputs = [self._results[id(each)] for each in needed_inputs(vertex)]
        if len(inputs) < len(vertex.inputs):
            inputs.insert(0, Result(()))  # what a linked COPY comes to lie over
        task = _Task(self._schedule.number(vertex), vertex, inputs, [])
        if not isinstance(vertex.op, RemoteOp):  # whose server says what is current
            done = self._look_up(task)
            if done is not None:
                self._report(task, done)
                return
            runner = self._runners.setdefault(task.keys[-1], task.number)
            if runner != task.number:
                self._followers.setdefault(runner, []).append(task)
                return
        self._tasks[task.number] = task
        heapq.heappush(self._pending, task.number)

    def _look_up(self, task: _Task) -> _Done | None:
        """Return a task's result if it is known, having filled in its keys until then."""
        for key in self._keys(task.vertex, task.inputs):
            task.keys.append(key)
            done = self._done.get(key) or self._cached(task.vertex, key)
            if done is not None:
                self._know(task, done, task.keys[:-1])
                return done
        return None

    def _know(self, task: _Task, done: _Done, others: Sequence[str]) -> None:
        """Note that a step is known, and remember it under further keys of its own."""
        if others:
            self._remember.put([msgspec.structs.replace(done.record, key=key) for key in others])
        self._notes.hit(task.number, task.vertex, [*others, done.record.key], done.record)

    def _cached(self, vertex: Vertex, key: str) -> _Done | None:
        record = self._cache.get(key) if self._cache is not None and not vertex.no_cache else None
        return None if record is None else _Done(record, StepOutcome(cached=True))

    def _keys(self, vertex: Vertex, inputs: list[Result]) -> Iterator[str]:
        """Return the vertex's keys, the cheap one first; content is read only for the second."""
        stacks = [each.layers for each in inputs]
        read = partial(self._executor.content_key, vertex, inputs)
        return vertex_keys(vertex, stacks, read, self._epoch)

    def _report(self, task: _Task, done: _Done) -> None:
        """Say that a step ended, and give its result to what needs it."""
        self._ui.finished(task.number, task.vertex.label, done.outcome)
        self._place(task.vertex, done)

    def _place(self, vertex: Vertex, done: _Done) -> None:
        """Lay a step's layer over what is below it, now or once that is there."""
        if not vertex.inputs:
            self._finish(vertex, _stacked(Result(()), done))
            return
        below = self._results.get(id(vertex.inputs[0]))
        if below is None:
            self._over.setdefault(id(vertex.inputs[0]), []).append((vertex, done))
        else:
            self._finish(vertex, _stacked(below, done))

    def _finish(self, vertex: Vertex, result: Result) -> None:
        ended = [(vertex, result)]
        while ended:  # no recursion: there may be thousands of linked COPYs
            vertex, result = ended.pop()
            self._results[id(vertex)] = result
            self._schedule.solved(vertex)
            self._executor.solved(self._schedule.number(vertex), vertex, result)
            for above, done in self._over.pop(id(vertex), ()):
                ended.append((above, _stacked(result, done)))

    # -- what runs

    def _start_pending(self) -> None:
        while self._pending and self._workers.has_room:
            task = self._tasks[heapq.heappop(self._pending)]
            if task.keys:
                self._notes.missed(task.number, task.vertex, task.inputs, task.keys)
            self._ui.started(task.number, task.vertex.label)
            self._workers.start(task.number, lambda task=task: self._carry_out(task))  # type: ignore[misc]

    def _carry_out(self, task: _Task) -> _Done:
        """Run a step unless another build did it meanwhile; in a thread of its own."""
        if not task.keys:
            return self._fetch(task)
        if self._locks is None or self._cache is None or task.vertex.no_cache:
            return self._execute(task)
        with self._locks.held(task.keys[-1], task.vertex.label):
            # Others put what they did where we remember it.
            record = self._remember.get(task.keys[-1])
            if record is None:
                return self._execute(task)
            known = _Done(record, StepOutcome(cached=True))
            self._know(task, known, task.keys[:-1])
            return known

    def _fetch(self, task: _Task) -> _Done:
        vertex = task.vertex
        began = time.monotonic()
        fresh = self._cache is None or vertex.no_cache
        told = partial(self._ui.fetched, task.number)
        source = self._executor.fetch(vertex, fresh=fresh, told=told)
        outcome = StepOutcome(
            cached=source.cached,
            seconds=time.monotonic() - began,
            new_bytes=source.new_bytes,
            reused_bytes=source.reused_bytes,
        )
        return _Done(CacheRecord("", source.diff_id, b"", source.created), outcome)

    def _execute(self, task: _Task) -> _Done:
        began = time.monotonic()
        made = self._executor.execute(task.number, task.vertex, task.inputs)
        created = time.time() if self._epoch is None else float(self._epoch)
        seconds = time.monotonic() - began
        values = self._notes.made(
            task.number, task.vertex, task.keys, made, seconds=seconds, created=created
        )
        records = [
            CacheRecord(key, made.diff_id, value, created)
            for key, value in zip(task.keys, values, strict=True)
        ]
        self._remember.put(records)
        outcome = StepOutcome(
            cached=False,
            seconds=seconds,
            new_bytes=made.new_bytes,
            reused_bytes=made.reused_bytes,
        )
        return _Done(records[-1], outcome)

    def _settle(self, ended: Ended[_Done]) -> None:
        """Take the end of a step, and of those that waited for it to know their own."""
        task = self._tasks[ended.token]
        if ended.error is not None:
            self._fail(task, ended.error)
            raise ended.error
        done = ended.outcome
        assert done is not None
        self._report(task, done)
        if task.keys:
            known = self._done[task.keys[-1]] = done._replace(outcome=StepOutcome(cached=True))
            for follower in self._followers.pop(task.number, ()):
                self._know(follower, known, follower.keys[:-1])
                self._report(follower, known)

    # -- how it ends early

    def _fail(self, task: _Task, error: BaseException) -> None:
        self._failures[task.number] = error
        self._ui.failed(task.number, task.vertex.label)

    def _end(self, error: BaseException) -> None:
        """Stop and wait for what runs; of several steps that failed raise the first one's error.

        What has its layer to be published yet may do so, unless the user wants to go.
        """
        failed = isinstance(error, Exception)
        self._executor.stop(abort=not failed)
        for ended in self._workers.drain():
            task = self._tasks[ended.token]
            if isinstance(ended.error, StepFailedError):
                self._fail(task, ended.error)
            elif ended.error is not None:  # a consequence of the end
                self._ui.canceled(task.number, task.vertex.label)
            elif ended.outcome is not None:
                self._ui.finished(task.number, task.vertex.label, ended.outcome.outcome)
        if failed and self._failures:
            first = self._failures[min(self._failures)]
            if first is not error:
                raise first from None

    # -- merges and the cache

    def _merge(self, inputs: list[Result]) -> Result:
        """Stack the inputs' own layers over the first input; hardly ever is a new one made."""
        layers = list(inputs[0].layers)
        for shared, own in own_layers([each.layers for each in inputs]):
            below: list[DiffId] = []
            for layer in own:
                below.append(self._stand_alone(shared, below, layer) or layer)
            layers += below
        return Result(tuple(layers), created=max(each.created for each in inputs))

    def _stand_alone(
        self, shared: Sequence[DiffId], below: Sequence[DiffId], layer: DiffId
    ) -> DiffId | None:
        key = step_key(
            MergeOp(), [layers_input(shared), layers_input((*below, layer))], self._epoch
        )
        record = self._remember.get(key)  # says nothing that --no-cache could mean
        if record is None:
            made = self._executor.stand_alone(shared, below, layer)
            record = CacheRecord(key, made, b"", time.time())
            self._remember.put([record])
        return record.diff_id


def _stacked(below: Result, done: _Done) -> Result:
    diff_id = done.record.diff_id
    layers = below.layers if diff_id is None else (*below.layers, diff_id)
    return Result(layers, diff_id, done.record.created)
