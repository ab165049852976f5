"""A real Debian base through the store: bit exact, and the same tree from tar and directory."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest

from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.layers.layers import load_changeset
from layerstore.image.layers.scan import scan_directory
from layerstore.image.trees.export_layer import export_layer, export_rootfs
from layerstore.store.records import refs_length
from layerstore.store.store import Store
from tests.support.debian_base import debian_base_tar
from tests.support.trees import compare_trees

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.network, pytest.mark.root, pytest.mark.peers]


def test_debian_base_round_trip(tmp_path: Path) -> None:
    source = debian_base_tar()
    tree, again = tmp_path / "tree", tmp_path / "again"
    tree.mkdir()
    again.mkdir()
    subprocess.run(["tar", "-C", tree, "--numeric-owner", "-xpf", source], check=True)
    with Store.open(tmp_path / "store", create=True) as store, store.begin("test") as session:
        with source.open("rb") as stream:
            record = ingest_tar(session, stream, rootfs=True)
        with source.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        assert record.diff_id == f"sha256:{digest}"
        with (tmp_path / "layer.tar").open("w+b") as out:
            export_layer(store, record.diff_id, out)
            out.seek(0)
            assert hashlib.file_digest(out, "sha256").hexdigest() == digest
        assert refs_length(record.recipe) < record.entry_count * 1024 + (1 << 20)

        written = write_layer(session, store, scan_directory(tree))
        assert load_changeset(store, written.diff_id) == load_changeset(store, record.diff_id)

        with (tmp_path / "rootfs.tar").open("wb") as out:
            export_rootfs(store, [record.diff_id], out)
    subprocess.run(
        ["tar", "-C", again, "--numeric-owner", "-xpf", tmp_path / "rootfs.tar"], check=True
    )
    assert compare_trees(tree, again) == []
