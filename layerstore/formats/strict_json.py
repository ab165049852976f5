"""JSON from strangers, read without guessing, and JSON of ours, written one way only.

The standard reader lets the last of two equal keys win, takes NaN and follows
nesting until the stack ends; two programs then read one text differently, which
is how signed manifests have been given two meanings. Here anything ambiguous is
refused. Pure functions over bytes; safe from any thread.

Source: RFC 8259; RFC 7493 (I-JSON) for what is refused beyond it.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from layerstore.errors import FormatError, LimitExceededError

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
"""The largest manifest or config that registries exchange (OCI distribution spec, "Push")."""

MAX_DEPTH = 100
"""Nesting that no manifest reaches; deeper text is an attack on recursive readers."""

MAX_NUMBER_CHARACTERS = 64
"""A 64-bit integer takes 20; converting longer ones costs quadratic time."""

# Possessive: without it the matcher keeps a mark per character, 100 times the text's size.
_STRUCTURE = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]|[\]}]', re.DOTALL)


def decode(raw: bytes, what: str, *, limit_bytes: int = MAX_DOCUMENT_BYTES) -> object:
    """Return the value of a JSON text, or refuse the text.

    Args:
        raw: The text as it came.
        what: What the text is, for messages: ``"image manifest"``.
        limit_bytes: The longest text that is looked at.

    Raises:
        FormatError: Not UTF-8, a byte order mark, a syntax error, a key twice in one
            object, NaN, an infinite or overlong number, half a surrogate pair.
        LimitExceededError: Longer than ``limit_bytes`` or nested deeper than ``MAX_DEPTH``.
    """
    if len(raw) > limit_bytes:
        raise LimitExceededError(
            f"{what} has {len(raw)} bytes, more than the limit of {limit_bytes}"
        )
    _check_depth(raw, what)
    try:
        value: object = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_int,
        )
    except (ValueError, RecursionError) as err:
        raise FormatError(f"{what} is not valid JSON: {_reason(err)}") from err
    if b"\\ud" in raw.lower():
        _refuse_half_surrogates(value, what)
    return value


def encode(value: object) -> bytes:
    """Return the one encoding of a value: UTF-8, keys sorted, no spaces, few escapes.

    Image ids are digests of this text, so any change of it is a format break.
    """
    text = json.dumps(
        value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    return text.encode("utf-8")


def _check_depth(raw: bytes, what: str) -> None:
    depth = 0
    for match in _STRUCTURE.finditer(raw):
        first = raw[match.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise LimitExceededError(f"{what} is nested deeper than the limit of {MAX_DEPTH}")
        elif first in b"]}":
            depth -= 1


def _object_without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"key {key[:100]!r} appears twice in one object")
            seen.add(key)
    return result


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite_float(text: str) -> float:
    value = float(text) if len(text) <= MAX_NUMBER_CHARACTERS else float("inf")
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"number {text[:MAX_NUMBER_CHARACTERS]} is out of range")
    return value


def _bounded_int(text: str) -> int:
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise ValueError(f"number {text[:MAX_NUMBER_CHARACTERS]} is out of range")
    return int(text)


def _refuse_half_surrogates(value: object, what: str) -> None:
    # Only escapes can smuggle them past the UTF-8 decoder; such text has no bytes of its own.
    try:
        encode(value)
    except UnicodeEncodeError as err:
        raise FormatError(f"{what} holds half of a surrogate pair") from err


def _reason(err: ValueError | RecursionError) -> str:
    if isinstance(err, UnicodeDecodeError):
        return f"not UTF-8 at byte {err.start}"
    return str(err)
