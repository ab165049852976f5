"""The judge of every restore finds each kind of difference, and nothing else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.bench.manifest import compare, manifest_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def _make(root: Path) -> Path:
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "file").write_bytes(b"content")
    (root / "other").write_bytes(b"other")
    os.link(root / "folder" / "file", root / "linked")
    (root / "symlink").symlink_to("folder/file")
    os.mkfifo(root / "fifo")
    for path in sorted(root.rglob("*"), reverse=True):
        os.utime(path, ns=(0, 1_700_000_000_123_456_789), follow_symlinks=False)
    os.utime(root, ns=(0, 1_700_000_000_000_000_001))
    return root


def _unlink(root: Path) -> None:
    # The same content, but no longer one file.
    info = os.lstat(root / "linked")
    (root / "linked").unlink()
    (root / "linked").write_bytes(b"content")
    os.utime(root / "linked", ns=(0, info.st_mtime_ns))


def _retarget(root: Path) -> None:
    info = os.lstat(root / "symlink")
    (root / "symlink").unlink()
    (root / "symlink").symlink_to("folder/elif")
    os.utime(root / "symlink", ns=(0, info.st_mtime_ns), follow_symlinks=False)


def _rewrite(root: Path) -> None:
    info = os.lstat(root / "other")
    (root / "other").write_bytes(b"rehto")
    os.utime(root / "other", ns=(0, info.st_mtime_ns))


def _quietly(change: Callable[[Path], None]) -> Callable[[Path], None]:
    """Make a change without touching the root's own time."""

    def changed(root: Path) -> None:
        info = os.lstat(root)
        change(root)
        os.utime(root, ns=(0, info.st_mtime_ns))

    return changed


def test_equal_trees_are_equal(tmp_path: Path) -> None:
    difference = compare(manifest_of(_make(tmp_path / "a")), manifest_of(_make(tmp_path / "b")))
    assert difference.equal
    assert difference.content_equal
    assert difference.lost() == "-"


@pytest.mark.parametrize(
    ("change", "attribute", "content_equal"),
    [
        (lambda root: (root / "other").chmod(0o600), "mode", True),
        (lambda root: os.utime(root / "other", ns=(0, 1_700_000_000_000_000_000)), "mtime", True),
        (_quietly(_unlink), "links", True),
        (_quietly(_rewrite), "content", False),
        (_quietly(_retarget), "target", False),
    ],
)
def test_one_change_is_named(
    tmp_path: Path, change: Callable[[Path], None], attribute: str, content_equal: bool
) -> None:
    source = manifest_of(_make(tmp_path / "a"))
    restored = _make(tmp_path / "b")
    change(restored)
    difference = compare(source, manifest_of(restored))
    assert set(difference.changed) == {attribute}
    assert not difference.equal
    assert difference.content_equal is content_equal
    assert attribute in difference.lost()


def test_missing_and_extra_paths_are_named(tmp_path: Path) -> None:
    source = manifest_of(_make(tmp_path / "a"))
    restored = _make(tmp_path / "b")
    (restored / "other").rename(restored / "more")
    difference = compare(source, manifest_of(restored))
    assert difference.missing == [b"other"]
    assert difference.extra == [b"more"]
    assert not difference.content_equal
    assert difference.lost().startswith("1 paths, 1 paths too many")
