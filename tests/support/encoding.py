"""Trees and plans of recipes encoded in one piece: how tests say what streaming has to write."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from layerstore.formats.recipe import write_plan
from layerstore.formats.tree import MAGIC, VERSION, check_changeset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.formats.tree import Changeset


def encode_changeset(changeset: Changeset) -> bytes:
    """Return the one encoding of a changeset.

    Raises:
        FormatError: The changeset breaks a rule of the format.
    """
    check_changeset(changeset)
    wire = (changeset.entries, changeset.whiteouts, changeset.opaques)
    return MAGIC + bytes((VERSION,)) + msgspec.msgpack.encode(wire)


def encode_plan(steps: Sequence[tuple[int, int]], tail: int, own: Sequence[int]) -> bytes:
    """Return the beginning of a recipe, of (literal bytes, source) and so on."""
    pieces: list[bytes] = []
    head = write_plan(pieces.append, len(steps), steps, tail, own)
    return head + b"".join(pieces)
