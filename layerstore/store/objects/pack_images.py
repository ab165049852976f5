"""Pack images: which packs the kernel can read in place, and the EROFS images that let it.

An image (:mod:`layerstore.formats.erofs_packs`) gives the objects whose content lies in one
pack, in frames that stand alone; whatever does not (differences, files with holes, content
spread over packs or in pieces that do not follow each other) is left to the object tier.

Nothing unverified is shown: the first image of a pack is made by hashing the pack, decoding
every frame of it, and comparing every item with its id; a frame that fails is left out. Its
sidecar keeps by what the file is known that was verified. If the file is another one later,
its hash must be the pack's id again. The kernel itself checks the checksum of frames that it
decodes, so damage that comes later is an error for whoever reads it.

A pack has a first image with all of its whole files, and a further one for files of many chunks
that a later image of layers needs: a mounted image is never replaced. All are caches, named by
their hash: views/packs/PACK.HASH.erofs, with a sidecar. Normative: docs/format/erofs.md.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
from typing import TYPE_CHECKING, Final, NamedTuple

from blake3 import blake3

from layerstore.digest import ObjectId
from layerstore.errors import FormatError
from layerstore.formats.erofs_packs import FRAME_MAX_BYTES, Frame, Stretch, write_pack_image
from layerstore.formats.pack import ALIGNMENT_BYTES, ItemKind
from layerstore.formats.sidecar import (
    PackSidecar,
    SeenFile,
    Sidecar,
    decode_pack_sidecar,
    encode_pack_sidecar,
)
from layerstore.linux.files import (
    make_private_dir,
    open_private,
    read_at,
    read_file,
    replace_private,
)
from layerstore.store.failures import storage_errors
from layerstore.store.objects.mountable import hash_of, is_image_of, is_ours_alone
from layerstore.store.objects.tier import SIDECAR_MAX_BYTES
from layerstore.store.packs.codec import decompress_block
from layerstore.store.packs.pack_reader import open_pack, read_footer
from layerstore.store.paths import SIDECAR_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from layerstore.digest import ChunkId, PackId
    from layerstore.formats.pack import Block
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ChunkPlace
    from layerstore.store.objects.objects import Extents
    from layerstore.store.paths import StorePaths
    from layerstore.store.reading import StoreReader

LAYERS_MAX: Final = 400
"""Pack images below one view: an overlay takes 500 directories in all."""

IMAGES_MAX: Final = 8
"""Images of one pack: what a further one would give is unpacked instead."""

_DECODERS: Final = 2
_NAME_BYTES: Final = 8


class PackImage(NamedTuple):
    """An image that may be mounted now: both files were verified through these descriptors.

    Attributes:
        name: Names image and sidecar, and what is known of its mount.
        image: The open image.
        pack: The open pack.
        objects: What it gives.
    """

    name: str
    image: int
    pack: int
    objects: AbstractSet[ObjectId]

    def close(self) -> None:
        """Close both files; a mount keeps them."""
        os.close(self.image)
        os.close(self.pack)


class InPlace(NamedTuple):
    """What packs give of an image's content, and what must be unpacked.

    Attributes:
        images: Those that give the most first; the caller closes them.
        rest: Objects that no pack can give.
    """

    images: list[PackImage]
    rest: dict[ObjectId, Extents]

    def close(self) -> None:
        """Close all files."""
        for image in self.images:
            image.close()


def prepare_packs(
    store: StoreReader, wanted: Mapping[ObjectId, Extents], progress: Progress
) -> InPlace:
    """Find or make the images of all packs that hold whole objects.

    The caller is in :func:`layerstore.store.objects.tier.kept_objects`, holds ``locks/pack-images``
    until they are mounted, and something keeps the chunks.

    Raises:
        StorageError: The store cannot be written, or is full.
    """
    by_pack = _by_pack(store, wanted)
    order = sorted(by_pack, key=lambda pack_id: (-len(by_pack[pack_id]), pack_id))
    found = InPlace([], dict(wanted))
    try:
        for pack_id in order:
            objects = {name: wanted[name] for name in by_pack[pack_id]}
            if len(found.images) + IMAGES_MAX > LAYERS_MAX:
                break
            for image in _images_of(store.paths, pack_id, objects, progress):
                found.images.append(image)
                for name in image.objects & objects.keys():
                    found.rest.pop(name, None)
    except BaseException:
        found.close()
        raise
    return found


def image_names(paths: StorePaths) -> list[str]:
    """Return the names of all pack images that have a sidecar."""
    try:
        names = os.listdir(paths.pack_images)
    except FileNotFoundError:
        return []
    return sorted(name[: -len(SIDECAR_SUFFIX)] for name in names if name.endswith(SIDECAR_SUFFIX))


def _by_pack(
    store: StoreReader, wanted: Mapping[ObjectId, Extents]
) -> dict[PackId, list[ObjectId]]:
    """Return which objects the catalog places where a pack can give them whole."""
    chunks = {chunk_id for extents in wanted.values() for _, chunk_id in extents if chunk_id}
    places = store.catalog.places(chunks)
    by_pack: dict[PackId, list[ObjectId]] = {}
    for name, extents in wanted.items():
        first = places.get(extents[0][1]) if extents[0][1] else None
        if first is None:
            continue

        def locate(chunk_id: ChunkId, pack: int = first.pack) -> _Spot | None:
            place = places.get(chunk_id)
            if place is None or place.pack != pack or not _is_mappable(place):
                return None
            return _Spot(place.block, place.offset, place.length, place.raw_length)

        if _stretch(extents, locate) is not None:
            by_pack.setdefault(first.pack_id, []).append(name)
    return by_pack


def _is_mappable(place: ChunkPlace | Block) -> bool:
    return (
        place.kind == ItemKind.DATA and place.depth == 0 and place.stored_length <= FRAME_MAX_BYTES
    )


class _Spot(NamedTuple):
    """Where a chunk's plain bytes are: the number of its frame, and a slice of that."""

    frame: int
    offset: int
    length: int
    raw_length: int


def _stretch(extents: Extents, locate: Callable[[ChunkId], _Spot | None]) -> Stretch | None:
    """Return content as a stretch of frames, or None if it is none."""
    spots = []
    for length, chunk_id in extents:
        spot = locate(chunk_id) if chunk_id is not None else None
        if spot is None or spot.length != length:
            return None
        spots.append(spot)
    frames = [spots[0].frame]
    for one, other in itertools.pairwise(spots):
        end = one.offset + one.length
        if other.frame == one.frame and other.offset == end:
            continue
        if other.offset or end != one.raw_length:
            return None
        frames.append(other.frame)
    return Stretch(tuple(frames), spots[0].offset, sum(spot.length for spot in spots))


def _images_of(
    paths: StorePaths, pack_id: PackId, objects: Mapping[ObjectId, Extents], progress: Progress
) -> list[PackImage]:
    """Return images that give as many of the objects as the pack can; none if it is damaged."""
    try:
        pack = _Pack(paths, pack_id)
    except (OSError, FormatError):  # gone, damaged: reading its chunks tells
        return []
    images: list[PackImage] = []
    try:
        missing = set(objects)
        for image in _known_images(paths, pack):
            useful = missing & image.objects
            missing -= useful
            if useful:
                images.append(image)
                with contextlib.suppress(OSError):  # when it was used last: advice for gc
                    os.utime(paths.pack_sidecar(image.name))
            else:
                image.close()
        if missing and len(images) < IMAGES_MAX:
            made = _make(paths, pack, {name: objects[name] for name in missing}, images, progress)
            images += [made] if made is not None else []
    except BaseException:
        for image in images:
            image.close()
        raise
    finally:
        pack.close()
    return images


class _Pack:
    """An open pack, and whether its bytes are those of its id."""

    def __init__(self, paths: StorePaths, pack_id: PackId) -> None:
        """Open it.

        Raises:
            OSError: It is not there or cannot be read.
            FormatError: It is no file of ours alone, or its tables are damaged.
        """
        self.pack_id = pack_id
        self._file = open_pack(paths, pack_id)
        self.fd = self._file.fd
        status = os.fstat(self.fd)
        if not is_ours_alone(status):
            # Members of the store's group could change it while the kernel decodes it.
            raise FormatError("others may write the pack")
        self.seen = SeenFile(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        self._is_sound: bool | None = None

    def close(self) -> None:
        self._file.close()

    def is_sound(self) -> bool:
        """Whether the file hashes to its id; found out once."""
        if self._is_sound is None:
            self._is_sound = False
            with contextlib.suppress(OSError):
                self._is_sound = hash_of(self.fd, self.seen.size) == self.pack_id
        return self._is_sound


def _known_images(paths: StorePaths, pack: _Pack) -> Iterable[PackImage]:
    """Yield the images of a pack that may be mounted, those that give the most first."""
    prefix = f"{pack.pack_id.hex()}."
    known = []
    for name in image_names(paths):
        if not name.startswith(prefix):
            continue
        with contextlib.suppress(OSError, FormatError):
            encoded = read_file(paths.pack_sidecar(name), max_bytes=SIDECAR_MAX_BYTES)
            sidecar = decode_pack_sidecar(encoded)
            if name == _name(pack.pack_id, sidecar.image.image_hash):
                known.append((name, sidecar))
    for name, sidecar in sorted(known, key=lambda item: -len(item[1].image.objects)):
        if sidecar.seen != pack.seen:
            if not pack.is_sound():
                return
            with storage_errors("write the sidecar of a pack image"):
                encoded = encode_pack_sidecar(sidecar._replace(seen=pack.seen))
                replace_private(paths.pack_sidecar(name), encoded, owner_alone=True)
        fd = _open_verified(paths, name, sidecar.image)
        if fd is not None:
            yield PackImage(name, fd, os.dup(pack.fd), sidecar.image.objects)


def _name(pack_id: PackId, image_hash: bytes) -> str:
    return f"{pack_id.hex()}.{image_hash[:_NAME_BYTES].hex()}"


def _open_verified(paths: StorePaths, name: str, sidecar: Sidecar) -> int | None:
    try:
        fd = open_private(paths.pack_image(name), os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None
    if is_image_of(fd, sidecar):
        return fd
    os.close(fd)
    return None


def _make(
    paths: StorePaths,
    pack: _Pack,
    missing: Mapping[ObjectId, Extents],
    known: Sequence[PackImage],
    progress: Progress,
) -> PackImage | None:
    """Make an image that gives what is missing; None if the pack cannot give it."""
    if not pack.is_sound():
        return None
    try:
        blocks = read_footer(pack.fd)
    except (OSError, FormatError):
        return None
    verified = {name for image in known for name in image.objects}
    spots = _spots(blocks, verified) if known else _verified_spots(pack, blocks, progress)
    files: dict[ObjectId, Stretch] = {}
    if not known:
        files = {
            ObjectId(name): Stretch((spot.frame,), spot.offset, spot.length)
            for name, spot in spots.items()
        }
    for name, extents in missing.items():
        stretch = _stretch(extents, spots.get)
        if stretch is not None:
            files[name] = stretch
    if not files:
        return None
    return _write(paths, pack, blocks, files)


def _spots(blocks: Sequence[Block], items: Collection[bytes]) -> dict[ChunkId, _Spot]:
    """Return where items lie in frames that the kernel can map."""
    spots = {}
    for number, block in enumerate(blocks):
        if not _is_mappable(block):
            continue
        at = 0
        for item_id, length in block.items:
            if item_id in items:
                spots[item_id] = _Spot(number, at, length, block.raw_length)
            at += length
    return spots


def _verified_spots(
    pack: _Pack, blocks: Sequence[Block], progress: Progress
) -> dict[ChunkId, _Spot]:
    """Return where items lie in frames that decode to what the footer says."""
    usable = [block for block in blocks if _is_mappable(block)]
    progress.start("verifying a pack", sum(block.raw_length for block in usable))
    verified: set[bytes] = set()
    try:
        from concurrent.futures import ThreadPoolExecutor  # lazily: builds import this module

        with ThreadPoolExecutor(_DECODERS, "layerstore-verify") as pool:
            for block, good in zip(
                usable, pool.map(lambda block: _is_right(pack.fd, block), usable), strict=True
            ):
                if good:
                    verified.update(item.item_id for item in block.items)
                progress.advance(block.raw_length)
    finally:
        progress.finish()
    return _spots(blocks, verified)


def _is_right(fd: int, block: Block) -> bool:
    """Whether a frame is whole, as EROFS needs it, and holds what the footer says."""
    try:
        frame = read_at(fd, block.stored_length, block.offset)
        raw = memoryview(decompress_block(frame, block.raw_length))
    except (OSError, FormatError):
        return False
    at = 0
    for item_id, length in block.items:
        if blake3(raw[at : at + length]).digest() != item_id:
            return False
        at += length
    return True


def _write(
    paths: StorePaths, pack: _Pack, blocks: Sequence[Block], files: Mapping[ObjectId, Stretch]
) -> PackImage:
    """Write an image and then its sidecar; return it open."""
    frames = [Frame(block.offset, block.stored_length, block.raw_length) for block in blocks]
    end = max(frame.offset + frame.stored for frame in frames)
    uuid = blake3(b"".join([pack.pack_id, *sorted(files)])).digest()[:16]
    out = io.BytesIO()
    write_pack_image(frames, files, -(-end // ALIGNMENT_BYTES), out, uuid=uuid)
    image = out.getbuffer()
    digest = blake3(image).digest()
    name = _name(pack.pack_id, digest)
    sidecar = PackSidecar(Sidecar(len(image), digest, frozenset(files)), pack.seen)
    with storage_errors("write the image of a pack"):
        make_private_dir(paths.pack_images, durable=False)
        replace_private(paths.pack_image(name), image, owner_alone=True)
        fd = _open_verified(paths, name, sidecar.image)
        if fd is None:
            raise OSError(f"somebody else replaced {paths.pack_image(name)}")
        try:
            encoded = encode_pack_sidecar(sidecar)
            replace_private(paths.pack_sidecar(name), encoded, owner_alone=True)
            return PackImage(name, fd, os.dup(pack.fd), sidecar.image.objects)
        except BaseException:
            os.close(fd)
            raise
