"""Directory trees for tests: one with everything odd in it, and an exact comparison of two.

`make_odd_tree` builds a tree with every kind of entry a Linux root file system can hold;
`compare_trees` says how two trees differ, entry by entry; `describe_tree` gives the picture
it compares. None of them follows a symlink.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

IGNORED_XATTRS = ("trusted.overlay.", "user.overlay.")
CAPABILITY_NET_RAW = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)
"""security.capability of revision 2: cap_net_raw+ep."""


class Seen(NamedTuple):
    """What an observer can tell about one name of a tree."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    device: tuple[int, int]
    target: bytes
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[bytes, ...]
    """All names of the same inode inside the tree, sorted; one for an ordinary entry."""
    holes: tuple[tuple[int, int], ...]
    """(offset, length) of what the file system reports as holes."""


def describe_tree(
    root: Path | bytes | str, *, holes: bool = False, ignore: Collection[bytes] = ()
) -> dict[bytes, Seen]:
    """Return every path below ``root`` (relative, the root is b"") with all that can be seen.

    Args:
        holes: Ask for holes as well; file systems without SEEK_HOLE report none.
        ignore: Relative paths left out, together with everything below them.
    """
    base = os.fsencode(root)
    found: dict[bytes, os.stat_result] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        full = base + b"/" + path if path else base
        found[path] = status = os.lstat(full)
        if stat.S_ISDIR(status.st_mode):
            names = [path + b"/" + name if path else name for name in os.listdir(full)]
            pending.extend(name for name in names if name not in ignore)
    names_of: dict[tuple[int, int], list[bytes]] = {}
    for path, status in found.items():
        if not stat.S_ISDIR(status.st_mode):
            names_of.setdefault((status.st_dev, status.st_ino), []).append(path)
    return {
        path: _see(base, path, status, names_of, holes=holes)
        for path, status in sorted(found.items())
    }


def _see(
    base: bytes,
    path: bytes,
    status: os.stat_result,
    names_of: dict[tuple[int, int], list[bytes]],
    *,
    holes: bool,
) -> Seen:
    full = base + b"/" + path if path else base
    kind = stat.S_IFMT(status.st_mode)
    regular = stat.S_ISREG(status.st_mode)
    return Seen(
        kind=stat.filemode(kind)[0],
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if regular else 0,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
        target=os.readlink(full) if stat.S_ISLNK(status.st_mode) else b"",
        content=_read(full) if regular else b"",
        xattrs=_xattrs(full),
        links=tuple(sorted(names_of.get((status.st_dev, status.st_ino), [path]))),
        holes=_holes(full, status.st_size) if holes and regular else (),
    )


def _read(full: bytes) -> bytes:
    with open(full, "rb") as file:
        return file.read()


def _xattrs(full: bytes) -> tuple[tuple[str, bytes], ...]:
    try:
        names = os.listxattr(full, follow_symlinks=False)
    except OSError as err:
        if err.errno in (errno.ENOTSUP, errno.EPERM):
            return ()
        raise
    return tuple(
        (name, os.getxattr(full, os.fsencode(name), follow_symlinks=False))
        for name in sorted(names)
        if not name.startswith(IGNORED_XATTRS)
    )


def _holes(full: bytes, size: int) -> tuple[tuple[int, int], ...]:
    found = []
    descriptor = os.open(full, os.O_RDONLY)
    try:
        at = 0
        while at < size:
            start = os.lseek(descriptor, at, os.SEEK_HOLE)
            if start >= size:
                break
            try:
                at = os.lseek(descriptor, start, os.SEEK_DATA)
            except OSError:
                at = size
            found.append((start, at - start))
    finally:
        os.close(descriptor)
    return tuple(found)


def compare_trees(
    expected: Path | bytes | str,
    actual: Path | bytes | str,
    *,
    holes: bool = False,
    ignore: Collection[bytes] = (),
    ignore_fields: Collection[str] = (),
) -> list[str]:
    """Return one line for every difference between two directory trees; empty when equal.

    Compares kind, mode, owner, mtime in nanoseconds, size, device numbers, link targets,
    content, xattrs and which names are hard links of each other.

    Args:
        holes: Compare holes too (not through libfuse 2, which cannot report them).
        ignore: Relative paths to leave out on both sides.
        ignore_fields: Fields of :class:`Seen` not to compare, for example "uid".
    """
    left = describe_tree(expected, holes=holes, ignore=ignore)
    right = describe_tree(actual, holes=holes, ignore=ignore)
    lines = [f"missing: {path!r}" for path in sorted(left.keys() - right.keys())]
    lines += [f"extra: {path!r}" for path in sorted(right.keys() - left.keys())]
    for path in sorted(left.keys() & right.keys()):
        for field in Seen._fields:
            one, other = getattr(left[path], field), getattr(right[path], field)
            if field not in ignore_fields and one != other:
                lines.append(f"{path!r}: {field} {_short(one)} became {_short(other)}")
    return lines


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


def make_odd_tree(root: Path | bytes | str) -> list[bytes]:
    """Fill the existing empty directory ``root`` with everything odd this process may create.

    Without root, devices, foreign owners and privileged xattrs are left out, so the
    same tests run there with less to find. Returns the relative paths made.
    """
    base = os.fsencode(root)
    privileged = os.geteuid() == 0
    _make_files(base)
    _make_links(base)
    _make_names(base)
    _make_sparse(base)
    os.mkfifo(base + b"/kinds/fifo", 0o640)
    _set_user_xattrs(base)
    if privileged:
        _make_devices(base)
        _make_owners(base)
        _set_privileged_xattrs(base)
    _set_times(base)
    return [path for path in describe_tree(base) if path]


def _write(path: bytes, content: bytes, mode: int = 0o644) -> None:
    with open(path, "wb") as file:
        file.write(content)
    os.chmod(path, mode)


def _make_files(base: bytes) -> None:
    for name in (b"files", b"links", b"names", b"sparse", b"kinds", b"modes", b"owners", b"xattrs"):
        os.mkdir(base + b"/" + name, 0o755)
    _write(base + b"/files/empty", b"")
    _write(base + b"/files/small", b"hello\n")
    _write(base + b"/files/block", bytes(range(256)) * 2)
    _write(base + b"/files/block-and-one", bytes(range(256)) * 2 + b"!")
    _write(base + b"/files/large", b"".join(struct.pack("<Q", i * i) for i in range(200_000)))
    _write(base + b"/files/zeros", bytes(300_000))
    for mode in (0o000, 0o111, 0o444, 0o600, 0o777, 0o1644, 0o2755, 0o4755, 0o6755):
        _write(base + b"/modes/file-%04o" % mode, b"mode", mode)
    for mode in (0o500, 0o700, 0o1777, 0o2775):
        os.mkdir(base + b"/modes/dir-%04o" % mode)
        os.chmod(base + b"/modes/dir-%04o" % mode, mode)


def _make_links(base: bytes) -> None:
    links = base + b"/links/"
    _write(links + b"m-first", b"linked three times\n")
    os.link(links + b"m-first", links + b"a-before")
    os.link(links + b"m-first", base + b"/files/linked-from-afar")
    os.symlink(b"../files/small", links + b"relative")
    os.symlink(b"/etc/passwd", links + b"absolute")
    os.symlink(b"nowhere", links + b"dangling")
    os.symlink(b"loop", links + b"loop")
    os.symlink(b"\xff\xfe not utf-8", links + b"bytes")
    os.symlink(b"t" * 300, links + b"long-target")
    os.symlink(b"files", base + b"/to-directory")
    os.link(links + b"dangling", links + b"z-hard-link-to-symlink", follow_symlinks=False)


def _make_names(base: bytes) -> None:
    names = base + b"/names/"
    odd = [
        b"\xff\xfe", b"\xed\xa0\x80", "é".encode(), "e\u0301".encode(), b"PAM", b"pam",
        b"-x", b"$(x)", b"a b", b" lead", b"trail ", b"dot.", b"..x", b".x", b"...", b"new\nline",
        b"tab\t", b"esc\x1b[31m", b"back\\slash", b"C:x", b"CON", b"quote'\"", b"star*?[",
        b"n" * 255, "ä".encode() * 127, b"!before-dot", b"a", b"a.b", b"a-b", b"=", b"%s", b"\x7f",
        bytes(range(1, 47)), bytes(range(48, 256)),
    ]  # fmt: skip
    for name in odd:
        _write(names + name, b"content of " + name)
    os.makedirs(names + b"d" * 120 + b"/" + b"e" * 120)
    _write(names + b"d" * 120 + b"/" + b"e" * 120 + b"/" + b"f" * 120, b"deep name")
    os.mkdir(names + b"\xf0 dir")
    _write(names + b"\xf0 dir/inside", b"inside")


def _make_sparse(base: bytes) -> None:
    for name, size, data in (
        (b"only-hole", 1 << 20, ()),
        (b"hole-first", 1 << 20, ((917_504, b"end" * 4096),)),
        (b"hole-last", 1 << 20, ((0, b"start" * 4096),)),
        (b"middle", 3_000_017, ((65_536, b"one" * 30_000), (2_097_152, b"two" * 100))),
    ):
        with open(base + b"/sparse/" + name, "wb") as file:
            file.truncate(size)
            for offset, content in data:
                file.seek(offset)
                file.write(content[: size - offset])


def _make_devices(base: bytes) -> None:
    kinds = base + b"/kinds/"
    os.mknod(kinds + b"null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(kinds + b"loop", stat.S_IFBLK | 0o660, os.makedev(7, 300))
    os.mknod(kinds + b"high", stat.S_IFCHR | 0o600, os.makedev(0xFFF, 0xFFFFF))


def _make_owners(base: bytes) -> None:
    owners = base + b"/owners/"
    for uid, gid in ((1, 2), (65534, 65534), (2_097_151, 2_097_152), (4_294_967_294, 100_000)):
        path = owners + b"%d-%d" % (uid, gid)
        _write(path, b"owned")
        os.chown(path, uid, gid)
    os.symlink(b"1-2", owners + b"symlink")
    os.lchown(owners + b"symlink", 33, 33)
    _write(owners + b"setuid", b"#!/bin/sh\n")
    os.chown(owners + b"setuid", 1000, 1000)
    os.chmod(owners + b"setuid", 0o4755)


def _try_xattr(path: bytes, name: bytes, value: bytes) -> None:
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError as err:
        if err.errno not in (errno.ENOTSUP, errno.EPERM, errno.ENOSPC):
            raise


def _set_user_xattrs(base: bytes) -> None:
    path = base + b"/xattrs/user"
    _write(path, b"with xattrs")
    _try_xattr(path, b"user.text", b"value")
    _try_xattr(path, b"user.empty", b"")
    _try_xattr(path, b"user.binary", bytes(range(256)))
    _try_xattr(path, b"user.with=equals\nand newline", b"a=b\nc")
    _try_xattr(base + b"/xattrs", b"user.on-directory", b"yes")


def acl_blob(*entries: tuple[int, int, int]) -> bytes:
    """Return a system.posix_acl_* value of (tag, permissions, id) in this order."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def _set_privileged_xattrs(base: bytes) -> None:
    xattrs = base + b"/xattrs/"
    nobody = 0xFFFF_FFFF
    acl = acl_blob(
        (1, 6, nobody),
        (2, 5, 54_321),
        (4, 4, nobody),
        (8, 4, 54_322),
        (16, 5, nobody),
        (32, 0, nobody),
    )
    _write(xattrs + b"capability", b"ping", 0o755)
    _try_xattr(xattrs + b"capability", b"security.capability", CAPABILITY_NET_RAW)
    _write(xattrs + b"trusted", b"t")
    _try_xattr(xattrs + b"trusted", b"trusted.test", b"\0\1")
    _write(xattrs + b"acl", b"acl")
    _try_xattr(xattrs + b"acl", b"system.posix_acl_access", acl)
    os.mkdir(xattrs + b"acl-directory")
    _try_xattr(xattrs + b"acl-directory", b"system.posix_acl_default", acl)
    os.symlink(b"capability", xattrs + b"symlink")
    _try_xattr(xattrs + b"symlink", b"trusted.on-symlink", b"1")


def _set_times(base: bytes) -> None:
    # Children before parents, or writing the child would touch the parent again.
    for number, path in enumerate(sorted(describe_tree(base), reverse=True)):
        full = base + b"/" + path if path else base
        mtime_ns = 1_600_000_000_000_000_000 + number * 86_400_123_456_789
        if number % 7 == 3:
            mtime_ns -= mtime_ns % 1_000_000_000
        os.utime(full, ns=(mtime_ns, mtime_ns), follow_symlinks=False)
    os.utime(base + b"/files/small", ns=(0, 0))
    os.utime(base + b"/files/block", ns=(-1_500_000_000, -1_500_000_000))
