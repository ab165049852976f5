"""Layers written while they are walked: the same bytes, the same chunks, bounded state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import ChunkId
from layerstore.errors import FormatError
from layerstore.formats.tree import (
    Changeset,
    Entry,
    Kind,
    TreeEncoder,
    path_key,
)
from layerstore.image.layers.layer_writer import write_layer, write_sorted_layer
from layerstore.image.layers.scan import Scanner, scan_directory
from layerstore.linux import spool
from layerstore.store.store import Store
from layerstore.store.writing import putting
from tests.support.encoding import encode_changeset, encode_plan

if TYPE_CHECKING:
    from pathlib import Path


def streamed(changeset: Changeset, step: int) -> bytes:
    pieces: list[bytes] = []
    encoder = TreeEncoder(pieces.append)
    for start in range(0, len(changeset.entries), step):
        encoder.add(changeset.entries[start : start + step])
    head = encoder.finish(
        (len(changeset.whiteouts), changeset.whiteouts), (len(changeset.opaques), changeset.opaques)
    )
    return head + b"".join(pieces)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 600, 70_000])
@pytest.mark.parametrize("step", [1, 512])
def test_a_streamed_tree_has_the_same_bytes(count: int, step: int) -> None:
    chunk = ChunkId(b"c" * 32)
    entries = tuple(
        Entry(b"%06d" % n, Kind.FILE, 0o644, size=n, extents=((n, chunk),) if n else ())
        for n in range(count)
    )
    paths = tuple(b"w%05d" % n for n in range(count % 1000))
    changeset = Changeset(entries, paths, paths)
    if count <= 1000 or step > 1:
        assert streamed(changeset, step) == encode_changeset(changeset)


@pytest.mark.parametrize(
    "paths", [(b"b", b"a"), (b"a", b"a"), (b"a", b"a/b"), (b"a.b", b"a/b"), (b"x", b"")]
)
def test_rules_hold_across_pieces(paths: tuple[bytes, bytes]) -> None:
    encoder = TreeEncoder(lambda _: None)
    encoder.add([Entry(paths[0], Kind.FILE)])
    with pytest.raises(FormatError):
        encoder.add([Entry(paths[1], Kind.FILE if paths[1] else Kind.DIR)])


def test_a_long_plan_is_encoded_as_ever() -> None:
    steps = [(512 + n % 3, n ^ 1) for n in range(40_000)]
    own = list(range(1, 3000))
    encoded = encode_plan(steps, 1024, own)
    from layerstore.formats.recipe import decode_plan

    plan = decode_plan(encoded)
    assert plan.own == own
    assert plan.steps[0::2] == [length for length, _ in steps] + [1024]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for number in range(700):
        folder = root / f"d{number % 7}" / ("deep" if number % 2 else "deep.x")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(b"%d" % number * (number % 50))
    (root / "large").write_bytes(os.urandom(3_000_000))
    (root / "d3" / "link").symlink_to("nowhere")
    os.link(root / "large", root / "d0" / "first")
    os.link(root / "large", root / "zz")
    with (root / "sparse").open("wb") as file:
        file.truncate(200_000)
        file.seek(100_000)
        file.write(b"data")
    return root


@pytest.mark.parametrize("held", [1, 4 << 20])
@pytest.mark.parametrize("known", [10, 100_000])
def test_walked_and_gathered_layers_are_the_same(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, held: int, known: int
) -> None:
    """Also when spools go to files at once and sessions remember next to nothing."""
    records = []
    with Store.open(tmp_path / "gathered", create=True) as store, store.begin("test") as session:
        records.append(write_layer(session, store, reversed(scan_directory(tree))))
    monkeypatch.setattr(spool, "SPOOL_BYTES", held)
    monkeypatch.setattr(putting, "KNOWN_CHUNKS", known)
    with Store.open(tmp_path / "walked", create=True) as store, store.begin("test") as session:
        scanner = Scanner(tree, read_small=256 * 1024)
        records.append(write_sorted_layer(session, store, scanner.items()))
        assert records[0] == records[1]
        assert session.stats.new_chunks > 600
        assert not [name for name in os.listdir(store.paths.tmp) if "pack" not in name]


def test_items_come_in_the_order_of_a_tree(tree: Path) -> None:
    paths = [item.entry.path for item in Scanner(tree, read_small=1 << 20).items()]
    assert paths == sorted(paths, key=path_key)
    assert len(paths) == len(set(paths)) == 1 + sum(1 for _ in tree.rglob("*"))


def test_the_first_name_of_an_inode_is_the_file(tree: Path) -> None:
    items = {item.entry.path: item.entry for item in Scanner(tree, read_small=1 << 20).items()}
    assert items[b"d0/first"].kind is Kind.FILE
    assert items[b"large"].target == items[b"zz"].target == b"d0/first"


def test_names_that_are_not_utf8_sort_as_bytes(tmp_path: Path) -> None:
    names = [b"\xff", b"\xf0\x9f\x98\x80", b"\xee\x80\x80", b"a", b"\xc3\xa9", b"\x80"]
    for name in names:
        os.close(os.open(os.fsencode(tmp_path) + b"/" + name, os.O_CREAT | os.O_WRONLY))
    paths = [item.entry.path for item in Scanner(tmp_path).items()]
    assert paths == [b"", *sorted(names)]
