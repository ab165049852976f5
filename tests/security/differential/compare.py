"""The same archive by our reader and by GNU tar: what we accept, both see alike.

What we refuse is not compared: refusing what two readers could take for two trees is the
point. Attributes that GNU tar cannot restore without privileges are left out then.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import LayerstoreError
from layerstore.formats.tar_reader import TarReader
from layerstore.formats.tree import Kind, decode_changeset
from layerstore.image.layers.ingest_tar import ingest_tar
from tests.security.fuzz.memory import MemoryStore
from tests.security.fuzz.targets import LIMITS

if TYPE_CHECKING:
    from pathlib import Path

    from layerstore.formats.tree import Entry

_KINDS = {
    stat.S_IFDIR: Kind.DIR, stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.SYMLINK,
    stat.S_IFCHR: Kind.CHAR, stat.S_IFBLK: Kind.BLOCK, stat.S_IFIFO: Kind.FIFO,
}  # fmt: skip
_DEVICES = (Kind.CHAR, Kind.BLOCK)
# Attributes of users are for files and directories only; the last line says no more than that.
_HARMLESS = re.compile(
    "lsetxattr|setxattrat|Removing leading|contiguous files|due to previous errors|lone zero block|"
    "implausibly old|in the future|out of time_t range|Directory renamed before|Cannot change mode"
)
_TIME_MAX_NS = 1 << 62
"""Beyond this file systems clamp times, each in its own way."""


class Seen(NamedTuple):
    """What a reader made of one path.

    Attributes:
        group: All names of the file, when it has several.
        attributes: Mode, owner, time and the like; None where the archive says nothing.
    """

    kind: Kind
    content: bytes
    group: tuple[bytes, ...]
    attributes: tuple[object, ...] | None


Tree = dict[bytes, Seen]


def ours(archive: bytes) -> Tree | None:
    """Return what we read, None if we refuse."""
    store = MemoryStore()
    try:
        record = ingest_tar(store, io.BytesIO(archive), limits=LIMITS, rootfs=True)
    except LayerstoreError:
        return None
    entries = decode_changeset(store.read_refs(record.tree)).entries
    files = {entry.path: entry for entry in entries}
    groups: dict[bytes, list[bytes]] = {}
    for entry in entries:
        if entry.kind is Kind.HARDLINK:
            groups.setdefault(entry.target, [entry.target]).append(entry.path)
    tree: Tree = {}
    for entry in entries:
        file = files[entry.target] if entry.kind is Kind.HARDLINK else entry
        content = b"".join(
            store.chunks[chunk] if chunk is not None else bytes(length)
            for length, chunk in file.extents
        )
        group = tuple(sorted(groups.get(file.path, ())))
        attributes = (
            file.mode if file.kind is not Kind.SYMLINK else None, file.uid, file.gid,
            file.mtime_ns if abs(file.mtime_ns) < _TIME_MAX_NS else None,
            (file.dev_major, file.dev_minor) if file.kind in _DEVICES else None,
            _restorable(file),
        )  # fmt: skip
        what = file.target if file.kind is Kind.SYMLINK else _digest(content)
        tree[entry.path] = Seen(file.kind, what, group, attributes)
    for path in list(tree):
        _imply_parents(tree, path)
    for path in tree.keys() & {path for path, kinds in _told_twice(archive) if Kind.DIR in kinds}:
        for name in (path, *tree[path].group):
            tree[name] = tree[name]._replace(attributes=None)
    return tree


def _told_twice(archive: bytes) -> list[tuple[bytes, list[Kind]]]:
    """Return paths of several members, with what they are.

    GNU tar makes symlinks that lead out, and restores attributes of directories, in the
    end, and may mistake what has taken their place meanwhile for them.
    """
    reader = TarReader(iter([archive]), LIMITS)
    kinds: dict[bytes, list[Kind]] = {}
    while (member := reader.next_member()) is not None:
        kinds.setdefault(member.path, []).append(member.kind)
        reader.read_exactly(member.stored)
    return [(path, found) for path, found in kinds.items() if len(found) > 1]


def _restorable(file: Entry) -> tuple[tuple[bytes, bytes], ...]:
    if file.kind not in (Kind.FILE, Kind.DIR):
        return ()
    return tuple(pair for pair in file.xattrs if pair[0].startswith(b"user."))


def _imply_parents(tree: Tree, path: bytes) -> None:
    parent = path.rpartition(b"/")[0]
    while parent and parent not in tree:
        tree[parent] = Seen(Kind.DIR, _digest(b""), (), None)
        parent = parent.rpartition(b"/")[0]


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def gnu_tars(archive: bytes, into: Path) -> tuple[Tree, str]:
    """Return what GNU tar unpacks into an empty directory, and what it complains of."""
    done = subprocess.run(
        ["tar", "-C", os.fspath(into), "--numeric-owner", "--xattrs", "--xattrs-include=user.*",
         "--same-owner", "--delay-directory-restore", "-xpf", "-"],
        input=archive, capture_output=True, check=False, umask=0o022,
    )  # fmt: skip
    complaint = done.stderr.decode(errors="replace") if done.returncode else ""
    complaint = "; ".join(line for line in complaint.splitlines() if not _HARMLESS.search(line))
    return _walk(os.fsencode(into)), complaint


def _walk(top: bytes) -> Tree:
    tree: Tree = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    inodes: dict[bytes, tuple[int, int]] = {}
    for folder, directories, files in os.walk(top):
        for name in (*directories, *files):
            full = os.path.join(folder, name)
            path = os.path.relpath(full, top)
            status = os.lstat(full)
            kind = _KINDS[stat.S_IFMT(status.st_mode)]
            content = b""
            if kind is Kind.FILE:
                with open(full, "rb") as file:
                    content = file.read()
            link = kind is Kind.SYMLINK
            attributes = (
                None if link else stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
                status.st_mtime_ns if abs(status.st_mtime_ns) < _TIME_MAX_NS else None,
                (os.major(status.st_rdev), os.minor(status.st_rdev)) if kind in _DEVICES else None,
                _user_xattrs(full) if kind in (Kind.FILE, Kind.DIR) else (),
            )  # fmt: skip
            tree[path] = Seen(kind, os.readlink(full) if link else _digest(content), (), attributes)
            if kind is not Kind.DIR and status.st_nlink > 1:
                inodes[path] = (status.st_dev, status.st_ino)
                names.setdefault(inodes[path], []).append(path)
    for path, inode in inodes.items():
        tree[path] = tree[path]._replace(group=tuple(sorted(names[inode])))
    return tree


def _user_xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    names = sorted(os.listxattr(path, follow_symlinks=False))
    return tuple(
        (os.fsencode(name), os.getxattr(path, name, follow_symlinks=False))
        for name in names
        if name.startswith("user.")
    )


def _comparable(one: Seen, two: Seen, *, links: bool) -> tuple[object, ...] | None:
    """Return the attributes of ``one``, with those of ``two`` where nothing can be said."""
    if one.attributes is None or two.attributes is None:
        return two.attributes
    if one.kind is Kind.DIR and links:
        # GNU tar makes symlinks that lead out in the end: their directory gets a new time.
        return (*one.attributes[:3], two.attributes[3], *one.attributes[4:])
    return one.attributes


def differences(archive: bytes, into: Path) -> list[str] | None:
    """Return what the two see differently, or None when we refuse the archive."""
    tree = ours(archive)
    if tree is None:
        return None
    into.mkdir()
    try:
        other, complaint = gnu_tars(archive, into)
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", os.fspath(into)], check=False, capture_output=True)
        shutil.rmtree(into)
    found = [f"GNU tar complains: {complaint}"] if complaint else []
    doubtful = {path for path, kinds in _told_twice(archive) if Kind.SYMLINK in kinds}
    for path in {b""} | doubtful:
        tree.pop(path, None)
        other.pop(path, None)
    links = doubtful or any(seen.kind is Kind.SYMLINK for seen in tree.values())
    for path in sorted(tree.keys() | other.keys()):
        one, two = tree.get(path), other.get(path)
        if one is not None and two is not None:
            one = one._replace(attributes=_comparable(one, two, links=bool(links)))
        if one != two:
            found.append(f"{path!r}: here {one}, GNU tar {two}")
    return found
