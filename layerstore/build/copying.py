"""COPY, ADD and WORKDIR: from an operation to a layer, without a mount and without root.

What a COPY takes is found for its key, and remembered until it runs; the rules of copying are
:mod:`layerstore.build.copy`'s.
"""

from __future__ import annotations

import contextlib
import os
from functools import cached_property, partial
from typing import TYPE_CHECKING

from layerstore.build.cache_key import selection_digest
from layerstore.build.copy import CopyOptions, copy_match, prepare_destination
from layerstore.build.graph import ContextOp, HttpOp
from layerstore.build.ignore import IgnoreRules, has_wildcards
from layerstore.build.modes import parse_mode
from layerstore.build.source import Match, SourceNode, find, inline_file, select, tree_node
from layerstore.build.stored_file import open_stored
from layerstore.errors import BuildError, InputError
from layerstore.formats.tree import Kind
from layerstore.runtime.users import MAX_FILE_BYTES, UserDatabase, resolve_owner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.facts import Selection
    from layerstore.build.graph import CopyOp, MkdirOp, Vertex
    from layerstore.build.resources import BuildResources
    from layerstore.build.solver import Result
    from layerstore.build.target import TargetTree
    from layerstore.digest import DiffId

    _Matches = list[tuple[str, list[Match]]]
    """What each source argument stands for."""

_REMEMBERED = 8
"""Selections that are kept at most: steps that are cached never ask for theirs again."""


class _Selection:
    """What sources stand for in some trees, and what that is named in a key."""

    def __init__(self, matches: _Matches) -> None:
        self.matches = matches

    @cached_property
    def digest(self) -> str:
        """Of all files: reads those that nobody has read yet."""
        return selection_digest(self.matches)


class Copying:
    """Carries out the operations that change trees in memory.

    Args:
        resources: The build's.
    """

    def __init__(self, resources: BuildResources) -> None:
        self._resources = resources
        self._found: dict[object, _Selection] = {}

    def copy_key(self, op: CopyOp, vertex: Vertex, inputs: Sequence[Result]) -> list[str]:
        """Return how the files that a COPY takes are named in its key.

        Raises:
            InputError: A file named without wildcards does not exist.
        """
        return [self._selection(op, vertex, inputs).digest] if op.sources else []

    def selections(self, op: CopyOp, vertex: Vertex, inputs: Sequence[Result]) -> list[Selection]:
        """Return the files that a COPY takes, for people who ask what changed."""
        from layerstore.build.facts import Selection

        by_input: dict[int, list[tuple[str, list[Match]]]] = {}
        for number, match in enumerate(self._matches(op, vertex, inputs)):
            by_input.setdefault(op.origin(number), []).append(match)
        return [Selection(number, "", by_input[number]) for number in sorted(by_input)]

    def mkdir(self, op: MkdirOp, base: Result) -> DiffId | None:
        """Carry out a WORKDIR; None when the directory is there."""
        target = self._resources.target(base.layers)
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
        return self._resources.publish(*target.items())

    def copy(self, op: CopyOp, vertex: Vertex, inputs: Sequence[Result]) -> DiffId | None:
        """Carry out a COPY or ADD; None when it changes nothing.

        Raises:
            InputError: A file named without wildcards does not exist.
            BuildError: It cannot be copied there.
        """
        matches = self._matches(op, vertex, inputs)
        for source, found in matches:
            if not found:  # BuildKit lets it pass as well, but silently
                self._tell(vertex, f"no file matches {source}")
        target = self._resources.target(() if op.link else inputs[0].layers)
        self._tell_of_overwriting(op, vertex, matches, target)
        owner = self._owner(op.owner, target) if op.owner else None
        mode = parse_mode(op.mode) if op.mode else None
        options = CopyOptions(owner, mode, partial(self._tell, vertex))
        with contextlib.ExitStack() as stack:
            for number, (_, found) in enumerate(matches):
                unpack = _is_unpacked(op, vertex, number)
                for match in found:
                    if not (unpack and self._unpack(op, match, target, owner, stack)):
                        copy_match(target, match, _place_of(op), options)
            for document in op.documents:
                data = document.content.encode("utf-8", "surrogateescape")
                node = inline_file(data, now_ns=self._resources.now_ns())
                name = os.fsencode(document.name)
                copy_match(target, Match(name, name, select(node)), op.dest, options)
            return self._resources.publish(*target.items(), near=inputs[0].layers)

    def _tell_of_overwriting(
        self,
        op: CopyOp,
        vertex: Vertex,
        matches: Sequence[tuple[str, list[Match]]],
        target: TargetTree,
    ) -> None:
        """Tell that several files go to one name, of which the last stays, as with BuildKit."""
        every = [match for _, found in matches for match in found]
        files = sum(match.selected.node.entry.kind is not Kind.DIR for match in every)
        if files + len(op.documents) < 2 or _place_of(op).endswith("/"):
            return
        _, node = target.resolve(os.fsencode(op.dest))
        if node is None or node.children is None:
            self._tell(vertex, f"{op.dest} is one file, only the last source stays: end it with /")

    def _tell(self, vertex: Vertex, what: str) -> None:
        self._resources.ui.message(f"{vertex.span}: {what}")

    def _unpack(
        self,
        op: CopyOp,
        match: Match,
        target: TargetTree,
        owner: tuple[int, int] | None,
        stack: contextlib.ExitStack,
    ) -> bool:
        """Unpack a match that is an archive; return False when it is not."""
        import tempfile

        from layerstore.build.unpack import looks_like_archive, unpack

        node = match.selected.node
        if node.entry.kind is not Kind.FILE:
            return False
        open_content = node.opener() or partial(open_stored, self._resources.store, node.entry)
        if not looks_like_archive(open_content):
            return False
        place = prepare_destination(target, op.dest, owner)
        target.make_directories(place, owner or (0, 0))
        # Without a name: other steps unpack theirs at the same time.
        spool = tempfile.TemporaryFile(dir=self._resources.scratch)  # noqa: SIM115 -- read later
        stack.enter_context(spool)
        unpack(target, place, open_content, spool, owner)
        return True

    def _matches(self, op: CopyOp, vertex: Vertex, inputs: Sequence[Result]) -> _Matches:
        """Return what each source argument stands for.

        Raises:
            InputError: A file named without wildcards does not exist.
        """
        return self._selection(op, vertex, inputs).matches if op.sources else []

    def _selection(self, op: CopyOp, vertex: Vertex, inputs: Sequence[Result]) -> _Selection:
        """Return what the sources stand for, found once for key and copy, and for equal sources."""
        origins: list[tuple[str, ...]] = []
        for number in range(len(op.sources)):
            source = vertex.inputs[op.origin(number)].op
            if isinstance(source, ContextOp):
                origins.append(("context", source.name))
            else:
                origins.append(("layers", *inputs[op.origin(number)].layers))
        key = op.sources, op.exclude, op.parents, tuple(origins)
        found = self._found.get(key)
        if found is None:
            found = _Selection(self._find(op, vertex, inputs))
            with self._resources.lock:
                while len(self._found) >= _REMEMBERED:
                    del self._found[next(iter(self._found))]
                self._found[key] = found
        return found

    def _find(self, op: CopyOp, vertex: Vertex, inputs: Sequence[Result]) -> _Matches:
        roots: dict[int, SourceNode] = {}
        span = vertex.span
        assert span is not None
        excludes = IgnoreRules.from_patterns(op.exclude, span) if op.exclude else None
        matches = []
        for number, source in enumerate(op.sources):
            origin = op.origin(number)
            if origin not in roots:
                roots[origin] = input_root(self._resources, vertex, inputs, origin)
            includes = None
            pattern = source
            if op.parents:
                pattern, inner = _split_pivot(source)
                includes = IgnoreRules.from_patterns([inner], span)
            found = [
                Match(path.rpartition(b"/")[2], path, select(node, includes, excludes))
                for path, node in find(roots[origin], pattern)
            ]
            if not has_wildcards(source) and not (found and _holds_any(found[0], op)):
                raise nothing_found(self._resources, source, vertex, origin)
            matches.append((source, found))
        return matches

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
        return self._resources.store.read_refs(tuple(refs))


def input_root(
    resources: BuildResources, vertex: Vertex, inputs: Sequence[Result], index: int
) -> SourceNode:
    """Return an input of a vertex as a tree to copy from."""
    op = vertex.inputs[index].op
    if isinstance(op, ContextOp):
        return resources.context_tree(op.name)
    return tree_node(resources.tree(inputs[index].layers))


def _is_unpacked(op: CopyOp, vertex: Vertex, source: int) -> bool:
    fetched = isinstance(vertex.inputs[op.origin(source)].op, HttpOp)
    return op.unpack_remote if fetched else op.unpack


def _split_pivot(source: str) -> tuple[str, str]:
    """Return where ``--parents`` begins to recreate paths, and the pattern below that."""
    head, pivot, tail = source.partition("/./")
    return (head or "/", tail) if pivot else ("/", source)


def _place_of(op: CopyOp) -> str:
    """Return the destination of a match: with ``--parents`` what lies above what it copies."""
    return op.dest.rstrip("/") + "/." if op.parents else op.dest


def _holds_any(found: Match, op: CopyOp) -> bool:
    """Whether something of a match is taken: with ``--parents`` its pattern goes on below it."""
    return not op.parents or bool(found.selected.children)


def nothing_found(
    resources: BuildResources, source: str, vertex: Vertex, number: int
) -> InputError:
    """Return the error of a source that is not in input ``number``."""
    op = vertex.inputs[number].op
    if isinstance(op, ContextOp):
        where = f"the build context {op.name}".rstrip()
        hint = "see whether .dockerignore leaves it out"
        if resources.is_context_bare(op.name):
            where = "the build context, which is a Dockerfile and no files"
            hint = "layerstore build -f DOCKERFILE DIRECTORY, or a tar of both in its place"
    else:
        where = "the stage or image it is copied from"
        hint = None
    return InputError(f"{source} does not exist in {where}", hint=hint)
