"""Options between operands, as docker's users type them."""

import pytest

from layerstore.cli import fast
from layerstore.errors import InputError


@pytest.mark.parametrize(
    ("line", "operands"),
    [
        ("stop one -t 3 two", {"containers": ["one", "two"], "time": 3}),
        ("umount one --lazy two three", {"target": ["one", "two", "three"], "lazy": True}),
        ("inspect one --format x two", {"names": ["one", "two"], "format": "x"}),
        ("import tree -m said name:1", {"source": "tree", "name": "name:1", "message": "said"}),
        ("import -t a:1 tree b:1", {"source": "tree", "name": "b:1", "tag": ["a:1"]}),
        ("import tree", {"source": "tree", "name": None}),
    ],
)
def test_operands_stand_anywhere(line: str, operands: dict[str, object]) -> None:
    command, *words = line.split()
    parsed = vars(fast.parse(command, words))
    assert {name: parsed[name] for name in operands} == operands


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("import tree one two", "unrecognized arguments: two"),
        ("images one --json two", "unrecognized arguments: two"),
        ("stop one --nothing two", "unrecognized arguments: --nothing"),
    ],
)
def test_what_nobody_takes_is_refused(line: str, said: str) -> None:
    command, *words = line.split()
    with pytest.raises(InputError, match=said):
        fast.parse(command, words)
