"""A reader of stores written from docs/format alone, held against what layerstore writes.

It shares no code with the project but what it is compared with: where it and the store
disagree, the documents are wrong or say too little.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import struct
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import zstandard
from blake3 import blake3

from layerstore.chunking.cutter import CutParameters
from tests.support.cli import Cli
from tests.support.cuts import cut_lengths
from tests.support.store import noise, versions
from tests.support.tars import END, fill, header

FORMAT = Path(__file__).parents[3] / "docs" / "format"
Refs = list[tuple[int, bytes]]


# -- pack.md


def read_footer(pack: bytes) -> list[dict[str, Any]]:
    """The blocks of a pack, with the items and bases of each."""
    offset, length, digest, version, flags, magic = struct.unpack("<QQ32sII8s", pack[-64:])
    footer = pack[offset : offset + length]
    assert (magic, flags, version) == (b"LSPKEND\n", 0, 2)
    assert offset % 4096 == 0
    assert offset + length + 64 == len(pack)
    assert blake3(footer).digest() == digest
    block_count, item_count, base_count = struct.unpack_from("<III", footer)
    item_at = 12 + block_count * 36
    base_at = item_at + item_count * 36
    assert base_at + base_count * 32 == length
    blocks = []
    for number in range(block_count):
        names = ("offset", "stored", "raw", "items", "kind", "bases", "depth", "cost")
        block: dict[str, Any] = dict(
            zip(names, struct.unpack_from("<QIIIIIII", footer, 12 + number * 36), strict=True)
        )
        place, items = 0, []
        for _ in range(block["items"]):
            item_id, item_length = struct.unpack_from("<32sI", footer, item_at)
            items.append((item_id, place, item_length))
            place += item_length
            item_at += 36
        assert place == block["raw"]
        bases = [footer[base_at + 32 * n :][:32] for n in range(block["bases"])]
        base_at += 32 * len(bases)
        blocks.append({**block, "items": items, "bases": bases})
    return blocks


class Packs:
    """All items of all packs, found by their footers alone."""

    def __init__(self, store: Path) -> None:
        self.places: dict[bytes, tuple[bytes, dict[str, Any], int, int]] = {}
        self.records: list[bytes] = []
        self.differences = 0
        for path in sorted(store.glob("packs/*/*.pack")):
            pack = path.read_bytes()
            assert blake3(pack).hexdigest() == path.stem
            assert path.parent.name == path.stem[:2]
            assert struct.unpack("<8sIIQQ", pack[:32]) == (b"\x89LSPACK\n", 2, 0, 0, 0)
            for block in read_footer(pack):
                self.differences += bool(block["bases"])
                for item_id, start, length in block["items"]:
                    self.places[item_id] = (pack, block, start, length)
                    if block["kind"] == 3:
                        self.records.append(item_id)

    def item(self, item_id: bytes) -> bytes:
        pack, block, start, length = self.places[item_id]
        prefix = b"".join(self.item(base) for base in block["bases"])
        frame = pack[block["offset"] :][: block["stored"]]
        dictionary = zstandard.ZstdCompressionDict(prefix, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        decoder = zstandard.ZstdDecompressor(dict_data=dictionary if prefix else None)
        plain = decoder.decompress(frame)
        assert len(plain) == block["raw"]
        return plain[start : start + length]

    def content(self, refs: Refs) -> bytes:
        parts = []
        for length, chunk_id in refs:
            part = self.item(chunk_id)
            assert (len(part), blake3(part).digest()) == (length, chunk_id)
            parts.append(part)
        return b"".join(parts)


# -- store.md, tree.md, recipe.md


def layer_records(packs: Packs) -> dict[str, dict[str, Any]]:
    found = {}
    for item_id in packs.records:
        encoded = packs.item(item_id)
        context = "layerstore 2026-11-23 layer record v1"
        assert blake3(encoded, derive_key_context=context).digest() == item_id
        record = msgspec.msgpack.decode(encoded)
        found[record["diff_id"]] = record
    return found


def read_tree(packs: Packs, record: dict[str, Any]) -> list[list[Any]]:
    encoded = packs.content(record["tree"])
    assert encoded[:8] == b"LSTREE\0\x01"
    entries, whiteouts, opaques = msgspec.msgpack.decode(encoded[8:])
    keys = [entry[0].replace(b"/", b"\0") for entry in entries]
    assert keys == sorted(set(keys))
    assert (whiteouts, opaques) == ([], [])
    assert len(entries) == record["entry_count"]
    return entries


def file_content(packs: Packs, entry: list[Any]) -> bytes:
    return b"".join(
        bytes(length) if chunk_id is None else packs.content([(length, chunk_id)])
        for length, chunk_id in entry[7]
    )


def stored_content(packs: Packs, entry: list[Any]) -> bytes:
    return packs.content([extent for extent in entry[7] if extent[1] is not None])


def rebuild_tar(packs: Packs, record: dict[str, Any]) -> bytes:
    """The tar of a ``segments-1`` layer."""
    recipe = packs.content(record["recipe"])
    magic, version, plan, literals, own = struct.unpack_from("<8sIIQQ", recipe)
    assert (magic, version) == (b"LSRECIP\0", 1)
    steps, lengths = msgspec.msgpack.decode(recipe[32 : 32 + plan])
    literal_at = 32 + plan
    own_at = literal_at + literals
    assert own_at + own == len(recipe)
    sources = [
        stored_content(packs, entry)
        for entry in read_tree(packs, record)
        if entry[1] == 2 and any(extent[1] is not None for extent in entry[7])
    ]
    for length in lengths:
        sources.append(recipe[own_at : own_at + length])
        own_at += length
    tar, source = b"", -1
    for at, number in enumerate(steps):
        if at % 2:
            source += 1 + number
            tar += sources[source]
        else:
            tar += recipe[literal_at : literal_at + number]
            literal_at += number
    return tar


# -- names.md, catalog.md


def names_of_log(store: Path) -> dict[str, str]:
    names: dict[str, str] = {}
    for line in (store / "names.log").read_bytes().splitlines():
        payload = line[17:]
        if line[:16] != hashlib.blake2b(payload, digest_size=8).hexdigest().encode():
            continue
        verb, *rest = json.loads(payload)
        if verb == "tag":
            names[rest[0]] = rest[1]
        elif verb == "untag":
            names.pop(rest[0], None)
        elif verb == "reset":
            names.clear()
    return names


def seal(table: str, *fields: str | int | bytes | None) -> bytes:
    digest = hashlib.blake2b(digest_size=8)
    for field in (table, *fields):
        if field is None:
            data = b"n"
        elif isinstance(field, bytes):
            data = b"b" + field
        else:
            data = f"{'i' if isinstance(field, int) else 's'}{field}".encode()
        digest.update(struct.pack("<I", len(data)) + data)
    return digest.digest()


def check_catalog(store: Path, packs: Packs) -> None:
    """Compare the catalog's rows with what the packs and blobs say."""
    catalog = sqlite3.connect(f"file:{store}/catalog.sqlite?mode=ro", uri=True)
    numbers = dict(catalog.execute("SELECT pack, id FROM packs").fetchall())
    for item_id, number, block, offset, length in catalog.execute("SELECT * FROM chunks"):
        pack, footer_block, start, size = packs.places[item_id]
        assert blake3(pack).digest() == numbers[number]
        assert read_footer(pack)[block]["offset"] == footer_block["offset"]
        assert (offset, length) == (start, size)
    for name, image_id, row_seal in catalog.execute("SELECT * FROM tags"):
        assert row_seal == seal("tags", name, image_id)
    for image_id, manifest, created, size, row_seal in catalog.execute("SELECT * FROM images"):
        config = json.loads((store / "blobs/sha256" / image_id[7:]).read_bytes())
        layers = config["rootfs"]["diff_ids"]
        assert row_seal == seal("images", image_id, manifest, created, size, *layers)
        rows = catalog.execute(
            "SELECT diff_id FROM image_layers WHERE image_id = ? ORDER BY position", (image_id,)
        )
        assert [row[0] for row in rows] == layers
    catalog.close()


def documented_sql() -> list[str]:
    block = (FORMAT / "catalog.md").read_text().partition("```sql\n")[2].partition("```")[0]
    return [re.sub(r"\s+", " ", part).strip() for part in block.split(";") if part.strip()]


# -- chunking.md


def masks() -> dict[int, int]:
    text = (FORMAT / "chunking.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `([0-9a-f]{16})` \|", text, re.MULTILINE)
    return {int(bits): int(mask, 16) for bits, mask in rows}


def cut(content: bytes, chunking: dict[str, Any]) -> list[int]:
    """The lengths of a content's chunks."""
    if len(content) <= chunking["whole_max_bytes"]:
        return [len(content)] if content else []
    least, average, most = (chunking[f"{word}_bytes"] for word in ("min", "average", "max"))
    gear = [int.from_bytes(hashlib.md5(bytes([n]) * 64).digest()[:8], "big") for n in range(256)]
    bits, level = average.bit_length() - 1, chunking["normalization"]
    mask = masks()
    lengths, start = [], 0
    while start < len(content):
        left = len(content) - start
        end, length, digest = min(left, most), min(left, most), 0
        for at in range(least & ~1, end & ~1) if left > least else ():
            digest = (digest << 1) + gear[content[start + at]] & 0xFFFF_FFFF_FFFF_FFFF
            step = level if at < min(average, left) & ~1 else -level
            if not digest & mask[bits + step]:
                length = at
                break
        lengths.append(length)
        start += length
    return lengths


# -- the comparison


class Made(NamedTuple):
    """A store with two versions of a directory and a tar, and what went in last."""

    root: Path
    tree: Path
    tar: bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    top = tmp_path_factory.mktemp("second")
    tree, cli = top / "tree", Cli(top / "store")
    for number, version in enumerate(versions(2)):
        for path, content in version.items():
            (tree / path.decode()).parent.mkdir(parents=True, exist_ok=True)
            (tree / path.decode()).write_bytes(content)
        (tree / "etc").mkdir(exist_ok=True)
        (tree / "etc/version").write_text(str(number))
        (tree / "lib/long").write_bytes(noise(7, 900_000))
        with (tree / "lib/holes").open("wb") as holes:
            holes.seek(1 << 20)
            holes.write(b"end")
        cli.ok("import", tree, "-t", f"app:{number}")
    # The first "twice" is replaced: its content is the recipe's own.
    names = [(b"twice", b"first " * 99), (b"one", b"1"), (b"twice", b"second"), (b"empty", b"")]
    tar = b"".join(header(name, size=len(body)) + fill(body) for name, body in names) + END
    cli.ok("import", "-", "-t", "tar", stdin=tar)
    return Made(top / "store", tree, tar)


def image_layers(root: Path, name: str) -> list[str]:
    image_id = names_of_log(root)[name]
    config = (root / "blobs/sha256" / image_id.removeprefix("sha256:")).read_bytes()
    assert "sha256:" + hashlib.sha256(config).hexdigest() == image_id
    return json.loads(config)["rootfs"]["diff_ids"]


def test_contents_come_back_from_packs_and_names_log(made: Made) -> None:
    packs = Packs(made.root)
    assert packs.differences > 0
    [diff_id] = image_layers(made.root, "app:1")
    entries = read_tree(packs, layer_records(packs)[diff_id])
    files = {entry[0].decode(): file_content(packs, entry) for entry in entries if entry[1] == 2}
    on_disk = {
        str(path.relative_to(made.tree)): path.read_bytes()
        for path in made.tree.rglob("*")
        if path.is_file()
    }
    assert files == on_disk
    assert max(len(entry[7]) for entry in entries) > 2
    times = {entry[0].decode(): entry[5] for entry in entries}
    assert times["etc/version"] == (made.tree / "etc/version").stat().st_mtime_ns


def test_a_tar_comes_back_bit_for_bit(made: Made) -> None:
    packs = Packs(made.root)
    [diff_id] = image_layers(made.root, "tar:latest")
    record = layer_records(packs)[diff_id]
    assert record["recipe_format"] == "segments-1"
    assert rebuild_tar(packs, record) == made.tar
    assert diff_id == "sha256:" + hashlib.sha256(made.tar).hexdigest()
    assert record["tar_size"] == len(made.tar)


def test_the_catalog_says_what_the_packs_say(made: Made) -> None:
    check_catalog(made.root, Packs(made.root))


def test_the_documented_statements_are_those_of_the_catalog(made: Made) -> None:
    catalog = sqlite3.connect(f"file:{made.root}/catalog.sqlite?mode=ro", uri=True)
    rows = catalog.execute("SELECT sql FROM sqlite_master WHERE type = 'table'").fetchall()
    catalog.close()
    assert sorted(documented_sql()) == sorted(row[0] for row in rows)


def test_the_documented_config_is_that_of_a_new_store(made: Made) -> None:
    example = (FORMAT / "store.md").read_text().partition("```toml\n")[2].partition("```")[0]
    assert tomllib.loads(example) == tomllib.loads((made.root / "config.toml").read_text())


def test_the_documented_seal_is_right() -> None:
    shown = re.search(r"`(\w{16})` for the tag `web:latest`", (FORMAT / "catalog.md").read_text())
    assert shown is not None
    assert seal("tags", "web:latest", "sha256:" + "5a" * 32).hex() == shown[1]


@pytest.mark.parametrize("size", [0, 262_144, 262_145, 700_001])
def test_the_documented_cut_is_that_of_the_store(made: Made, size: int) -> None:
    chunking = tomllib.loads((made.root / "config.toml").read_text())["chunking"]
    algorithm, digest = chunking.pop("algorithm"), chunking.pop("digest")
    names = ("whole_max_bytes", "min_bytes", "average_bytes", "max_bytes", "normalization")
    told = " ".join([algorithm, *(str(chunking[name]) for name in names)])
    assert digest == f"sha256:{hashlib.sha256(told.encode()).hexdigest()}"
    content = noise(size, size // 2) + b"even text " * (size // 10)
    assert algorithm == "fastcdc-2020"
    assert cut(content, chunking) == cut_lengths(content, CutParameters(**chunking))
