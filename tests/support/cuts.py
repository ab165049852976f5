"""Where content that is held whole is cut."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

from layerstore.chunking.cutter import cut_stream

if TYPE_CHECKING:
    from layerstore.chunking.cutter import CutParameters


def cut_lengths(data: bytes, cuts: CutParameters) -> list[int]:
    """Return the chunk lengths of whole content, in order."""
    return [len(chunk) for chunk in cut_stream(BytesIO(data).read, len(data), cuts)]
