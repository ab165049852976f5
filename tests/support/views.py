"""Helpers for tests of views: images straight from directories, and mounts that always end.

The scanner here is deliberately a second, simple implementation: what a view shows
is then compared with a plain directory without trusting the importer's own scan.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fuse_mount import lowers, mounts
from layerstore.digest import DiffId, sha256_digest
from layerstore.formats.tree import KIND_OF_MODE, Changeset, Entry, Kind, path_key
from layerstore.linux import mounts as syscalls
from layerstore.linux import probe
from layerstore.linux.xattrs import read_xattrs
from layerstore.store.objects.pack_trial import pack_problem
from layerstore.store.records import LayerRecord
from layerstore.store.store import Store
from tests.support.encoding import encode_changeset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.writing.session import WriteSession

_HOLE_BYTES = 1 << 16

needs_root = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root"),
]
needs_fuse = [
    pytest.mark.fuse,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse"),
]


def _packs_missing() -> str:
    """Return why this host does not read packs in place, "" if it does."""
    if os.geteuid() != 0:
        return "needs root"
    return pack_problem(tempfile.gettempdir()) or ""


needs_packs = pytest.mark.skipif(bool(_packs_missing()), reason=_packs_missing() or "works")

needs_libfuse = pytest.mark.skipif(
    not probe.fuse_library().works, reason="libfuse 2 is not installed"
)

SERVED = [
    pytest.param("fuse", marks=needs_fuse),
    pytest.param("fusepy", marks=[*needs_fuse, needs_libfuse]),
]
BACKENDS = [
    *SERVED,
    pytest.param("kernel", marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root")),
    pytest.param("kernel-packs", marks=needs_packs),
]

shown_in_every_way = [
    *needs_root,
    pytest.mark.parametrize("backend", BACKENDS),
    pytest.mark.parametrize("rw", [pytest.param(False, id="ro"), pytest.param(True, id="rw")]),
]


def server_pids(store: str | os.PathLike[str]) -> list[int]:
    """Pids of the living FUSE servers of a store."""
    return [pid for pid, words in _servings(store) if words[0] != b"sh"]


def keeper_pids(store: str | os.PathLike[str]) -> list[int]:
    """Pids of the living keepers of the servers of a store."""
    return [pid for pid, words in _servings(store) if words[0] == b"sh"]


def _servings(store: str | os.PathLike[str]) -> Iterator[tuple[int, list[bytes]]]:
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if b"fuse_mount.server" in words and os.fsencode(store) in words[-2]:
            yield int(name), words


def kill(pid: int) -> None:
    """Kill a process and wait until it has let go of everything: of files later than of memory."""
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    assert not is_running(pid)


def kill_servers(store: str | os.PathLike[str]) -> None:
    """Kill a store's servers and their keepers, and wait until they hold nothing any more.

    Their command lines go before their files do: to miss those is not enough.
    """
    for pid in (*keeper_pids(store), *server_pids(store)):
        with contextlib.suppress(ProcessLookupError):
            kill(pid)


def links_of_files(pid: int) -> list[str]:
    """Return what a process has open, as the kernel names it; it may open and close meanwhile."""
    found = []
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{number}"))
    return found


def is_running(pid: int) -> bool:
    """Whether a process lives; one that only waits to be reaped does not.

    One whose first thread has ended before another did still has all its files.
    """
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX" or int(fields[17]) > 1


def changeset_of(session: WriteSession, root: Path) -> Changeset:
    """Read a directory into a changeset, its content into the store."""
    found: dict[bytes, os.stat_result] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        full = os.path.join(os.fsencode(root), path) if path else os.fsencode(root)
        status = os.lstat(full)
        if stat.S_ISSOCK(status.st_mode):
            continue
        found[path] = status
        if stat.S_ISDIR(status.st_mode):
            pending += [path + b"/" + name if path else name for name in os.listdir(full)]
    entries: dict[bytes, Entry] = {}
    first: dict[tuple[int, int], Entry] = {}
    for path in sorted(found, key=path_key):
        status = found[path]
        named = first.get((status.st_dev, status.st_ino))
        if named is None or stat.S_ISDIR(status.st_mode):
            full = os.path.join(os.fsencode(root), path) if path else os.fsencode(root)
            entries[path] = _entry(session, path, full, status)
            first[status.st_dev, status.st_ino] = entries[path]
        else:
            entries[path] = _link(path, named)
    return Changeset(entries=tuple(entries.values()))


def _link(path: bytes, named: Entry) -> Entry:
    return Entry(
        path=path,
        kind=Kind.HARDLINK,
        mode=named.mode,
        uid=named.uid,
        gid=named.gid,
        mtime_ns=named.mtime_ns,
        target=named.path,
    )


def _entry(session: WriteSession, path: bytes, full: bytes, status: os.stat_result) -> Entry:
    kind = KIND_OF_MODE[stat.S_IFMT(status.st_mode)]
    device = kind in (Kind.CHAR, Kind.BLOCK)
    return Entry(
        path=path,
        kind=kind,
        mode=0o777 if kind is Kind.SYMLINK else stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if kind is Kind.FILE else 0,
        extents=tuple(_extents(session, full)) if kind is Kind.FILE else (),
        target=os.readlink(full) if kind is Kind.SYMLINK else b"",
        dev_major=os.major(status.st_rdev) if device else 0,
        dev_minor=os.minor(status.st_rdev) if device else 0,
        xattrs=read_xattrs(full),
    )


def _extents(session: WriteSession, full: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Yield a file's content; long runs of zeros as holes, neighbours joined."""
    hole = 0
    for length, part in _parts(full):
        if part is None or (length == _HOLE_BYTES and not any(part)):
            hole += length
            continue
        if hole:
            yield hole, None
            hole = 0
        yield from session.put_bytes(part)
    if hole:
        yield hole, None


def _parts(full: bytes) -> Iterator[tuple[int, bytes | None]]:
    """Yield a file in pieces; what the file system knows as a hole is not read."""
    with open(full, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            try:
                data = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # nothing but a hole up to the end
                data = size
            gap = (data - at) // _HOLE_BYTES * _HOLE_BYTES
            if gap:
                yield gap, None
                at += gap
                continue
            part = os.pread(file.fileno(), _HOLE_BYTES, at)
            yield len(part), part
            at += len(part)


def publish_changeset(session: WriteSession, changeset: Changeset) -> DiffId:
    """Publish a changeset as a layer under a made-up but stable diff id."""
    encoded = encode_changeset(changeset)
    diff_id = DiffId(sha256_digest(encoded))
    session.publish_layer(
        LayerRecord(
            diff_id=diff_id,
            tar_size=0,
            tree=session.put_bytes(encoded, meta=True),
            recipe=(),
            recipe_format="canonical-1",
            entry_count=len(changeset.entries),
            content_size=sum(entry.size for entry in changeset.entries),
        )
    )
    return diff_id


def publish_image(session: WriteSession, layers: list[DiffId], name: str) -> ImageRecord:
    """Publish an image with a minimal config."""
    config = json.dumps(
        {"comment": name, "rootfs": {"type": "layers", "diff_ids": layers}}
    ).encode()
    manifest = json.dumps(
        {"schemaVersion": 2, "config": {"digest": sha256_digest(config)}}
    ).encode()
    return session.publish_image(config, manifest, layers, names=[name])


def image_of(store_root: Path, directory: Path, name: str = "odd:1") -> ImageRecord:
    """Make an image of one layer that holds a directory's tree."""
    with Store.open(store_root, create=True) as store, store.begin("test") as session:
        diff_id = publish_changeset(session, changeset_of(session, directory))
        return publish_image(session, [diff_id], name)


def undo_all_mounts(store_root: Path) -> None:
    """Unmount every view of a store, and every server's mount, whatever state they are in."""
    root = str(store_root)
    for item in mounts.mounts(root):
        mounts.unmount(root, item.record.view_id, lazy=True)
    base = lowers.lowers_directory(root)
    for directory, names, _ in os.walk(base, topdown=True):
        if "root" in names:
            names.remove("root")
            place = f"{directory}/root"
            with contextlib.suppress(FileNotFoundError):  # its server is removing it
                while syscalls.identify(place).is_root:
                    syscalls.unmount(place, lazy=True)


def loop_devices_below(directory: Path) -> list[str]:
    """Return the files below a directory that are loop devices: others' come and go meanwhile."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # it has just gone
            found.append(backing.read_text().strip())
    return [path for path in found if path.startswith(f"{directory}/")]


def is_mounted(path: Path | str) -> bool:
    """Whether a mount's root is at this path."""
    return syscalls.identify(str(path)).is_root
