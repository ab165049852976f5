"""Programs that pages tell people to type say what they take, and do nothing else when asked."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[3]
TOLD = re.compile(r"python -m (tests\.bench\.\w+)")


def programs() -> list[str]:
    """Return the modules that pages name."""
    pages = [
        *TOP.glob("*.md"),
        *(TOP / "docs").rglob("*.md"),
        *(TOP / "tests/bench").rglob("*.md*"),
    ]
    return sorted({name for page in pages for name in TOLD.findall(page.read_text())})


@pytest.mark.parametrize("name", programs())
def test_help_is_help(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    is_folder = (TOP / name.replace(".", "/")).is_dir()
    module = importlib.import_module(f"{name}.__main__" if is_folder else name)
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("usage: ")
