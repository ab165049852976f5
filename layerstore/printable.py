"""Text of strangers made safe to show: on terminals, in reports, in file names.

On the fast path: nothing heavy is imported.
"""

from __future__ import annotations

from layerstore.light_re import Pattern
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import re

# C0 and C1 controls, DEL, line separators, and what turns the direction of writing.
_HARMFUL = Pattern(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return ``text`` with every character that acts instead of showing written as ``\x1b``."""
    if text.isascii() and text.isprintable():
        return text  # without the time that compiling takes
    return _HARMFUL.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    names = {9: r"\t", 10: r"\n", 13: r"\r"}
    return names.get(code) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
