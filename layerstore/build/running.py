"""RUN: the sandbox of a build, what its steps mount, and the layers that they leave.

The sandbox and the server behind its mounts are made for the first step that runs. Steps
run side by side: what they share is made under the lock of the build's resources.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.build.cache_key import layers_input, selection_digest
from layerstore.build.copy import CopyOptions, copy_match
from layerstore.build.copying import input_root, nothing_found
from layerstore.build.errors import BuildCanceledError, StepFailedError
from layerstore.build.foreign import require_runnable
from layerstore.build.graph import ContextOp, RunOp
from layerstore.build.source import Match, find, select
from layerstore.build.target import TargetTree
from layerstore.build.upcoming import Upcoming
from layerstore.build.waiting import Patience
from layerstore.errors import LayerstoreError
from layerstore.light_imports import load_cutter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from fuse_mount.build_lowers import BuildLowers
    from layerstore.build.facts import Selection
    from layerstore.build.graph import MountSpec, Vertex
    from layerstore.build.resources import BuildResources
    from layerstore.build.run.sandbox import Sandbox
    from layerstore.build.run.settings import RunSettings
    from layerstore.build.run.step import RunOutcome, RunStep
    from layerstore.build.solver import Result
    from layerstore.digest import DiffId
    from layerstore.snapshot.base import Snapshotter

KEPT_MAX_BYTES = 1 << 30
"""Of what steps have written so much is on the disk twice, for commands to come."""

_TAIL_BYTES = 8 << 10
_KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)
"""Status of a runtime that was killed, and of one whose container was."""


class Running:
    """Carries out RUN steps.

    Args:
        resources: The build's.
        settings: Shared by all RUN steps.
    """

    def __init__(self, resources: BuildResources, settings: RunSettings) -> None:
        self._resources = resources
        self._settings = settings
        self._run_step: RunStep | None = None
        self._sandbox: Sandbox | None = None
        self._lowers: BuildLowers | None = None
        self._snapshotter: Snapshotter | None = None
        self._context_layers: dict[str, tuple[DiffId, ...]] = {}
        self._beginning = threading.Lock()
        self._upcoming = Upcoming({})
        self._threads: list[threading.Thread] = []
        self._examining = threading.Lock()
        self._examined: set[str] = set()
        # A lock of its own: who holds that of the resources must not wait for mounts being made,
        # since the server behind these asks the resources for layers.
        self._keeping = threading.Lock()
        self._kept: list[_Kept] = []

    def run_key(self, op: RunOp, vertex: Vertex, inputs: Sequence[Result]) -> list[str]:
        """Return how what a RUN mounts of its inputs is named in its key.

        Raises:
            InputError: The context does not hold what is to be mounted.
        """
        return [
            self._mount_key(spec, vertex, inputs) for spec in op.mounts if spec.input is not None
        ]

    def run(
        self, number: int, op: RunOp, vertex: Vertex, inputs: Sequence[Result]
    ) -> DiffId | None:
        """Run a command and publish what it changed; None when it changed nothing.

        Raises:
            StepFailedError: It ended with an error.
        """
        if vertex.platform is not None:
            require_runnable(vertex.platform)
        step = self._prepare_running()
        assert self._lowers is not None
        name = self._resources.step_name(number)
        scratch = self._resources.make_scratch(f"step-{name}")
        sources = _Sources(self, vertex, inputs, scratch)
        tail = bytearray()

        def on_output(data: bytes) -> None:
            tail.extend(data)
            del tail[:-_TAIL_BYTES]
            self._resources.ui.output(number, data)

        caches = self._with_bases(op, vertex, inputs)
        mounted = sources.chains(op)
        with self._lowers.used([inputs[0].layers, *mounted]):
            for layers in mounted:
                self._lowers.prepare(layers, lasting=False)
            self._lowers.prepare(inputs[0].layers)
            self._warn_of_holes()
            outcome = step.run(
                caches, name, inputs[0].layers, sources, on_output,
                started=lambda: self._prepare_ahead(number, inputs[0].layers),
            )  # fmt: skip
        self._upcoming.ended(number)
        self._release()
        if self._upcoming.is_over:
            self._beside(self._end_roots)
        self._warn_of_holes()  # another runtime may have taken over
        if outcome.status in _KILLED and self._resources.stopping.is_set():
            raise BuildCanceledError
        if outcome.status != 0:
            status = outcome.status if outcome.status > 0 else 128 - outcome.status
            text = tail.decode("utf-8", "replace")
            command = vertex.original or " ".join(op.args)
            raise StepFailedError(_first_line(command), status, text, vertex.span, vertex.label)
        for path, why in outcome.skipped:
            self._resources.ui.message(f"not in the layer: /{os.fsdecode(path)} ({why})")
        opaques = self._opaques(outcome, inputs[0].layers)
        if not self._upcoming.is_needed(vertex):
            # What was read is removed while it is forced to the disk: nobody looks at it again.
            return self._resources.publish(
                outcome.items, opaques, outcome.whiteouts, near=inputs[0].layers,
                was_read=lambda: self._resources.discard_beside(scratch),
            )  # fmt: skip
        diff_id = self._resources.publish(
            outcome.items, opaques, outcome.whiteouts, near=inputs[0].layers
        )
        kept = self._keep_upper(outcome, inputs, diff_id, vertex)
        self._resources.discard_beside(
            *([scratch] if kept is None else (path for path in scratch.iterdir() if path != kept))
        )
        return diff_id

    def _opaques(self, outcome: RunOutcome, below: Sequence[DiffId]) -> list[bytes]:
        """Return the directories that hide something.

        With inode numbers of its own (xino) an overlay marks every new directory, to look no
        further; without it does not. A layer must not depend on who showed the layers below.
        """
        from layerstore.image.kernel.layer_image import existing_below

        if not outcome.opaques:
            return []
        layers = [self._resources.changeset(diff_id) for diff_id in below]
        existing = existing_below(layers, outcome.opaques)
        return [path for path in outcome.opaques if path in existing]

    def _keep_upper(
        self, outcome: RunOutcome, inputs: Sequence[Result], diff_id: DiffId | None, vertex: Vertex
    ) -> Path | None:
        """Keep what a step has written, if commands that follow can lie over it; return it."""
        upper = outcome.upper
        if upper is None or diff_id is None:
            return None
        if self._resources.changes(outcome.items):
            return None
        size = sum(item.entry.size for item in outcome.items)
        layers = (*inputs[0].layers, diff_id)
        with self._keeping:
            if sum(each.size for each in self._kept) + size > KEPT_MAX_BYTES:
                return None
            if any(each.layers == layers for each in self._kept):
                return None  # another command made the same of the same; one directory shows both
            self._kept.append(_Kept(vertex, layers, upper, size))
        assert self._lowers is not None
        self._lowers.add_upper(layers, upper)
        return upper

    def _release(self) -> None:
        """Remove what steps have written and no command that is to come lies over."""
        unneeded: list[Path] = []
        with self._keeping:
            kept, self._kept = self._kept, []
            for each in kept:
                assert self._lowers is not None
                needed = self._upcoming.is_needed(each.vertex)
                if needed or not self._lowers.drop_upper(each.layers):
                    self._kept.append(each)
                else:
                    unneeded.append(each.upper)
        if unneeded:
            self._resources.discard_beside(*unneeded)

    def _with_bases(self, op: RunOp, vertex: Vertex, inputs: Sequence[Result]) -> RunOp:
        """Return the operation with caches told apart by what they begin with, as BuildKit does."""
        mounts = [
            msgspec.structs.replace(
                spec, id=f"{spec.id}, from {self._mount_key(spec, vertex, inputs)} {spec.source}"
            )
            if spec.type == "cache" and spec.input is not None
            else spec
            for spec in op.mounts
        ]
        return msgspec.structs.replace(op, mounts=tuple(mounts))

    def selections(self, op: RunOp, vertex: Vertex, inputs: Sequence[Result]) -> list[Selection]:
        """Return the files of the context that a RUN mounts, for people who ask what changed."""
        from layerstore.build.facts import Selection

        return [
            Selection(spec.input, spec.target, self._mounted(spec, vertex, inputs))
            for spec in op.mounts
            if spec.input is not None and isinstance(vertex.inputs[spec.input].op, ContextOp)
        ]

    def _mount_key(self, spec: MountSpec, vertex: Vertex, inputs: Sequence[Result]) -> str:
        assert spec.input is not None
        if not isinstance(vertex.inputs[spec.input].op, ContextOp):
            return layers_input(inputs[spec.input].layers)
        return selection_digest(self._mounted(spec, vertex, inputs))

    def _mounted(
        self, spec: MountSpec, vertex: Vertex, inputs: Sequence[Result]
    ) -> list[tuple[str, list[Match]]]:
        """Return the files that a bind mount shows."""
        assert spec.input is not None
        root = input_root(self._resources, vertex, inputs, spec.input)
        found = [
            Match(path.rpartition(b"/")[2], path, select(node))
            for path, node in find(root, spec.source)
        ]
        if not found:
            raise nothing_found(self._resources, spec.source, vertex, spec.input)
        return [(spec.source, found)]

    def context_layers(self, name: str) -> tuple[DiffId, ...]:
        """Return a whole build context as a layer, for bind mounts of it."""
        with self._resources.lock:
            if name not in self._context_layers:
                from layerstore.image.trees.stack import empty_root

                target = TargetTree(empty_root(), now_ns=self._resources.now_ns())
                everything = Match(b"", b"", select(self._resources.context_tree(name)))
                copy_match(target, everything, "/", CopyOptions())
                diff_id = self._resources.publish(*target.items())
                self._context_layers[name] = () if diff_id is None else (diff_id,)
            return self._context_layers[name]

    def show(self, layers: Sequence[DiffId], scratch: Path | None) -> AbstractContextManager[Path]:
        """Show layers as a directory inside the sandbox; writable with a scratch directory."""
        assert self._lowers is not None
        assert self._snapshotter is not None
        if scratch is None:
            return self._lowers.lower(layers)
        return _root_of(self._snapshotter, layers, scratch)

    def expect(self, commands_over: Mapping[int, int]) -> None:
        """Hear what commands there are."""
        self._upcoming = Upcoming(commands_over)

    def solved(self, number: int, vertex: Vertex, result: Result) -> None:
        """Hear of a vertex that has a result."""
        self._upcoming.solved(number, vertex, result.layers)
        self._release()

    def prepare_beside(self, vertex: Vertex, inputs: Sequence[Result]) -> None:
        """Begin to make ready what a command needs that comes after a step of another kind.

        That is the sandbox, and what shows the layers below the step. What is wrong is told by the
        command.
        """
        if isinstance(vertex.op, RunOp) or not self._upcoming.comes_after(vertex):
            return

        def begin() -> None:
            with contextlib.suppress(LayerstoreError, OSError):
                self._prepare_running()
                if inputs[0].layers:
                    self._prepare_chains([inputs[0].layers])

        self._beside(begin)

    def _prepare_ahead(self, number: int, below: Sequence[DiffId]) -> None:
        """Make, while a command runs, what shows the layers that next ones will lie over.

        The next ones of the last command are those of a later build, over the same layers.
        What it has written may have to be cut: that is made ready, too.
        """
        chains = self._upcoming.take_chains(number)
        if chains:
            self._beside(lambda: self._prepare_chains(chains))
        elif self._upcoming.is_last(number):
            self._beside(load_cutter)
            self._beside(lambda: self._leave_base(number, below))

    def _leave_base(self, number: int, below: Sequence[DiffId]) -> None:
        """Leave to later builds what this one did not need."""
        assert self._lowers is not None
        if not self._resources.stopping.is_set() and not self._upcoming.has_ended(number):
            with contextlib.suppress(LayerstoreError, OSError):
                self._lowers.leave_base(below)

    def _end_roots(self) -> None:
        """Take away what showed layers to commands while the layer of the last one is written."""
        assert self._lowers is not None
        assert self._sandbox is not None
        self._lowers.settle()
        self._sandbox.call(self._lowers.close)

    def _prepare_chains(self, chains: Iterable[Sequence[DiffId]]) -> None:
        """Prepare chains as far as nothing is wrong with them; who needs them tells what is."""
        assert self._lowers is not None
        for layers in chains:
            if self._resources.stopping.is_set():
                return
            with contextlib.suppress(LayerstoreError, OSError):
                self._resources.session.hold_layers(sorted(set(layers)))
                self._lowers.prepare(layers, lasting=False)

    def _beside(self, function: Callable[[], None]) -> None:
        """Have something done by a thread that :meth:`close` waits for."""
        thread = threading.Thread(target=function, name="build-beside", daemon=True)
        with self._resources.lock:
            self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Wait for what is done beside the steps; none of those runs any more."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """Kill all containers; none starts any more."""
        with self._beginning:
            if self._sandbox is not None:
                self._sandbox.kill()

    def _prepare_running(self) -> RunStep:
        with self._beginning:
            if self._resources.stopping.is_set():
                raise BuildCanceledError
            if self._run_step is None:
                self._run_step = self._begin()
                # Asked while the first root is made ready: a runtime takes 10 ms to answer.
                self._beside(self._warn_of_holes)
            return self._run_step

    def _warn_of_holes(self) -> None:
        """Say once of each runtime if an image alone gets out of its containers."""
        from layerstore.runtime.holes import described, fixes_of, mended_by

        assert self._sandbox is not None
        runtime = self._sandbox.runtime
        with self._examining:  # who comes meanwhile waits: it is said before a command begins
            if runtime.path in self._examined:
                return
            self._examined.add(runtime.path)
            fixes = fixes_of(runtime.path, runtime.name)
            if fixes.severe:
                self._resources.ui.message(
                    f"{runtime.path} {fixes.version} has holes by which images get out: "
                    f"{described(fixes.severe)}; build only what you trust, or install "
                    f"{runtime.name} {mended_by(runtime.name)}"
                )

    def _begin(self) -> RunStep:
        from fuse_mount.build_lowers import BuildLowers
        from layerstore.build.run.resting_caches import Waking
        from layerstore.build.run.sandbox import Sandbox
        from layerstore.build.run.step import RunStep
        from layerstore.snapshot.overlay import OverlaySnapshotter

        resources = self._resources
        sandbox = Sandbox(resources.scratch, resources.session.lease_id, self._settings.options)
        resources.stack.enter_context(sandbox)
        resources.stack.callback(resources.wait_for_discarding)
        resources.remove_elsewhere = sandbox.remove
        self._sandbox = sandbox
        if sandbox.ids == 1:
            resources.ui.message(
                "RUN has no user but root here: without newuidmap and ranges in /etc/subuid "
                "and /etc/subgid no other id can be mapped"
            )
        lowers = BuildLowers(
            resources.store, resources.scratch, resources.changeset, self._say_failed
        )
        resources.stack.callback(sandbox.call, lowers.close)
        resources.stack.callback(lowers.settle)
        self._lowers = lowers
        self._snapshotter = OverlaySnapshotter(lowers)
        patience = Patience(resources.stopping, resources.ui.waiting)
        wake = Waking(resources.store, resources.session, resources.ui.message)
        small = resources.session.cutting.whole_max_bytes
        step = RunStep(sandbox, self._snapshotter, self._settings, patience, wake, read_small=small)
        resources.stack.callback(step.close)
        return step

    def _say_failed(self, error: LayerstoreError) -> None:
        self._resources.ui.message(f"a file of the image cannot be read: {error.message}")


class _Kept(NamedTuple):
    """What a step has written, over which commands are to lie.

    Attributes:
        layers: The chain that it is the uppermost part of.
        size: Of its files, in bytes.
    """

    vertex: Vertex
    layers: tuple[DiffId, ...]
    upper: Path
    size: int


class _Sources:
    """The inputs of one RUN as directories."""

    def __init__(
        self, running: Running, vertex: Vertex, inputs: Sequence[Result], scratch: Path
    ) -> None:
        self._running = running
        self._vertex = vertex
        self._inputs = inputs
        self._scratch = scratch
        self._shown = 0

    def chains(self, op: RunOp) -> list[tuple[DiffId, ...]]:
        """Return the layers of what is mounted; where a session is at hand, for contexts."""
        return [self._layers(spec.input) for spec in op.mounts if spec.input is not None]

    def show(self, number: int, *, writable: bool) -> AbstractContextManager[Path]:
        """Return input ``number`` as a directory; writes to it vanish."""
        layers = self._layers(number)
        self._shown += 1
        scratch = self._scratch / f"bind-{self._shown}"
        return self._running.show(layers, scratch if writable else None)

    def _layers(self, number: int) -> tuple[DiffId, ...]:
        op = self._vertex.inputs[number].op
        if isinstance(op, ContextOp):
            return self._running.context_layers(op.name)
        return self._inputs[number].layers


@contextlib.contextmanager
def _root_of(snapshotter: Snapshotter, layers: Sequence[DiffId], scratch: Path) -> Iterator[Path]:
    with snapshotter.prepare(layers, scratch) as snapshot:
        yield snapshot.root


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f"{lines[0]} ..." if len(lines) > 1 else (lines[0] if lines else "")
