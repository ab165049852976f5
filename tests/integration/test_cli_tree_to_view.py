"""The way of a user's tree: a directory on the host's file system, imported, mounted, compared.

Entry by entry: mode, owner, mtime in nanoseconds, xattrs, links, content. Holes are compared
through export and GNU tar elsewhere, since libfuse 2 cannot report them.
"""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar
from tests.support.trees import compare_trees, describe_tree, make_odd_tree
from tests.support.views import needs_fuse, needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [*needs_root, *needs_fuse]


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path / "store")
    yield cli
    cli("umount", "--all", "--lazy")


def import_and_mount(cli: Cli, tree: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Import a directory; return a read-only and a writable view of it."""
    cli.ok("import", tree, "-t", "tree:1")
    read_only, writable = tmp_path / "ro", tmp_path / "rw"
    for target in (read_only, writable):
        target.mkdir()
    cli.ok("mount", "tree:1", read_only)
    cli.ok("mount", "--rw", "tree:1", writable)
    return read_only, writable


def test_a_tree_of_everything_odd(cli: Cli, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    make_odd_tree(tree)
    for view in import_and_mount(cli, tree, tmp_path):
        assert compare_trees(tree, view) == []


@pytest.mark.network
def test_a_debian_root_file_system(cli: Cli, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    command = ["tar", "-C", tree, "--numeric-owner", "--xattrs", "--xattrs-include=*", "-p"]
    subprocess.run([*command, "-xf", debian_base_tar()], check=True)
    assert len(describe_tree(tree)) > 5000  # a real one, not a few files
    for view in import_and_mount(cli, tree, tmp_path):
        assert compare_trees(tree, view) == []
