"""The generated store of tests/bench/scale.py is a real one, and its phases run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.store.check.check import check
from layerstore.store.store import Store
from tests.bench import scale

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_generated_store_is_sound_and_can_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "FILES_A_LAYER", 700)
    monkeypatch.setattr(scale, "PACK_BYTES", 1_000_000)
    root, chunks = tmp_path / "store", 3_000
    scale.phase_generate(root, chunks)
    with Store.open(root) as store:
        report = check(store, read_data=True)
        assert report.ok
        assert report.chunks == chunks + 10, "five trees and five layer records"
        assert report.images == 5
    assert scale.phase_open(root, chunks) == {"images": 5}
    planned = scale.phase_plan(root, chunks)
    done = scale.phase_gc(root, chunks)
    assert done["report"]["freed_bytes"] == planned["freed_bytes"]  # type: ignore[index]
    assert done["builders_waited"]["transactions"] > 0  # type: ignore[index]
    assert scale.phase_check(root, chunks)["ok"] is True
    assert scale.phase_rebuild(root, chunks)["images"] == 3
