"""Durations, ports, signals, modes and owners, one value at a time."""

import pytest

from layerstore.build.dockerfile.arguments import split_quoted
from layerstore.build.dockerfile.durations import parse_duration
from layerstore.build.dockerfile.errors import SpecError, unsupported
from layerstore.build.dockerfile.expand import check_word
from layerstore.build.dockerfile.ports import expand_ports
from layerstore.build.dockerfile.signals import is_signal
from layerstore.build.dockerfile.syntax import SourceSpan
from layerstore.build.dockerfile.values import check_checksum, check_chmod, check_chown
from layerstore.errors import LimitExceededError

SPAN = SourceSpan("Dockerfile", 12, 5, 12, "COPY --chwon=a b c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("+5s", 5_000_000_000),
        ("-1ms", -1_000_000),
        ("1h2m3s4ms5us6µs7ns", 3_723_004_011_007),
        ("1.5h", 5_400_000_000_000),
        (".5s", 500_000_000),
        ("1.s", 1_000_000_000),
        ("0.3333333333333333333333333333333s", 333_333_333),
        ("2562047h47m16.854775807s", 2**63 - 1),
        ("2562047h47m16.854775808s", None),
        ("99999999999999999999999999999h", None),
        ("", None),
        ("+", None),
        ("5", None),
        (".s", None),
        ("s", None),
        ("1e9s", None),
        ("1s ", None),
        ("1d", None),
        ("٣s", None),
    ],
)
def test_duration(text: str, expected: int | None) -> None:
    assert parse_duration(text) == expected


def test_signals() -> None:
    good = ("TERM", "sigterm", "SIGKILL", "9", "64", "RTMIN+3", "SIGRTMAX-14")
    bad = ("", "0", "65", "-9", "SIGFOO", "RTMIN+16", "٣")
    assert all(is_signal(text) for text in good)
    assert not any(is_signal(text) for text in bad)


@pytest.mark.parametrize(
    "value", [None, "7", "755", "0755", "04755", "u=rwX,go=rX", "+x", "a-w,u+s"]
)
def test_modes(value: str | None) -> None:
    check_chmod(value, SPAN)


@pytest.mark.parametrize("value", ["8", "77777", "rwx", "u", "u=rwx,", "u+z", "07 55", "x" * 20])
def test_no_modes(value: str) -> None:
    with pytest.raises(SpecError):
        check_chmod(value, SPAN)


def test_owners_and_checksums() -> None:
    for owner in (None, "a", "a:b", "1000:1000", ":g", "a:"):
        check_chown(owner, SPAN)
    for owner in (":", "a b", "a:b:c"):
        with pytest.raises(SpecError):
            check_chown(owner, SPAN)
    for checksum in (None, "sha256:" + "0" * 64, "sha512:" + "f" * 128, "deadbeef"):
        check_checksum(checksum, SPAN)
    for checksum in ("sha256:00", "md5:" + "0" * 32, "main", "sha256:" + "G" * 64):
        with pytest.raises(SpecError):
            check_checksum(checksum, SPAN)


def test_ports() -> None:
    assert expand_ports(["80", "80/tcp", "0080", "79-80", "1/SCTP"], SPAN) == (
        "1/sctp",
        "79/tcp",
        "80/tcp",
    )
    for word in ("", "/tcp", "a", "1-", "-1", "65536", "2-1", "1/x", "٣"):
        with pytest.raises(SpecError):
            expand_ports([word], SPAN)
    with pytest.raises(LimitExceededError):
        expand_ports([f"{low}-65535/{p}" for low in range(4) for p in ("tcp", "udp")], SPAN)


def test_errors_show_place_excerpt_and_hint() -> None:
    err = SpecError("unknown flag --chwon for COPY", SPAN, hint="did you mean --chown?")
    assert str(err) == "Dockerfile:12:5: unknown flag --chwon for COPY"
    assert (err.file, err.line, err.column, err.exit_code) == ("Dockerfile", 12, 5, 2)
    assert err.excerpt() == "COPY --chwon=a b c\n    ^"
    missing = unsupported(SPAN, "RUN --mount=type=ssh")
    assert str(missing) == "Dockerfile:12:5: RUN --mount=type=ssh is not supported yet"


def test_excerpts_are_cut_and_cannot_draw() -> None:
    span = SourceSpan("D\x1b", 1, 5_001, 1, "a" * 5_000 + "\x1b[31m" + "b" * 5_000)
    err = SpecError("bad \x1b[31m", span)
    line, caret = err.excerpt().split("\n")
    assert len(line) <= 100
    assert line[caret.index("^")] == " "
    assert "\x1b" not in str(err) + err.excerpt()
    assert SpecError("x", SourceSpan("D", 1, 1, 1)).excerpt() == ""


def test_words_keep_quotes_and_offsets() -> None:
    text = 'a  \'b c\'\t"d\\" e"f g\\ h i\\'
    words = split_quoted(text, 10, "\\")
    assert [word.text for word in words] == ["a", "'b c'", '"d\\" e"f', "g\\ h", "i"]
    assert all(text[word.offset - 10 :].startswith(word.text) for word in words)
    assert [word.text for word in split_quoted("\"a 'b", 0, "\\")] == ["\"a 'b"]
    assert split_quoted("\\", 0, "\\") == []


def test_nesting_is_refused_where_it_is_written() -> None:
    with pytest.raises(LimitExceededError, match=r"^Dockerfile:12:5: "):
        check_word("${a:-" * 60 + "}" * 60, "\\", lambda _: SPAN)
