"""What came of an image before its pull failed, and is not fetched again by the next one.

Each layer that came is remembered by the digest of its compressed form, with how that is made
again. A row says only what was verified: the digest of the bytes, and the diff ID of what they
hold. Which rows there are and how long: :mod:`layerstore.store.collect.received`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from layerstore.errors import FormatError
from layerstore.formats.origins import decode_encoding, encode_encoding
from layerstore.store.collect.received import forget_received, received_key
from layerstore.store.records import CacheRecord

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.digest import DiffId, Digest
    from layerstore.formats.origins import Encoding
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession


class ReceivedLayers:
    """Layers of one image that a session brings from far away.

    Rows are written some at a time, by :meth:`flush`: each time costs a write to the disk.
    """

    def __init__(self, session: WriteSession) -> None:
        self._session = session
        self._new: dict[str, CacheRecord] = {}

    def add(self, digest: Digest, diff_id: DiffId, encoding: Encoding | None) -> None:
        """Take note of a layer that the session holds.

        Args:
            digest: Of its compressed form, whose bytes were verified.
            diff_id: The layer, as it was found in those bytes.
            encoding: How the compressed form is made again; None where that is not known.
        """
        now = time.time()
        value = b"" if encoding is None else encode_encoding(encoding).encode()
        key = received_key(digest)
        self._new[key] = CacheRecord(key, diff_id, value, now)
        if encoding is not None and encoding.kept is not None:
            key = received_key(encoding.kept)
            self._new[key] = CacheRecord(key, encoding.kept, b"", now)

    def flush(self) -> None:
        """Make what was noted durable: gc keeps those layers from now on."""
        if self._new:
            self._session.cache_put(*self._new.values())
            self._new.clear()

    def encodings(self, digests: Iterable[Digest]) -> dict[Digest, Encoding]:
        """Return how compressed layers are made that an earlier pull brought."""
        found: dict[Digest, Encoding] = {}
        for digest in digests:
            record = self._session.store.cache_get(key := received_key(digest))
            if record is None:
                continue
            self._session.note_step_use(key)
            if record.value:
                try:
                    encoding = decode_encoding(record.value.decode("utf-8", "replace"))
                except (FormatError, ValueError, KeyError, TypeError, AttributeError):
                    continue  # of a later version: the layer is fetched
                if encoding.kept is not None:
                    self._session.note_step_use(received_key(encoding.kept))
                found[digest] = encoding
        return found


def forget_layers(store: Store, digests: Iterable[Digest], encodings: Iterable[Encoding]) -> None:
    """Forget rows of layers that an image names now."""
    kept = [each.kept for each in encodings if each.kept is not None]
    forget_received(store, [*digests, *kept])
