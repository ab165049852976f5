"""Spools: what goes in comes out, in memory and in a file that has no name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.linux import spool as module
from layerstore.linux.spool import Spool

if TYPE_CHECKING:
    from pathlib import Path


def everything(spool: Spool, head: bytes = b"", step: int = 7) -> bytes:
    read = spool.reader(head)
    pieces = []
    while piece := read(step):
        assert len(piece) <= step
        pieces.append(piece)
    assert read(step) == b""
    return b"".join(pieces)


@pytest.mark.parametrize("held", [1, 10, 1 << 20])
def test_bytes_come_back_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    monkeypatch.setattr(module, "SPOOL_BYTES", held)
    pieces = [bytes([n]) * n for n in range(20)]
    with Spool(lambda: str(tmp_path / "scratch")) as spool:
        for piece in pieces:
            spool.write(piece)
        assert spool.size == sum(map(len, pieces))
        assert everything(spool) == everything(spool, step=1000) == b"".join(pieces)
        assert everything(spool, b"head of it") == b"head of it" + b"".join(pieces)
        assert os.listdir(tmp_path) == []


def test_an_empty_spool_makes_no_file() -> None:
    with Spool(lambda: pytest.fail("asked for a name")) as spool:
        assert everything(spool) == b""
        assert everything(spool, b"head") == b"head"


def test_closing_gives_the_file_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SPOOL_BYTES", 1)
    before = len(os.listdir("/proc/self/fd"))
    spool = Spool(lambda: str(tmp_path / "scratch"))
    spool.write(b"abc")
    assert len(os.listdir("/proc/self/fd")) == before + 1
    spool.close()
    spool.close()
    assert len(os.listdir("/proc/self/fd")) == before
