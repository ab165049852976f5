"""Carries out one operation at a time over the layers it was handed.

Owns what a build needs while it runs: the write session (and its lease), the scratch
directory, the sandbox and the server behind its mounts. All of it is made when the
first step needs it, so a build that finds everything in the cache makes none of it.
Leaving the context undoes everything but published layers.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from layerstore.build.cache_key import layers_input, selection_digest
from layerstore.build.copy import CopyOptions, copy_match, prepare_destination
from layerstore.build.errors import BuildStepError, StepFailedError
from layerstore.build.graph import ContextOp, CopyOp, MkdirOp, RunOp
from layerstore.build.ignore import IgnoreRules
from layerstore.build.modes import parse_mode
from layerstore.build.solver import Made
from layerstore.build.source import (
    Match,
    SourceNode,
    TreeNode,
    find,
    inline_file,
    select,
)
from layerstore.build.target import TargetTree
from layerstore.build.users import MAX_FILE_BYTES, UserDatabase, resolve_owner
from layerstore.errors import BuildError, InputError, LayerstoreError, MountError
from layerstore.formats.tree import Changeset, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from fuse_mount.build_lowers import BuildLowers
    from layerstore.build.context import Context
    from layerstore.build.graph import Vertex
    from layerstore.build.run.settings import RunSettings
    from layerstore.build.run.step import RunStep
    from layerstore.build.solver import Result
    from layerstore.build.ui import BuildUi
    from layerstore.digest import DiffId
    from layerstore.image.layer_item import LayerItem
    from layerstore.image.stack import Node
    from layerstore.snapshot.base import Snapshotter
    from layerstore.store.session import WriteSession
    from layerstore.store.store import Store

_TAIL_BYTES = 8 << 10
_REMEMBERED_CHANGESETS = 64


class BuildExecutor:
    """See the module; use it in a ``with`` block.

    Args:
        store: Where layers come from and go to.
        context: The build context.
        settings: Shared by all RUN steps.
        ui: Gets the output of commands.
        epoch: SOURCE_DATE_EPOCH: no time in a layer is later.
    """

    def __init__(
        self,
        store: Store,
        context: Context,
        settings: RunSettings,
        ui: BuildUi,
        *,
        epoch: int | None,
    ) -> None:
        self._store = store
        self._context = context
        self._settings = settings
        self._ui = ui
        self._epoch = epoch
        self._stack = contextlib.ExitStack()
        self._session: WriteSession | None = None
        self._scratch: Path | None = None
        self._run_step: RunStep | None = None
        self._lowers: BuildLowers | None = None
        self._snapshotter: Snapshotter | None = None
        self._changesets: dict[DiffId, Changeset] = {}
        self._context_layers: tuple[DiffId, ...] | None = None
        self._context_root: SourceNode | None = None
        self._source: tuple[tuple[DiffId, ...], Node] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def session(self) -> WriteSession:
        """The build's one write session, begun when first asked for."""
        if self._session is None:
            self._session = self._stack.enter_context(self._store.begin("build"))
        return self._session

    # -- what the solver asks for

    def content_key(self, vertex: Vertex, inputs: Sequence[Result]) -> list[str]:
        """Return how the files that a vertex takes from its inputs are named in its key.

        Raises:
            BuildStepError: A file that is asked for does not exist or cannot be read.
        """
        with _blaming(vertex):
            op = vertex.op
            if isinstance(op, CopyOp):
                matches = self._matches(op, vertex, inputs)
                return [selection_digest(matches)] if op.sources else []
            if isinstance(op, RunOp):
                return [self._mount_key(op, vertex, inputs, index) for index in _bound(op)]
            return []

    def execute(self, number: int, vertex: Vertex, inputs: Sequence[Result]) -> Made:
        """Carry out an operation and publish its layer.

        Raises:
            BuildStepError: It failed; the message begins with the instruction's place.
        """
        with _blaming(vertex):
            before = self.session.stats
            self._hold(inputs)
            match vertex.op:
                case MkdirOp() as op:
                    diff_id = self._mkdir(op, inputs[0])
                case CopyOp() as op:
                    diff_id = self._copy(op, vertex, inputs)
                case RunOp() as op:
                    diff_id = self._run(number, op, vertex, inputs)
                case _:
                    raise AssertionError(f"{vertex.op} is not executed")
            after = self.session.stats
            return Made(
                diff_id,
                after.new_bytes - before.new_bytes,
                after.reused_bytes - before.reused_bytes,
            )

    # -- WORKDIR

    def _mkdir(self, op: MkdirOp, base: Result) -> DiffId | None:
        target = self._target(base.layers)
        path, node = target.resolve(os.fsencode(op.path))
        if node is not None:
            if node.children is None:
                raise BuildError(f"WORKDIR {op.path} is not a directory in the image")
            return None
        owner = (0, 0)
        if op.user:
            # As BuildKit: a user the image does not know owns nothing, root does.
            with contextlib.suppress(BuildError):
                owner = self._owner(op.user, target)
        target.make_directories(path, owner)
        return self._publish(*target.items())

    # -- COPY and ADD

    def _copy(self, op: CopyOp, vertex: Vertex, inputs: Sequence[Result]) -> DiffId | None:
        matches = self._matches(op, vertex, inputs)
        for source, found in matches:
            if not found:  # BuildKit lets it pass as well, but silently
                self._ui.message(f"{vertex.span}: no file matches {source}")
        target = self._target(() if op.link else inputs[0].layers)
        owner = self._owner(op.owner, target) if op.owner else None
        options = CopyOptions(owner, parse_mode(op.mode) if op.mode else None)
        with contextlib.ExitStack() as stack:
            for _, found in matches:
                for match in found:
                    if not (op.unpack and self._unpack(op, match, target, owner, stack)):
                        copy_match(target, match, _place_of(op), options)
            for document in op.documents:
                data = document.content.encode("utf-8", "surrogateescape")
                node = inline_file(data, now_ns=self._now_ns())
                name = os.fsencode(document.name)
                copy_match(target, Match(name, name, select(node)), op.dest, options)
            return self._publish(*target.items(), near=inputs[0].layers)

    def _unpack(
        self,
        op: CopyOp,
        match: Match,
        target: TargetTree,
        owner: tuple[int, int] | None,
        stack: contextlib.ExitStack,
    ) -> bool:
        """Unpack a match that is an archive; return False when it is not."""
        from layerstore.build.unpack import looks_like_archive, unpack

        node = match.selected.node
        open_content = node.opener()
        if node.entry.kind is not Kind.FILE or open_content is None:
            return False
        if not looks_like_archive(open_content):
            return False
        place = prepare_destination(target, op.dest, owner)
        target.make_directories(place, owner or (0, 0))
        path = self.scratch / "spool"
        spool = stack.enter_context(path.open("w+b"))
        path.unlink()
        unpack(target, place, open_content, spool, owner)
        return True

    def _matches(
        self, op: CopyOp, vertex: Vertex, inputs: Sequence[Result]
    ) -> list[tuple[str, list[Match]]]:
        """Return what each source argument stands for.

        Raises:
            InputError: A file named without wildcards does not exist.
        """
        if not op.sources:
            return []
        root = self._input_root(vertex, inputs, 1)
        span = vertex.span
        assert span is not None
        excludes = IgnoreRules.from_patterns(op.exclude, span) if op.exclude else None
        matches = []
        for source in op.sources:
            includes = None
            pattern = source
            if op.parents:
                pattern, inner = _split_pivot(source)
                includes = IgnoreRules.from_patterns([inner], span)
            found = [
                Match(path.rpartition(b"/")[2], path, select(node, includes, excludes))
                for path, node in find(root, pattern)
            ]
            _check_found(source, found, vertex, parents=op.parents)
            matches.append((source, found))
        return matches

    def _input_root(self, vertex: Vertex, inputs: Sequence[Result], index: int) -> SourceNode:
        if isinstance(vertex.inputs[index].op, ContextOp):
            if self._context_root is None:
                self._context_root = self._context.tree()
            return self._context_root
        return TreeNode(self._source_tree(inputs[index].layers))

    # -- RUN

    def _run(
        self, number: int, op: RunOp, vertex: Vertex, inputs: Sequence[Result]
    ) -> DiffId | None:
        step = self._prepare_running()
        sources = _Sources(self, vertex, inputs, f"{number}")
        sources.prepare(op)
        assert self._lowers is not None
        self._lowers.prepare(inputs[0].layers)
        tail = bytearray()

        def on_output(data: bytes) -> None:
            tail.extend(data)
            del tail[:-_TAIL_BYTES]
            self._ui.output(number, data)

        outcome = step.run(op, str(number), inputs[0].layers, sources, on_output)
        if outcome.status != 0:
            status = outcome.status if outcome.status > 0 else 128 - outcome.status
            text = tail.decode("utf-8", "replace")
            command = vertex.original or " ".join(op.args)
            raise StepFailedError(_first_line(command), status, text, vertex.span, vertex.label)
        for path, why in outcome.skipped:
            self._ui.message(f"not in the layer: /{os.fsdecode(path)} ({why})")
        diff_id = self._publish(
            outcome.items, outcome.opaques, outcome.whiteouts, near=inputs[0].layers
        )
        self._discard(self.scratch / f"step-{number}")
        return diff_id

    def _mount_key(self, op: RunOp, vertex: Vertex, inputs: Sequence[Result], index: int) -> str:
        number = op.mounts[index].input
        assert number is not None
        if not isinstance(vertex.inputs[number].op, ContextOp):
            return layers_input(inputs[number].layers)
        root = self._input_root(vertex, inputs, number)
        found = [
            Match(path.rpartition(b"/")[2], path, select(node))
            for path, node in find(root, op.mounts[index].source)
        ]
        if not found:
            raise _nothing_found(op.mounts[index].source, vertex)
        return selection_digest([(op.mounts[index].source, found)])

    def context_layers(self) -> tuple[DiffId, ...]:
        """Return the whole build context as a layer, for bind mounts of it."""
        if self._context_layers is None:
            from layerstore.image.stack import empty_root

            target = TargetTree(empty_root(), now_ns=self._now_ns())
            everything = Match(b"", b"", select(self._context.tree()))
            copy_match(target, everything, "/", CopyOptions())
            diff_id = self._publish(*target.items())
            self._context_layers = () if diff_id is None else (diff_id,)
        return self._context_layers

    def show(self, layers: Sequence[DiffId], scratch: Path | None) -> AbstractContextManager[Path]:
        """Show layers as a directory inside the sandbox; writable with a scratch directory."""
        assert self._lowers is not None
        assert self._snapshotter is not None
        if scratch is None:
            return self._lowers.lower(layers)
        return _root_of(self._snapshotter, layers, scratch)

    # -- shared

    @property
    def scratch(self) -> Path:
        """The build's own directory below the store's ``tmp``, made when first asked for."""
        if self._scratch is None:
            path = Path(self.session.temporary("build"))
            path.mkdir(mode=0o700)
            self._scratch = path
            self._stack.callback(self._discard, path)
        return self._scratch

    def _discard(self, path: Path) -> None:
        from layerstore.build.run.reaper import remove_tree

        with contextlib.suppress(OSError):  # gc removes it when this build's lease has ended
            remove_tree(str(path))

    def _prepare_running(self) -> RunStep:
        if self._run_step is None:
            from fuse_mount.build_lowers import BuildLowers
            from layerstore.build.run.sandbox import Sandbox
            from layerstore.build.run.step import RunStep
            from layerstore.snapshot.overlay import OverlaySnapshotter

            sandbox = Sandbox(self.scratch, self.session.lease_id)
            self._stack.enter_context(sandbox)
            lowers = BuildLowers(self._store, self.scratch, self._load)
            self._stack.callback(sandbox.call, lowers.close)
            self._lowers = lowers
            self._snapshotter = OverlaySnapshotter(lowers)
            self._run_step = RunStep(sandbox, self._snapshotter, self._settings)
        return self._run_step

    def _hold(self, inputs: Sequence[Result]) -> None:
        layers = {diff_id for each in inputs for diff_id in each.layers}
        if layers:
            self.session.hold_layers(sorted(layers))

    def _load(self, layers: Sequence[DiffId]) -> Node:
        """Return a tree of its own over the layers; their changesets are remembered."""
        from layerstore.image.layers import load_changeset
        from layerstore.image.stack import stack

        for diff_id in layers:
            if diff_id not in self._changesets:
                if len(self._changesets) >= _REMEMBERED_CHANGESETS:
                    self._changesets.clear()
                self._changesets[diff_id] = load_changeset(self._store, diff_id)
        return stack([self._changesets[diff_id] for diff_id in layers])

    def _source_tree(self, layers: tuple[DiffId, ...]) -> Node:
        """Return a tree to copy from, which nobody changes; the last one is remembered."""
        known = self._source
        if known is None or known[0] != layers:
            known = self._source = (layers, self._load(layers))
        return known[1]

    def _target(self, layers: Sequence[DiffId]) -> TargetTree:
        return TargetTree(self._load(layers), now_ns=self._now_ns())

    def _owner(self, text: str, target: TargetTree) -> tuple[int, int]:
        return resolve_owner(
            UserDatabase(
                passwd=lambda: self._read(target, b"etc/passwd"),
                group=lambda: self._read(target, b"etc/group"),
            ),
            text,
        )

    def _read(self, target: TargetTree, path: bytes) -> bytes | None:
        _, node = target.resolve(path)
        if node is None or node.entry.kind is not Kind.FILE:
            return None
        if node.entry.size > MAX_FILE_BYTES:
            return b"\0" * (MAX_FILE_BYTES + 1)
        refs = [(length, chunk) for length, chunk in node.entry.extents if chunk is not None]
        return self._store.read_refs(tuple(refs))

    def _publish(
        self,
        items: Sequence[LayerItem],
        opaques: Iterable[bytes] = (),
        whiteouts: Sequence[bytes] = (),
        near: Sequence[DiffId] = (),
    ) -> DiffId | None:
        """Publish a layer; return None when there is nothing in it."""
        from layerstore.image.layer_writer import write_layer

        opaque_list = list(opaques)
        if not items and not opaque_list and not whiteouts:
            return None
        record = write_layer(
            self.session, self._store, self._clamped(items),
            whiteouts=whiteouts, opaques=opaque_list, near=near,
        )  # fmt: skip
        return record.diff_id

    def _clamped(self, items: Sequence[LayerItem]) -> Sequence[LayerItem]:
        if self._epoch is None:
            return items
        limit = self._epoch * 1_000_000_000
        return [
            item
            if item.entry.mtime_ns <= limit
            else item._replace(entry=msgspec.structs.replace(item.entry, mtime_ns=limit))
            for item in items
        ]

    def _now_ns(self) -> int:
        return time.time_ns() if self._epoch is None else self._epoch * 1_000_000_000


class _Sources:
    """The inputs of one RUN as directories."""

    def __init__(
        self, executor: BuildExecutor, vertex: Vertex, inputs: Sequence[Result], name: str
    ) -> None:
        self._executor = executor
        self._vertex = vertex
        self._inputs = inputs
        self._name = name
        self._shown = 0

    def prepare(self, op: RunOp) -> None:
        """Make what needs a write session, before the sandbox's thread asks."""
        for spec in op.mounts:
            if spec.input is not None and self._is_context(spec.input):
                self._executor.context_layers()

    def show(self, number: int, *, writable: bool) -> AbstractContextManager[Path]:
        """Return input ``number`` as a directory; writes to it vanish."""
        layers = (
            self._executor.context_layers()
            if self._is_context(number)
            else self._inputs[number].layers
        )
        self._shown += 1
        scratch = self._executor.scratch / f"step-{self._name}" / f"bind-{self._shown}"
        return self._executor.show(layers, scratch if writable else None)

    def _is_context(self, number: int) -> bool:
        return isinstance(self._vertex.inputs[number].op, ContextOp)


@contextlib.contextmanager
def _root_of(snapshotter: Snapshotter, layers: Sequence[DiffId], scratch: Path) -> Iterator[Path]:
    with snapshotter.prepare(layers, scratch) as snapshot:
        yield snapshot.root


@contextlib.contextmanager
def _blaming(vertex: Vertex) -> Iterator[None]:
    """Put the instruction's place in front of what went wrong while it was carried out."""
    try:
        yield
    except BuildStepError:
        raise
    except (BuildError, InputError) as err:
        raise BuildStepError(err.message, vertex.span, vertex.label, hint=err.hint) from err
    except MountError:
        raise
    except LayerstoreError as err:
        place = f"{vertex.span}: " if vertex.span is not None else ""
        if not err.message.startswith(place):
            err.message = f"{place}{err.message}"
            err.args = (err.message,)
        raise


def _bound(op: RunOp) -> list[int]:
    return [index for index, spec in enumerate(op.mounts) if spec.input is not None]


def _split_pivot(source: str) -> tuple[str, str]:
    """Return where ``--parents`` begins to recreate paths, and the pattern below that."""
    head, pivot, tail = source.partition("/./")
    return (head or "/", tail) if pivot else ("/", source)


def _place_of(op: CopyOp) -> str:
    """Return the destination of a match: with ``--parents`` always a directory."""
    if op.parents and not op.dest.endswith("/"):
        return op.dest + "/"
    return op.dest


def _check_found(source: str, found: list[Match], vertex: Vertex, *, parents: bool) -> None:
    from layerstore.build.ignore import has_wildcards

    if has_wildcards(source):
        return
    if not found or (parents and not found[0].selected.children):
        raise _nothing_found(source, vertex)


def _nothing_found(source: str, vertex: Vertex) -> InputError:
    where = "the build context"
    if len(vertex.inputs) > 1 and not isinstance(vertex.inputs[1].op, ContextOp):
        where = "the stage or image it is copied from"
        hint = None
    else:
        hint = "see whether .dockerignore leaves it out"
    return InputError(f"{source} does not exist in {where}", hint=hint)


def _first_line(text: str) -> str:
    lines = text.strip().splitlines()
    return f"{lines[0]} ..." if len(lines) > 1 else (lines[0] if lines else "")
