"""The documents of the pack format, held against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from layerstore.digest import blake3_id
from layerstore.errors import FormatError
from layerstore.formats import pack
from layerstore.formats.pack import ItemKind
from layerstore.store.packs.codec import decompress_block
from layerstore.store.packs.pack_writer import Against, PackWriter
from layerstore.store.records import decode_layer, encode_layer, layer_item_id
from layerstore.store.rewriting.rewrite import item_matches

DOCUMENT = Path(__file__).parents[2] / "docs" / "format" / "pack.md"
TINY_ID = "3d4d43af7fce052cc02842bf3c9ac8a30940a40ff62766b350dbc68c741de7ef"


def tiny() -> bytes:
    """The pack whose hexdump the document shows."""
    dump = DOCUMENT.read_text().partition("```hexdump\n")[2].partition("```")[0]
    data = bytearray()
    for line in dump.splitlines():
        if line == "*":
            continue
        offset, _, rest = line.partition(": ")
        data.extend(bytes(int(offset, 16) - len(data)))
        data.extend(bytes.fromhex(rest[:47]))
    return bytes(data)


def test_the_documented_pack_decodes() -> None:
    data = tiny()
    assert blake3_id(data).hex() == TINY_ID
    pack.decode_header(data[: pack.HEADER.size])
    trailer = pack.decode_trailer(data[-pack.TRAILER.size :], len(data))
    footer = data[trailer.footer_offset : -pack.TRAILER.size]
    content, changed, layer = pack.decode_footer(footer, trailer)
    kinds = (content.kind, changed.kind, layer.kind)
    assert kinds == (ItemKind.DATA, ItemKind.DATA, ItemKind.LAYER)
    raw = decompress_block(data[content.offset :][: content.stored_length], content.raw_length)
    assert raw == b"hello\n#!/bin/sh\nexit 0\n"
    assert [item.item_id for item in content.items] == [
        blake3_id(b"hello\n"),
        blake3_id(b"#!/bin/sh\nexit 0\n"),
    ]
    script = raw[6:]
    assert (changed.bases, changed.depth, changed.cost) == ((blake3_id(script),), 1, 40)
    frame = data[changed.offset :][: changed.stored_length]
    assert decompress_block(frame, changed.raw_length, script) == b"#!/bin/sh\nexit 1\n"
    encoded = decompress_block(data[layer.offset :][: layer.stored_length], layer.raw_length)
    assert layer.items[0].item_id == layer_item_id(encoded)
    record = decode_layer(encoded)
    assert record.diff_id == "sha256:" + "5a" * 32
    assert encode_layer(record) == encoded


def test_the_documented_pack_is_what_the_writer_writes(tmp_path: Path) -> None:
    """Frames are taken from the document: another zstd may compress otherwise."""
    data = tiny()
    trailer = pack.decode_trailer(data[-pack.TRAILER.size :], len(data))
    blocks = pack.decode_footer(data[trailer.footer_offset : -pack.TRAILER.size], trailer)
    writer = PackWriter(str(tmp_path / "pack"))
    for block in blocks:
        frame = data[block.offset :][: block.stored_length]
        writer.add_frame(block.kind, block.items, frame, block.raw_length, Against(*block[5:]))
    sealed = writer.seal()
    assert (tmp_path / "pack").read_bytes() == data
    assert sealed.pack_id.hex() == TINY_ID
    assert sealed.size == len(data)
    measured = PackWriter(None)
    for block in blocks:
        frame = data[block.offset :][: block.stored_length]
        measured.add_frame(block.kind, block.items, frame, block.raw_length, Against(*block[5:]))
    of_it = measured.seal()
    assert (of_it.size, of_it.blocks) == (sealed.size, sealed.blocks)


TYPES = {"u32": "I", "u64": "Q"}
TABLES = {
    "## Header": pack.HEADER,
    "Counts:": pack.COUNTS_2,
    "Block entry:": pack.BLOCK_ENTRY_2,
    "Item entry:": pack.ITEM_ENTRY,
    "## Trailer": pack.TRAILER,
}


@pytest.mark.parametrize("heading", TABLES)
def test_byte_tables_are_the_structs(heading: str) -> None:
    text = DOCUMENT.read_text().partition(f"\n{heading}\n")[2].partition("|---|")[2]
    table = text.partition("\n\n")[0]
    rows = re.findall(r"^\| (\d+) \| (\d+) \| (\w+) \|", table, re.MULTILINE)
    layout = "<"
    position = 0
    for offset, size, kind in rows:
        assert int(offset) == position
        position += int(size)
        layout += TYPES.get(kind) or f"{size}s"
    assert layout == TABLES[heading].format
    assert position == TABLES[heading].size


def contents(data: bytes) -> dict[bytes, bytes]:
    """Every item of a pack, verified as a reader verifies it."""
    pack.decode_header(data[: pack.HEADER.size])
    trailer = pack.decode_trailer(data[-pack.TRAILER.size :], len(data))
    found: dict[bytes, bytes] = {}
    for block in pack.decode_footer(data[trailer.footer_offset : -pack.TRAILER.size], trailer):
        prefix = b"".join(found[base] for base in block.bases)
        frame = data[block.offset :][: block.stored_length]
        raw = decompress_block(frame, block.raw_length, prefix)
        offset = 0
        for item in block.items:
            part = raw[offset : offset + item.length]
            if not item_matches(block.kind, item, part):
                raise FormatError("item does not match its id")
            found[item.item_id] = part
            offset += item.length
    return found


def test_every_flipped_bit_is_rejected_or_harmless() -> None:
    whole = tiny()
    expected = contents(whole)
    harmless = []
    for position in range(len(whole)):
        for bit in (0x01, 0x80):
            data = bytearray(whole)
            data[position] ^= bit
            try:
                assert contents(bytes(data)) == expected
            except FormatError:
                continue
            harmless.append(position)
    padding = range(whole.index(bytes(64)), 4096)
    effort = range(16, 24)
    same_bytes_otherwise = {83}  # a match in the difference that says the same twice
    assert set(harmless) <= {*padding, *effort, *same_bytes_otherwise}
