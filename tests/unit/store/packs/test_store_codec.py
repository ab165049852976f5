from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from layerstore.errors import FormatError
from layerstore.formats.pack import BLOCK_MAX_BYTES
from layerstore.image.layers.hashing import DiffIdHasher
from layerstore.store.packs import codec
from layerstore.store.packs.codec import compress_block, decompress_block
from layerstore.store.store import Store
from tests.support.store import add_image, noise, text

if TYPE_CHECKING:
    from pathlib import Path

RAW = text(1, 50_000)


@pytest.mark.parametrize("raw", [b"x", RAW, noise(1, BLOCK_MAX_BYTES), bytes(BLOCK_MAX_BYTES)])
def test_frames_decode_and_obey_the_format(raw: bytes) -> None:
    frame = compress_block(raw)
    assert decompress_block(frame, len(raw)) == raw
    header = zstandard.get_frame_parameters(frame)
    assert header.has_checksum
    assert header.content_size == len(raw)
    assert header.window_size <= 1024 * 1024
    assert header.dict_id == 0
    assert compress_block(raw, verify=False) == frame


def frame_of(raw: bytes, **options: object) -> bytes:
    parameters = {"write_checksum": 1, "write_content_size": 1} | options
    return zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(3, **parameters)
    ).compress(raw)


class NoMemory:
    """As zstd answers where its own allocations fail."""

    def _fail(self, *_: object, **__: object) -> bytes:
        raise zstandard.ZstdError("cannot compress: Allocation error : not enough memory")

    compress = decompress = _fail


def test_lack_of_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = compress_block(RAW)
    monkeypatch.setattr(codec, "_decompressor", NoMemory)
    with pytest.raises(MemoryError):
        decompress_block(frame, len(RAW))
    monkeypatch.setattr(codec, "_compressor", lambda _level: NoMemory())
    with pytest.raises(MemoryError):
        compress_block(RAW)


def test_frames_that_break_the_format_are_refused() -> None:
    whole = frame_of(RAW)
    assert decompress_block(whole, len(RAW)) == RAW
    dictionary = zstandard.train_dictionary(4096, [text(n, 3000) for n in range(200)])
    with_dictionary = zstandard.ZstdCompressor(dict_data=dictionary).compress(RAW)
    stream = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    sizeless = stream.compress(RAW) + stream.flush()
    wide = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            3, window_log=24, write_checksum=1, write_content_size=1
        )
    )
    bad = {
        "no checksum": frame_of(RAW, write_checksum=0),
        "no size": sizeless,
        "dictionary": with_dictionary,
        "two frames": whole + whole,
        "something after it": whole + b"x",
        "cut": whole[:-1],
        "empty": b"",
        "garbage": noise(2, 1000),
        "skippable": b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd",
    }
    for frame in bad.values():
        with pytest.raises(FormatError):
            decompress_block(frame, len(RAW))
    large = wide.compress(bytes(4 * BLOCK_MAX_BYTES))
    for size in (len(RAW) - 1, 0, BLOCK_MAX_BYTES + 1, 4 * BLOCK_MAX_BYTES):
        with pytest.raises(FormatError):
            decompress_block(whole, size)
        with pytest.raises(FormatError):
            decompress_block(large, size)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_never_other_bytes(position: int, bit: int) -> None:
    raw = text(3, 9_000)
    frame = bytearray(compress_block(raw))
    frame[position % len(frame)] ^= 1 << bit
    with contextlib.suppress(FormatError):
        assert decompress_block(bytes(frame), len(raw)) == raw


def test_a_broken_encoder_commits_nothing(tmp_path, monkeypatch) -> None:
    real = codec._compressor(codec.COMPRESSION_LEVEL)

    class Broken:
        def __init__(self, level: int) -> None:
            pass

        def compress(self, raw: bytes | memoryview) -> bytes:
            return real.compress(bytes(raw[:-1]) + bytes([raw[-1] ^ 1]))

    with Store.open(tmp_path / "store", create=True) as store, store.begin("test") as session:
        monkeypatch.setattr(codec, "_compressor", Broken)
        session.put_bytes(RAW)
        with pytest.raises(FormatError, match="encoder"):
            session._finish_packs()
    assert list((tmp_path / "store" / "packs").iterdir()) == []


def test_a_thread_that_cannot_start_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(RuntimeError, match="can't start"):
        add_image(tmp_path / "store", "a", {b"f": RAW})
    with DiffIdHasher() as hasher:
        hasher.update(RAW)
        with pytest.raises(RuntimeError, match="can't start"):
            hasher.diff_id()
