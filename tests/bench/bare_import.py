"""``layerstore`` without decode-and-compare and without diff IDs, to measure what these cost.

    python -m tests.bench.bare_import --store DIR import SOURCE -t NAME

Takes a command line of layerstore's. Blocks are written as the encoder made them, and layers
get random numbers for digests, so whatever store this writes is good for nothing: the
benchmark throws it away. There is no such switch in layerstore itself.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import TYPE_CHECKING, Self

from layerstore.cli import main
from layerstore.digest import DiffId, Digest
from layerstore.image.layers import hashing
from layerstore.store.packs import codec, pipeline

if TYPE_CHECKING:
    from collections.abc import Sized


class NoHasher:
    """Stands where :class:`layerstore.image.layers.hashing.DiffIdHasher` does, and only counts."""

    def __init__(self) -> None:
        self.size = 0

    def update(self, *pieces: Sized) -> None:
        self.size += sum(map(len, pieces))

    def diff_id(self) -> DiffId:
        return DiffId(Digest("sha256:" + os.urandom(32).hex()))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def strip() -> None:
    """Take both out of this process, before anything imports them by name."""
    hashing.DiffIdHasher = NoHasher  # type: ignore[misc, assignment]
    assert pipeline.compress_block is codec.compress_block
    pipeline.compress_block = functools.partial(codec.compress_block, verify=False)
    assert "layerstore.image.layers.layer_writer" not in sys.modules
    assert "layerstore.image.layers.ingest_tar" not in sys.modules


if __name__ == "__main__":
    strip()
    sys.exit(main.main())
