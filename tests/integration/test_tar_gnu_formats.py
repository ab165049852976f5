"""Real archives of GNU tar in every format: read exactly, written again bit for bit."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
import zstandard

from layerstore.formats.tree import Changeset, Kind
from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.layers.layers import load_changeset
from layerstore.image.layers.scan import scan_directory
from layerstore.image.trees.export_layer import export_layer, export_rootfs
from layerstore.store.store import Store
from tests.support.tars import extract_with_gnu_tar, gnu_tar
from tests.support.trees import compare_trees, make_odd_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.peers]
XATTRS = ("--xattrs", "--xattrs-include=*", "--acls")
EXACT = {
    "pax, sparse 1.0": ("--format=pax", "--sparse", *XATTRS),
    "pax, sparse 0.0": ("--format=pax", "--sparse", "--sparse-version=0.0", *XATTRS),
    "pax, sparse 0.1": ("--format=pax", "--sparse", "--sparse-version=0.1", *XATTRS),
    "pax without atime": (
        "--format=pax", "--sparse", "--pax-option=delete=atime,delete=ctime", *XATTRS,
    ),
}  # fmt: skip
LOSSY = {
    "gnu": ("--format=gnu",),
    "gnu, sparse": ("--format=gnu", "--sparse"),
    "pax, no holes": ("--format=pax", *XATTRS),
    "oldgnu": ("--format=oldgnu",),
    "blocking factor": ("--format=gnu", "-b", "400"),
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("needs root to make devices and owners")
    path = tmp_path_factory.mktemp("odd") / "tree"
    path.mkdir()
    make_odd_tree(path)
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("store") / "s", create=True) as opened:
        yield opened


def round_trip(store: Store, archive: bytes) -> Changeset:
    with store.begin("test") as session:
        record = ingest_tar(session, io.BytesIO(archive), rootfs=True)
    out = io.BytesIO()
    export_layer(store, record.diff_id, out)
    assert out.getvalue() == archive
    return load_changeset(store, record.diff_id)


@pytest.fixture(scope="module")
def scanned(store: Store, odd: Path) -> Changeset:
    with store.begin("test") as session:
        record = write_layer(session, store, scan_directory(odd))
    return load_changeset(store, record.diff_id)


@pytest.mark.parametrize("name", EXACT)
def test_tar_and_scan_give_the_same_tree(
    store: Store, odd: Path, scanned: Changeset, name: str
) -> None:
    assert round_trip(store, gnu_tar(odd, *EXACT[name])) == scanned


@pytest.mark.parametrize("name", LOSSY)
def test_formats_that_lose_something(
    store: Store, odd: Path, scanned: Changeset, name: str
) -> None:
    changeset = round_trip(store, gnu_tar(odd, *LOSSY[name]))
    expected = {entry.path: (entry.kind, entry.mode, entry.size) for entry in scanned.entries}
    assert {e.path: (e.kind, e.mode, e.size) for e in changeset.entries} == expected


@pytest.mark.parametrize("fmt", ["ustar", "v7"])
def test_old_formats(store: Store, tmp_path: Path, fmt: str) -> None:
    tree = tmp_path / "t"
    (tree / "directory").mkdir(parents=True)
    (tree / "directory" / ("n" * 80)).write_bytes(b"content" * 1000)
    (tree / "empty").touch()
    (tree / "link").symlink_to("directory")
    os.link(tree / "empty", tree / "second")
    changeset = round_trip(store, gnu_tar(tree, f"--format={fmt}"))
    assert {entry.path: entry.kind for entry in changeset.entries} == {
        b"": Kind.DIR,
        b"directory": Kind.DIR,
        b"directory/" + b"n" * 80: Kind.FILE,
        b"empty": Kind.FILE,
        b"link": Kind.SYMLINK,
        b"second": Kind.HARDLINK,
    }


@pytest.mark.parametrize("compression", ["gzip", "zstd", "xz", "bzip2"])
def test_compressed_by_the_real_tools(
    store: Store, odd: Path, scanned: Changeset, compression: str
) -> None:
    archive = gnu_tar(odd, *EXACT["pax, sparse 1.0"])
    packed = subprocess.run(
        [compression, "-c"], input=archive, stdout=subprocess.PIPE, check=True
    ).stdout
    with store.begin("test") as session:
        record = ingest_tar(session, io.BytesIO(packed))
    assert load_changeset(store, record.diff_id) == scanned
    assert record.tar_size == len(archive)


def test_canonical_tar_is_read_by_gnu_tar(store: Store, odd: Path, tmp_path: Path) -> None:
    with store.begin("test") as session:
        record = write_layer(session, store, scan_directory(odd))
    for number, export in enumerate((export_layer, None)):
        out, into = io.BytesIO(), tmp_path / str(number)
        into.mkdir()
        if export is None:
            export_rootfs(store, [record.diff_id], out)
        else:
            export(store, record.diff_id, out)
        extract_with_gnu_tar(out.getvalue(), into)
        assert compare_trees(odd, into, holes=True) == []


def test_two_scans_give_one_layer(store: Store, odd: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    extract_with_gnu_tar(gnu_tar(odd, *EXACT["pax, sparse 1.0"]), copy)
    with store.begin("test") as session:
        first = write_layer(session, store, scan_directory(odd))
        second = write_layer(session, store, reversed(scan_directory(copy)))
    assert first == second


def test_layers_whose_compression_differs_are_one(store: Store, odd: Path) -> None:
    archive = gnu_tar(odd)
    with store.begin("test") as session:
        records = [
            ingest_tar(session, io.BytesIO(packed))
            for packed in (archive, gzip.compress(archive), zstandard.compress(archive))
        ]
    assert len({record.diff_id for record in records}) == 1


@pytest.mark.skipif(shutil.which("umoci") is None, reason="needs umoci")
def test_canonical_tar_is_read_by_umoci(store: Store, odd: Path, tmp_path: Path) -> None:
    with store.begin("test") as session:
        record = write_layer(session, store, scan_directory(odd))
    with (tmp_path / "layer.tar").open("wb") as out:
        export_layer(store, record.diff_id, out)
    for words in (
        "init --layout image",
        "new --image image:t",
        "raw add-layer --image image:t layer.tar",
        "unpack --image image:t bundle",
    ):
        subprocess.run(["umoci", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    differences = compare_trees(odd, tmp_path / "bundle" / "rootfs")
    # Go's tar reader does not know GNU tar's escape for "=" in the names of xattrs.
    assert [line.split(":")[0] for line in differences] == ["b'xattrs/user'"]
