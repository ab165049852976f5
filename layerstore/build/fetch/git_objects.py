"""Commits, trees and files of a git repository, read object by object.

Nothing is checked out: no file of a stranger's repository ever lies in a directory of the host,
so there is no link to follow, no filter to run and no attribute to heed. Files are what was
committed. git itself checks objects against their ids when it fetches them.

Source: gitformat-pack(5) and git-cat-file(1) for what the bytes mean; git's verify_path for names.
"""

from __future__ import annotations

import io
import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Self, cast

from layerstore.build.fetch.errors import FetchError
from layerstore.build.fetch.git_process import stop
from layerstore.errors import FormatError, UnsafeContentError

if TYPE_CHECKING:
    from layerstore.build.fetch.git_process import Git

MAX_TREE_BYTES = 256 << 20
"""Of one directory's listing: some five million names."""

MAX_COMMIT_BYTES = 16 << 20
_TYPE_MASK = 0o170000
TREE, LINK, SUBMODULE, FILE = 0o040000, 0o120000, 0o160000, 0o100000
_KNOWN = (TREE, LINK, SUBMODULE, FILE)
_ID_BYTES = 20
_ID = re.compile(rb"[0-9a-f]{40}")
_MODE = re.compile(rb"[0-7]{5,7}")
_COMMITTED = re.compile(rb"> (\d{1,18}) [+-]\d{4}\Z")
_LATEST_S = 1 << 33


class TreeEntry(NamedTuple):
    """A name in a directory.

    Attributes:
        kind: ``TREE``, ``LINK``, ``SUBMODULE`` or ``FILE``.
        executable: Only of files.
        object_id: In hex; of a submodule its commit.
    """

    name: bytes
    kind: int
    executable: bool
    object_id: str


class Commit(NamedTuple):
    """What a commit says of itself.

    Attributes:
        tree: Id of its root directory.
        time_s: When it was committed, seconds since the epoch, not before that.
    """

    tree: str
    time_s: int


def parse_commit(data: bytes) -> Commit:
    """Return what a commit's bytes say.

    Raises:
        FormatError: They are none of a commit.
    """
    head, _, _ = data.partition(b"\n\n")
    fields: dict[bytes, bytes] = {}
    for line in head.split(b"\n"):
        name, _, value = line.partition(b" ")
        fields.setdefault(name, value)  # git goes by the first, too
    tree = fields.get(b"tree", b"")
    time = _COMMITTED.search(fields.get(b"committer", b""))
    if not _ID.fullmatch(tree) or time is None:
        raise FormatError("it is malformed")
    return Commit(tree.decode("ascii"), min(int(time[1]), _LATEST_S))


def parse_tree(data: bytes) -> list[TreeEntry]:
    """Return the names in a tree's bytes, in byte order.

    Raises:
        FormatError: They are none of a tree.
        UnsafeContentError: A name that git would not check out, or one that stands twice.
    """
    entries = []
    at = 0
    while at < len(data):
        end = data.find(b"\0", at)
        mode, _, name = data[at:end].partition(b" ")
        at = end + 1 + _ID_BYTES
        if end < 0 or at > len(data):
            raise FormatError("it ends within an entry")
        entries.append(_entry(mode, name, data[end + 1 : at].hex()))
    entries.sort()
    for before, after in pairwise(entries):
        if before.name == after.name:
            raise UnsafeContentError(f"the name {after.name!r} stands twice in a directory")
    return entries


class Objects:
    """A reader of one repository's objects; use it in a ``with`` block. One thread's."""

    def __init__(self, git: Git) -> None:
        self._process = git.start("cat-file", "--batch", feed=True, quiet=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._ask = self._process.stdin
        self._answers = cast("io.BufferedReader", self._process.stdout)
        self._open: Blob | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        stop(self._process)

    def commit(self, object_id: str) -> Commit:
        """Return a commit.

        Raises:
            FormatError: It is none.
        """
        try:
            return parse_commit(self._whole(object_id, "commit", MAX_COMMIT_BYTES))
        except FormatError as err:
            raise FormatError(f"the commit {object_id}: {err.message}") from err

    def tree(self, object_id: str) -> list[TreeEntry]:
        """Return a directory's names in byte order.

        Raises:
            FormatError: It is none.
            UnsafeContentError: A name that git would not check out.
        """
        try:
            return parse_tree(self._whole(object_id, "tree", MAX_TREE_BYTES))
        except FormatError as err:
            raise FormatError(f"the tree {object_id}: {err.message}") from err

    def blob(self, object_id: str) -> Blob:
        """Return a file to be read before anything else is asked for."""
        size = self._header(object_id, "blob")
        self._open = Blob(self._answers, size, object_id)
        return self._open

    def small(self, object_id: str, max_bytes: int) -> bytes:
        """Return a short file's content.

        Raises:
            UnsafeContentError: It is longer.
        """
        return self._whole(object_id, "blob", max_bytes)

    def _whole(self, object_id: str, kind: str, max_bytes: int) -> bytes:
        size = self._header(object_id, kind)
        if size > max_bytes:
            raise UnsafeContentError(
                f"the {kind} {object_id} has {size} bytes, at most {max_bytes} are read"
            )
        return Blob(self._answers, size, object_id).whole()

    def _header(self, object_id: str, kind: str) -> int:
        if self._open is not None:
            self._open.skip()
            self._open = None
        try:
            self._ask.write(object_id.encode("ascii") + b"\n")
            self._ask.flush()
        except BrokenPipeError as err:
            raise FetchError("git ended while its objects were read") from err
        words = self._answers.readline(4096).split()
        if len(words) != 3:
            raise FormatError(f"the repository lacks the {kind} {object_id}")
        if words[1] != kind.encode("ascii"):
            raise FormatError(f"{object_id} is a {words[1].decode('ascii', 'replace')}, no {kind}")
        return int(words[2])


class Blob(io.RawIOBase):
    """A file's content as it comes."""

    def __init__(self, stream: io.BufferedReader, size: int, object_id: str) -> None:
        super().__init__()
        self._stream = stream
        self._object_id = object_id
        self.size = size
        self._left = size
        self._ended = False

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read the next bytes."""
        view = memoryview(buffer)[: self._left]
        count = self._stream.readinto(view) if view else 0
        if view and not count:
            raise FetchError(f"git ended within the file {self._object_id}")
        self._left -= count
        if not self._left:
            self._end()
        return count

    def whole(self) -> bytes:
        """Return all of it."""
        data = bytearray(self.size)
        at = 0
        while at < self.size:
            at += self.readinto(memoryview(data)[at:])
        self._end()
        return bytes(data)

    def skip(self) -> None:
        """Pass over what is left."""
        buffer = memoryview(bytearray(min(self._left, 1 << 16)))
        while self._left:
            self.readinto(buffer)
        self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._stream.read(1)  # the line's end after an object


def _entry(mode: bytes, name: bytes, object_id: str) -> TreeEntry:
    if not _MODE.fullmatch(mode):
        raise FormatError(f"{name[:100]!r} has the mode {mode[:20]!r}")
    bits = int(mode, 8)
    kind = bits & _TYPE_MASK
    if kind not in _KNOWN:
        raise FormatError(f"{name[:100]!r} is of no kind that git knows: {bits:o}")
    if name in (b"", b".", b"..") or b"/" in name or name.lower() == b".git":
        raise UnsafeContentError(f"{name[:100]!r} is no name that git would check out")
    return TreeEntry(name, kind, bool(bits & 0o100), object_id)
