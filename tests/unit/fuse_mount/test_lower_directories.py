"""Directories of FUSE servers come and go while others of their chain do."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fuse_mount import lowers

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("ending", [1, 3])
def test_a_server_that_ends_meanwhile_takes_the_chain_s_directory_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: int
) -> None:
    base, directory = str(tmp_path / "chain"), str(tmp_path / "chain/instance")
    make, left = lowers.make_private_dir, [base] * ending

    def make_private_dir(path: str, *, durable: bool) -> bool:
        if path == directory and left:
            os.rmdir(left.pop())
        return make(path, durable=durable)

    monkeypatch.setattr(lowers, "make_private_dir", make_private_dir)
    lowers._make_instance_directory(base, directory)
    assert os.path.isdir(directory)
    assert left == []


def test_a_store_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lowers._make_instance_directory(str(tmp_path / "no/chain"), str(tmp_path / "no/chain/x"))
