"""printf writes as Go's does, and says what it cannot write."""

from __future__ import annotations

import pytest

from layerstore.cli.parsing.printf import formatted


@pytest.mark.parametrize(
    ("text", "values", "written"),
    [
        ("plain", (), "plain"),
        ("%d%% of %s", (5, "x"), "5% of x"),
        ("[%5s][%-5s][%2s]", ("ab", "ab", "abc"), "[   ab][ab   ][abc]"),
        ("[%6.2s][%.0s][%.s]", ("abc", "abc", "abc"), "[    ab][][]"),
        ("[%5d][%-5d][%05d][%05d]", (42, 42, 42, -42), "[   42][42   ][00042][-0042]"),
        ("[%.3d][%6.3d][%-05d]", (7, -7, 7), "[007][  -007][7    ]"),
        ("%x %X %04x %x %X", (255, 255, 255, "a\xff", "n"), "ff FF 00ff 61c3bf 6E"),
        ("%f %.2f %8.3f|%-8.1f|%08.3f", (1, 2.5, 3.14159, 2.0, -1.5),
         "1.000000 2.50    3.142|2.0     |-001.500"),
        ("%t %v %t", (True, False, False), "true false false"),
        ("%q %8q", ('a"b\n', "x"), r'"a\"b\n"      "x"'),
        ("%s %q %3d", (["a", "b"], ("c",), [1, 22]), '[a b] ["c"] [  1  22]'),
        ("%s %v %d", (3, 2.5, 4.0), "3 2.5 4"),
        ("%05s|%-05s|", ("ab", "ab"), "   ab|ab   |"),
        ("é%3s", ("é",), "é  é"),
    ],
)  # fmt: skip
def test_verbs(text: str, values: tuple[object, ...], written: str) -> None:
    def shown(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    assert formatted(text, values, shown) == written


@pytest.mark.parametrize(
    ("text", "values", "words"),
    [
        ("%s %s", ("a",), "%s has no value"),
        ("%s", ("a", "b"), "fewer verbs than there are values"),
        ("%", (), "% is not known; there are %s"),
        ("%+d", (1,), "%+d is not known"),
        ("%g", (1,), "%g is not known"),
        ("%-%", (), "%-% is not known"),
        ("%*d", (1, 2), "%* is not known"),
        ("%d", ("7",), "%d wants a whole number, and '7' is none"),
        ("%d", (True,), "%d wants a whole number"),
        ("%d", (1.5,), "%d wants a whole number"),
        ("%d", (None,), "%d wants a whole number"),
        ("%f", ("1",), "%f wants a number"),
        ("%f", (True,), "%f wants a number"),
        ("%t", (1,), "%t wants true or false"),
        ("%q", (1,), "%q wants a text"),
        ("%1001s", ("a",), "wider than 1000"),
        ("%.9999f", (1,), "wider than 1000"),
        ("%" + "9" * 5000 + "s", ("a",), ""),
    ],
)
def test_what_cannot_be_written(text: str, values: tuple[object, ...], words: str) -> None:
    with pytest.raises(ValueError) as refused:
        formatted(text, values, str)
    assert words in str(refused.value)
