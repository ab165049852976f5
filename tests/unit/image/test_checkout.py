"""A tree as files of the host: what is written, what is not, and never outside."""

import io
import os
import stat

import pytest

from layerstore.errors import ConflictError, StorageError
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.image.checkout import checkout
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.trees.stack import load_root, stack
from layerstore.store.store import Store

DAY_NS = 86_400 * 10**9


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def file(path, content=b"text", mode=0o644, time_ns=DAY_NS):
    entry = Entry(path=path, kind=Kind.FILE, mode=mode, size=len(content), mtime_ns=time_ns)
    return LayerItem(entry, lambda: io.BytesIO(content))


def other(path, kind, **fields):
    return LayerItem(Entry(path=path, kind=kind, mtime_ns=DAY_NS, **fields))


def tree(store, *items):
    with store.begin("test") as session:
        layer = write_layer(session, store, list(items))
    return load_root(store, [layer.diff_id])


def test_files_links_modes_and_times(store, tmp_path):
    root = tree(
        store,
        other(b"d", Kind.DIR, mode=0o1750),
        file(b"d/run", b"#!/bin/sh\n", 0o6755),
        other(b"d/again", Kind.HARDLINK, target=b"d/run"),
        other(b"link", Kind.SYMLINK, mode=0o777, target=b"/etc/passwd"),
        file(b"empty", b""),
        file(b"late", time_ns=3 * DAY_NS),
        file(b"name\xff\n"),
    )
    out = tmp_path / "a" / "out"
    checkout(store, root, out, latest_ns=2 * DAY_NS)
    assert sorted(os.listdir(os.fsencode(out))) == [b"d", b"empty", b"late", b"link", b"name\xff\n"]
    program = os.stat(out / "d" / "run")
    assert stat.S_IMODE(program.st_mode) == 0o755  # nobody becomes another by running it
    assert program.st_ino == os.stat(out / "d" / "again").st_ino
    assert (program.st_uid, program.st_mtime_ns) == (os.geteuid(), DAY_NS)
    assert stat.S_IMODE(os.stat(out / "d").st_mode) == 0o1750
    assert os.stat(out / "d").st_mtime_ns == DAY_NS
    assert os.readlink(out / "link") == "/etc/passwd"
    assert os.stat(out / "late").st_mtime_ns == 2 * DAY_NS
    assert (out / "empty").read_bytes() == b""


def test_holes_and_large_files(store, tmp_path):
    content = os.urandom(300_000)
    size = 4096 + len(content) + 8192
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(size)
        stream.seek(4096)
        stream.write(content)
    entry = Entry(path=b"sparse", kind=Kind.FILE, mode=0o600, size=size)
    holes = ((0, 4096), (4096 + len(content) + -len(content) % 512, 8192 - -len(content) % 512))
    root = tree(store, LayerItem(entry, lambda: path.open("rb"), holes))
    checkout(store, root, tmp_path / "out")
    assert (tmp_path / "out" / "sparse").read_bytes() == path.read_bytes()


def test_links_lead_nowhere(store, tmp_path):
    """Neither those of the tree nor those that lie in the destination are written through."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    out = tmp_path / "out"
    out.mkdir()
    (out / "dir").symlink_to(outside)
    (out / "file").symlink_to(outside / "kept")
    (out / "mine").write_text("mine")
    checkout(store, tree(store, file(b"dir/kept"), file(b"file")), out)
    assert (outside / "kept").read_text() == "kept"
    assert not (out / "dir").is_symlink()
    assert (out / "dir" / "kept").read_text() == (out / "file").read_text() == "text"
    assert (out / "mine").read_text() == "mine"
    # A tree whose link became a directory in a later layer.
    both = stack(
        [
            Changeset((Entry(path=b"x", kind=Kind.SYMLINK, mode=0o777, target=b"../outside"),)),
            Changeset((Entry(path=b"x/new", kind=Kind.DIR, mode=0o755),)),
        ]
    )
    checkout(store, both, out)
    assert (out / "x" / "new").is_dir()
    assert os.listdir(outside) == ["kept"]


def test_a_link_as_the_destination_is_the_callers_own(store, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to("real")
    checkout(store, tree(store, file(b"f")), tmp_path / "out")
    assert (tmp_path / "real" / "f").read_text() == "text"


def test_devices_are_left_out_and_told(store, tmp_path):
    told = []
    root = tree(
        store,
        other(b"null", Kind.CHAR, mode=0o666, dev_major=1, dev_minor=3),
        other(b"pipe", Kind.FIFO, mode=0o666),
        file(b"f"),
    )
    checkout(store, root, tmp_path / "out", on_skip=lambda path, _why: told.append(path))
    assert told == [b"null", b"pipe"]
    assert os.listdir(tmp_path / "out") == ["f"]


def test_what_cannot_be_written_leaves_nothing_new(store, tmp_path):
    out = tmp_path / "out"
    (out / "f" / "below").mkdir(parents=True)
    with pytest.raises(ConflictError, match="'f' is a directory in the destination"):
        checkout(store, tree(store, file(b"f")), out)
    assert os.listdir(out) == ["f"]
    (tmp_path / "taken").write_text("")
    with pytest.raises(StorageError, match="could not write"):
        checkout(store, tree(store, file(b"f")), tmp_path / "taken")
    with pytest.raises(StorageError):
        checkout(store, tree(store, file(b"f")), tmp_path / "taken" / "below")


def test_a_failure_leaves_no_new_directory(store, tmp_path, monkeypatch):
    root = tree(store, file(b"f"))

    def damaged(_refs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store, "read_refs", damaged)
    with pytest.raises(StorageError):
        checkout(store, root, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["store"]
