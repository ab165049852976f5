"""Native specs as text: places of everything, and errors that point at them."""

from __future__ import annotations

import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.native.limits import MAX_DEPTH, MAX_FILE_BYTES
from layerstore.build.native.reader import read_toml
from layerstore.errors import LimitExceededError

TEXT = '''\
base = "debian" # a comment with "quotes" and [brackets]
"quoted \\u00e9 key" = 1
a.b . c = """
many ] lines " ""
"""""
list = [ # comment ]
  "x", 'y]', { in = """z""", other.way = [1, 2] },
]
[table.below]
key = 2024-05-01T10:00:00Z
[[run]]
command = 'first'
[[run]]
  command = "second"
[run.env]
A = "b"
'''


def test_every_value_knows_its_place():
    node = read_toml(TEXT.encode(), "f.toml")
    places = {
        ("base",): "1:1",
        ("quoted é key",): "2:1",
        ("a", "b", "c"): "3:1",
        ("list",): "6:1",
        ("list", 1): "7:8",
        ("list", 2, "in"): "7:16",
        ("list", 2, "other", "way"): "7:30",
        ("list", 2, "other", "way", 1): "7:46",
        ("table", "below", "key"): "10:1",
        ("run", 0, "command"): "12:1",
        ("run", 1, "command"): "14:3",
        ("run", 1, "env", "A"): "16:1",
    }
    assert {path: str(node.span_of(*path)) for path in places} == {
        path: f"f.toml:{place}" for path, place in places.items()
    }
    assert str(node.get("base").span) == "f.toml:1:8"
    assert node.get("a").get("b").get("c").value == 'many ] lines " ""\n""'


def test_windows_line_ends_move_no_place():
    node = read_toml(b'a = "1"\r\nb = "2"\r\n', "f")
    assert str(node.span_of("b")) == "f:2:1"


@pytest.mark.parametrize(
    ("data", "place", "reason"),
    [
        (b"a = ", "f:1:5", "invalid value"),
        (b"a = 1\nb = \nc = 2", "f:2:5", "invalid value"),
        (b"a = 1\na = 2", "f:2:6", "cannot overwrite a value"),
        (b'a = "open', "f:1:10", "unterminated string"),
        (b"a = [1, 2", "f:1:10", "unclosed array"),
        (b"a = 1\n\xff", "f:2:1", "the file is not UTF-8"),
        (b"\xef\xbb\xbfa = 1", "f:1:1", "byte order mark"),
        (b"a = 1\0", "f:1:6", "expected newline"),
    ],
)
def test_what_is_no_toml_is_told_with_its_place(data, place, reason):
    with pytest.raises(SpecError) as caught:
        read_toml(data, "f")
    assert str(caught.value).startswith(f"{place}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "{b = " * 100_000,
        ".".join("a" * 200_000) + " = 1",
        "[" + ".".join("a" * 5000) + "]",
        "[[" + ".".join("a" * 5000) + "]]",
    ],
)
def test_nesting_is_bounded(text):
    with pytest.raises(LimitExceededError, match="nested too deep"):
        read_toml(text.encode(), "f")


def test_as_deep_as_the_limit_is_read():
    depth = MAX_DEPTH - 1
    assert read_toml(f"a = {'[' * depth}1{']' * depth}".encode(), "f")
    with pytest.raises(LimitExceededError):
        read_toml(f"a = {'[' * MAX_DEPTH}1{']' * MAX_DEPTH}".encode(), "f")


def test_size_is_bounded():
    with pytest.raises(LimitExceededError, match="too large"):
        read_toml(b"#" * (MAX_FILE_BYTES + 1), "f")
    assert read_toml(b"#" * MAX_FILE_BYTES, "f").value == {}


def test_a_number_of_many_digits_is_no_crash():
    with pytest.raises(SpecError):
        read_toml(b"a = " + b"9" * 100_000, "f")
