r"""Finding the heredocs that an instruction's line opens.

BuildKit looks for words of the form ``[n]<<[-]delimiter`` after reading the line as
shell words with ``\`` as the escape, whatever the escape directive says. A line
that does not read as shell words (an open quote, ``${x^^}``) opens none.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from layerstore.build.dockerfile.shellword import ShellWord, WordError, WordLimitError
from layerstore.build.dockerfile.syntax import Heredoc

if TYPE_CHECKING:
    from collections.abc import Mapping

_OPENING = re.compile(r"([0-9]*)<<(-?)([^<]+)")
_NO_ENV: Mapping[str, str] = {}
_MAX_DESCRIPTOR_DIGITS = 9


def find_heredocs(text: str) -> list[Heredoc]:
    """Return the heredocs a logical line opens, in order, without their content."""
    if "<<" not in text:
        return []
    try:
        words = ShellWord(text, _NO_ENV, raw_quotes=True, raw_escapes=True, keep_unset=True).words()
    except (WordError, WordLimitError):
        return []
    found = (parse_heredoc(word) for word in words)
    return [heredoc for heredoc in found if heredoc is not None]


def parse_heredoc(word: str) -> Heredoc | None:
    """Return the heredoc a word opens, None when it opens none."""
    match = _OPENING.fullmatch(word) if "<<" in word else None
    if match is None:
        return None
    try:
        words = ShellWord(match[3], _NO_ENV, keep_unset=True).words()
        if len(words) != 1:
            return None
        raw = ShellWord(match[3], _NO_ENV, raw_quotes=True, keep_unset=True).words()
    except (WordError, WordLimitError):
        return None
    name = words[0]
    quotes_left = name.count("'") + name.count('"')
    expand = quotes_left == sum(part.count("'") + part.count('"') for part in raw)
    descriptor = int(match[1][-_MAX_DESCRIPTOR_DIGITS:] or "0")
    return Heredoc(name, "", expand, chomp=match[2] == "-", descriptor=descriptor)
