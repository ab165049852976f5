"""The tree of a layer on its way into the store, without the layer in memory.

Entries are encoded as they come; the encoded tree and the ids of the chunks it names wait
in spools: in memory for a layer of usual size, in scratch files for a huge one. Bytes
and chunks are the same as for a tree that is encoded at once.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, Self

from layerstore.digest import ID_BYTES, ChunkId
from layerstore.formats._arrays import TOGETHER
from layerstore.formats.tree import FILE, Entry, TreeEncoder
from layerstore.linux.spool import Spool
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.formats.tree import Paths
    from layerstore.store.records import Refs
    from layerstore.store.writing.session import WriteSession

_NO_PATHS: Final = (0, ())
_IDS_TOGETHER: Final = 4096


class TreeSpool:
    """See the module; use it in a ``with`` block.

    Attributes:
        content_size: Logical bytes of the regular files taken.
    """

    def __init__(self, session: WriteSession) -> None:
        self._session = session
        self._body = Spool(partial(session.temporary, "tree"))
        self._ids = Spool(partial(session.temporary, "tree-chunks"))
        self._encoder = TreeEncoder(self._body.write)
        self._waiting: list[Entry] = []
        self.content_size = 0

    @property
    def entry_count(self) -> int:
        """Entries taken so far."""
        return self._encoder.count + len(self._waiting)

    def add(self, entry: Entry) -> None:
        """Take the next entry in the tree's order.

        Raises:
            FormatError: It, or one of those just before it, breaks a rule of the format.
        """
        self._waiting.append(entry)
        if len(self._waiting) >= TOGETHER:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        ids = [chunk for entry in waiting for _, chunk in entry.extents if chunk is not None]
        self.content_size += sum(entry.size for entry in waiting if entry.kind is FILE)
        with storage_errors("write a tree"):
            self._encoder.add(waiting)
            self._ids.write(b"".join(ids))

    def store(self, whiteouts: Paths = _NO_PATHS, opaques: Paths = _NO_PATHS) -> Refs:
        """Put the whole tree into the store and return its references; nothing may follow."""
        self._flush()
        with storage_errors("write a tree"):
            head = self._encoder.finish(whiteouts, opaques)
        return put_spooled(self._session, head, self._body)

    def chunk_ids(self) -> Iterator[set[ChunkId]]:
        """Yield the ids of all chunks that the entries name, some thousands at a time."""
        read = self._ids.reader()
        while True:
            with storage_errors("read a tree back"):
                some = read(_IDS_TOGETHER * ID_BYTES)
            if not some:
                return
            yield {ChunkId(some[at : at + ID_BYTES]) for at in range(0, len(some), ID_BYTES)}

    def close(self) -> None:
        """Forget everything; harmless when repeated."""
        self._body.close()
        self._ids.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def put_spooled(session: WriteSession, head: bytes, body: Spool) -> Refs:
    """Put metadata that begins with ``head`` and goes on with what was spooled."""
    read = body.reader(head)

    def reading(count: int) -> bytes:
        with storage_errors("read a tree back"):
            return read(count)

    return session.put_stream(reading, len(head) + body.size, meta=True)
