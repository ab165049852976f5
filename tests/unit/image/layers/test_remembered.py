"""Remembered scans: an unchanged directory is known, a changed one never is."""

from __future__ import annotations

import os
import shutil
import socket
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.formats.oci_config import ContainerConfig
from layerstore.image.importing import ImportSpec, import_directory
from layerstore.image.layers import remembered
from layerstore.image.layers.layers import load_changeset
from layerstore.image.layers.remembered import Fingerprint
from layerstore.image.layers.scan import Scanner
from layerstore.linux.files import read_file
from layerstore.measure.ledger import Owner, take_ledger
from layerstore.progress import Silent
from layerstore.store.check.check import check
from layerstore.store.check.repair import execute_repair, plan_repair
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.remembering import RECORDS_MAX
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from layerstore.digest import DiffId

SPEC = ImportSpec(("docker.io/library/a:1",), ContainerConfig(), "", "2026-11-26T00:00:00Z")
LATER_NS = 10_000_000_000
FUTURE_NS = 4_000_000_000_000_000_000


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with one of each, hard links and a directory of its own names."""
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "passwd").write_text("root:x:0:0\n")
    (root / "empty").touch()
    (root / "large").write_bytes(os.urandom(600_000))
    (root / "link").symlink_to("etc/passwd")
    os.link(root / "large", root / "z-linked")
    os.mkfifo(root / "fifo")
    return root


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


@pytest.fixture(autouse=True)
def any_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run on a tmpfs; none of them writes through mmap."""
    monkeypatch.setattr(remembered, "_file_system", lambda _device: "ext4")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Every directory walked for its content, that is, not recalled."""
    walked: list[bytes] = []
    items = Scanner.items

    def counted(self: Scanner) -> object:
        walked.append(b"")
        return items(self)

    monkeypatch.setattr(Scanner, "items", counted)
    return walked


def put(store: Store, tree: Path, *, later_ns: int = LATER_NS, **more: object) -> DiffId:
    """Import as if everything in the tree had been still for a while."""
    found = import_directory(
        store,
        tree,
        SPEC,
        progress=Silent(),
        now_ns=lambda: time.time_ns() + later_ns,
        **more,  # type: ignore[arg-type]
    )
    return found.image.layers[0]


def test_an_unchanged_directory_is_not_read(store: Store, tree: Path, reads: list[bytes]) -> None:
    first = put(store, tree)
    assert put(store, tree) == put(store, tree) == first
    assert len(reads) == 1


def test_reread_reads(store: Store, tree: Path, reads: list[bytes]) -> None:
    put(store, tree)
    put(store, tree, reread=True)
    assert len(reads) == 2


def test_a_renamed_directory_is_known(store: Store, tree: Path, reads: list[bytes]) -> None:
    first = put(store, tree)
    moved = tree.with_name("moved")
    tree.rename(moved)
    # A rename sets the ctime of the directory itself: only then it is read once more.
    assert put(store, moved) == put(store, moved) == first
    assert len(reads) <= 2


def same_size_and_mtime(root: Path) -> None:
    path = root / "etc" / "passwd"
    status = path.stat()
    path.write_text("r00t:x:0:0\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_mtime_ns == status.st_mtime_ns


def renamed_over(root: Path) -> None:
    path = root / "etc" / "passwd"
    status = path.stat()
    new = root / "etc" / "new"
    new.write_text("evil:x:0:0\n")
    os.utime(new, ns=(status.st_atime_ns, status.st_mtime_ns))
    new.rename(path)


def written_through_the_other_name(root: Path) -> None:
    with (root / "z-linked").open("r+b") as file:
        file.write(b"other")


def link_replaced_by_equal_file(root: Path) -> None:
    content = (root / "large").read_bytes()
    (root / "z-linked").unlink()
    (root / "z-linked").write_bytes(content)


def directory_times_set_back(root: Path) -> None:
    status = (root / "etc").stat()
    (root / "etc" / "more").touch()
    os.utime(root / "etc", ns=(status.st_atime_ns, status.st_mtime_ns))


def symlink_replaced(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("etc/shadow")


def first_byte_changed(root: Path) -> None:
    with (root / "large").open("r+b") as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes((byte[0] ^ 1,)))


def xattr_set(root: Path) -> None:
    try:
        os.setxattr(root / "empty", "user.test", b"1")
    except OSError as err:
        pytest.skip(f"no xattrs here: {err}")


CHANGES: list[Callable[[Path], object]] = [
    same_size_and_mtime,
    renamed_over,
    written_through_the_other_name,
    link_replaced_by_equal_file,
    directory_times_set_back,
    symlink_replaced,
    first_byte_changed,
    xattr_set,
    lambda root: (root / "etc" / "passwd").touch(),
    lambda root: (root / "etc" / "passwd").chmod(0o600),
    lambda root: (root / "etc").chmod(0o700),
    lambda root: (root / "etc" / "passwd").unlink(),
    lambda root: (root / "new").touch(),
    lambda root: (root / "empty").rename(root / "renamed"),
    lambda root: os.link(root / "empty", root / "etc" / "empty"),
    lambda root: (root / "z-linked").unlink(),
    lambda root: root.chmod(0o711),
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(
    store: Store,
    tmp_path: Path,
    tree: Path,
    reads: list[bytes],
    change: Callable[[Path], object],
) -> None:
    put(store, tree)
    change(tree)
    again = put(store, tree)
    assert len(reads) == 2
    with Store.open(tmp_path / "fresh", create=True) as fresh:
        assert put(fresh, tree) == again
    entries = load_changeset(store, again).entries
    assert {entry.path for entry in entries} == {b""} | {
        os.fsencode(path.relative_to(tree)) for path in tree.rglob("*")
    }


@pytest.mark.parametrize("later_ns", [0, 1_000_000_000, -3600 * 10**9])
def test_what_changed_just_now_is_not_trusted(
    store: Store, tree: Path, reads: list[bytes], later_ns: int
) -> None:
    """Its next change could get the same ctime; so could one after the clock was set back."""
    for path in (tree / "empty", tree / "etc"):
        os.utime(path)
    put(store, tree, later_ns=later_ns)
    assert not (store.root / "scans").exists()
    put(store, tree, later_ns=later_ns)
    assert len(reads) == 2


def test_other_file_systems_are_not_trusted(
    store: Store, tree: Path, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("tmpfs", "nfs4", "fuse.sshfs", None):
        monkeypatch.setattr(remembered, "_file_system", lambda _device, kind=kind: kind)
        put(store, tree)
    assert len(reads) == 4
    assert not (store.root / "scans").exists()


def test_a_copy_elsewhere_is_another_directory(
    store: Store, tmp_path: Path, tree: Path, reads: list[bytes]
) -> None:
    put(store, tree)
    shutil.copytree(tree, tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("fifo"))
    put(store, tmp_path / "copy")
    assert len(reads) == 2


def test_another_device_is_another_directory(tree: Path) -> None:
    def digest(device: int) -> bytes:
        values = list(tree.stat())
        values[2] = device
        fingerprint = Fingerprint()
        fingerprint.add([b""], [os.stat_result(values, {"st_mtime_ns": 1, "st_ctime_ns": 1})])
        return fingerprint.digest()

    assert digest(1) != digest(2)


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[:-1])
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "text":
        path.write_bytes(b"x" * 100)
    elif how == "gone":
        path.unlink()
    elif how == "directory":
        path.unlink()
        path.mkdir()
    elif how == "symlink":
        path.unlink()
        path.symlink_to("/etc/passwd")


@pytest.mark.parametrize("how", ["empty", "cut", "zeros", "text", "gone", "directory", "symlink"])
def test_a_damaged_record_is_a_miss(store: Store, tree: Path, reads: list[bytes], how: str) -> None:
    first = put(store, tree)
    (record,) = (store.root / "scans").iterdir()
    damaged(record, how)
    assert put(store, tree) == first
    assert len(reads) == 2


def test_every_flipped_bit_of_a_record_is_a_miss(
    store: Store, tree: Path, reads: list[bytes]
) -> None:
    put(store, tree)
    (record,) = (store.root / "scans").iterdir()
    good = record.read_bytes()
    with store.begin("test") as session:
        for bit in range(len(good) * 8):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            record.write_bytes(bad)
            scans = remembered.RememberedScans(session, tree.stat())
            assert scans.recall(lambda: pytest.fail("looked")) is None
    assert read_file(str(record), max_bytes=1 << 20) != good


def collect(store: Store) -> None:
    execute(plan_gc(store))


def test_a_collected_layer_is_a_miss(store: Store, tree: Path, reads: list[bytes]) -> None:
    first = put(store, tree)
    store.remove_image(store.images()[0].image_id)
    collect(store)
    assert not store.has_layer(first)
    assert put(store, tree) == first
    assert len(reads) == 2


def test_after_gc_of_something_else_it_is_known(
    store: Store, tmp_path: Path, tree: Path, reads: list[bytes]
) -> None:
    first = put(store, tree)
    other = tmp_path / "other"
    other.mkdir()
    (other / "noise").write_bytes(os.urandom(300_000))
    gone = import_directory(store, other, SPEC._replace(names=()), progress=Silent())
    store.remove_image(gone.image.image_id)
    epoch = store.catalog.epoch()
    collect(store)
    assert store.catalog.epoch() > epoch
    assert put(store, tree) == put(store, tree) == first
    assert len(reads) == 2  # the two trees, once each


def test_differences_of_others_that_lost_their_bases_do_not_matter(
    store: Store, tmp_path: Path, tree: Path, reads: list[bytes]
) -> None:
    """gc keeps bases of living blocks only."""
    first = put(store, tree)
    other = tmp_path / "other"
    other.mkdir()
    (other / "noise").write_bytes(os.urandom(200_000))
    import_directory(store, other, SPEC._replace(names=("other",)), progress=Silent())
    with store.catalog.write() as connection:
        last = store.catalog.block_rows()[-1]
        row = (last.pack, last.block, 0, bytes(32))
        connection.execute("INSERT INTO bases VALUES (?, ?, ?, ?)", row)
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
    assert put(store, tree) == first
    assert len(reads) == 2  # the two trees, once each


def test_rows_of_chunks_that_are_gone_are_a_miss(
    store: Store, tree: Path, reads: list[bytes]
) -> None:
    first = put(store, tree)
    with store.catalog.write() as connection:
        connection.execute("DELETE FROM chunks WHERE length > 1000")
        connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
    assert put(store, tree) == first
    assert len(reads) == 2
    assert store.read_refs(
        tuple(
            (length, chunk)
            for entry in load_changeset(store, first).entries
            for length, chunk in entry.extents
            if chunk is not None
        )
    ).endswith((tree / "large").read_bytes())


def written_to(path: Path) -> None:
    """Write until the kernel's clock, which ticks every few milliseconds, has moved on."""
    before = path.stat().st_ctime_ns
    (record,) = (path.parents[2] / "scans").iterdir()
    while path.stat().st_ctime_ns <= max(before, record.stat().st_mtime_ns):
        with path.open("r+b") as file:
            file.seek(100)
            file.write(b"x")


@pytest.mark.parametrize("harm", ["gone", "cut", "written"])
def test_a_pack_that_was_touched_is_a_miss(
    store: Store, tree: Path, reads: list[bytes], harm: str
) -> None:
    put(store, tree)
    for pack in (store.root / "packs").rglob("*.pack"):
        if harm == "gone":
            pack.rename(store.root / "quarantine" / pack.name)
        elif harm == "cut":
            os.truncate(pack, pack.stat().st_size - 1)
        else:
            written_to(pack)
    with store.begin("test") as session:
        scans = remembered.RememberedScans(session, tree.stat())
        fingerprint = Fingerprint()
        Scanner(tree, fingerprint=fingerprint).look()
        assert scans.recall(fingerprint.digest) is None


def test_bits_that_rotted_are_a_miss_and_come_back(
    store: Store, tree: Path, reads: list[bytes]
) -> None:
    """Rot changes no time: here the record is made younger than the damage instead."""
    put(store, tree)
    (pack,) = (store.root / "packs").rglob("*.pack")
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    pack.write_bytes(data)
    for record in (store.root / "scans").iterdir():
        os.utime(record, ns=(FUTURE_NS, FUTURE_NS))
    put(store, tree)
    assert len(reads) == 2
    report = check(store, read_data=True)
    assert report.ok
    put(store, tree)
    assert len(reads) == 3  # what is good in the damaged pack is still used
    execute_repair(plan_repair(store, report))
    put(store, tree)
    assert len(reads) == 3  # everything lies well again


def test_what_was_skipped_is_told_again(
    store: Store, tree: Path, reads: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree)  # socket paths are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
    told: list[list[bytes]] = []
    for _ in range(2):
        told.append([])
        put(store, tree, on_skip=lambda path, _why: told[-1].append(path))
    assert told == [[b"sock"], [b"sock"]]
    assert len(reads) == 1


def test_records_are_bounded(store: Store, tree: Path) -> None:
    scans = store.root / "scans"
    scans.mkdir(mode=0o700)
    for number in range(RECORDS_MAX + 5):
        (scans / f"{number:032}").touch()
    put(store, tree)
    assert len(list(scans.iterdir())) == RECORDS_MAX


def test_records_are_private_and_forgotten_with_the_store(store: Store, tree: Path) -> None:
    previous = os.umask(0)
    try:
        put(store, tree)
    finally:
        os.umask(previous)
    (record,) = (store.root / "scans").iterdir()
    assert record.stat().st_mode & 0o777 == 0o600
    assert record.parent.stat().st_mode & 0o777 == 0o700
    assert not list((store.root / "tmp").iterdir())


def test_the_ledger_knows_them(store: Store, tree: Path) -> None:
    put(store, tree)
    (record,) = (store.root / "scans").iterdir()
    assert take_ledger(store).size_of(Owner.SCANS) == record.stat().st_size


def test_shared_stores_remember_nothing(store: Store, tree: Path, reads: list[bytes]) -> None:
    put(store, tree)
    store.root.chmod(0o2770)
    put(store, tree)
    shutil.rmtree(store.root / "scans")
    put(store, tree)
    assert len(reads) == 3
    assert not (store.root / "scans").exists()
