"""Random stretches of random frames, read by the kernel where they lie.

Frames lie at any offset, hold from one byte to 1 MiB, compress well or not at all, and follow
each other in any order; files begin and end about the bounds of frames and pages.
"""

from __future__ import annotations

import io
import os
import random
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from layerstore.digest import ObjectId
from layerstore.formats.erofs_packs import FRAME_MAX_BYTES, Frame, Stretch, write_pack_image
from layerstore.formats.pack import padding
from layerstore.linux import mounts
from layerstore.store.packs.codec import compress_block
from tests.support.store import noise, text
from tests.support.views import needs_packs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.root, needs_packs]

SEEDS = range(8)
RAW_BYTES = (1, 7, 4095, 4096, 4097, 20_000, 300_000, 1_000_000, 1 << 20)


class Packed:
    """A pack's frames, files in them, and what those hold."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.plain = [self._plain(number) for number in range(self.chance.randrange(1, 12))]
        self.pack = bytearray(noise(seed, self.chance.randrange(1, 9000)))
        self.frames = []
        for plain in self.plain:
            frame = compress_block(plain)
            if len(frame) > FRAME_MAX_BYTES:
                plain = text(seed, len(plain))
                self.plain[len(self.frames)] = plain
                frame = compress_block(plain)
            self.frames.append(Frame(len(self.pack), len(frame), len(plain)))
            self.pack += frame + bytes(self.chance.choice([0, 0, 1, 50]))
        self.pack += bytes(padding(len(self.pack)))
        self.files: dict[ObjectId, Stretch] = {}
        self.content: dict[ObjectId, bytes] = {}
        for number in range(60):
            self._add(number)

    def _plain(self, seed: int) -> bytes:
        make = self.chance.choice([noise, text])
        return make(self.chance.randrange(1 << 30) + seed, self.chance.choice(RAW_BYTES))

    def _add(self, number: int) -> None:
        count = self.chance.choice([1, 1, 1, 2, 3, 5])
        run = tuple(self.chance.randrange(len(self.plain)) for _ in range(count))
        data = b"".join(self.plain[frame] for frame in run)
        first, last = len(self.plain[run[0]]), len(self.plain[run[-1]])
        start = min(self.chance.choice([0, 1, 4096, self.chance.randrange(first)]), first - 1)
        begin = max(len(data) - last, start)
        end = self.chance.choice([len(data), self.chance.randint(begin + 1, len(data))])
        name = ObjectId(blake3(b"%d" % number).digest())
        self.files[name] = Stretch(run, start, end - start)
        self.content[name] = data[start:end]

    def mount(self, base: Path) -> int:
        out = io.BytesIO()
        blocks = len(self.pack) // 4096
        write_pack_image(self.frames, self.files, blocks, out, uuid=bytes(16))
        (base / "image").write_bytes(out.getvalue())
        (base / "pack").write_bytes(self.pack)
        return mount(base)


def mount(base: Path) -> int:
    with open(base / "image", "rb") as image, open(base / "pack", "rb") as pack:
        return mounts.create_erofs(image.fileno(), devices=(pack.fileno(),))


def path_of(root: int, name: bytes) -> str:
    return f"/proc/self/fd/{root}/{name[:1].hex()}/{name.hex()}"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_reads_what_the_frames_hold(tmp_path: Path, seed: int) -> None:
    packed = Packed(seed)
    root = packed.mount(tmp_path)
    try:
        names = list(packed.files)
        packed.chance.shuffle(names)
        for name in names:
            expected = packed.content[name]
            with open(path_of(root, name), "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                assert status.st_size == len(expected)
                assert status.st_blocks * 512 < status.st_size + 4096
                at = packed.chance.randrange(len(expected))
                assert os.pread(file.fileno(), 5000, at) == expected[at : at + 5000]
                assert file.readall() == expected
        listed = {
            name
            for prefix in os.listdir(f"/proc/self/fd/{root}")
            for name in os.listdir(f"/proc/self/fd/{root}/{prefix}")
        }
        assert listed == {name.hex() for name in names}
    finally:
        os.close(root)


def test_more_than_four_gigabytes_of_plain_bytes(tmp_path: Path) -> None:
    """Extents have room for 32 bits of place until the content takes more."""
    plain = bytes(1 << 20)
    last = text(1, 100_000)
    pack = bytearray()
    frames = []
    zeros = compress_block(plain)
    for frame, raw in [
        *((zeros, len(plain)) for _ in range(4100)),
        (compress_block(last), 100_000),
    ]:
        frames.append(Frame(len(pack), len(frame), raw))
        pack += frame
    pack += bytes(padding(len(pack)))
    run = tuple(range(len(frames)))
    name, other = ObjectId(b"\x01" * 32), ObjectId(b"\x02" * 32)
    files = {name: Stretch(run, 5, 4100 * len(plain) + 95_000 - 5), other: Stretch((4100,), 7, 90)}
    out = io.BytesIO()
    write_pack_image(frames, files, len(pack) // 4096, out, uuid=bytes(16))
    (tmp_path / "image").write_bytes(out.getvalue())
    (tmp_path / "pack").write_bytes(pack)
    root = mount(tmp_path)
    try:
        with open(path_of(root, name), "rb", buffering=0) as file:
            end = 4100 * len(plain) - 5
            assert os.pread(file.fileno(), 1 << 20, end) == last[:95_000]
            assert os.pread(file.fileno(), 20, end - 10) == bytes(10) + last[:10]
            assert os.pread(file.fileno(), 100, 1 << 31) == bytes(100)
        with open(path_of(root, other), "rb") as file:
            assert file.read() == last[7:97]
    finally:
        os.close(root)


def test_every_damaged_frame_is_an_error(tmp_path: Path) -> None:
    """The kernel compares the checksum of a frame that it decodes whole."""
    packed = Packed(3)
    whole = {number: ObjectId(bytes([number]) * 32) for number in range(len(packed.plain))}
    packed.files = {name: Stretch((n,), 0, len(packed.plain[n])) for n, name in whole.items()}
    good = bytes(packed.pack)
    for number, name in whole.items():
        frame = packed.frames[number]
        packed.pack = bytearray(good)
        at = packed.chance.randrange(frame.offset + 5, frame.offset + frame.stored)
        packed.pack[at] ^= 1 << packed.chance.randrange(8)
        root = packed.mount(tmp_path)
        try:
            with (
                open(path_of(root, name), "rb") as file,
                pytest.raises(OSError, match=r"error|clean"),
            ):
                file.read()
        finally:
            os.close(root)
