"""The packages of the command line: what one finds in them, and what a start pays for them."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import layerstore.cli
from layerstore.store.store import Store

CLI = Path(layerstore.cli.__file__).parent
PACKAGES = sorted(path.parent.name for path in CLI.glob("*/__init__.py"))
TOP_MAX = 20
"""Modules beside the packages: what every command starts with."""


def test_packages_import_nothing() -> None:
    """Whatever one imported, each command with a module in it would import, too."""
    assert PACKAGES
    for name in PACKAGES:
        tree = ast.parse((CLI / name / "__init__.py").read_text())
        assert ast.get_docstring(tree), name
        assert len(tree.body) == 1, name


def test_new_modules_go_into_a_package() -> None:
    assert len(list(CLI.glob("*.py"))) <= TOP_MAX


def test_the_map_has_every_package() -> None:
    page = (CLI.parents[1] / "docs" / "architecture.md").read_text()
    assert [name for name in PACKAGES if f"| `cli/{name}` |" not in page] == []


def test_listing_images_imports_two_packages(tmp_path: Path) -> None:
    Store.open(tmp_path, create=True).close()
    program = (
        "import sys; from layerstore.cli import main\n"
        "main.dispatch(['--store', sys.argv[1], 'images', '-q'])\n"
        "names = [name.split('.') for name in sys.modules if name.startswith('layerstore.cli.')]\n"
        "print(sorted({name[2] for name in names if len(name) > 3}))"
    )
    said = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True, text=True, check=True, cwd=CLI.parents[1],
    )  # fmt: skip
    assert said.stdout == "['image', 'parsing']\n"
