"""A lazy view's content inside of its server: the remote, what came, and what is told of it.

Used by the server of kernel views (:mod:`fuse_mount.lazy_server`) and by that of FUSE views.
What could not be had is one line in the server's log, which names the file.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Final, NamedTuple

from fuse_mount.lazy_lowers import ALL, fetched, fetched_path
from layerstore.errors import LayerstoreError, StorageError
from layerstore.formats.trace import HEADER, TRACE_MAX_BYTES, decode_trace, encode_read
from layerstore.formats.tree import Kind
from layerstore.image.lazy.fetching import Fetched, Fetcher
from layerstore.image.lazy.lazy_content import LazyContent
from layerstore.image.lazy.lazy_image import load_remote_root
from layerstore.image.transfer.remotes import open_remote
from layerstore.image.trees.stack import walk
from layerstore.linux.files import open_private, read_file, write_all
from layerstore.store.objects.objects import object_id
from layerstore.store.remotes.remote import checked_image
from layerstore.vfs.view import ImageView

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.digest import ChunkId, ObjectId
    from layerstore.image.trees.stack import Node
    from layerstore.store.objects.objects import Extents
    from layerstore.store.remotes.remote import Remote
    from layerstore.store.store import Store


LAST_FETCH_S: Final = 5.0
"""How long the end of a view waits for what is being fetched ahead."""


class LazyTree(NamedTuple):
    """An image of a remote, described.

    Attributes:
        root: Its tree.
        objects: What its files are made of.
        paths: The first path of each object, for messages.
    """

    root: Node
    objects: dict[ObjectId, Extents]
    paths: dict[ObjectId, bytes]


def describe(store: Store, remote: Remote, image_id: str) -> LazyTree:
    """Return the tree of a remote's image, and ask the remote to keep its content.

    Raises:
        NotFoundError: The remote does not have it.
        IntegrityError: What the remote says of it is damaged.
    """
    image = checked_image(remote.image(image_id), remote.location)
    try:
        remote.keep(image)
    except StorageError as err:
        tell(f"{remote.location} does not keep the image for this view: {err.message}")
    root = load_remote_root(store, remote, image)
    objects: dict[ObjectId, Extents] = {}
    paths: dict[ObjectId, bytes] = {}
    for path, node in walk(root):
        if node.entry.kind is Kind.FILE and node.entry.size:
            name = object_id(node.entry.extents)
            objects[name] = node.entry.extents
            paths.setdefault(name, path)
    return LazyTree(root, objects, paths)


class LazyContentService:
    """Content of one instance, with what is recorded and fetched ahead.

    Args:
        store: The local one.
        spec: Of the server: ``directory``, ``remote``, ``record_trace``, ``ahead``.
        objects: What the image's files are made of.
        remote: Where they come from.
    """

    def __init__(
        self,
        store: Store,
        spec: Mapping[str, object],
        objects: Mapping[ObjectId, Extents],
        remote: Remote,
    ) -> None:
        directory = str(spec["directory"])
        self._ahead = str(spec.get("ahead") or "")
        self._seen: set[ChunkId] = set()
        self._trace = _open_trace(str(spec.get("record_trace") or ""))
        self._counts = open_private(fetched_path(directory), os.O_WRONLY | os.O_CREAT)
        self._ended = threading.Event()
        self._fetching: threading.Thread | None = None
        before = fetched(directory)
        start = Fetched(*(before.get(name, 0) for name in Fetched._fields))
        self.fetcher = Fetcher(remote, start=start, on_change=self._note)
        self.content = LazyContent(store, self.fetcher, objects, directory, self._read)
        self._note(start)

    def begin(self) -> None:
        """Fetch ahead what was asked for, beside everything else."""
        if self._ahead:
            self._fetching = threading.Thread(target=self._fetch_ahead, daemon=True)
            self._fetching.start()

    def end(self) -> None:
        """Let what came join the object tier; nothing is asked for any more."""
        self._ended.set()
        if self._fetching is not None:
            self._fetching.join(LAST_FETCH_S)
        try:
            self.content.settle()
        except LayerstoreError as err:
            tell(f"fetched files did not join the object tier: {err.message}")

    def _fetch_ahead(self) -> None:
        try:
            if self._ahead != ALL:
                trace = decode_trace(read_file(self._ahead, max_bytes=TRACE_MAX_BYTES))
                self.content.fetch_ahead(trace, stop=self._ended.is_set)
            else:
                self.content.fetch_ahead(self.content.all_chunks(), stop=self._ended.is_set)
        except (LayerstoreError, OSError) as err:
            tell(f"fetching ahead ended early: {err}")

    def _read(self, chunk_id: ChunkId) -> None:
        if self._trace >= 0 and chunk_id not in self._seen:
            self._seen.add(chunk_id)
            write_all(self._trace, encode_read(chunk_id))

    def _note(self, now: Fetched) -> None:
        """Write down what came; always as long, so that a reader never sees half of it."""
        text = json.dumps(now._asdict()).encode()
        os.pwrite(self._counts, text.ljust(127) + b"\n", 0)


class LazyReader:
    """The content of a FUSE view: what cannot be had is told with the file it is in."""

    def __init__(self, service: LazyContentService, paths: Mapping[ChunkId, bytes]) -> None:
        self._content = service.content
        self._paths = paths
        self._failures = Failures()

    def read_chunk(self, chunk_id: ChunkId) -> bytes:
        """Return the verified bytes of a chunk."""
        try:
            return self._content.read_chunk(chunk_id)
        except LayerstoreError as err:
            self._failures.tell(self._paths.get(chunk_id, b"?"), err)
            raise


class LazyView(ImageView):
    """An image of a remote as a file system, for a FUSE server of its own.

    It holds the remote and the record that keeps the image there as long as the process lives.
    """

    def __init__(self, store: Store, spec: Mapping[str, object]) -> None:
        self._remote = connect(spec)
        tree = describe(store, self._remote, str(spec["image_id"]))
        self._service = LazyContentService(store, spec, tree.objects, self._remote)
        super().__init__(LazyReader(self._service, chunk_paths(tree)), tree.root)
        self._service.begin()

    def end(self) -> None:
        """Let what came join the object tier, and let go of the remote."""
        self._service.end()
        self._remote.close()


class Failures:
    """Tells once what could not be had, until it is another reason."""

    def __init__(self) -> None:
        self._told: dict[bytes, str] = {}

    def tell(self, path: bytes, error: LayerstoreError) -> None:
        """Write a line that names the file."""
        if self._told.get(path) != error.message:
            self._told[path] = error.message
            tell(f"/{os.fsdecode(path)} cannot be read: {error.message}")


def chunk_paths(tree: LazyTree) -> dict[ChunkId, bytes]:
    """Return a path for each chunk, for messages."""
    found: dict[ChunkId, bytes] = {}
    for name, extents in tree.objects.items():
        for _, chunk_id in extents:
            if chunk_id is not None:
                found.setdefault(chunk_id, tree.paths[name])
    return found


def connect(spec: Mapping[str, object]) -> Remote:
    """Return the remote that a server was told of."""
    environment = spec.get("environment", ())
    assert isinstance(environment, list | tuple)
    return open_remote(str(spec["remote"]), {str(name): str(value) for name, value in environment})


def tell(line: str) -> None:
    """Write a line into the server's log."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _open_trace(path: str) -> int:
    """Open the file that takes a trace, new or what an earlier server of the view began."""
    if not path:
        return -1
    fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    if not os.fstat(fd).st_size:
        write_all(fd, HEADER)
    return fd
