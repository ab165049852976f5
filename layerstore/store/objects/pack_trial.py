"""Whether this kernel reads packs in place, found out by trying it on a tiny one.

The pack is made up here, has content inside of frames, across frames that follow each other,
and across others, and lies in a file without a name that ends with the trial.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from typing import TYPE_CHECKING, Final

from blake3 import blake3

from layerstore.digest import ObjectId
from layerstore.errors import LayerstoreError
from layerstore.formats.erofs_packs import Frame, Stretch, write_pack_image
from layerstore.formats.pack import ALIGNMENT_BYTES, padding
from layerstore.linux import mounts
from layerstore.store.packs.codec import compress_block

if TYPE_CHECKING:
    from collections.abc import Iterator

_TEXT_BYTES: Final = 40_000
_FRAMES: Final = 3


def pack_problem(place: str) -> str | None:
    """Return why this kernel does not read packs that lie in a directory, or None if it does.

    Args:
        place: A directory of the store's file system that may be written.
    """
    plain = [blake3(b"%d" % number).hexdigest(_TEXT_BYTES).encode() for number in range(_FRAMES)]
    pack, frames = _pack_of(plain)
    size = len(plain[0])
    contents = {
        Stretch((0,), 1_001, 3_000): plain[0][1_001:4_001],
        Stretch((0, 1), 70_000, size): (plain[0] + plain[1])[70_000 : 70_000 + size],
        Stretch((0, 2), 5, size + 6): (plain[0] + plain[2])[5 : size + 11],
        Stretch((2,), 0, size): plain[2],
    }
    files = {ObjectId(blake3(data).digest()): stretch for stretch, data in contents.items()}
    image = io.BytesIO()
    write_pack_image(frames, files, len(pack) // ALIGNMENT_BYTES, image, uuid=bytes(16))
    try:
        with _nameless(place, image.getvalue()) as one, _nameless(place, pack) as other:
            return _problem_of(one, other, list(files))
    except LayerstoreError as err:
        return err.message
    except OSError as err:
        return f"reading a trial pack: {err.strerror}"


def _pack_of(plain: list[bytes]) -> tuple[bytes, list[Frame]]:
    """Return bytes with a frame for each text, as a pack has them; and where those lie."""
    pack = bytearray(b"start")
    frames = []
    for text in plain:
        frame = compress_block(text)
        frames.append(Frame(len(pack), len(frame), len(text)))
        pack += frame
    return bytes(pack) + bytes(padding(len(pack))), frames


@contextlib.contextmanager
def _nameless(place: str, data: bytes) -> Iterator[int]:
    """Give an open file that has no name."""
    with tempfile.TemporaryFile(dir=place) as file:
        file.write(data)
        file.flush()
        yield file.fileno()


def _problem_of(image: int, pack: int, names: list[ObjectId]) -> str | None:
    root = mounts.create_erofs(image, devices=(pack,))
    try:
        for name in names:
            text = name.hex()
            with open(f"/proc/self/fd/{root}/{text[:2]}/{text}", "rb") as file:
                if blake3(file.read()).digest() != name:
                    return "EROFS reads other bytes from a trial pack than it holds"
    finally:
        os.close(root)
    return None
