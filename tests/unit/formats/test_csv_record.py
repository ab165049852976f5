"""A line of CSV is read as Go's encoding/csv reads it, which docker and BuildKit use."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.errors import FormatError
from layerstore.formats.csv_record import fields_of


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", [""]),
        ("a", ["a"]),
        ("a,b,", ["a", "b", ""]),
        ('a,"b,c"', ["a", "b,c"]),
        ('"a,b",c', ["a,b", "c"]),
        ('"say ""hi""",x', ['say "hi"', "x"]),
        ('"",a', ["", "a"]),
        ('a,""', ["a", ""]),
        ('"a\nb",c\nd', ["a\nb", "c\nd"]),
        (" a, b", [" a", " b"]),
    ],
)
def test_fields(text: str, fields: list[str]) -> None:
    assert fields_of(text) == fields


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"a', "the quote of a thing is not closed"),
        ('a,"b""', "the quote of a thing is not closed"),
        ('"a"b', "text behind a quoted thing"),
        ('"a" ,b', "text behind a quoted thing"),
        ('a"b', "a quote inside the thing 'a\"b'"),
        ('src="/a,b"', "a quote inside the thing 'src=\"/a'"),
    ],
)
def test_quotes_that_are_none(text: str, words: str) -> None:
    with pytest.raises(FormatError) as refused:
        fields_of(text, "thing")
    assert refused.value.message == words


@given(st.lists(st.text(alphabet='ab",= '), min_size=1))
def test_what_is_written_as_csv_is_read_again(fields: list[str]) -> None:
    def write(field: str) -> str:
        return f'"{field.replace(chr(34), chr(34) * 2)}"' if set(field) & set('",') else field

    line = ",".join(map(write, fields))
    assert fields_of(line) == fields
    assert not line or next(csv.reader([line], strict=True)) == fields
