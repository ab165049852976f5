"""Laws of the Dockerfile reader, of expansion and of patterns, against slow and plain models."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.expand import expand_instruction, expand_word
from layerstore.build.dockerfile.parser import parse_dockerfile, parse_instruction
from layerstore.build.dockerfile.shellpattern import Wildcard
from layerstore.build.dockerfile.syntax import Dockerfile, Onbuild
from layerstore.build.globs import Automaton, CharClass, PatternError, Star, Token, tokenize
from layerstore.build.ignore import IgnoreRules
from layerstore.build.lint.lint import lint
from layerstore.build.lint.meaning import Surroundings
from layerstore.build.lint.rules import RULES
from layerstore.build.platforms import Platform
from layerstore.errors import LimitExceededError
from tests.support.dockerfiles import render, without_places

PIECES = [
    *("FROM", "RUN", "COPY", "ADD", "ENV", "ARG", "LABEL", "EXPOSE", "ONBUILD", "HEALTHCHECK"),
    *("CMD", "SHELL", "VOLUME", "WORKDIR", "USER", "STOPSIGNAL", "ENTRYPOINT", "MAINTAINER"),
    *(" ", " ", "\n", "\n", "\\\n", "\r\n", "\t", "#", "# escape=`\n", "# syntax=", "`", "\\"),
    *("<<EOF", "<<-'E'", "EOF\n", "E\n", "--from=", "--mount=type=cache,", "--chown=", "--x"),
    *("target=/x", "$A", "${A:-", "${A#*", "}", "'", '"', '["a", "b"]', "[", "]", ",", "=", "/"),
    *("AS", "a", "b", "80", "80-90/tcp", "NONE", "--interval=1s", "\ufeff", "\0", "é", "\u202e"),
]
HOSTILE = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=200).map(lambda text: text.encode(errors="replace")),
    st.lists(st.sampled_from(PIECES), max_size=60).map(lambda parts: "".join(parts).encode()),
    st.lists(st.sampled_from(PIECES), max_size=60).map(
        lambda parts: b"FROM a\n" + " ".join(parts).encode()
    ),
)


def attempt(data: bytes) -> Dockerfile | SpecError | LimitExceededError:
    try:
        return parse_dockerfile(data)
    except (SpecError, LimitExceededError) as err:
        return err


@given(HOSTILE)
def test_any_bytes_give_a_tree_or_a_placed_error(data: bytes) -> None:
    tree = attempt(data)
    if not isinstance(tree, Dockerfile):
        assert str(tree).startswith("Dockerfile:")
        assert str(tree).isprintable()
        if isinstance(tree, SpecError):
            assert tree.excerpt().replace("\n", "").isprintable()
            assert tree.line <= data.count(b"\n") + 1
        return
    for stage in tree.stages:
        for item in (stage.from_, *stage.instructions):
            assert 1 <= item.span.line <= item.span.end_line <= data.count(b"\n") + 1
            try:
                once = expand_instruction(item, {"A": "a b"}, tree.escape)
            except (SpecError, LimitExceededError):
                continue
            assert type(once) is type(item)


@given(st.text(alphabet="ab$A{}:-+?#%/*\\`'\" ", max_size=40), st.sampled_from("\\`"))
def test_any_word_expands_or_is_refused(word: str, escape: str) -> None:
    try:
        expand_word(word, {"A": "x/y z"}, escape)
    except SpecError:
        return


@given(st.text(max_size=30).filter(lambda text: "\0" not in text))
def test_single_quotes_protect_everything_but_themselves(text: str) -> None:
    quoted = "'" + text.replace("'", "'\\''") + "'"
    assert expand_word(quoted, {}) == text


@given(st.text(max_size=30))
def test_a_value_is_never_expanded_again(value: str) -> None:
    assert expand_word("$A", {"A": value}) == value
    assert expand_word('"${A:-x}"', {"A": value}) == (value or "x")


# Not like a flag, which is what two dashes in front make of a first word.
WORD = st.from_regex(r"(?!--)[a-z0-9./_-]{0,6}[a-z0-9]", fullmatch=True)
TEXT = st.one_of(WORD, st.sampled_from(['"a b"', "$V", "${V:-x}", "'q $r'", "a\\ b"]))
JSON = st.lists(st.text(alphabet="ab $\"\\é'", max_size=6), max_size=4)


def _pairs(keyword: str) -> st.SearchStrategy[str]:
    pair = st.tuples(WORD, TEXT).map("=".join)
    return st.lists(pair, min_size=1, max_size=4).map(lambda p: f"{keyword} {' '.join(p)}")


def _json(items: list[str]) -> str:
    import json

    return json.dumps(items)


def _heredoc(parts: tuple[str, list[str]]) -> str:
    body = "".join(f"{line}\n" for line in parts[1])
    return f"{parts[0]}\n{body}EOF"


COMMAND = st.one_of(
    st.lists(TEXT, min_size=1, max_size=4).map(" ".join),
    JSON.map(_json),
)
BODY = st.lists(st.sampled_from(["a", "", "\tb", "$V", "# c", "x \\"]), max_size=3)
COPY_FLAGS = st.lists(
    st.sampled_from(["--link", "--chown=a:b", "--chmod=755", "--exclude=*.c", "--exclude=b"]),
    max_size=3,
    unique=True,
).map(lambda flags: "".join(f"{flag} " for flag in flags))
MOUNTS = st.sampled_from(
    [
        "",
        "--mount=type=cache,target=/x ",
        "--mount=target=$V --network=none ",
        "--security=insecure ",
    ]
)
PLAIN = st.one_of(
    _pairs("ENV"),
    _pairs("LABEL"),
    st.lists(st.one_of(WORD, st.tuples(WORD, TEXT).map("=".join)), min_size=1, max_size=3).map(
        lambda words: "ARG " + " ".join(words)
    ),
    st.tuples(MOUNTS, COMMAND).map(lambda p: f"RUN {p[0]}{p[1]}"),
    st.tuples(MOUNTS.map(lambda m: f"RUN {m}<<EOF"), BODY).map(_heredoc),
    st.tuples(st.sampled_from(["CMD", "ENTRYPOINT"]), COMMAND).map(" ".join),
    st.tuples(st.sampled_from(["COPY", "ADD"]), COPY_FLAGS, st.lists(WORD, min_size=2)).map(
        lambda p: f"{p[0]} {p[1]}{' '.join(p[2])}"
    ),
    st.tuples(COPY_FLAGS.map(lambda f: f"COPY {f}<<EOF /x"), BODY).map(_heredoc),
    TEXT.map(lambda path: f"WORKDIR /{path}"),
    TEXT.map(lambda user: f"USER {user}"),
    st.sampled_from(["EXPOSE 80 90-95/udp $V", "VOLUME /a /b", 'SHELL ["a", "b"]']),
    st.sampled_from(["STOPSIGNAL SIGINT", "STOPSIGNAL $V", "HEALTHCHECK NONE"]),
    COMMAND.filter(lambda text: text != "[]").map(
        lambda text: f"HEALTHCHECK --interval=1m --retries=3 CMD {text}"
    ),
)
INSTRUCTION = st.one_of(PLAIN, PLAIN.map(lambda text: f"ONBUILD {text}"))
FILE = st.lists(INSTRUCTION, max_size=8).map(
    lambda parts: "ARG V=1\nFROM --platform=linux/amd64 a:$V AS b\n" + "\n".join(parts) + "\n"
)


@given(FILE)
def test_rendered_tree_parses_to_itself(text: str) -> None:
    tree = parse_dockerfile(text.encode())
    again = parse_dockerfile(render(tree).encode())
    assert _plain(again) == _plain(tree)


@given(FILE)
def test_case_of_keywords_crlf_and_comments_change_nothing(text: str) -> None:
    tree = parse_dockerfile(text.encode())
    lowered = re.sub(r"(?m)^(FROM|ENV|WORKDIR|EXPOSE)\b", lambda m: m[0].lower(), text)
    assert _plain(parse_dockerfile(lowered.encode())) == _plain(tree)
    commented = "# a comment\n\n" + text
    assert _plain(parse_dockerfile(commented.encode())) == _plain(tree)
    if "<<" not in text:
        crlf = text.replace("\n", "\r\n")
        assert _plain(parse_dockerfile(crlf.encode())) == _plain(tree)


def _plain(tree: Dockerfile) -> Any:
    stages = [(s.name, s.base, s.platform, without_places(s.instructions)) for s in tree.stages]
    return without_places(tree.global_args), stages


@given(PLAIN)
def test_triggers_parse_to_the_instruction_they_name(text: str) -> None:
    tree = parse_dockerfile(f"FROM a\nONBUILD {text}\n".encode())
    onbuild = tree.stages[0].instructions[0]
    assert isinstance(onbuild, Onbuild)
    assert without_places(parse_instruction(onbuild.trigger)) == without_places(onbuild.instruction)


PATTERN_TEXT = st.text(alphabet="ab*?", max_size=6)


@given(PATTERN_TEXT, st.text(alphabet="ab", max_size=8))
def test_wildcards_agree_with_regular_expressions(pattern: str, value: str) -> None:
    wildcard = Wildcard(pattern)
    for longest in (False, True):
        star = ".*" if longest else ".*?"
        regex = "".join({"*": star, "?": "."}.get(c, c) for c in pattern)
        match = re.match(regex, value)
        expected = value if match is None else value[match.end() :]
        assert wildcard.without_prefix(value, longest=longest) == expected
        turned = "".join({"*": star, "?": "."}.get(c, c) for c in reversed(pattern))
        match = re.match(turned, value[::-1])
        expected = value if match is None else value[: len(value) - match.end()]
        assert wildcard.without_suffix(value, longest=longest) == expected
    greedy = "".join({"*": ".*", "?": "."}.get(c, c) for c in pattern)
    assert wildcard.replace(value, "X", everywhere=False, budget=999) == re.sub(
        greedy, "X", value, count=1
    )
    if pattern.strip("*"):
        assert wildcard.replace(value, "X", everywhere=True, budget=999) == re.sub(
            greedy, "X", value
        )


# Where BuildKit's language and bash agree: no ``[``, ``&``, ``#`` or ``%`` in patterns.
# bash 5.2 finds no match of ``*\*`` in ``a*b`` when it replaces, though it does when it trims:
# so no escapes there.
_REPLACED_PATTERN = st.text(alphabet="ab*?", min_size=1, max_size=5)
_SHARED_PATTERN = st.lists(
    st.sampled_from(["a", "b", "*", "?", "\\*", "\\?"]), min_size=1, max_size=5
).map("".join)
_SHARED_WORD = st.text(alphabet="xy z", max_size=4)
_SHARED = st.one_of(
    st.tuples(st.sampled_from(["#", "##", "%", "%%"]), _SHARED_PATTERN).map("".join),
    st.tuples(st.sampled_from(["-", ":-", "+", ":+"]), _SHARED_WORD).map("".join),
    st.tuples(st.sampled_from(["/", "//"]), _REPLACED_PATTERN, _SHARED_WORD).map(
        lambda parts: f"{parts[0]}{parts[1]}/{parts[2]}"
    ),
).map(lambda form: f'"${{V{form}}}"')


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is what it is compared with")
@given(st.lists(_SHARED, min_size=1, max_size=30), st.text(alphabet="ab*?", min_size=1, max_size=8))
def test_expansions_that_bash_knows_are_bash_s(words: list[str], value: str) -> None:
    script = f"printf '%s\\0' {' '.join(words)}"
    done = subprocess.run(
        ["bash", "-c", script], env={"V": value, "LC_ALL": "C"}, capture_output=True, check=True
    )
    assert [expand_word(word, {"V": value}) for word in words] == (
        done.stdout.decode().split("\0")[:-1]
    )


@given(
    st.lists(st.sampled_from(["$V", "${V}", "'$V'", '"$V"', "\\$V", "\ta", "E", ""]), max_size=4),
    st.sampled_from(["E", "'E'", '"E"', "-E", "-'E'"]),
)
def test_quotes_of_a_delimiter_decide_about_its_content(body: list[str], opening: str) -> None:
    lines = [line for line in body if line != "E"]
    text = "".join(f"{line}\n" for line in lines)
    tree = parse_dockerfile(f"FROM a\nCOPY <<{opening} /x\n{text}E\n".encode())
    (copy,) = tree.stages[0].instructions
    (heredoc,) = expand_instruction(copy, {"V": "v"}).heredocs  # type: ignore[union-attr]
    if opening.startswith("-"):
        text = re.sub(r"(?m)^\t+", "", text)
    if "'" not in opening and '"' not in opening:
        text = re.sub(r"(\\?)(\$V|\$\{V\})", lambda m: m[2] if m[1] else "v", text)
    assert heredoc.content == text


PLATFORM = Platform("linux", "amd64")


@given(FILE, st.sampled_from(sorted(RULES)))
def test_findings_are_the_skipped_ones_less(text: str, rule: str) -> None:
    def found(**build_args: str) -> list[tuple[str, int, str]]:
        around = Surroundings(build_args, PLATFORM, PLATFORM, lambda _: None, IgnoreRules())
        findings = lint(parse_dockerfile(text.encode()), text.split("\n"), around)
        return [(each.rule.name, each.span.line, each.detail) for each in findings]

    everything = found()
    assert found(BUILDKIT_DOCKERFILE_CHECK="skip=all") == []
    less = found(BUILDKIT_DOCKERFILE_CHECK=f"skip={rule}")
    assert less == [each for each in everything if each[0] != rule]


def _slow_match(tokens: list[Token], path: str) -> bool:
    """Backtracking, straight from the meaning of each token."""
    if not tokens:
        return not path
    head, rest = tokens[0], tokens[1:]
    if isinstance(head, str):
        return path[:1] == head and _slow_match(rest, path[1:])
    if isinstance(head, CharClass):
        return bool(path) and head.takes(path[0]) and _slow_match(rest, path[1:])
    for end in range(len(path) + 1):
        taken = path[:end]
        if head is Star.COMPONENT and "/" in taken:
            return False
        if head is Star.FOLDERS and taken and not taken.endswith("/"):
            continue
        if _slow_match(rest, path[end:]):
            return True
    return False


GLOB = st.lists(
    st.sampled_from(["a", "b", "/", "*", "**", "**/", "?", "[ab]", "[^a]", "\\*"]), max_size=6
).map("".join)
PATH = st.text(alphabet="ab/*", max_size=8)


@given(st.lists(GLOB, max_size=4), PATH, st.booleans())
def test_automaton_agrees_with_backtracking(
    patterns: list[str], path: str, double_star: bool
) -> None:
    made = []
    for pattern in patterns:
        try:
            made.append(tokenize(pattern, double_star=double_star))
        except PatternError:
            continue
    automaton = Automaton(made)
    assert automaton.matches(path) == any(_slow_match(tokens, path) for tokens in made)


NAMES = st.sampled_from(["a", "b", "ab", "a/b", "b/a", "a/a", "a/b/a", "b/a/b"])
RULE = st.tuples(
    st.sampled_from(["", "!"]), st.one_of(NAMES, st.sampled_from(["*", "**", "**/a", "a/*", "?/b"]))
).map("".join)


@given(st.lists(RULE, max_size=6), NAMES)
def test_pruned_folders_hold_nothing_included(lines: list[str], folder: str) -> None:
    made = IgnoreRules.parse("\n".join(lines).encode())
    if not made.may_contain_included(folder):
        for below in ("a", "b", "ab", "a/b", "b/a", "a/a", "a/b/a", "zz"):
            assert made.excluded(f"{folder}/{below}")


@given(st.lists(RULE, max_size=6), st.lists(NAMES, max_size=6))
def test_verdicts_do_not_depend_on_what_was_asked_before(
    lines: list[str], paths: list[str]
) -> None:
    text = "\n".join(lines).encode()
    shared = IgnoreRules.parse(text)
    for path in paths:
        assert shared.excluded(path) == IgnoreRules.parse(text).excluded(path)


@given(st.binary(max_size=60))
def test_any_ignore_file_compiles_or_is_refused(data: bytes) -> None:
    try:
        IgnoreRules.parse(data).excluded(b"a/b")
    except (SpecError, LimitExceededError) as err:
        message = str(err)
    else:
        return
    assert message.startswith(".dockerignore:")
