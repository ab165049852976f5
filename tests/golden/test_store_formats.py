"""Stores of every format version, made once by the layerstore of their time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from layerstore.store.check import check
from layerstore.store.config import FORMAT_VERSION
from layerstore.store.store import Store
from tests.golden.stores.make import contents

STORES = Path(__file__).parent / "stores"
VERSIONS = range(1, FORMAT_VERSION + 1)


def unpacked(version: int, where: Path) -> Path:
    """The store of a format version, unpacked."""
    archive = STORES / f"format-{version}.tar.xz"
    subprocess.run(["tar", "-C", str(where), "-xJf", str(archive)], check=True)
    return where / f"format-{version}"


def held(version: int) -> dict[str, object]:
    """What that store holds, as its own layerstore read it."""
    found: dict[str, object] = json.loads((STORES / f"format-{version}.json").read_text())
    return found


def test_there_is_a_store_of_every_version_and_they_are_small() -> None:
    archives = sorted(STORES.glob("format-*.tar.xz"))
    assert [path.name for path in archives] == [f"format-{version}.tar.xz" for version in VERSIONS]
    assert all(path.stat().st_size < 100_000 for path in archives)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_store_of_any_version_reads_as_it_was_written(tmp_path: Path, version: int) -> None:
    with Store.open(unpacked(version, tmp_path)) as store:
        assert contents(store) == held(version)
        report = check(store, read_data=True)
        assert report.ok
        assert report.findings == ()
