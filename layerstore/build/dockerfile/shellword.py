"""Quotes, escapes and variables in one word, as BuildKit's shell lexer reads them.

The engine behind `expand` (the public functions) and behind the recognition of
heredocs. It is neither POSIX sh nor bash: ``$$`` is a variable that is never set,
an escape drops itself before any character outside quotes, and a modifier's word
is evaluated even when its value is not used.

Recursion is as deep as ``${...}`` nests, at most `limits.MAX_NESTING`; time is linear
in the text and what it expands to.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from layerstore.build.dockerfile import limits
from layerstore.build.dockerfile.lexer import SPACE
from layerstore.build.dockerfile.shellpattern import PatternSyntaxError, Wildcard

if TYPE_CHECKING:
    from collections.abc import Mapping

_SPECIAL_PARAMETERS = "@*#?-$!"
_NAME = re.compile(r"\d+|[^\W\d]\w*")  # \w is wider than letters and digits: see _take_name
_MODIFIERS = "-+?#%"


class WordError(Exception):
    """A word that cannot be expanded; ``offset`` says where in it."""

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


class WordLimitError(Exception):
    """A word that exceeds a limit."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(what)
        self.what = what
        self.limit = limit


class _Words:
    """Splits what is added into words: at white space that no quote or escape protects."""

    __slots__ = ("_current", "_in_word", "done")

    def __init__(self) -> None:
        self._current: list[str] = []
        self._in_word = False
        self.done: list[str] = []

    def add(self, text: str) -> None:
        for part in _SPACES.split(text) if text else ():
            if not part:
                continue
            if part[0] in SPACE:
                self._end()
            else:
                self.add_protected(part)

    def add_protected(self, text: str) -> None:
        if text:
            self._current.append(text)

    def _end(self) -> None:
        if self._current:
            self.done.append("".join(self._current))
            self._current.clear()

    def finish(self) -> list[str]:
        self._end()
        return self.done


_SPACES = re.compile(f"([{SPACE}]+)")


@lru_cache(maxsize=64)
def _plain_run(special: str) -> re.Pattern[str]:
    return re.compile(f"[^{re.escape(special)}]+")


class ShellWord:
    """One word being read.

    Args:
        text: The word.
        env: Values of variables.
        escape: The escape character.
        raw_quotes: Keep quotes in the result.
        raw_escapes: Keep escapes in the result.
        keep_unset: Leave references to unset variables as written.
        no_quotes: Quotes are ordinary characters (heredoc contents).
        limit: How many characters variables may add up to.
        check: Only look for mistakes of syntax: values are unknown, so ``${a:?}``
            and patterns made of variables fail nothing.

    Attributes:
        from_variables: How many characters variables brought so far.
        unset: Names of unset variables whose value was wanted, in order; ``${a:-w}`` and its
            like ask whether there is one and so want none.
    """

    __slots__ = (
        "_check",
        "_depth",
        "_env",
        "_escape",
        "_keep_unset",
        "_limit",
        "_no_quotes",
        "_position",
        "_raw_escapes",
        "_raw_quotes",
        "_text",
        "from_variables",
        "unset",
    )

    def __init__(
        self,
        text: str,
        env: Mapping[str, str],
        escape: str = "\\",
        *,
        raw_quotes: bool = False,
        raw_escapes: bool = False,
        keep_unset: bool = False,
        no_quotes: bool = False,
        check: bool = False,
        limit: int = limits.MAX_EXPANDED_CHARS,
    ) -> None:
        self._text = text
        self._env = env
        self._escape = escape
        self._raw_quotes = raw_quotes
        self._raw_escapes = raw_escapes
        self._keep_unset = keep_unset
        self._no_quotes = no_quotes
        self._check = check
        self._limit = limit
        self._position = 0
        self._depth = 0
        self.from_variables = 0
        self.unset: list[str] = []

    def value(self) -> str:
        """Return the expanded text.

        Raises:
            WordError: Unclosed quote or brace, unknown modifier, ``${a:?}``, bad pattern.
            WordLimitError: Too long or nested too deep.
        """
        return self._until("", None, raw_escapes=self._raw_escapes)

    def words(self) -> list[str]:
        """Return the expanded text split into words; raises as `value`."""
        words = _Words()
        self._until("", words, raw_escapes=self._raw_escapes)
        return words.finish()

    def _until(self, stop: str, words: _Words | None, *, raw_escapes: bool) -> str:
        """Read to ``stop`` (to the end if empty) and return what it stands for."""
        before = self._raw_escapes
        self._raw_escapes = raw_escapes
        out: list[str] = []
        start = self._position
        text = self._text
        quotes = "" if self._no_quotes else "'\""
        plain = _plain_run(f"${quotes}{self._escape}{stop}")
        while self._position < len(text):
            char = text[self._position]
            if char == stop:
                self._position += 1
                self._raw_escapes = before
                return "".join(out)
            if char == "$":
                part = self._dollar()
                if words is not None:
                    words.add(part)
            elif char in quotes:
                part = self._single_quoted() if char == "'" else self._double_quoted()
                if words is not None:
                    words.add_protected(part)
            elif char == self._escape:
                part = self._escaped()
                if words is not None:
                    words.add_protected(part)
            else:
                match = plain.match(text, self._position)
                assert match is not None
                part = match[0]
                self._position = match.end()
                if words is not None:
                    words.add(part)
            out.append(part)
        if stop:
            raise WordError(f"missing {stop!r}", start)
        return "".join(out)

    def _escaped(self) -> str:
        """Read an escape and the character behind it; at the end of the word it is nothing."""
        kept = self._escape if self._raw_escapes else ""
        following = self._text[self._position + 1 : self._position + 2]
        self._position += 2
        return kept + following

    def _single_quoted(self) -> str:
        start = self._position
        end = self._text.find("'", start + 1)
        if end < 0:
            raise WordError("the single quote is not closed", start)
        self._position = end + 1
        return self._text[start : end + 1] if self._raw_quotes else self._text[start + 1 : end]

    def _double_quoted(self) -> str:
        start = self._position
        text = self._text
        plain = _plain_run(f'$"{self._escape}')
        out = ['"'] if self._raw_quotes else []
        self._position += 1
        while self._position < len(text):
            char = text[self._position]
            if char == '"':
                self._position += 1
                if self._raw_quotes:
                    out.append(char)
                return "".join(out)
            if char == "$":
                out.append(self._dollar())
            elif char == self._escape:
                out.append(self._escaped_in_quotes())
            else:
                match = plain.match(text, self._position)
                assert match is not None
                out.append(match[0])
                self._position = match.end()
        raise WordError("the double quote is not closed", start)

    def _escaped_in_quotes(self) -> str:
        """Inside double quotes only ``"``, ``$`` and the escape itself can be escaped."""
        kept = self._escape if self._raw_escapes else ""
        following = self._text[self._position + 1 : self._position + 2]
        self._position += 1
        if not following:
            return kept
        if following in ('"', "$", self._escape):
            self._position += 1
            return kept + following
        return kept + self._escape

    def _dollar(self) -> str:
        """Read ``$name`` or ``${...}`` and return its value."""
        start = self._position
        self._position += 1
        if self._peek() != "{":
            name = self._take_name()
            if not name:
                return "$"
            return self._lookup(name, f"${name}")
        self._depth += 1
        if self._depth > limits.MAX_NESTING:
            raise WordLimitError("variables are nested too deep", limits.MAX_NESTING)
        value = self._braced(start)
        self._depth -= 1
        return value

    def _braced(self, start: int) -> str:
        self._position += 1
        if self._peek() in ("", "{", "}", ":"):
            reason = "missing '}'" if not self._peek() else "bad substitution"
            raise WordError(reason, start)
        name = self._take_name()
        modifier = self._take()
        if modifier == "}":
            return self._lookup(name, f"${{{name}}}")
        positional = name[:1].isdecimal() or (bool(name) and name in _SPECIAL_PARAMETERS)
        if positional and not self._keep_unset:
            raise WordError(f"${{{name}}} has no value here, so it takes no modifier", start)
        if modifier == "/":
            return self._replace(name, start)
        colon = modifier == ":"
        if colon:
            modifier = self._take()
        if modifier not in _MODIFIERS or not modifier:
            if not modifier:
                raise WordError("missing '}'", start)
            written = f":{modifier}" if colon else modifier
            raise WordError(f"unknown modifier {written!r} in a substitution", start)
        word = self._operand("}", start, raw_escapes=modifier in "#%")
        return self._modified(name, modifier, word, start, colon=colon)

    def _operand(self, stop: str, start: int, *, raw_escapes: bool) -> str:
        try:
            return self._until(stop, None, raw_escapes=raw_escapes)
        except WordError as err:
            if err.reason == f"missing {stop!r}":
                raise WordError(err.reason, start) from None
            raise

    def _modified(self, name: str, modifier: str, word: str, start: int, *, colon: bool) -> str:
        value = self._env.get(name)
        if value is None and self._keep_unset:
            return f"${{{name}{':' if colon else ''}{modifier}{word}}}"
        missing = value is None or (colon and not value)
        if modifier == "-":
            return word if missing else self._charge(value or "")
        if modifier == "+":
            return "" if missing else word
        if modifier == "?":
            if missing and not self._check:
                state = "unset" if value is None else "empty"
                raise WordError(f"{name}: {word or f'must not be {state}'}", start)
            return self._charge(value or "")
        return self._trimmed(self._wanted(name), modifier, word, start)

    def _wanted(self, name: str) -> str:
        """Return a value that is wanted, "" with a note when there is none."""
        value = self._env.get(name)
        if value is None:
            self.unset.append(name)
        return value or ""

    def _trimmed(self, value: str, modifier: str, word: str, start: int) -> str:
        longest = word[:1] == modifier
        pattern = self._pattern(word[1:] if longest else word, start)
        self._charge(value)
        if pattern is None:
            return value
        if modifier == "%":
            return pattern.without_suffix(value, longest=longest)
        return pattern.without_prefix(value, longest=longest)

    def _replace(self, name: str, start: int) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._position += 1
        written = self._operand("/", start, raw_escapes=True)
        replacement = self._operand("}", start, raw_escapes=True)
        value = self._env.get(name)
        if value is None and self._keep_unset:
            return f"${{{name}/{'/' if everywhere else ''}{written}/{replacement}}}"
        value = self._wanted(name)
        pattern = self._pattern(written, start)
        self._charge(value)
        if pattern is None:
            return value
        budget = self._limit
        replaced = pattern.replace(value, replacement, everywhere=everywhere, budget=budget)
        if replaced is None:
            raise WordLimitError("the word expands to too many characters", budget)
        self._charge(replaced[len(value or "") :])
        return replaced

    def _pattern(self, written: str, start: int) -> Wildcard | None:
        if len(written) > limits.MAX_PATTERN_CHARS:
            raise WordLimitError("the pattern is too long", limits.MAX_PATTERN_CHARS)
        if self._check:
            return None
        try:
            return Wildcard(written)
        except PatternSyntaxError as err:
            raise WordError(f"bad pattern {written!r}: {err}", start) from None

    def _lookup(self, name: str, written: str) -> str:
        value = self._env.get(name)
        if value is None:
            self.unset.append(name)
            return written if self._keep_unset else ""
        return self._charge(value)

    def _charge(self, value: str) -> str:
        """Count an expansion: many long values in one word are not worth the memory."""
        self.from_variables += len(value)
        if self.from_variables > self._limit:
            raise WordLimitError("the word expands to too many characters", self._limit)
        return value

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _take(self) -> str:
        char = self._peek()
        self._position += 1
        return char

    def _take_name(self) -> str:
        """Read a name: digits, one special parameter, or letters, digits and ``_``."""
        char = self._peek()
        if char and char in _SPECIAL_PARAMETERS:
            self._position += 1
            return char
        match = _NAME.match(self._text, self._position)
        if match is None:
            return ""
        name = match[0]
        if not name.isascii():
            # \w also takes numbers that are not digits (superscripts); they end a name.
            cut = next((i for i, c in enumerate(name) if not _in_name(c)), len(name))
            name = name[:cut]
        self._position += len(name)
        return name


def _in_name(char: str) -> bool:
    return char == "_" or char.isalpha() or char.isdecimal()
