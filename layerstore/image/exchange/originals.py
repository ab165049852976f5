"""Compressed originals of layers: how each is to be had again, and the bytes when they are wanted.

What no recipe makes (:mod:`layerstore.image.exchange.reencoding`) is kept: as the only file of a
layer of its own, so that packs, gc, check and the ledger treat it like any content. Normative:
docs/format/origins.md.
"""

from __future__ import annotations

import enum
import hashlib
from typing import TYPE_CHECKING, BinaryIO, cast

from layerstore.digest import hex_of
from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.origins import Encoding
from layerstore.formats.tree import Entry, Kind
from layerstore.image.exchange.exchange import VerifiedBlob
from layerstore.image.exchange.reencoding import encode
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layers import load_changeset
from layerstore.image.trees.export_layer import layer_tar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.digest import DiffId, Digest
    from layerstore.formats import oci
    from layerstore.image.exchange.exchange import BlobReader
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession


class Originals(enum.StrEnum):
    """What is done so that an image can leave under the digest it came under.

    ``AUTO`` finds how compressed layers are made again and keeps those for which nothing is
    found; ``KEEP`` keeps all, and looks for nothing; ``DROP`` remembers no manifests.
    """

    AUTO = "auto"
    KEEP = "keep"
    DROP = "drop"


def known_encodings(store: Store) -> dict[Digest, Encoding]:
    """Return the encodings that any image of a store remembers."""
    found: dict[Digest, Encoding] = {}
    for image in store.images():
        try:
            found.update(store.origins(image).encodings)
        except (IntegrityError, NotFoundError):
            continue  # check says what is wrong with that image
    return found


def keep_original(
    session: WriteSession,
    descriptor: oci.Descriptor,
    diff_id: DiffId,
    open_blob: Callable[[], BlobReader],
) -> Encoding:
    """Store a compressed layer as it is, and hold it until the session ends.

    Raises:
        IntegrityError: It is no longer what was verified.
    """
    from layerstore.image.layers.layer_writer import write_sorted_layer

    # By its digest, so that whoever finds the layer can tell what it is.
    path = hex_of(descriptor.digest).encode("ascii")
    entry = Entry(path=path, kind=Kind.FILE, mode=0o600, size=descriptor.size)
    item = LayerItem(entry, open=lambda: cast("BinaryIO", VerifiedBlob(open_blob(), descriptor)))
    record = write_sorted_layer(session, session.store, iter([item]))
    return Encoding(diff_id, descriptor.size, kept=record.diff_id)


def original_pieces(store: Store, digest: Digest, encoding: Encoding) -> Iterator[bytes]:
    """Yield exactly the bytes of a compressed layer, as it came.

    Raises:
        IntegrityError: The store is damaged, or a library makes other bytes than it once did.
            What was yielded must not be used.
        NotFoundError: The layer, or its kept original, is not in the store.
    """
    made = hashlib.new(digest.partition(":")[0])
    for piece in _pieces(store, encoding):
        made.update(piece)
        yield piece
    if made.hexdigest() != hex_of(digest):
        raise IntegrityError(
            f"the compressed layer {digest} came out as sha256:{made.hexdigest()}",
            hint="run 'layerstore check --read-data'; 'layerstore originals drop IMAGE' gives "
            "up its original form",
        )


def _pieces(store: Store, encoding: Encoding) -> Iterator[bytes]:
    if encoding.kept is None:
        return encode(encoding.recipe, layer_tar(store, store.layer(encoding.diff_id)))
    entries = load_changeset(store, encoding.kept).entries
    return (
        bytes(length) if chunk is None else store.read_chunk(chunk)
        for entry in entries
        for length, chunk in entry.extents
    )
