"""Patterns of paths inside images, as people type them. Pure.

``*`` and ``?`` stay within a name, ``**`` crosses directories, ``[a-z]`` is one of some bytes. A
pattern without a slash is for the last name, wherever it lies, as of ``find -name``; one with a
slash is for the whole path.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PATTERN_MAX_BYTES: Final = 4096
"""As long as paths may be."""


def path_pattern(text: bytes) -> re.Pattern[bytes]:
    """Return what matches whole paths relative to the root.

    Raises:
        InputError: It is empty, too long, or malformed.
    """
    body = text.strip(b"/")
    if not body or len(text) > PATTERN_MAX_BYTES:
        raise InputError(
            f"a pattern of {len(text)} bytes names no path",
            hint="layerstore find '/etc/ssl/**/*.pem', or a name: layerstore find id_rsa",
        )
    anywhere = b"" if b"/" in text else b"(?:.*/)?"
    try:
        return re.compile(anywhere + _translated(body), re.DOTALL)
    except re.error as err:
        raise InputError(f"{text!r} is no pattern: {err}") from err


class _Token(NamedTuple):
    """A piece: its kind is ``/``, ``**/``, ``**``, ``*``, or nothing for one byte."""

    kind: bytes
    match: bytes


_STAR = _Token(b"*", b"[^/]*")
_STARS = _Token(b"**", b".*")
_DIRECTORIES = _Token(b"**/", b"(?:.*/)?")


def _translated(body: bytes) -> bytes:
    """Return the expression of a pattern.

    What a wildcard passes over before another one that may stand in for it is never tried again
    (``(?>...)``): the first match is as good as any. Else a hostile path could cost its length to
    the power of their number, as it does not in :func:`fnmatch.translate` either.
    """
    tokens = list(_tokens(body))
    borders = [at for at, token in enumerate(tokens) if token is _DIRECTORIES]
    if _STARS in tokens:  # may be in the way of both
        borders = []
    out: list[bytes] = []
    at = 0
    for border, after in pairwise(borders):
        out.append(_in_names(tokens[at:border]))
        out.append(b"(?>(?:[^/]*/)*?" + _in_names(tokens[border + 1 : after]) + b")")
        at = after
    return b"".join([*out, _in_names(tokens[at:])])


def _in_names(tokens: Sequence[_Token]) -> bytes:
    out: list[bytes] = []
    at = 0
    while at < len(tokens):
        end = at + 1
        if tokens[at] is _STAR:
            while end < len(tokens) and tokens[end].kind == b"":
                end += 1
        run = b"".join(token.match for token in tokens[at + 1 : end])
        if end < len(tokens) and tokens[at] is _STAR is tokens[end]:
            out.append(b"(?>[^/]*?" + run + b")")
        else:
            out.append(tokens[at].match + run)
        at = end
    return b"".join(out)


def _tokens(body: bytes) -> Iterator[_Token]:
    at = 0
    while at < len(body):
        if body.startswith(b"**/", at) and (at == 0 or body[at - 1 : at] == b"/"):
            yield _DIRECTORIES
            at += 3
        elif body.startswith(b"**", at):
            yield _STARS
            at += 2
        elif body[at : at + 1] == b"*":
            yield _STAR
            at += 1
        elif body[at : at + 1] == b"?":
            yield _Token(b"", b"[^/]")
            at += 1
        elif body[at : at + 1] == b"/":
            yield _Token(b"/", b"/")
            at += 1
        elif body[at : at + 1] == b"[" and (end := body.find(b"]", at + 2)) > 0:
            yield _Token(b"", _one_of(body[at + 1 : end]))
            at = end + 1
        else:
            yield _Token(b"", re.escape(body[at : at + 1]))
            at += 1


def _one_of(inside: bytes) -> bytes:
    negated = inside[:1] in (b"!", b"^")
    members = inside[1:] if negated else inside
    # A set of ours is only a list of bytes and ranges: what is more to Python's is escaped.
    escaped = re.sub(rb"[\\\[\]&~|^]", rb"\\\g<0>", members).replace(b"--", b"-\\-")
    return b"(?!/)[" + (b"^" if negated else b"") + escaped + b"]"
