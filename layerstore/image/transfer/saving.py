"""Writing a bundle: images without what the receiver has.

The stream is written once, in order, so that it may be a pipe; one pack at a time waits in the
store's ``tmp/``. Layers are held meanwhile: gc may run beside it. Equal images and
equal haves give equal bundles. Implements docs/format/bundle.md.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from blake3 import blake3

from layerstore.formats.bundle import (
    DESCRIPTION_KIND,
    END_KIND,
    HEADER,
    PACK_KIND,
    RECORD,
    BaseImage,
    BundledImage,
    Description,
    HeadSum,
    encode_description,
    encode_header,
    encode_record,
)
from layerstore.image.transfer.lacking import lacking_of
from layerstore.linux.files import read_at
from layerstore.progress import Silent
from layerstore.store.packs.pack_reader import OpenPack
from layerstore.store.records import encode_layer
from layerstore.store.remotes.parcels import PARCEL_LEVEL, ParcelWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from layerstore.digest import DiffId
    from layerstore.image.transfer.having import Having
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.packs.pack_writer import SealedPack
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession

_COPY_BYTES = 1 << 20


class SavedImage(NamedTuple):
    """An image to save, and the names that the receiver gives it."""

    image: ImageRecord
    names: tuple[str, ...]


class BundleReport(NamedTuple):
    """What a bundle holds.

    Attributes:
        size: Bytes of the bundle.
        plain_bytes: Of the content in it.
        items: Pieces of content.
        layers: Layers that are described.
    """

    size: int
    plain_bytes: int
    items: int
    layers: int


def save_bundle(
    store: Store,
    images: Sequence[SavedImage],
    opened: Callable[[], AbstractContextManager[BinaryIO]],
    *,
    having: Having,
    bases: Sequence[BaseImage] = (),
    level: int = PARCEL_LEVEL,
    progress: Progress | None = None,
) -> BundleReport:
    """Write what somebody lacks of images who has ``having``.

    Args:
        store: Is written to for a lease and for what waits.
        images: In the order in which the receiver adds them.
        opened: Opens what gets the bundle, and makes it durable at the end, while the store
            still holds the images. After an error what it got is no bundle.
        having: What the receiver has.
        bases: Images that make up ``having``, which the receiver must have.
        level: Of zstd.
        progress: Told plain bytes.

    Raises:
        NotFoundError: A part of an image is missing here.
        IntegrityError: The store is damaged.
        StorageError: No room for the next pack.
    """
    report = progress or Silent()
    with store.begin("save a bundle") as session:
        layers = _layers(store, images)
        session.hold_layers([*layers, *having.layers])
        described = [d for d in layers if not bases or d not in having.layers]
        records = [store.layer(diff_id) for diff_id in described]
        lacking = lacking_of(store, records, having)
        plain_bytes = sum(one.item.length for one in lacking)
        description = Description(
            images=tuple(_bundled(store, each) for each in images),
            layers=tuple(encode_layer(record) for record in records),
            bases=tuple(bases),
            plain_bytes=plain_bytes,
        )
        report.start("saving", plain_bytes)
        with opened() as out, _parcels(session, level, report) as parcels:
            size = _write(out, description, parcels.write(lacking))
        report.finish()
    return BundleReport(size, plain_bytes, len(lacking), len(records))


def _layers(store: Store, images: Iterable[SavedImage]) -> list[DiffId]:
    """Return the layers of images, those that hold compressed originals included."""
    return list(
        dict.fromkeys(
            diff_id
            for each in images
            for diff_id in (*each.image.layers, *store.origins(each.image).kept)
        )
    )


def _bundled(store: Store, saved: SavedImage) -> BundledImage:
    image = saved.image
    return BundledImage(
        names=saved.names,
        config=store.get_blob(image.image_id),
        manifest=store.get_blob(image.manifest_digest),
        documents=tuple(store.get_blob(digest) for digest in store.origins(image).documents),
    )


@contextlib.contextmanager
def _parcels(session: WriteSession, level: int, progress: Progress) -> Iterator[ParcelWriter]:
    numbers = iter(range(1, 1 << 40))

    def staging() -> str:
        return session.temporary(f"parcel-{next(numbers)}")

    writer = ParcelWriter(session.store, staging, level=level, progress=progress)
    with contextlib.closing(writer):
        yield writer


def _write(out: BinaryIO, description: Description, packs: Iterable[SealedPack]) -> int:
    """Write all records and return the bytes of the bundle."""
    heads = HeadSum()
    out.write(heads.add(encode_header()))
    payload = encode_description(description)
    size = HEADER.size + RECORD.size + len(payload)
    head = encode_record(DESCRIPTION_KIND, len(payload), blake3(payload).digest())
    out.write(heads.add(head))
    out.write(payload)
    for pack in packs:
        try:
            out.write(heads.add(encode_record(PACK_KIND, pack.size, pack.pack_id)))
            _copy(pack, out)
        finally:
            if pack.staged is not None:
                pack.staged.discard()
        size += RECORD.size + pack.size
    total = heads.digest()
    out.write(encode_record(END_KIND, len(total), blake3(total).digest()))
    out.write(total)
    return size + RECORD.size + len(total)


def _copy(pack: SealedPack, out: BinaryIO) -> None:
    assert pack.staged is not None
    assert pack.staged.path is not None
    with contextlib.closing(OpenPack(pack.staged.path)) as file:
        offsets = range(0, pack.size, _COPY_BYTES)
        out.writelines(read_at(file.fd, min(_COPY_BYTES, pack.size - at), at) for at in offsets)
