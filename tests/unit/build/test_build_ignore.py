""".dockerignore rules and source patterns, by docker's own behaviour."""

import time

import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.syntax import SourceSpan
from layerstore.build.globs import PatternError
from layerstore.build.ignore import (
    MAX_RULES,
    IgnoreRules,
    has_wildcards,
    match_source,
    unescape_source,
)
from layerstore.errors import LimitExceededError


def rules(*lines: str) -> IgnoreRules:
    return IgnoreRules.parse("\n".join(lines).encode())


@pytest.mark.parametrize(
    ("pattern", "path", "out"),
    [
        ("**", "file", True),
        ("**/", "file", True),
        ("**", "dir/file", True),
        ("**/**", "dir/file", True),
        ("dir/**", "dir/file", True),
        ("dir/**", "dir/dir2/file", True),
        ("dir/**", "dir", False),
        ("**/dir", "dir", True),
        ("**/dir", "dir/file", True),
        ("**/dir", "a/dir/file", True),
        ("**/dir", "adir", False),
        ("**/dir2/*", "dir/dir2/file", True),
        ("**/dir2/*", "dir/dir2", False),
        ("**/dir2/**", "dir/dir2/dir3/file", True),
        ("**file", "file", True),
        ("**file", "dir/file", True),
        ("**file", "dir/afile", True),
        ("**/file*", "dir/dir/file.txt", True),
        ("**/file*txt", "dir/dir/file.txt", True),
        ("**/**/*.txt", "dir/dir/file.txt", True),
        ("**/**/*.txt", "file.txt", True),
        ("**/**/*.txt2", "dir/file.txt", False),
        ("a**/*.txt", "a/dir/dir/file.txt", True),
        ("a**b", "a/x/b", True),
        ("a**b", "axb", False),
        ("a/*.txt", "a/dir/file.txt", False),
        ("a/*.txt**", "a/file.txt", True),
        ("***", "a/b", True),
        ("a[b-d]e", "ace", True),
        ("a[b-d]e", "aae", False),
        ("a[^b-d]e", "aze", True),
        ("a[]]e", "a]e", None),
        ("abc.def", "abcZdef", False),
        ("abc?def", "abcZdef", True),
        ("abc?def", "abc/def", False),
        ("a(b)c/def", "a(b)c/def", True),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
        ("a\\*b", "a*b", True),
        ("a\\*b", "axb", False),
        ("/lead", "lead", True),
        ("//lead/", "lead/x", True),
        ("./a/../b", "b", True),
        ("trail/", "trail/x", True),
        ("  spaced  ", "spaced", True),
        (".", "a", False),
        ("/", "a", False),
        ("../a", "a", False),
        ("*", "a/b/c", True),
        ("?", "ab", False),
        ("caf\u00e9*", "caf\u00e9s", True),
    ],
)
def test_one_rule(pattern: str, path: str, out: bool | None) -> None:
    if out is None:
        with pytest.raises(SpecError):
            rules(pattern)
    else:
        assert rules(pattern).excluded(path) is out


@pytest.mark.parametrize(
    ("lines", "path", "out"),
    [
        (["*.go", "!x.go"], "x.go", False),
        (["!x.go", "*.go"], "x.go", True),
        (["docs", "!docs/README.md"], "docs/README.md", False),
        (["docs", "!docs/README.md"], "docs/other", True),
        (["docs/*", "!docs/README.md"], "docs/README.md", False),
        (["**", "!a/b"], "a/b/c", False),
        (["**", "!a/b", "a/b/c"], "a/b/c", True),
        (["**", "!a/*.whl"], "a/x+y.whl", False),
        (["a", "!a/b/**"], "a/b/c/d", False),
        (["a", "!a/b/**", "a/b/c/*"], "a/b/c/d", True),
        (["x/y", "!x"], "x/y", True),
        (["# a", "a"], "a", True),
        ([" # a"], "# a", True),
        (["! a", "b"], "a", False),
        (["*", "! /a"], "a", False),
        ([], "a", False),
    ],
)
def test_rules_in_order(lines: list[str], path: str, out: bool) -> None:
    assert rules(*lines).excluded(path) is out


def test_bytes_bom_and_crlf() -> None:
    made = IgnoreRules.parse(b"\xef\xbb\xbfa\r\n\xff*\r\n")
    assert made.excluded(b"a")
    assert made.excluded(b"\xffx", is_dir=True)
    assert not made.excluded(b"b")
    assert not made.excluded(b".")
    assert not made.excluded("")


@pytest.mark.parametrize(
    ("lines", "folder", "enter"),
    [
        (["a"], "b", True),
        (["a"], "a", False),
        (["a", "!a/b/c"], "a", True),
        (["a", "!a/b/c"], "a/b", True),
        (["a", "!a/b/c"], "a/x", False),
        (["a", "!**/keep"], "a/x", True),
        (["a", "!a/*/keep"], "a/x", True),
        (["a", "!a/*/keep"], "a/x/y", False),
        (["a", "!b"], "a", False),
        (["*", "!ab"], "a", False),
        (["*"], "", True),
    ],
)
def test_which_folders_a_walk_must_enter(lines: list[str], folder: str, enter: bool) -> None:
    assert rules(*lines).may_contain_included(folder) is enter


def test_mistakes_have_a_line() -> None:
    for line in ("!", "[", "a[", "[]a]", "[-]", "[x-]", "[a-b-c]", "\\", "a*\\"):
        with pytest.raises(SpecError) as caught:
            rules("fine", line)
        assert str(caught.value).startswith(".dockerignore:2:1: ")


def test_exclude_flags_are_rules_too() -> None:
    span = SourceSpan("Dockerfile", 3, 6, 3)
    made = IgnoreRules.from_patterns(["*.txt", "!keep.txt"], span)
    assert made
    assert made.excluded("a.txt")
    assert not made.excluded("keep.txt")
    with pytest.raises(SpecError, match=r"^Dockerfile:3:6: "):
        IgnoreRules.from_patterns(["["], span)
    assert not IgnoreRules()


def test_a_hundred_thousand_rules_are_quick() -> None:
    lines = [f"dir{i}/*/file{i}?" if i % 2 else f"dir{i}/name" for i in range(100_000)]
    started = time.process_time()
    made = rules(*lines)
    assert made.excluded("dir99999/a/file99999x")
    assert made.excluded("dir4/name/below")
    assert not made.excluded("dir5/a/b/file5x")
    assert time.process_time() - started < 8


def test_alternating_rules_are_quick() -> None:
    lines = [f"{'!' * (i % 2)}x{i // 2}" for i in range(20_000)]
    started = time.process_time()
    made = rules(*lines)
    assert not made.excluded("x1/a/b")
    assert time.process_time() - started < 2


def test_limits() -> None:
    with pytest.raises(LimitExceededError, match="bytes"):
        IgnoreRules.parse(b"a" * (10 * 2**20 + 1))
    with pytest.raises(LimitExceededError, match="too many rules"):
        IgnoreRules.parse(b"a\n" * (MAX_RULES + 1))
    with pytest.raises(LimitExceededError, match=r"^\.dockerignore:1:1: a pattern"):
        IgnoreRules.parse(b"a" * 4096 + b"*")


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("abc", "abc", True),
        ("*", "abc", True),
        ("*c", "abc", True),
        ("a*", "ab/c", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/fff", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("ab[c]", "abc", True),
        ("ab[^e-g]", "abc", True),
        ("a?b", "a\u263ab", True),
        ("[a-\u03b6]*", "\u03b1", True),
        ("a?b", "a/b", False),
        ("[\\]a]", "]", True),
        ("[x\\-]", "-", True),
        ("**", "a/b", False),
        ("a**c", "abc", True),
        ("", "", True),
        ("\\*", "*", True),
    ],
)
def test_source_pattern(pattern: str, path: str, expected: bool) -> None:
    assert match_source(pattern, path) is expected
    assert match_source(pattern, path.encode()) is expected


def test_source_pattern_mistake() -> None:
    with pytest.raises(PatternError):
        match_source("[", "a")


def test_sources_without_wildcards() -> None:
    assert [has_wildcards(p) for p in ("a", "a*", "a\\*", "\\", "[a]", "a?")] == [
        False,
        True,
        False,
        False,
        True,
        True,
    ]
    assert unescape_source("a\\[b\\\\c\\") == "a[b\\c\\"


class _Emptied(dict):
    """A memory in which another thread makes room right after each question."""

    def __contains__(self, key: object) -> bool:
        found = super().__contains__(key)
        if found:
            self.clear()
        return found

    def get(self, key: object, default: object = None) -> object:
        found = super().get(key, default)
        if found is not None:
            self.clear()
        return found


def test_threads_may_ask_the_same_rules() -> None:
    """A step that takes a whole context asks beside the thread that makes keys."""
    asked = rules("out", "**/*.tmp", "!a/keep.tmp")
    asked._remembered = _Emptied()
    for _ in range(3):
        assert asked.excluded("a/b/x.tmp")
        assert not asked.excluded("a/keep.tmp")
        assert asked.excluded("out/keep")
