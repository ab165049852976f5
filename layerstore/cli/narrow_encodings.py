"""Output where the locale has no Unicode: drawn lines become ASCII, and nothing fails.

Python writes UTF-8 in nearly every locale, and so in ``C``. Old locales and ``PYTHONIOENCODING``
can say otherwise; a character that such an encoding lacks would end the command in the middle.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import TextIOWrapper

_HANDLER = "layerstore.narrow"
_ASCII = {
    "─": "-", "│": "|", "├": "|", "└": "`", "┬": "-", "┼": "+", "…": ".", "·": ".", "→": ">",
    **dict.fromkeys("█▉▊▋▌▍▎▏░▒▓", "#"),
}  # fmt: skip


def substitute(error: UnicodeError) -> tuple[str, int]:
    """Return what is written for characters that an encoding lacks: a handler of codecs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_ASCII.get(each, f"\\u{ord(each):04x}") for each in text), error.end


def never_fail(stream: TextIOWrapper) -> None:
    """Let a stream write something for every character."""
    codecs.register_error(_HANDLER, substitute)
    stream.reconfigure(errors=_HANDLER)
