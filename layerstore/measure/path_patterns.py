"""Patterns of paths inside images, as people type them. Pure.

``*`` and ``?`` stay within a name, ``**`` crosses directories, ``[a-z]`` is one of some bytes. A
pattern without a slash is for the last name, wherever it lies, as of ``find -name``; one with a
slash is for the whole path.
"""

from __future__ import annotations

import re
from typing import Final

from layerstore.errors import InputError

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


def _translated(body: bytes) -> bytes:
    out: list[bytes] = []
    at = 0
    while at < len(body):
        if body.startswith(b"**/", at) and (at == 0 or body[at - 1 : at] == b"/"):
            out.append(b"(?:.*/)?")
            at += 3
        elif body.startswith(b"**", at):
            out.append(b".*")
            at += 2
        elif body[at : at + 1] == b"*":
            out.append(b"[^/]*")
            at += 1
        elif body[at : at + 1] == b"?":
            out.append(b"[^/]")
            at += 1
        elif body[at : at + 1] == b"[" and (end := body.find(b"]", at + 2)) > 0:
            out.append(_one_of(body[at + 1 : end]))
            at = end + 1
        else:
            out.append(re.escape(body[at : at + 1]))
            at += 1
    return b"".join(out)


def _one_of(inside: bytes) -> bytes:
    negated = inside[:1] in (b"!", b"^")
    members = inside[1:] if negated else inside
    # A set of ours is only a list of bytes and ranges: what is more to Python's is escaped.
    escaped = re.sub(rb"[\\\[\]&~|^]", rb"\\\g<0>", members).replace(b"--", b"-\\-")
    return b"(?!/)[" + (b"^" if negated else b"") + escaped + b"]"
