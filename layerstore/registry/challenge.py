"""What a server wants to see before it answers: the header ``WWW-Authenticate``.

Pure. Source: RFC 9110, section 11.6.1; RFC 6750, section 3.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_CHARACTERS = 16_384
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 -- a grammar's token
_PARAMETER = re.compile(rf'\s*({_TOKEN})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))\s*')
_SCHEME = re.compile(rf"\s*({_TOKEN})(?:\s+|$)")
_ESCAPE = re.compile(r"\\(.)")


class Challenge(NamedTuple):
    """One way in.

    Attributes:
        scheme: In small letters: ``bearer``, ``basic``.
        parameters: By their names in small letters.
    """

    scheme: str
    parameters: dict[str, str]


def parse_challenges(headers: list[str]) -> list[Challenge]:
    """Return the challenges of all such headers of a response; what is malformed is left out."""
    found: list[Challenge] = []
    for header in headers:
        if len(header) <= MAX_CHARACTERS:
            found += _of_header(header)
    return found


def _of_header(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    position = 0
    while position < len(header):
        scheme = _SCHEME.match(header, position)
        if scheme is None:
            return found
        position = scheme.end()
        parameters: dict[str, str] = {}
        while parameter := _PARAMETER.match(header, position):
            name, quoted, plain = parameter.groups()
            if name.lower() in parameters:  # two readers could take different ones
                return found
            parameters[name.lower()] = plain if quoted is None else _ESCAPE.sub(r"\1", quoted)
            position = parameter.end()
            if header[position : position + 1] != ",":
                break
            position += 1
        found.append(Challenge(scheme.group(1).lower(), parameters))
        if position < len(header) and not _SCHEME.match(header, position):
            return found
    return found
