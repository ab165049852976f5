"""One document out of a spec and the files it includes.

Included files come first and the including one has the last word: tables are merged key by
key, the lists named in ``JOINED`` are joined, and of everything else the later value stays.
A file that is included twice counts where it was included first.
Files are opened below one directory with openat2(2), so no path and no symlink leads out of
it; only regular files are read.
"""

from __future__ import annotations

import os
import posixpath
import stat
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.native.limits import MAX_FILE_BYTES, MAX_FILES, limit_exceeded
from layerstore.build.native.reader import Node, read_toml
from layerstore.linux.files import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, openat2, read_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.build.dockerfile.syntax import SourceSpan

INCLUDE = "include"

JOINED = frozenset({"ports", "volumes", "run", "steps", "tags", "apt", "pip", "npm", "install"})
"""Lists of which those of included files stand in front instead of being replaced."""

_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Root(NamedTuple):
    """The directory that included files may lie in.

    Attributes:
        path: The directory.
        below: The including file's path inside of it, with ``/``.
        shown: What messages put in front of paths inside of it.
    """

    path: Path
    below: str
    shown: str


def merged_document(node: Node, root: Root | None) -> Node:
    """Return a spec with everything it includes merged into it, ``include`` gone.

    Args:
        node: The spec.
        root: None if the spec is in no file: then it cannot include anything.

    Raises:
        SpecError: A cycle, a file that is missing or lies outside, or one that is wrong.
        LimitExceededError: More than ``MAX_FILES`` files.
    """
    if INCLUDE not in _table(node):
        return node
    if root is None:
        span = _table(node)[INCLUDE].key_span
        raise SpecError("only a spec in a file of this host can include files", span)
    fd = os.open(root.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _Including(root, fd).merged(node, root.below, [root.below])
    finally:
        os.close(fd)


class _Including:
    def __init__(self, root: Root, fd: int) -> None:
        self._root = root
        self._fd = fd
        self._seen = {root.below}

    def merged(self, node: Node, path: str, trail: list[str]) -> Node:
        table = dict(_table(node))
        include = table.pop(INCLUDE, None)
        result = Node({}, node.span)
        for name, span in _names(include):
            included = self._resolved(path, name, span)
            if included in trail:
                cycle = " includes ".join([*trail[trail.index(included) :], included])
                raise SpecError(f"files include each other: {cycle}", span)
            if included in self._seen:
                continue
            self._seen.add(included)
            if len(self._seen) > MAX_FILES:
                raise limit_exceeded(span, "too many included files", MAX_FILES)
            below = self.merged(self._read(included, span), included, [*trail, included])
            result = merge(result, below)
        return merge(result, Node(table, node.span, node.key_span))

    def _resolved(self, path: str, name: str, span: SourceSpan) -> str:
        joined = posixpath.normpath(posixpath.join(posixpath.dirname(path), name))
        if posixpath.isabs(name) or joined == ".." or joined.startswith("../"):
            raise SpecError(
                f"{name!r} lies outside of {self._root.path}", span,
                hint="included files are relative, and inside the build context or beside the spec",
            )  # fmt: skip
        return joined

    def _read(self, path: str, span: SourceSpan) -> Node:
        try:
            fd = openat2(
                self._fd, os.fsencode(path), _FLAGS,
                resolve=RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS,
            )  # fmt: skip
        except OSError as err:
            raise SpecError(f"cannot include {path!r}: {err.strerror}", span) from err
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise SpecError(f"cannot include {path!r}: it is not a file", span)
            data = read_at(fd, min(os.fstat(fd).st_size, MAX_FILE_BYTES + 1), 0)
        except OSError as err:
            raise SpecError(f"cannot include {path!r}: {err.strerror}", span) from err
        finally:
            os.close(fd)
        return read_toml(data, posixpath.join(self._root.shown, path))


def merge(low: Node, high: Node, key: str = "") -> Node:
    """Return two values as one; ``high`` is the including file's."""
    if isinstance(low.value, dict) and isinstance(high.value, dict):
        table = dict(low.value)
        for name, node in high.value.items():
            table[name] = merge(table[name], node, name) if name in table else node
        return Node(table, high.span, high.key_span)
    if key in JOINED and isinstance(low.value, list) and isinstance(high.value, list):
        return Node([*low.value, *high.value], high.span, high.key_span)
    return high


def _table(node: Node) -> dict[str, Node]:
    assert isinstance(node.value, dict)
    return node.value


def _names(include: Node | None) -> Iterator[tuple[str, SourceSpan]]:
    if include is None:
        return
    items = include.value if isinstance(include.value, list) else [include]
    for item in items:
        if not isinstance(item.value, str) or not item.value or "\0" in item.value:
            raise SpecError("include is a file name, or a list of file names", item.span)
        yield item.value, item.span
