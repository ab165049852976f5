"""Bundles whose checksums are right and whose content lies: refused, and nothing is published."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from blake3 import blake3

from layerstore.digest import ChunkId, DiffId, Digest
from layerstore.errors import FormatError, IntegrityError, LimitExceededError
from layerstore.formats import bundle as bundles
from layerstore.formats import pack, recipe
from layerstore.formats.bundle import (
    DESCRIPTION_KIND,
    END_KIND,
    HEADER,
    MAGIC,
    NAMES_MAX,
    PACK_KIND,
    RECORD,
    BaseImage,
    Description,
    HeadSum,
    decode_description,
    encode_description,
    encode_header,
    encode_record,
)
from layerstore.formats.tree import decode_changeset
from layerstore.image.transfer import loading
from layerstore.image.transfer.loading import BaseMissingError, load_bundle
from layerstore.image.transfer.receiving import ContentMissingError, ReceivedLayerError
from layerstore.store.packs.codec import compress_block
from layerstore.store.records import decode_layer, encode_layer
from layerstore.store.store import Store
from tests.support.encoding import encode_changeset
from tests.support.store import noise
from tests.support.transfer import add_image, bundle_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


FILES = {b"etc/passwd": noise(1, 3_000), b"usr/tool": noise(2, 9_000)}
DIGEST = DiffId(Digest("sha256:" + "ab" * 32))


class Bundle(NamedTuple):
    """A bundle taken apart."""

    description: Description
    packs: list[bytes]

    def encode(self) -> bytes:
        """Put it together, every checksum right."""
        heads = HeadSum()
        out = [heads.add(encode_header())]
        payload = encode_description(self.description)
        for kind, data in [(DESCRIPTION_KIND, payload), *((PACK_KIND, p) for p in self.packs)]:
            out += [heads.add(encode_record(kind, len(data), blake3(data).digest())), data]
        total = heads.digest()
        return b"".join([*out, encode_record(END_KIND, 32, blake3(total).digest()), total])

    def described(self, **changes: object) -> Bundle:
        return self._replace(description=msgspec.structs.replace(self.description, **changes))

    def with_record(self, **changes: object) -> Bundle:
        record = decode_layer(self.description.layers[0])
        changed = msgspec.structs.replace(record, **changes)
        return self.described(layers=(encode_layer(changed), *self.description.layers[1:]))

    def with_chunks(self, *contents: bytes, kind: pack.ItemKind = pack.ItemKind.META) -> Bundle:
        """Add a pack of chunks of one's own."""
        more = pack_of(*contents, kind=kind)
        size = self.description.plain_bytes + sum(map(len, contents))
        return Bundle(
            msgspec.structs.replace(self.description, plain_bytes=size), [*self.packs, more]
        )


def pack_of(
    *contents: bytes, kind: pack.ItemKind = pack.ItemKind.META, bases: tuple[ChunkId, ...] = ()
) -> bytes:
    raw = b"".join(contents)
    frame = compress_block(raw)
    items = tuple(pack.Item(ChunkId(blake3(data).digest()), len(data)) for data in contents)
    depth, cost = (1, len(raw)) if bases else (0, 0)
    body = bytearray(pack.encode_header(19))
    block = pack.Block(len(body), len(frame), len(raw), kind, items, bases, depth, cost)
    body += frame
    body += bytes(pack.padding(len(body)))
    return bytes(body) + pack.encode_footer([block], len(body))


def apart(bundle: bytes) -> Bundle:
    at = HEADER.size
    payloads = []
    while at < len(bundle):
        _, _, length, _ = RECORD.unpack_from(bundle, at)
        at += RECORD.size
        payloads.append(bundle[at : at + length])
        at += length
    return Bundle(decode_description(payloads[0]), payloads[1:-1])


@pytest.fixture(params=[False, True], ids=["imported", "built"])
def honest(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    with Store.open(tmp_path / "sender", create=True) as store:
        image = add_image(store, "i:1", FILES, built=request.param)
        return apart(bundle_of(store, [("i:1", image)]))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    with Store.open(tmp_path / "receiver", create=True) as opened:
        yield opened


def refused(store: Store, bundle: bytes, *errors: type[Exception]) -> Exception:
    with pytest.raises(errors or (IntegrityError,)) as caught:
        load_bundle(store, io.BytesIO(bundle).read)
    assert store.images() == []
    assert store.tags() == {}
    return caught.value


def test_the_honest_one_is_loaded(honest: Bundle, store: Store) -> None:
    load_bundle(store, io.BytesIO(honest.encode()).read)
    assert list(store.tags()) == ["i:1"]


def test_a_layer_under_another_diff_id(honest: Bundle, store: Store) -> None:
    image = honest.description.images[0]
    config = image.config.replace(
        decode_layer(honest.description.layers[0]).diff_id.encode(), DIGEST.encode()
    )
    digest = b"sha256:" + hashlib.sha256(config).hexdigest().encode()
    old = b"sha256:" + hashlib.sha256(image.config).hexdigest().encode()
    changed = msgspec.structs.replace(
        image, config=config, manifest=image.manifest.replace(old, digest)
    )
    lying = honest.with_record(diff_id=DIGEST).described(images=(changed,))
    refused(store, lying.encode(), ReceivedLayerError)


@pytest.mark.parametrize("field", ["tar_size", "entry_count", "content_size"])
def test_a_record_with_other_numbers(honest: Bundle, store: Store, field: str) -> None:
    record = decode_layer(honest.description.layers[0])
    lying = honest.with_record(**{field: getattr(record, field) + 1})
    if record.recipe:  # the tar is imported, and tells the numbers itself
        load_bundle(store, io.BytesIO(lying.encode()).read)
        assert store.layer(record.diff_id) == record
    else:
        refused(store, lying.encode(), ReceivedLayerError)


def test_a_tree_that_is_not_the_tars(honest: Bundle, store: Store, tmp_path: Path) -> None:
    """The diff ID vouches for the tar alone: a tree beside it may make a file setuid."""
    record = decode_layer(honest.description.layers[0])
    with Store.open(tmp_path / "sender") as sender:
        changeset = decode_changeset(sender.read_refs(record.tree))
    entries = [
        msgspec.structs.replace(entry, mode=0o4755) if entry.size else entry
        for entry in changeset.entries
    ]
    tree = encode_changeset(msgspec.structs.replace(changeset, entries=tuple(entries)))
    chunk = ((len(tree), ChunkId(blake3(tree).digest())),)
    lying = honest.with_record(tree=chunk).with_chunks(tree).encode()
    if record.recipe:
        load_bundle(store, io.BytesIO(lying).read)
        assert store.layer(record.diff_id) == record
        found = decode_changeset(store.read_refs(store.layer(record.diff_id).tree))
        assert all(entry.mode != 0o4755 for entry in found.entries)
    else:
        refused(store, lying, ReceivedLayerError)


def test_a_tree_that_names_what_nobody_has(honest: Bundle, store: Store) -> None:
    gone = ((5, ChunkId(b"x" * 32)),)
    error = refused(store, honest.with_record(tree=gone).encode(), ContentMissingError)
    assert "--have" in str(error.hint)


def test_an_item_under_another_id(honest: Bundle, store: Store) -> None:
    data = bytearray(honest.packs[0])
    blocks = pack.decode_footer(*tables(data))
    wrong = [b._replace(items=(b.items[0]._replace(item_id=ChunkId(b"y" * 32)), *b.items[1:]))
             for b in blocks]  # fmt: skip
    trailer = tables(data)[1]
    lying = bytes(data[: trailer.footer_offset]) + pack.encode_footer(wrong, trailer.footer_offset)
    refused(store, honest._replace(packs=[lying]).encode())


def tables(data: bytes | bytearray) -> tuple[bytes, pack.Trailer]:
    trailer = pack.decode_trailer(bytes(data[-pack.TRAILER.size :]), len(data))
    at = trailer.footer_offset
    return bytes(data[at : at + trailer.footer_length]), trailer


CHANGES: dict[str, Callable[[Bundle], bytes]] = {
    "less content than it says": lambda b: b.described(
        plain_bytes=b.description.plain_bytes + 1
    ).encode(),
    "more content than it says": lambda b: b.described(plain_bytes=1).encode(),
    "more content than anything may have": lambda b: b.described(plain_bytes=1 << 60).encode(),
    "a negative size": lambda b: b.described(plain_bytes=-1).encode(),
    "layer records in a pack": lambda b: b.with_chunks(b"abc", kind=pack.ItemKind.LAYER).encode(),
    "no pack": lambda b: b._replace(packs=[b"nothing"]).encode(),
    "a pack twice": lambda b: b._replace(packs=b.packs * 2).encode(),
    "no description": lambda b: b.encode()[: HEADER.size] + b.encode()[-RECORD.size - 32 :],
    "two descriptions": lambda b: (
        b.encode()[: -RECORD.size - 32]
        + b.encode()[HEADER.size : HEADER.size + RECORD.size]
        + encode_description(b.description)
    ),
    "an unknown record": lambda b: b.encode()[: HEADER.size] + b"WHAT" + bytes(44),
    "a record without end": lambda b: (
        b.encode()[: HEADER.size] + encode_record(DESCRIPTION_KIND, 1 << 62, bytes(32))
    ),
    "a newer version": lambda b: HEADER.pack(MAGIC, 2, 0, 0) + b.encode()[HEADER.size :],
    "a description of nothing": lambda b: b"".join(
        (encode_header(), encode_record(DESCRIPTION_KIND, 4, blake3(b"what").digest()), b"what")
    ),
    "a manifest of another image": lambda b: b.described(
        images=(msgspec.structs.replace(b.description.images[0], manifest=b"{}"),)
    ).encode(),
    "a config that is none": lambda b: b.described(
        images=(msgspec.structs.replace(b.description.images[0], config=b"[]"),)
    ).encode(),
    "a name that is none": lambda b: b.described(
        images=(msgspec.structs.replace(b.description.images[0], names=("../x",)),)
    ).encode(),
    "documents that nothing names": lambda b: b.described(
        images=(msgspec.structs.replace(b.description.images[0], documents=(b"{}",)),)
    ).encode(),
    "a damaged record": lambda b: b.described(layers=(b"\x80",)).encode(),
    "layers that nobody has": lambda b: b.described(layers=()).encode(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_lie(honest: Bundle, store: Store, change: str) -> None:
    lying = CHANGES[change](honest)
    refused(store, lying, IntegrityError, LimitExceededError, ContentMissingError)


def test_a_pack_of_more_items_than_memory_has(
    honest: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(tables(honest.packs[0])[0])
    monkeypatch.setattr(loading, "TABLES_MAX_BYTES", size - 1)
    error = refused(store, honest.encode(), LimitExceededError)
    assert f"pack 1 of the bundle has tables of {size} bytes" in str(error)
    monkeypatch.setattr(loading, "TABLES_MAX_BYTES", 1 << 20)
    load_bundle(store, io.BytesIO(honest.encode()).read)


def test_lists_of_more_than_memory_has(
    honest: Bundle, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name of one letter takes thirty times its two bytes; each image's, and all together."""
    (image,) = honest.description.images
    long = msgspec.structs.replace(image, names=("i:1",) * (NAMES_MAX + 1))
    error = refused(store, honest.described(images=(long,)).encode(), FormatError)
    assert f"length <= {NAMES_MAX}" in str(error)
    monkeypatch.setattr(bundles, "NAMES_MAX", 3)
    four = msgspec.structs.replace(image, names=("i:1",) * 4)
    error = refused(store, honest.described(images=(four,)).encode(), LimitExceededError)
    assert "the limit of 3" in str(error)
    two = msgspec.structs.replace(image, names=("i:1",) * 2)
    refused(store, honest.described(images=(two, two)).encode(), LimitExceededError)
    base = BaseImage(DIGEST, (DIGEST,) * 2)
    refused(store, honest.described(bases=(base, base)).encode(), LimitExceededError)


def test_a_record_that_no_store_writes(honest: Bundle, store: Store) -> None:
    long = honest.described(layers=(bytes(pack.BLOCK_MAX_BYTES + 1),))
    refused(store, long.encode(), LimitExceededError)


def test_a_bomb_costs_no_memory(honest: Bundle, store: Store) -> None:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(19, write_content_size=True)
    bomb = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(80 << 20))
    head = encode_record(DESCRIPTION_KIND, len(bomb), blake3(bomb).digest())
    refused(store, encode_header() + head + bomb, LimitExceededError)


def test_a_chunk_that_is_named_without_end_costs_no_memory(honest: Bundle, store: Store) -> None:
    """A tree is in memory as a whole: a record of a few kilobytes made it one of terabytes."""
    data = bytes(1 << 20)
    refs = ((len(data), ChunkId(blake3(data).digest())),) * 20_000
    lying = honest.with_record(tree=refs).with_chunks(data)
    error = refused(store, lying.encode(), LimitExceededError)
    assert "a tree of 20971520000 bytes" in str(error)


def test_so_does_no_plan_of_a_recipe(honest: Bundle, store: Store) -> None:
    head = recipe.HEAD.pack(recipe.MAGIC, recipe.VERSION, 0xFFFF_FFF0, 0, 0)
    first = head.ljust(1 << 20, b"\0")
    rest = b"\0" * (1 << 20)
    refs = [(len(data), ChunkId(blake3(data).digest())) for data in (first, rest)]
    refs += refs[1:] * 5_000
    lying = honest.with_record(recipe=tuple(refs), recipe_format=recipe.SEGMENTS)
    error = refused(store, lying.with_chunks(first).with_chunks(rest).encode(), IntegrityError)
    assert "a plan of 4294967280 bytes" in str(error)


def test_a_tar_is_not_written_further_than_it_is_said_to_go(honest: Bundle, store: Store) -> None:
    record = decode_layer(honest.description.layers[0])
    refused(store, honest.with_record(tar_size=1 << 60).encode(), LimitExceededError)
    if not record.recipe:
        refused(store, honest.with_record(tar_size=512).encode(), ReceivedLayerError)


def test_a_difference_against_what_is_not_here(honest: Bundle, store: Store) -> None:
    more = pack_of(b"abc", bases=(ChunkId(b"z" * 32),))
    lying = honest._replace(packs=[*honest.packs, more]).described(
        plain_bytes=honest.description.plain_bytes + 3
    )
    error = refused(store, lying.encode(), ContentMissingError)
    assert "1 chunk" in str(error)


def test_bases_that_are_not_here_are_named_before_anything_is_read(
    honest: Bundle, store: Store
) -> None:
    from layerstore.formats.bundle import BaseImage

    base = BaseImage(DIGEST, (DIGEST,), ("shop:1",))
    cut = honest.described(bases=(base,)).encode()[: -sum(map(len, honest.packs))]
    error = refused(store, cut, BaseMissingError)
    assert "shop:1" in str(error)
