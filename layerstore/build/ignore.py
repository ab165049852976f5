r"""Which paths of a build context the rules of a ``.dockerignore`` leave out.

Also the glob matching of COPY and ADD sources and of ``--exclude``. Pure: the walk
over the files is the build context's business.

Rules apply in order and the last one that matches decides; a rule that matches a
directory decides for what lies below, until a later rule says otherwise. As in
BuildKit, a rule is only asked where it could change the verdict so far, so
``!x`` behind ``x/y`` does not bring ``x/y`` back.

An `IgnoreRules` keeps verdicts of directories it has seen. Several threads may ask one.

Source: docker's ".dockerignore file"; github.com/moby/patternmatcher,
``MatchesUsingParentResults``.
"""

from __future__ import annotations

import os
import posixpath
from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.lexer import SPACE
from layerstore.build.dockerfile.syntax import SourceSpan
from layerstore.build.globs import SPECIAL, Automaton, PatternError, Star, Token, tokenize
from layerstore.errors import LimitExceededError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_FILE_BYTES = 10 * 2**20
MAX_RULES = 200_000
_MAX_REMEMBERED = 1_024  # directories; a walk needs only those it is in


class _Run:
    """Neighbouring rules of one sign: for them only matters whether any matches."""

    __slots__ = ("_automaton", "_globs", "_literals", "_sorted", "negated")

    def __init__(self, *, negated: bool) -> None:
        self.negated = negated
        self._literals: set[str] = set()
        self._globs: list[list[Token]] = []
        self._automaton: Automaton | None = None
        self._sorted: list[str] = []

    def add(self, pattern: str) -> None:
        if SPECIAL.isdisjoint(pattern):
            self._literals.add(pattern)
        else:
            self._globs.append(_ignore_tokens(pattern))

    def freeze(self) -> None:
        self._automaton = Automaton(self._globs) if self._globs else None
        self._sorted = sorted(self._literals) if self.negated else []
        self._globs = []

    def matches(self, path: str) -> bool:
        if path in self._literals:
            return True
        return self._automaton is not None and self._automaton.matches(path)

    def may_match_below(self, folder: str) -> bool:
        prefix = f"{folder}/"
        at = bisect_left(self._sorted, prefix)
        if at < len(self._sorted) and self._sorted[at].startswith(prefix):
            return True
        return self._automaton is not None and bool(self._automaton.run(prefix))


def _ignore_tokens(pattern: str) -> list[Token]:
    tokens = tokenize(pattern, double_star=True)
    # ``**name`` with nothing else special is a plain suffix: it matches ``a/bname`` too.
    if pattern.startswith("**") and not pattern.startswith("**/"):
        rest = pattern[2:]
        if rest and SPECIAL.isdisjoint(rest) and "]" not in rest:
            tokens[0] = Star.ANY
    return tokens


class IgnoreRules:
    """Compiled rules. Make them with `parse` or `from_patterns`."""

    def __init__(self, runs: Iterable[_Run] = ()) -> None:
        self._runs = list(runs)
        for run in self._runs:
            run.freeze()
        self._remembered: dict[str, tuple[frozenset[int], bool]] = {}

    def __bool__(self) -> bool:
        return bool(self._runs)

    @classmethod
    def parse(cls, data: bytes, filename: str = ".dockerignore") -> IgnoreRules:
        """Return the rules of a ``.dockerignore``.

        Lines beginning with ``#`` and empty ones say nothing; white space around a
        rule, a leading and a trailing slash do not count.

        Args:
            data: The file's bytes; bytes that are not UTF-8 match themselves.
            filename: How errors call it.

        Raises:
            SpecError: A malformed pattern, or ``!`` with nothing behind it.
            LimitExceededError: Longer than `MAX_FILE_BYTES`, or more than `MAX_RULES`.
        """
        start = SourceSpan(filename, 1, 1, 1)
        if len(data) > MAX_FILE_BYTES:
            what = f"{start}: the file has {len(data):,} bytes (limit {MAX_FILE_BYTES:,})"
            raise LimitExceededError(what)
        text = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))
        rules = []
        for number, line in enumerate(text.split("\n"), start=1):
            if not line.startswith("#") and (rule := line.strip(SPACE)):
                rules.append((rule, SourceSpan(filename, number, 1, number, line)))
        return cls(_compile(rules))

    @classmethod
    def from_patterns(cls, patterns: Iterable[str], span: SourceSpan) -> IgnoreRules:
        """Return the rules of ``--exclude`` flags; ``span`` is where errors point."""
        return cls(_compile((pattern.strip(SPACE), span) for pattern in patterns))

    def excluded(self, path: str | bytes, is_dir: bool = False) -> bool:  # noqa: ARG002
        """Whether the rules leave a path out.

        Args:
            path: Relative to the context's root, no leading slash; the root is never out.
            is_dir: Accepted for callers' convenience: rules do not tell files from directories.
        """
        text = _text(path)
        return bool(text) and self._verdict(text)[1]

    def may_contain_included(self, folder: str | bytes) -> bool:
        """Whether a walker must enter a directory: something below may not be left out."""
        text = _text(folder)
        if not text or not self._verdict(text)[1]:
            return True
        return any(run.negated and run.may_match_below(text) for run in self._runs)

    def _verdict(self, path: str) -> tuple[frozenset[int], bool]:
        """Return which runs matched the path or a parent, and the verdict.

        Walks up to the nearest directory that is remembered and down again, so that
        depth costs no recursion.
        """
        waiting: list[str] = []
        # Asked once: another thread may make room at any moment.
        known = None
        while path and (known := self._remembered.get(path)) is None:
            waiting.append(path)
            path = path.rpartition("/")[0]
        result = known or (frozenset(), False)
        if len(self._remembered) > _MAX_REMEMBERED:
            self._remembered.clear()
        for each in reversed(waiting):
            result = self._judge(each, result[0])
            self._remembered[each] = result
        return result

    def _judge(self, path: str, above: frozenset[int]) -> tuple[frozenset[int], bool]:
        matched = []
        out = False
        for index, run in enumerate(self._runs):
            if index in above or (run.negated == out and run.matches(path)):
                matched.append(index)
                out = not run.negated
        return (above if len(matched) == len(above) else frozenset(matched)), out


def _compile(rules: Iterable[tuple[str, SourceSpan]]) -> list[_Run]:
    runs: list[_Run] = []
    count = 0
    for rule, span in rules:
        count += 1
        if count > MAX_RULES:
            raise LimitExceededError(f"{span}: there are too many rules (limit {MAX_RULES:,})")
        negated = rule.startswith("!")
        pattern = _clean(rule[1:].strip(SPACE) if negated else rule)
        if not pattern:
            if negated:
                raise SpecError("! needs a pattern", span, hint="!keep/this")
            continue
        if not runs or runs[-1].negated != negated:
            runs.append(_Run(negated=negated))
        try:
            runs[-1].add(pattern)
        except PatternError as err:
            hint = r"escape a literal [ as \["
            raise SpecError(err.message, span, hint=hint) from err
        except LimitExceededError as err:
            raise LimitExceededError(f"{span}: {err.message}") from err
    return runs


def _clean(pattern: str) -> str:
    """Return the pattern without ``.``, ``..``, double, leading and trailing slashes."""
    if not pattern:
        return ""
    cleaned = posixpath.normpath(pattern)
    stripped = cleaned.lstrip("/")
    return stripped or cleaned


def _text(path: str | bytes) -> str:
    text = os.fsdecode(path) if isinstance(path, bytes) else path
    text = text.strip("/")
    return "" if text == "." else text


@lru_cache(maxsize=256)
def _source_automaton(pattern: str) -> Automaton:
    return Automaton([tokenize(pattern, double_star=False)])


def match_source(pattern: str, path: str | bytes) -> bool:
    r"""Whether a path matches a COPY or ADD source pattern (Go's ``filepath.Match``).

    ``*`` and ``?`` do not cross ``/``, ``[a-z]`` and ``[^a-z]`` are classes, and ``\``
    escapes.

    Raises:
        PatternError: The pattern is malformed.
        LimitExceededError: It is longer than a path can be.
    """
    text = os.fsdecode(path) if isinstance(path, bytes) else path
    return _source_automaton(pattern).matches(text)


def has_wildcards(pattern: str) -> bool:
    """Whether a source is a pattern to be matched and not simply a path."""
    position = 0
    while position < len(pattern):
        if pattern[position] == "\\":
            position += 1
        elif pattern[position] in "*?[":
            return True
        position += 1
    return False


def unescape_source(pattern: str) -> str:
    r"""Return the path that a source without wildcards names: ``\[`` is ``[``."""
    out: list[str] = []
    position = 0
    while position < len(pattern):
        if pattern[position] == "\\" and position + 1 < len(pattern):
            position += 1
        out.append(pattern[position])
        position += 1
    return "".join(out)
