"""docs/reliability.md names tests; each of them exists, and each promise names one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TOP = Path(__file__).parents[2]
TEXT = (TOP / "docs/reliability.md").read_text()


def defined_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_test_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
    assert len(named) > 20
    missing = [f"{file}::{name}" for file, name in named if name not in defined_in(TOP / file)]
    assert missing == []


def test_every_file_named_exists() -> None:
    files = set(re.findall(r"`((?:tests|docs|layerstore)/[\w/.-]+\.(?:py|md))`", TEXT))
    assert [file for file in sorted(files) if not (TOP / file).exists()] == []


def test_every_promise_names_a_test() -> None:
    promises = TEXT.partition("## Promises")[2].partition("## Not promised")[0]
    parts = re.split(r"^\*\*(.+?)\.\*\*", promises, flags=re.MULTILINE)[1:]
    without = [name for name, body in zip(parts[::2], parts[1::2], strict=True) if "::" not in body]
    assert parts
    assert without == []
