"""Spec texts made to hurt: each is refused in words, or read in time linear in its size."""

import contextlib
import time
from collections.abc import Callable

import pytest

from layerstore.build.dockerfile import limits
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.expand import expand_instruction, expand_word
from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.ignore import IgnoreRules, match_source
from layerstore.errors import LimitExceededError

START = b"FROM scratch\n"
SECONDS = 4.0  # twice the bound on a quiet machine: CPU time still varies with neighbours


def timed(work: Callable[[], object]) -> object:
    started = time.process_time()
    try:
        return work()
    finally:
        assert time.process_time() - started < SECONDS


def refused(data: bytes) -> str:
    with pytest.raises(LimitExceededError) as caught:
        timed(lambda: parse_dockerfile(data))
    assert "limit" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (START + b"RUN " + b"a" * 10 * 2**20, "bytes"),
        (START + b"RUN " + b"a" * 2 * 2**20, "characters"),
        (START + b"#\n" * 1_000_000, "lines"),
        (START + b"RUN a" + b" \\\nb" * 100_000, "continuation"),
        (b"FROM scratch\n" * 10_000, "stages"),
        (START + b"ENV A=" + b"${a:-" * 10_000 + b"}" * 10_000, "nested"),
        (START + b"ENV A=${B#" + b"?" * 300 + b"}", "pattern"),
        (START + b"RUN <<EOF\n" + b"endless\n" * 2_000_000, "bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_limits_are_named(data: bytes, what: str) -> None:
    assert what in refused(data)


def test_an_env_of_a_mebibyte_meets_the_line_limit() -> None:
    assert "characters" in refused(START + b"ENV A=" + b"a" * 2**20)


def _line(size: int) -> bytes:
    return START + b"RUN " + b"a" * (size - 4) + b"\n"


def _continued(lines: int) -> bytes:
    return START + b"RUN a" + b"\\\n" * (lines - 1) + b"b\n"


@pytest.mark.parametrize(
    ("make", "limit"),
    [
        (lambda n: START + b"#" + b"a" * (n - len(START) - 1), limits.MAX_FILE_BYTES),
        (lambda n: START + b"\n" * (n - 2), limits.MAX_LINES),
        (_line, limits.MAX_LINE_CHARS),
        (lambda n: b"FROM scratch\n" * n, limits.MAX_STAGES),
        (
            lambda n: START + b"ENV A=" + b"${a:-" * n + b"}" * n,
            limits.MAX_NESTING,
        ),
        (lambda n: START + b"ENV A=${B#" + b"a" * n + b"}", limits.MAX_PATTERN_CHARS),
    ],
    ids=["file", "lines", "line", "stages", "nesting", "pattern"],
)
def test_limits_are_inclusive(make: Callable[[int], bytes], limit: int) -> None:
    parse_dockerfile(make(limit - 1))
    parse_dockerfile(make(limit))
    with pytest.raises(LimitExceededError):
        parse_dockerfile(make(limit + 1))


def test_continuations_are_limited() -> None:
    many = START + b"RUN a \\\n" + b"b \\\n" * (limits.MAX_CONTINUATIONS - 2) + b"c\n"
    parse_dockerfile(many)
    with pytest.raises(LimitExceededError):
        parse_dockerfile(many.replace(b"RUN a", b"RUN x \\\na"))


@pytest.mark.parametrize(
    "data",
    [
        START + b"RUN " + b"'\"" * 500_000,
        START + b"ENV " + b'A="\\x\\y" ' * 90_000,
        START + b"ENV A=" + b'"' + b"\\a" * 500_000 + b'"',
        START + b"COPY --chown=" + b"'\\" * 500_000 + b" a b",
        START + b"COPY " + b"--x=' " * 150_000,
        START + b"COPY " + b"a " * 500_000,
        START + b"RUN " + b"<<a " * 250_000,
        START + b"RUN " + b"<<'a' " * 150_000,
        START + b"RUN " + b"$" * 1_000_000,
        START + b"RUN <<E " + b"${a} " * 200_000,
        START + b"CMD [" + b'"a",' * 250_000 + b'"a"]',
        START + b"CMD [" + b'"a",' * 250_000,
        START + b"CMD " + b"[" * 1_000_000,
        START + b"CMD " + b'[{"a":' * 160_000,
        START + b"RUN --mount=" + b'"a' * 400_000 + b" x",
        START + b"RUN --mount=" + b"source=a," * 100_000 + b"target=/b x",
        START + b"EXPOSE " + b"0-65535 " * 130_000,
        START + b"HEALTHCHECK --interval=" + b"1s" * 500_000 + b" CMD x",
        START + b"HEALTHCHECK --interval=" + b"9" * 1_000_000 + b"s CMD x",
        START + b"HEALTHCHECK --retries=" + b"9" * 1_000_000 + b" CMD x",
        START + b"EXPOSE " + b"9" * 1_000_000,
        START + b"COPY --chmod=" + b"u=" * 500_000 + b" a b",
        START + b"COPY --chmod=" + b"7" * 1_000_000 + b" a b",
        START + b"STOPSIGNAL " + b"9" * 1_000_000,
        START + b"A" * 1_000_000 + b" x",
        START + b"ENV A=${" + b"a" * 1_000_000 + b"}",
        START + "ENV A=${²}".encode() + "$²".encode() * 300_000,
        START + b"LABEL " + b"(a+)+$" * 150_000,
        START + b"RUN x \\\n" + b"# comment\n" * 190_000 + b"y\n",
        START + b"\\\n" * 15_000,
        b"# " + b"a" * 1_000_000 + b"=\n" + START,
        b"# syntax=" + b"docker/dockerfile:" + b"a" * 1_000_000 + b"\n" + START,
        b"\xef\xbb\xbf" * 1000,
        b"\xff" * 2**20,
        b"RUN \0" * 2**18,
    ],
    ids=range(35),
)
def test_no_text_takes_long(data: bytes) -> None:
    def read() -> None:
        with contextlib.suppress(SpecError, LimitExceededError):
            tree = parse_dockerfile(data)
            for item in tree.stages[0].instructions:
                expand_instruction(item, {"a": "b"})

    timed(read)


@pytest.mark.parametrize("size", [200, 256])
def test_no_pattern_takes_long(size: int) -> None:
    value = {"A": "a" * 2**18}
    for pattern in ("*a" * (size // 2), "a?" * (size // 2 - 1) + "b", "*" * size, "?" * size):
        for form in ("#", "##", "%", "%%"):
            timed(lambda p=pattern, f=form: expand_word(f"${{A{f}{p}}}", value))
        for form in ("/", "//"):
            timed(lambda p=pattern, f=form: expand_word(f"${{A{f}{p}/}}", value))


def test_no_glob_takes_long() -> None:
    path = "a" * 4000
    timed(lambda: match_source("*a" * 100 + "b", path))
    timed(lambda: match_source("[^b]*" * 100 + "b", path))
    deep = "/".join("a" * 2000)
    rules = IgnoreRules.parse(b"**/a*" * 200 + b"/b\n" + b"**/" * 1000 + b"b\n")
    assert timed(lambda: rules.excluded(deep)) is False


def test_deep_paths_need_no_recursion() -> None:
    rules = IgnoreRules.parse(b"a\n!a/b\n")
    assert rules.excluded("/".join(["a"] * 2_000)) is True
