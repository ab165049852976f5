from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.digest import ChunkId
from layerstore.errors import FormatError, UnsupportedVersionError
from layerstore.formats import pack
from layerstore.formats.pack import Block, Item, ItemKind, Trailer

SIZE = 40_960


def item(number: int, length: int) -> Item:
    return Item(ChunkId(number.to_bytes(32, "big")), length)


BLOCKS = [
    Block(32, 100, 30, ItemKind.DATA, (item(1, 10), item(2, 20))),
    Block(132, 50, 7, ItemKind.META, (item(3, 7),)),
    Block(200, 60, 9, ItemKind.LAYER, (item(4, 9),)),
    Block(300, 20, 50, ItemKind.DATA, (item(5, 50),), (item(1, 10).item_id, bytes(32)), 1, 99),  # type: ignore[arg-type]
]


def encoded(blocks: list[Block]) -> tuple[bytes, Trailer]:
    data = pack.encode_footer(blocks, 4096)
    trailer = pack.decode_trailer(data[-pack.TRAILER.size :], 4096 + len(data))
    return data[: -pack.TRAILER.size], trailer


def test_footer_round_trip() -> None:
    footer, trailer = encoded(BLOCKS)
    assert pack.decode_footer(footer, trailer) == BLOCKS
    assert pack.decode_footer(*encoded([])) == []


def test_header() -> None:
    header = pack.encode_header()
    assert pack.decode_header(header) == (2, 0)
    assert pack.decode_header(pack.encode_header(19)) == (2, 19)
    assert pack.decode_header(pack.HEADER.pack(pack.HEADER_MAGIC, 1, 0, 0, 0)) == (1, 0)
    for bad in (b"", header[:-1], b"x" + header[1:]):
        with pytest.raises(FormatError):
            pack.decode_header(bad)
    with pytest.raises(UnsupportedVersionError):
        pack.decode_header(pack.HEADER.pack(pack.HEADER_MAGIC, 1, 0, 19, 0))
    for offset in (*range(8, 16), *range(24, 32)):
        newer = bytearray(header)
        newer[offset] ^= 0x40
        with pytest.raises(UnsupportedVersionError):
            pack.decode_header(bytes(newer))


WRONG = {
    "overlap": [BLOCKS[0], BLOCKS[1]._replace(offset=131)],
    "in header": [BLOCKS[0]._replace(offset=31)],
    "backwards": [BLOCKS[1], BLOCKS[0]],
    "beyond footer": [BLOCKS[0]._replace(offset=4096 - 99)],
    "far beyond": [BLOCKS[0]._replace(offset=2**63)],
    "no items": [BLOCKS[0]._replace(items=())],
    "items too short": [BLOCKS[0]._replace(raw_length=31)],
    "items too long": [BLOCKS[0]._replace(raw_length=29)],
    "empty item": [BLOCKS[0]._replace(items=(item(1, 0), item(2, 30)))],
    "raw over the limit": [
        BLOCKS[0]._replace(raw_length=2**20 + 1, items=(item(1, 2**20 + 1),)),
    ],
    "stored over the limit": [BLOCKS[0]._replace(stored_length=2**20 + 2**17)],
    "stored nothing": [BLOCKS[0]._replace(stored_length=0)],
    "unknown kind": [BLOCKS[0]._replace(kind=9)],  # type: ignore[arg-type]
    "twice in a block": [BLOCKS[0]._replace(items=(item(1, 10), item(1, 20)))],
    "base without depth": [BLOCKS[3]._replace(depth=0)],
    "depth without base": [BLOCKS[0]._replace(depth=1, cost=99)],
    "too deep": [BLOCKS[3]._replace(depth=9)],
    "cost below its own size": [BLOCKS[3]._replace(cost=49)],
    "cost of a block that stands alone": [BLOCKS[0]._replace(cost=30)],
    "against itself": [BLOCKS[3]._replace(bases=(item(5, 50).item_id,))],
    "difference of layer records": [BLOCKS[3]._replace(kind=ItemKind.LAYER)],
    "too many bases": [BLOCKS[3]._replace(bases=(item(9, 1).item_id,) * 4097)],
    "twice in a pack": [BLOCKS[0], BLOCKS[1]._replace(items=(item(1, 7),))],
}


@pytest.mark.parametrize("name", WRONG)
def test_impossible_footers_are_refused(name: str) -> None:
    footer, trailer = encoded(WRONG[name])
    with pytest.raises(FormatError):
        pack.decode_footer(footer, trailer)


def resealed(footer: bytes) -> Trailer:
    from blake3 import blake3

    return Trailer(4096, len(footer), blake3(footer).digest())


def test_counts_that_do_not_fit_are_refused() -> None:
    footer, _ = encoded(BLOCKS)
    size = pack.COUNTS_2.size
    for counts in (
        (4, 6, 2),
        (5, 5, 2),
        (3, 5, 2),
        (4, 4, 2),
        (4, 5, 1),
        (4, 5, 3),
        (2**32 - 1, 2**32 - 1, 2**32 - 1),
        (0, 0, 0),
    ):
        lied = pack.COUNTS_2.pack(*counts) + footer[size:]
        with pytest.raises(FormatError):
            pack.decode_footer(lied, resealed(lied))
    entry = pack.BLOCK_ENTRY_2.size
    for block, field, value in ((0, 16, 3), (2, 16, 0), (3, 24, 1), (3, 24, 3)):
        lied = bytearray(footer)
        struct.pack_into("<I", lied, size + block * entry + field, value)
        with pytest.raises(FormatError):
            pack.decode_footer(bytes(lied), resealed(bytes(lied)))


def test_trailers_that_cannot_be_are_refused() -> None:
    data = pack.encode_footer(BLOCKS, 4096)
    tail, size = data[-pack.TRAILER.size :], 4096 + len(data)
    pack.decode_trailer(tail, size)
    for bad, length in ((b"", size), (tail[1:], size), (tail, size - 1), (tail, size + 1)):
        with pytest.raises(FormatError):
            pack.decode_trailer(bad, length)
    for offset in (0, 4095, 4097, 2**63, 31):
        lied = pack.TRAILER.pack(offset, 40, bytes(32), 1, 0, pack.TRAILER_MAGIC)
        with pytest.raises(FormatError):
            pack.decode_trailer(lied, size)
    for version, flags in ((3, 0), (0, 0), (2, 1)):
        lied = pack.TRAILER.pack(4096, 40, bytes(32), version, flags, pack.TRAILER_MAGIC)
        with pytest.raises(UnsupportedVersionError):
            pack.decode_trailer(lied, size)


@given(st.data())
def test_any_flipped_bit_of_a_footer_is_rejected(data: st.DataObject) -> None:
    footer, trailer = encoded(BLOCKS)
    position = data.draw(st.integers(0, len(footer) - 1))
    changed = bytearray(footer)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FormatError):
        pack.decode_footer(bytes(changed), trailer)


@given(st.binary(max_size=400))
def test_arbitrary_bytes_raise_nothing_but_format_errors(data: bytes) -> None:
    for decode in (
        lambda: pack.decode_header(data),
        lambda: pack.decode_trailer(data, 4096 + len(data)),
        lambda: pack.decode_footer(data, resealed(data)),
    ):
        try:
            decode()
        except FormatError:
            pass
        except struct.error as err:
            raise AssertionError("struct.error escaped") from err
