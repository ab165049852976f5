"""The reference pages say what the program does."""

import re
from pathlib import Path

from layerstore import errors
from layerstore.cli.reference import render

REFERENCE = Path(__file__).parents[3] / "docs" / "reference"


def test_cli_page_is_what_the_commands_say():
    page = (REFERENCE / "cli.md").read_text()
    assert page == render(), "run: python -m layerstore.cli.reference > docs/reference/cli.md"


def test_error_page_lists_every_family():
    page = (REFERENCE / "errors.md").read_text()
    listed = {
        name: int(code) for code, name in re.findall(r"^\| (\d+) \| `(\w+)`", page, re.MULTILINE)
    }
    families = [errors.LayerstoreError]
    families += [
        family
        for family in errors.LayerstoreError.__subclasses__()
        if family.__module__ == errors.__name__
    ]
    assert listed == {family.__name__: family.exit_code for family in families}
