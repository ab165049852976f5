"""What the value of a step's row begins with: whether facts follow, or the key that has them.

A step that copies from a stage has two keys; the facts are with the second, and the first refers
to it. Format: docs/format/build-cache.md, "Facts of a step".
"""

from __future__ import annotations

import msgspec

FORMAT = 1
FACTS_HEAD = bytes((FORMAT, 0))
ALIAS_HEAD = bytes((FORMAT, 1))


def encode_alias(key: str) -> bytes:
    """Return the bytes that refer to the facts of another key."""
    return ALIAS_HEAD + msgspec.msgpack.encode((key,))


def alias_of(value: bytes) -> str | None:
    """Return the key that bytes refer to, None when they are no reference."""
    if not value.startswith(ALIAS_HEAD):
        return None
    try:
        (key,) = msgspec.msgpack.decode(value[len(ALIAS_HEAD) :], type=tuple[str])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return key
