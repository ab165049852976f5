"""Class E: what inodes may carry. Layers are stored; nothing of them exists on the host."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING

from layerstore.formats.tree import Kind
from tests.security.corpus.entrances import SMALL, as_layer, tar
from tests.security.corpus.model import case
from tests.security.corpus.tar_paths import paths
from tests.support.tars import END, directory, member, pax

if TYPE_CHECKING:
    from layerstore.formats.tree import Changeset
    from tests.security.corpus.model import Place

ACL = (2).to_bytes(4, "little")
NO_ID = b"\xff\xff\xff\xff"


def capability(magic: int, size: int) -> bytes:
    return magic.to_bytes(4, "little") + bytes(size - 4)


def xattr(name: bytes, value: bytes) -> bytes:
    return pax((b"SCHILY.xattr." + name, value)) + member(b"x", b"1")


def _acl(*entries: bytes) -> bytes:
    return xattr(b"system.posix_acl_access", ACL + b"".join(entries))


_ACL_NAMES = b"user::rw-,user:nobody-here:rwx,group::r--,mask::rwx,other::r--"
_REFUSED = [
    ("E01", "short", xattr(b"security.capability", b"\1\0\0\2")),
    ("E01", "size", xattr(b"security.capability", capability(0x02000001, 24))),
    ("E01", "flags", xattr(b"security.capability", capability(0x02000101, 20))),
    ("E01", "version", xattr(b"security.capability", capability(0x04000001, 20))),
    ("E02", "socket", member(b"s", typeflag=b"s")),
    ("E03", "none", xattr(b"name", b"x")),
    ("E03", "unknown", xattr(b"system.nfs4_acl", b"x")),
    ("E03", "nothing behind it", xattr(b"user.", b"x")),
    ("E04", "byte ff", xattr(b"user.\xff", b"x")),
    ("E05", "quoted", pax((b"LIBARCHIVE.xattr.user.a%00b", b"eA")) + member(b"a")),
    ("E05", "too long", xattr(b"user." + b"n" * 251, b"x")),
    ("E06", "version", xattr(b"system.posix_acl_access", b"\3\0\0\0")),
    ("E06", "length", _acl(b"123")),
    ("E06", "tag", _acl(b"\3\0\7\0\0\0\0\0")),
    ("E06", "order", _acl(b"\4\0\7\0" + NO_ID, b"\1\0\7\0" + NO_ID)),
    ("E06", "incomplete", _acl(b"\1\0\7\0" + NO_ID)),
    ("E06", "a user without a number", pax((b"SCHILY.acl.access", _ACL_NAMES)) + member(b"a")),
    ("E18", "two values",
     pax((b"SCHILY.xattr.user.a", b"1"), (b"LIBARCHIVE.xattr.user.a", b"Mg")) + member(b"a")),
    ("E18", "not base64", pax((b"LIBARCHIVE.xattr.user.a", b"M")) + member(b"a")),
]  # fmt: skip


def _kind(kind: Kind):
    def check(changeset: Changeset) -> None:
        assert [entry.kind for entry in changeset.entries] == [kind]

    return check


def _mode(mode: int):
    def check(changeset: Changeset) -> None:
        assert [entry.mode for entry in changeset.entries] == [mode]

    return check


def _store_is_private(place: Place) -> None:
    """No file that a setuid program came into is a program, or anybody else's to read."""
    archive = member(b"su", b"\x7fELF" * 100, mode=0o6755) + member(b"cap", mode=0o755) + END
    with place.store() as store:
        as_layer(store, io.BytesIO(archive), SMALL)
    for folder, _, files in os.walk(place.store_root):
        assert stat.S_IMODE(os.lstat(folder).st_mode) == 0o700, folder
        for name in files:
            mode = stat.S_IMODE(os.lstat(f"{folder}/{name}").st_mode)
            assert mode == 0o600, f"{folder}/{name} has mode {mode:o}"


_SAFE = [
    ("E07", "4,294,967,294", pax((b"uid", b"4294967294")) + member(b"a"), paths(b"a")),
    ("E08", "block 8:0", member(b"a", typeflag=b"4", devmajor=8), _kind(Kind.BLOCK)),
    ("E08", "char 1:3", member(b"a", typeflag=b"3", devmajor=1, devminor=3), _kind(Kind.CHAR)),
    ("E09", "file", member(b"a", mode=0o4755), _mode(0o4755)),
    ("E10", "file", member(b"a", mode=0o2755), _mode(0o2755)),
    ("E11", "version 2", xattr(b"security.capability", capability(0x02000001, 20)), paths(b"x")),
    ("E11", "version 3", xattr(b"security.capability", capability(0x03000000, 24)), paths(b"x")),
    ("E12", "fifo", member(b"a", typeflag=b"6"), _kind(Kind.FIFO)),
    ("E13", "attribute", xattr(b"security.selinux", b"system_u:object_r:bin_t:s0\0"), paths(b"x")),
    ("E13", "GNU tar's record", pax((b"RHT.security.selinux", b"a:b:c:s0")) + member(b"a"),
     paths(b"a")),
    ("E14", "root", member(b"a", uid=0, gid=0), paths(b"a")),
    ("E15", "directory", member(b"d/", typeflag=b"5", mode=0) + member(b"d/x"),
     paths(b"d", b"d/x")),
    ("E16", "fifo, then file", member(b"a", typeflag=b"6") + member(b"a", b"1"), _kind(Kind.FILE)),
    ("E06", "no default ACL", pax((b"SCHILY.acl.default", b"")) + directory(b"d/"), paths(b"d")),
]  # fmt: skip
_MANY = pax(*((b"SCHILY.xattr.user.%d" % i, b"") for i in range(10_000))) + member(b"a")
_LARGE = pax(*((b"SCHILY.xattr.user.%d" % i, b"x" * 65000) for i in range(17))) + member(b"a")

CASES = [
    *(tar(entry, name, "R", archive) for entry, name, archive in _REFUSED),
    *(tar(entry, name, "S", archive, check=check) for entry, name, archive, check in _SAFE),
    case("E09", "in the store", "S", _store_is_private, entrance="layer"),
    tar("E17", "64 KiB and 1", "L", xattr(b"user.a", b"x" * 65537), says="xattr_value_bytes"),
    tar("E17", "64 KiB", "S", xattr(b"user.a", b"x" * 65536), check=paths(b"x")),
    tar("E18", "10,000", "L", _MANY, says="xattrs"),
    tar("E18", "1 MiB together", "L", _LARGE, says="xattr_total_bytes|pax_bytes"),
]
