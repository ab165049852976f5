"""Images of packs: frames stand where runs need them, and equal input gives equal bytes."""

from __future__ import annotations

import io
import random

import pytest
from blake3 import blake3

from layerstore.digest import ObjectId
from layerstore.errors import FormatError
from layerstore.formats import erofs_packs
from layerstore.formats.erofs_packs import Frame, Stretch, write_pack_image
from layerstore.formats.sidecar import (
    PackSidecar,
    SeenFile,
    Sidecar,
    decode_pack_sidecar,
    decode_sidecar,
    encode_pack_sidecar,
    encode_sidecar,
)

SIDECAR = PackSidecar(
    Sidecar(8192, bytes(range(32)), frozenset({ObjectId(b"\x11" * 32), ObjectId(b"\xaa" * 32)})),
    SeenFile(12, 1 << 33, -5, 1_700_000_000_000_000_000),
)

GOLDEN = "2d091eaf951a506cd5787cdb185cb7b3cf7132284ce8aefb666bfec07e27a60c"


def stands_together(order: list[int], run: tuple[int, ...]) -> bool:
    return any(tuple(order[at : at + len(run)]) == run for at in range(len(order)))


class TestOrder:
    @pytest.mark.parametrize(
        "runs",
        [
            [(5, 8), (8, 11), (11, 2)],
            [(1, 2), (2, 1)],
            [(1, 2, 3), (3, 1)],
            [(1, 2), (1, 3), (4, 2)],
            [(7, 7)],
            [(1,), (2,), (0,)],
            [(1, 2, 1, 2)],
        ],
    )
    def test_every_run_stands_together(self, runs: list[tuple[int, ...]]) -> None:
        order = erofs_packs._arranged(runs)
        assert all(stands_together(order, run) for run in runs)

    @pytest.mark.parametrize("seed", range(30))
    def test_random_runs(self, seed: int) -> None:
        chance = random.Random(seed)
        runs = [
            tuple(chance.choices(range(40), k=chance.choice([1, 1, 2, 3, 8])))
            for _ in range(chance.randrange(1, 60))
        ]
        order = erofs_packs._arranged(runs)
        assert all(stands_together(order, run) for run in runs)

    def test_frames_that_follow_are_there_once(self) -> None:
        """Files in a row over frames that others lie between need no frame twice."""
        runs = [(0, 3), (3, 6), (6, 9), (1,), (2,)]
        assert sorted(erofs_packs._arranged(runs)) == [0, 1, 2, 3, 6, 9]


def image_of(files: dict[ObjectId, Stretch]) -> bytes:
    frames = [Frame(32, 500, 4_000), Frame(532, 700, 9_000), Frame(1_300, 30, 1_048_576)]
    out = io.BytesIO()
    size = write_pack_image(frames, files, 1, out, uuid=bytes(range(16)))
    assert size == len(out.getvalue())
    return out.getvalue()


def test_equal_input_gives_equal_bytes() -> None:
    """The image's bytes are what its sidecar vouches for: a change is a new sidecar version."""
    files = {
        ObjectId(blake3(b"%d" % number).digest()): stretch
        for number, stretch in enumerate(
            [Stretch((0,), 3, 60), Stretch((0, 2), 100, 50_000), Stretch((2, 0), 17, 1_048_600)]
        )
    }
    image = image_of(files)
    assert image == image_of(dict(reversed(files.items())))
    assert blake3(image).hexdigest() == GOLDEN


class TestSidecar:
    def test_it_comes_back(self) -> None:
        assert decode_pack_sidecar(encode_pack_sidecar(SIDECAR)) == SIDECAR

    def test_kinds_are_told_apart(self) -> None:
        with pytest.raises(FormatError):
            decode_sidecar(encode_pack_sidecar(SIDECAR))
        with pytest.raises(FormatError):
            decode_pack_sidecar(encode_sidecar(*SIDECAR.image))

    def test_every_damaged_byte_is_found(self) -> None:
        encoded = bytearray(encode_pack_sidecar(SIDECAR))
        for at in range(len(encoded)):
            encoded[at] ^= 1
            with pytest.raises(FormatError):
                decode_pack_sidecar(bytes(encoded))
            encoded[at] ^= 1
        for size in range(len(encoded)):
            with pytest.raises(FormatError):
                decode_pack_sidecar(bytes(encoded[:size]))
