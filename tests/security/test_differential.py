"""Generated archives by our reader and by GNU tar: what we accept, both see alike.

``make differential`` compares 50,000.
"""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.security.differential.compare import differences
from tests.security.differential.generate import archive
from tests.support.tars import END, member, pax_raw, symlink

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.root,
    pytest.mark.peers,
    pytest.mark.skipif(os.geteuid() != 0, reason="GNU tar restores owners as root only"),
]
ARCHIVES = 400
SEED = 20261126


def test_what_is_accepted_is_what_gnu_tar_unpacks(tmp_path: Path) -> None:
    accepted = 0
    for number in range(ARCHIVES):
        found = differences(archive(random.Random(f"{SEED}/{number}")), tmp_path / "x")
        assert not found, f"seed {SEED}/{number}: {found}"
        accepted += found is not None
    assert accepted > ARCHIVES // 10


def test_a_difference_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were our reader lenient with records that come twice, the comparison would tell."""
    from layerstore.formats import tar_pax

    data = pax_raw(b"13 uid=00001\n13 uid=00002\n") + member(b"a", b"1") + END
    assert differences(data, tmp_path / "x") is None
    monkeypatch.setattr(tar_pax, "parse_records", lambda _body: {b"uid": b"1"})
    assert differences(data, tmp_path / "x")
    honest = member(b"a", b"1") + symlink(b"s", b"a") + END
    assert differences(honest, tmp_path / "x") == []
