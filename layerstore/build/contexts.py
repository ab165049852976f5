"""Build contexts: where the files of COPY and ADD come from, and the Dockerfile among them.

A context is a directory of the host, or it is in the store: a tar from a stream or a server and the
files of a git source become layers before anything is read from them, so memory stays small and the
strict readers have seen every byte. Either kind gives trees to copy from, behind the rules of its
``.dockerignore``, and single files such as the Dockerfile; no link leads out of either.

Source: docker's build context; BuildKit, frontend/dockerui (behaviour).
"""

from __future__ import annotations

import contextlib
import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol, Self

import msgspec

from layerstore.build.ignore import IgnoreRules
from layerstore.errors import InputError
from layerstore.net.redaction import redacted
from layerstore.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from layerstore.build.fetch.git_url import GitSource
    from layerstore.build.fetch.lazy import LazyFetcher
    from layerstore.build.graph import GitOp
    from layerstore.build.source import SourceNode
    from layerstore.digest import DiffId
    from layerstore.image.trees.stack import Node
    from layerstore.store.store import Store

DOCKERIGNORE = ".dockerignore"
MAX_SPEC_BYTES = 10 << 20
"""Of a Dockerfile, or of a ``.dockerignore``."""


class StreamContext(msgspec.Struct, frozen=True):
    """A tar from a stream, plain or compressed; or a Dockerfile, and no files with it."""

    stream: BinaryIO


class UrlContext(msgspec.Struct, frozen=True):
    """A tar behind a URL; or a Dockerfile, and no files with it."""

    url: str


class GitContext(msgspec.Struct, frozen=True):
    """Files of a git repository.

    Attributes:
        text: As written, for messages.
    """

    source: GitSource
    text: str


class ImageContext(msgspec.Struct, frozen=True):
    """An image of the store, as a named context."""

    reference: str


class LayoutContext(msgspec.Struct, frozen=True):
    """An image of an OCI layout directory, as a named context.

    Attributes:
        digest: Of its manifest; empty to go by the tag.
    """

    path: Path
    tag: str
    digest: str


class StageContext(msgspec.Struct, frozen=True):
    """Another stage of the Dockerfile, as a named context."""

    stage: str


ContextSource = Path | StreamContext | UrlContext | GitContext
NamedSource = Path | UrlContext | GitContext | ImageContext | LayoutContext | StageContext


def context_key(name: str) -> str:
    """Return the name by which a named context is found: names of images have several forms."""
    from layerstore.formats.reference import parse_reference

    small = name.lower()
    try:
        reference = parse_reference(small)
    except InputError:
        return small
    return small if reference.digest else reference.name.removesuffix(":latest")


class SourceTrees(Protocol):
    """An open context."""

    is_bare: bool
    """Whether it came without files: a Dockerfile alone."""

    looked: list[bytes]
    """Paths whose status on the host was asked for."""

    def tree(self) -> SourceNode:
        """Return the root, from which everything else is reached lazily."""


class MainContext(Protocol):
    """The main context before it is known what is left out of it.

    Attributes:
        dockerfile: The Dockerfile, if there is nothing else in it.
        directory: Of the host, if it is one.
        read_paths: Files of the host that were read.
        absent_paths: Files of the host that would have been.
    """

    dockerfile: bytes | None
    directory: Path | None
    read_paths: list[bytes]
    absent_paths: list[bytes]

    def place_of(self, name: str) -> str:
        """Return what messages call a file."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None when it is not there.

        Raises:
            InputError: It cannot be read, or is larger than ``MAX_SPEC_BYTES``.
        """

    def is_directory(self, name: str) -> bool:
        """Return whether what has that name is a directory."""

    def open(
        self, ignore: IgnoreRules, *, now_ns: int
    ) -> contextlib.AbstractContextManager[SourceTrees]:
        """Open the context behind its rules."""


def main_context(
    source: ContextSource, store: Store, fetcher: LazyFetcher, *, keeps_git_dir: bool = False
) -> MainContext:
    """Return a context, fetched if it is not a directory.

    Args:
        source: Where it is.
        store: Gets what is fetched.
        fetcher: Fetches.
        keeps_git_dir: ``.git`` of a repository that does not say it itself comes along.

    Raises:
        FetchError: It cannot be had.
        FormatError: A damaged tar.
        UnsafeContentError: A tar that no layer could hold.
    """
    if isinstance(source, Path):
        return DirectoryContext(source)
    if isinstance(source, GitContext):
        return StoredContext(
            store, (_git_layer(source, fetcher, keeps_git_dir),), redacted(source.text)
        )
    if isinstance(source, StreamContext):
        return _from_stream(source.stream, store, fetcher)
    return _from_url(source.url, store, fetcher)


def context_name(source: ContextSource) -> str:
    """Return what a context is called, so that its builds can be found again."""
    match source:
        case Path():
            return printable(str(source.absolute()))  # records are text, names of files need not be
        case StreamContext():
            return "-"
        case GitContext(text=text):
            return redacted(text)
        case UrlContext(url=url):
            return redacted(url)


def local_context(source: ContextSource) -> MainContext:
    """Return a context that takes nothing to open.

    Raises:
        InputError: It is none.
    """
    if not isinstance(source, Path):
        raise InputError(
            "only a Dockerfile of this host can be checked",
            hint="-f FILE, with a directory as the build context",
        )
    return DirectoryContext(source)


class HostFiles:
    """Files of the host, relative to a directory or to the current one.

    Attributes:
        read_paths: What was read.
        absent_paths: What would have been.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.read_paths: list[bytes] = []
        self.absent_paths: list[bytes] = []

    def place_of(self, name: str) -> str:
        """Return the file's path."""
        return str(self._path(name))

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None when it is not there.

        Raises:
            InputError: It cannot be read, or is larger than ``MAX_SPEC_BYTES``.
        """
        path = self._path(name)
        data: bytes | None = None
        try:
            if path.is_file():
                with path.open("rb") as file:
                    data = file.read(MAX_SPEC_BYTES + 1)
        except OSError as err:
            raise InputError(f"cannot read {path}: {err.strerror}") from err
        (self.absent_paths if data is None else self.read_paths).append(os.fsencode(path))
        return None if data is None else checked_size(data, str(path))

    def is_directory(self, name: str) -> bool:
        """Return whether what has that name is a directory."""
        return self._path(name).is_dir()

    def _path(self, name: str) -> Path:
        return Path(name) if self.directory is None else self.directory / name


class DirectoryContext(HostFiles):
    """A directory of the host; see :class:`MainContext`."""

    dockerfile: bytes | None = None

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._root = directory

    def open(
        self, ignore: IgnoreRules, *, now_ns: int
    ) -> contextlib.AbstractContextManager[SourceTrees]:
        """Open the directory."""
        from layerstore.build.context import Context

        return Context(self._root, ignore, now_ns=now_ns)


class StoredContext:
    """Layers of the store as a context; see :class:`MainContext`.

    Args:
        store: Where they are.
        layers: Lowest first.
        shown: What messages call it.
        dockerfile: The Dockerfile, if there is nothing else in it.
    """

    def __init__(
        self,
        store: Store,
        layers: tuple[DiffId, ...],
        shown: str,
        dockerfile: bytes | None = None,
    ) -> None:
        self._store = store
        self._layers = layers
        self._shown = shown
        self._root: Node | None = None
        self.dockerfile = dockerfile
        self.directory: Path | None = None
        self.read_paths: list[bytes] = []
        self.absent_paths: list[bytes] = []

    def place_of(self, name: str) -> str:
        """Return the path inside the context."""
        return name

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None when it is not there."""
        from layerstore.build.stored_file import open_stored
        from layerstore.formats.tree import Kind

        node = self._node(name)
        if node is None or node.entry.kind is not Kind.FILE:
            return None
        if node.entry.size > MAX_SPEC_BYTES:
            raise InputError(f"{name} in {self._shown} is larger than {MAX_SPEC_BYTES} bytes")
        with open_stored(self._store, node.entry) as file:
            return file.read()

    def is_directory(self, name: str) -> bool:
        """Return whether what has that name is a directory."""
        from layerstore.formats.tree import Kind

        node = self._node(name)
        return node is not None and node.entry.kind is Kind.DIR

    def _node(self, name: str) -> SourceNode | None:
        from layerstore.build.source import resolve

        with self.open(IgnoreRules(), now_ns=0) as trees:
            return resolve(trees.tree(), os.fsencode(name))

    @contextlib.contextmanager
    def open(self, ignore: IgnoreRules, *, now_ns: int) -> Iterator[SourceTrees]:
        """Return the layers' tree behind the rules."""
        del now_ns  # the files have times of their own
        from layerstore.build.stored_context import StoredTrees
        from layerstore.image.trees.stack import load_root

        if self._root is None:
            self._root = load_root(self._store, self._layers)
        yield StoredTrees(self._root, ignore, is_bare=not self._layers)


class Contexts:
    """The contexts of a build by name, each opened when it is first asked for.

    Use it in a ``with`` block. Several threads may ask.

    Args:
        main: The one without a name.
        named: Directories; each has a ``.dockerignore`` of its own.
        now_ns: What the time of their roots is taken for.
    """

    def __init__(self, main: SourceTrees, named: Mapping[str, Path], *, now_ns: int = 0) -> None:
        self._main = main
        self._named = named
        self._now_ns = now_ns
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self._trees: dict[str, SourceNode] = {}

    def tree(self, name: str) -> SourceNode:
        """Return a context as a tree to copy from.

        Raises:
            NotFoundError: A named directory is gone.
            SpecError: Its ``.dockerignore`` is malformed.
        """
        with self._lock:
            if name not in self._trees:
                trees = self._opened(self._named[name]) if name else self._main
                self._trees[name] = trees.tree()
            return self._trees[name]

    def is_bare(self, name: str) -> bool:
        """Return whether a context came without files."""
        return not name and self._main.is_bare

    def _opened(self, directory: Path) -> SourceTrees:
        context = DirectoryContext(directory)
        data = context.read(DOCKERIGNORE)
        ignore = IgnoreRules()
        if data is not None:
            ignore = IgnoreRules.parse(data, context.place_of(DOCKERIGNORE))
        return self._stack.enter_context(context.open(ignore, now_ns=self._now_ns))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def checked_size(data: bytes, what: str) -> bytes:
    """Return ``data`` if it is not too long for a Dockerfile.

    Raises:
        InputError: It is.
    """
    if len(data) > MAX_SPEC_BYTES:
        raise InputError(f"{what} is larger than {MAX_SPEC_BYTES} bytes")
    return data


def _git_layer(context: GitContext, fetcher: LazyFetcher, keeps_git_dir: bool) -> DiffId:
    return fetcher.get().git(git_op(context.source, keeps_git_dir=keeps_git_dir)).diff_id


def git_op(source: GitSource, *, keeps_git_dir: bool = False) -> GitOp:
    """Return what fetches a git source that the user named.

    Args:
        source: What of which repository.
        keeps_git_dir: Whether ``.git`` comes along where the source does not say.
    """
    from layerstore.build.graph import GitOp

    keep = keeps_git_dir if source.keep_git_dir is None else source.keep_git_dir
    return GitOp(
        source.remote, source.ref, source.subdir, source.commit, keep, source.submodules,
        own_keys=True,
    )  # fmt: skip


def _from_stream(stream: BinaryIO, store: Store, fetcher: LazyFetcher) -> StoredContext:
    from layerstore.build.unpack import begins_archive
    from layerstore.formats.tar_headers import BLOCK_BYTES

    head = b""
    while len(head) < BLOCK_BYTES and (more := stream.read(BLOCK_BYTES - len(head))):
        head += more
    if not head:
        raise InputError(
            "the build context on stdin is empty", hint="expected a tar, or a Dockerfile"
        )
    shown = "the build context on stdin"
    if begins_archive(head):
        layer = fetcher.get().archive(_Rejoined(head, stream))
        return StoredContext(store, (layer,), shown)
    rest = stream.read(MAX_SPEC_BYTES + 1 - len(head))
    return StoredContext(store, (), shown, checked_size(head + rest, "the Dockerfile on stdin"))


def _from_url(url: str, store: Store, fetcher: LazyFetcher) -> StoredContext:
    from layerstore.build.unpack import looks_like_archive

    open_file = fetched_file(url, "context", store, fetcher)
    shown = redacted(url)
    if looks_like_archive(open_file):
        with open_file() as stream:
            return StoredContext(store, (fetcher.get().archive(stream),), shown)
    with open_file() as stream:
        text = checked_size(stream.read(MAX_SPEC_BYTES + 1), shown)
    return StoredContext(store, (), shown, text)


def fetched_file(url: str, name: str, store: Store, fetcher: LazyFetcher) -> Callable[[], BinaryIO]:
    """Fetch a file and return how to open it.

    Raises:
        FetchError: It cannot be had.
    """
    from layerstore.build.graph import HttpOp
    from layerstore.build.stored_file import open_stored
    from layerstore.image.trees.stack import load_root, lookup

    layer = fetcher.get().http(HttpOp(url, name, "")).diff_id
    node = lookup(load_root(store, (layer,)), name.encode())
    assert node is not None
    return partial(open_stored, store, node.entry)


class _Rejoined:
    """A stream whose beginning was read already; as much of a file as ingesting needs."""

    def __init__(self, head: bytes, stream: BinaryIO) -> None:
        self._head = head
        self._stream = stream

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        if self._head:
            piece, self._head = self._head[:size], self._head[size:]
            return piece
        return self._stream.read(size)
