"""Cut points and ids are part of the format: these values change with a format version only."""

from __future__ import annotations

import hashlib

from layerstore.chunking.cutter import CutParameters
from layerstore.digest import blake3_id
from layerstore.store.records import layer_item_id
from tests.support.cuts import cut_lengths

FORMAT_1 = CutParameters(256 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024, 2)
"""What stores of format 1 are cut with, upgraded or not."""


def stream(seed: bytes, size: int) -> bytes:
    """A pseudo-random stream that needs no library's random generator to stay the same."""
    return hashlib.shake_256(seed).digest(size)


def test_cut_points_are_frozen() -> None:
    assert cut_lengths(stream(b"layerstore cut points", 3_000_000), FORMAT_1) == CUTS


def test_one_hash_over_many_inputs_is_frozen() -> None:
    digest = hashlib.sha256()
    for number in range(24):
        data = stream(b"%d" % number, 150_000 * (number + 1))
        if number % 3 == 0:
            data = data[: len(data) // 2] + bytes(len(data) // 3) + data[len(data) // 2 :]
        digest.update(repr(cut_lengths(data, FORMAT_1)).encode())
    assert digest.hexdigest() == MANY


def test_zeros_are_cut_at_the_maximum() -> None:
    assert cut_lengths(bytes(3 * 1024 * 1024 + 5), FORMAT_1) == [1048576, 1048576, 1048576, 5]


def test_ids_are_frozen() -> None:
    assert blake3_id(b"layerstore").hex() == CHUNK_ID
    assert layer_item_id(b"layerstore").hex() == LAYER_ID


CUTS = [296066, 262231, 278333, 318424, 216816, 323069, 465864, 273992, 267608, 297597]
MANY = "a69e1187e8dfe808bee24b898a93155efdb4e413fdb052d7d5028075bd5a6840"
CHUNK_ID = "47e782bca7a8d1ae296695300f84f4fc5a37449fed5a04d57c4ae6030ca2fa25"
LAYER_ID = "3e9aaeae2f548ee1802642c873871d3310ade87c15acd3f5a2e9670d2403e4cc"
