"""What commands print."""

import json

import pytest

from layerstore.cli import output
from layerstore.cli.output import age, printable, shorten


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 漢", "plain ä 漢"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x00\x7f\x9b", r"\x00\x7f\x9b"),
        ("\u202eevil", r"\u202eevil"),
        ("\u2066x\u200b", r"\u2066x\u200b"),
        ("name-\udcff", r"name-\udcff"),
    ],
)
def test_nothing_acts_on_the_terminal(text, shown):
    assert printable(text) == shown


NOW = 1_800_000_000  # 2027-01-15T08:00:00Z


@pytest.mark.parametrize(
    ("created", "words"),
    [
        ("2027-01-15T08:00:00Z", "Less than a second ago"),
        ("2027-01-15T07:59:59Z", "1 second ago"),
        ("2027-01-15T07:59:15Z", "45 seconds ago"),
        ("2027-01-15T07:59:00Z", "About a minute ago"),
        ("2027-01-15T07:30:00.123456789Z", "29 minutes ago"),
        ("2027-01-15T07:00:00Z", "About an hour ago"),
        ("2027-01-13T09:00:00+01:00", "2 days ago"),
        ("2027-01-14T08:00:00Z", "24 hours ago"),
        ("2027-01-02T08:00:00Z", "13 days ago"),
        ("2026-12-20T08:00:00Z", "3 weeks ago"),
        ("2026-10-15T08:00:00Z", "3 months ago"),
        ("2020-01-15T08:00:00Z", "7 years ago"),
        ("2027-02-15T08:00:00Z", "in the future"),
        ("0001-01-01T00:00:00Z", "N/A"),
        ("0000-01-01T00:00:00Z", "N/A"),
        ("9999-12-31T23:59:59Z", "in the future"),
        ("", "N/A"),
        ("garbage", "N/A"),
    ],
)
def test_age_is_dockers(created, words):
    assert age(created, NOW) == words


def test_what_is_counted_once_is_singular():
    told = [output.counted(number, "pack") for number in (0, 1, 2)]
    assert told == ["0 packs", "1 pack", "2 packs"]
    assert output.counted(2, "copy", "copies") == "2 copies"


def test_table(capsys):
    output.write_table(["A", "LONGER"], [["x\x1b", "y"], ["wide cell", ""]])
    assert capsys.readouterr().out == "A           LONGER\nx\\x1b       y\nwide cell\n"


def test_json_is_ascii(capsys):
    output.write_json({"k": "\x9b\u202eé"})
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"k": "\x9b\u202eé"}


def test_shorten():
    assert shorten("abcdef", 6) == "abcdef"
    assert shorten("abcdefg", 6) == "abcde…"
