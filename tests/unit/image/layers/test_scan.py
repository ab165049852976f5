"""Scanning directories that hold still, that change, and overlay uppers."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import InputError, UnsafeContentError
from layerstore.formats.tree import Entry, Kind, path_key
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.layers.layers import load_changeset
from layerstore.image.layers.scan import scan_directory, scan_upper
from layerstore.image.layers.source_file import SourceChangedError
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def content(item: LayerItem) -> bytes:
    assert item.open is not None
    with item.open() as file:
        return file.read()


def test_everything_once_in_order(tree: Path) -> None:
    for name in ("b/c/deep", "a.b/x", "a/y", "z"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    items = scan_directory(tree)
    paths = [item.entry.path for item in items]
    assert paths == sorted(paths, key=path_key)
    assert paths == [b"", b"a", b"a/y", b"a.b", b"a.b/x", b"b", b"b/c", b"b/c/deep", b"z"]
    assert {i.entry.path: content(i) for i in items if i.open}[b"b/c/deep"] == b"b/c/deep"


def test_very_deep_trees_need_few_descriptors(tree: Path) -> None:
    current = os.open(tree, os.O_RDONLY)
    for _ in range(600):
        os.mkdir("d", dir_fd=current)
        deeper = os.open("d", os.O_RDONLY, dir_fd=current)
        os.close(current)
        current = deeper
    os.close(os.open("bottom", os.O_WRONLY | os.O_CREAT, dir_fd=current))
    os.close(current)
    before = len(os.listdir("/proc/self/fd"))
    items = scan_directory(tree)
    assert len(items) == 602
    assert len(os.listdir("/proc/self/fd")) - before <= 101
    del items
    assert len(os.listdir("/proc/self/fd")) == before


def test_links_are_never_followed(tree: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("secret")
    (tree / "link").symlink_to(secret)
    (tree / "file").symlink_to(secret / "key")
    items = scan_directory(tree)
    assert [i.entry.kind for i in items] == [Kind.DIR, Kind.SYMLINK, Kind.SYMLINK]


def replaced_by_symlink(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def replaced_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replaced_by_copy(path: Path) -> None:
    text = path.read_text()
    path.unlink()
    path.write_text(text)


def same_size_same_mtime(path: Path) -> None:
    status = path.stat()
    path.write_text("X" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


CHANGES = [
    lambda path: path.write_text("short"),
    lambda path: path.write_text("longer" * 100),
    lambda path: path.unlink(),
    replaced_by_symlink,
    replaced_by_fifo,
    replaced_by_copy,
    same_size_same_mtime,
]


@pytest.mark.parametrize("change", CHANGES)
def test_files_that_change_are_noticed(
    tree: Path, store: Store, change: Callable[[Path], object]
) -> None:
    (tree / "d").mkdir()
    (tree / "d" / "file").write_text("twelve bytes")
    items = scan_directory(tree)
    change(tree / "d" / "file")
    with store.begin("test") as session, pytest.raises(SourceChangedError):
        write_layer(session, store, items)
    assert list(store.layers()) == []


def test_a_directory_replaced_by_a_link_is_not_followed(tree: Path) -> None:
    (tree / "d").mkdir()
    (tree / "d" / "passwd").write_text("ours")
    (tree / "e").mkdir()
    (tree / "e" / "passwd").write_text("ours")
    items = {item.entry.path: item for item in scan_directory(tree)}
    for name in ("d", "e"):
        (tree / name).rename(tree / f"{name}-moved")
        (tree / name).symlink_to("/etc")
    for path in (b"d/passwd", b"e/passwd"):
        # The directory that is still open gives the file seen before, the other nothing.
        with contextlib.suppress(SourceChangedError):
            assert content(items[path]) == b"ours"


@pytest.mark.parametrize(("stated", "given_"), [(10, 9), (10, 11), (400_000, 399_999)])
def test_content_of_another_length_is_noticed(
    store: Store, tmp_path: Path, stated: int, given_: int
) -> None:
    path = tmp_path / "content"
    path.write_bytes(b"x" * given_)
    item = LayerItem(Entry(b"a", Kind.FILE, size=stated), lambda: path.open("rb"))
    with store.begin("test") as session, pytest.raises(SourceChangedError):
        write_layer(session, store, [item])


def test_sockets_are_skipped_and_told(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)  # socket paths are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
    skipped: list[bytes] = []
    items = scan_directory(tree, on_skip=lambda path, why: skipped.append(path))
    assert [item.entry.path for item in items] == [b""]
    assert skipped == [b"sock"]


def test_excluded_paths(tree: Path) -> None:
    (tree / "proc" / "1").mkdir(parents=True)
    (tree / "etc").mkdir()
    assert [i.entry.path for i in scan_directory(tree, exclude={b"proc"})] == [b"", b"etc"]


@pytest.mark.parametrize("name", [".wh.file", ".wh..wh..opq"])
def test_names_of_whiteouts_are_refused(tree: Path, name: str) -> None:
    (tree / name).touch()
    with pytest.raises(UnsafeContentError) as caught:
        scan_directory(tree)
    assert caught.value.hint is not None


def test_not_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        scan_directory(tmp_path / "missing")


def test_first_name_of_a_group_is_the_file(tree: Path, store: Store) -> None:
    (tree / "m").write_text("linked")
    (tree / "z").mkdir()
    os.link(tree / "m", tree / "z" / "last")
    os.link(tree / "m", tree / "a")
    items = {item.entry.path: item for item in scan_directory(tree)}
    assert items[b"a"].entry.kind is Kind.FILE
    assert content(items[b"a"]) == b"linked"
    assert items[b"m"].entry.target == items[b"z/last"].entry.target == b"a"
    with store.begin("test") as session:
        record = write_layer(session, store, items.values())
    assert len(load_changeset(store, record.diff_id).entries) == 5


def test_holes_become_extents(tree: Path, store: Store) -> None:
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(512 << 10)
        file.write(b"data" * 1024)
    with store.begin("test") as session:
        record = write_layer(session, store, scan_directory(tree))
    extents = load_changeset(store, record.diff_id).entries[1].extents
    shape = [(length, chunk is None) for length, chunk in extents]
    assert shape == [(512 << 10, True), (4096, False), ((508 << 10), True)]


@needs_root
def test_character_device_0_0_is_refused(tree: Path) -> None:
    os.mknod(tree / "w", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    with pytest.raises(UnsafeContentError, match="0:0"):
        scan_directory(tree)


@needs_root
@pytest.mark.parametrize("read_small", [0, 1 << 18])
def test_upper_directories(tree: Path, read_small: int) -> None:
    os.mknod(tree / "gone", stat.S_IFCHR, os.makedev(0, 0))
    (tree / "d").mkdir()
    os.setxattr(tree / "d", b"trusted.overlay.opaque", b"y")
    os.setxattr(tree / "d", b"trusted.overlay.origin", b"\0\1")
    (tree / "d" / "new").write_text("new")
    os.setxattr(tree / "d" / "new", b"trusted.kept", b"1")
    (tree / "x").touch()
    os.setxattr(tree / "x", b"trusted.overlay.whiteout", b"y")
    os.mknod(tree / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    upper = scan_upper(tree, read_small=read_small)
    assert sorted(upper.whiteouts) == [b"gone", b"x"]
    assert upper.opaques == [b"d"]
    entries = {item.entry.path: item.entry for item in upper.items}
    assert set(entries) == {b"", b"d", b"d/new", b"null"}
    assert entries[b"d"].xattrs == ()
    assert entries[b"d/new"].xattrs == ((b"trusted.kept", b"1"),)
    assert upper.skipped == []


def test_of_an_upper_so_much_is_read_at_once_and_the_rest_later(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerstore.image.layers.scan.HELD_MAX_BYTES", 10)
    for name in "abc":
        (tree / name).write_text(f"file {name}")
    items = {item.entry.path: item for item in scan_upper(tree, read_small=6).items}
    assert items[b"a"].content == b"file a"
    assert items[b"b"].content is items[b"c"].content is None
    read = items[b"b"].read_whole
    assert read is not None
    assert read() == b"file b"


@needs_root
@pytest.mark.parametrize("mark", [b"redirect", b"metacopy"])
@pytest.mark.parametrize("read_small", [0, 1 << 18])
def test_uppers_that_lean_on_their_lower_are_refused(
    tree: Path, mark: bytes, read_small: int
) -> None:
    (tree / "f").write_text("content")
    os.setxattr(tree / "f", b"trusted.overlay." + mark, b"/x")
    with pytest.raises(UnsafeContentError, match=mark.decode()):
        scan_upper(tree, read_small=read_small)
