"""The hostile corpus for layer tars: archives by verdict.

``R_`` groups must be refused with a typed error, ``L_`` groups with an error that names
the limit (a regular expression beside each), ``S_`` groups are accepted and safe.
``ALL_REFUSED``, ``ALL_LIMITED`` and ``ALL_SAFE`` join them; no archive has end blocks.
The limits are those of :data:`SMALL`.
"""

from __future__ import annotations

from layerstore.formats.tar_limits import Limits
from tests.support.tars import (
    END,
    GNU,
    V7,
    base256,
    directory,
    fill,
    gnu_long,
    hardlink,
    member,
    old_sparse,
    pax,
    pax_raw,
    record,
    symlink,
)

SMALL = Limits(
    entries=100,
    sparse_regions=1000,
    trailing_bytes=1 << 16,
    expanded_bytes=1 << 30,
    logical_bytes=1 << 40,
)


def cap(magic: int, size: int) -> bytes:
    return magic.to_bytes(4, "little") + bytes(size - 4)


def xattr(name: bytes, value: bytes) -> bytes:
    return pax((b"SCHILY.xattr." + name, value)) + member(b"x", b"1")


def sparse_1(
    pairs: list[tuple[int, int]], real: int, content: bytes, *extra: tuple[bytes, bytes]
) -> bytes:
    numbers = [len(pairs), *(n for pair in pairs for n in pair)]
    body = fill(b"".join(b"%d\n" % n for n in numbers)) + content
    return pax(
        (b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"%d" % real), *extra,
    ) + member(b"GNUSparseFile.0/s", body)  # fmt: skip


ACL = (2).to_bytes(4, "little")
DEEP = b"/".join([b"d"] * 1024)
PATH_4096 = b"/".join([b"p" * 254] * 16) + b"/" + b"q" * 16

# -- A: paths ----------------------------------------------------------------------

R_PATHS = {
    "parent": member(b"../x"),
    "parent inside": member(b"a/../../x"),
    "only parent": member(b".."),
    "parent directory": directory(b"../"),
    "dot as file": member(b"."),
    "dot slash as file": member(b"./"),
    "dot as symlink": symlink(b".", b"/"),
    "dot as hard link": member(b"a") + hardlink(b"./", b"a"),
    "no name": member(b""),
    "empty pax path": pax((b"path", b"")) + member(b"x"),
    "NUL in pax path": pax((b"path", b"a\0b")) + member(b"x"),
    "NUL in long name": gnu_long(b"a\0b") + member(b"x", magic=GNU),
    "component of 256": pax((b"path", b"n" * 256)) + member(b"x"),
    "file with slash": member(b"file/"),
    "file with slash and content": member(b"file/", b"content"),
    "symlink with slash": symlink(b"link/", b"x"),
    "v7 file with slash and content": member(b"f/", b"1", magic=V7, typeflag=b"\0"),
}
L_PATHS = {
    "path of 4097": (pax((b"path", PATH_4096 + b"q")) + member(b"x"), "path"),
    "depth of 2000": (pax((b"path", b"/".join([b"d"] * 2000))) + member(b"x"), "depth"),
    "depth of 1025": (pax((b"path", DEEP + b"/d")) + member(b"x"), "depth"),
}
S_PATHS = {
    "absolute": (member(b"/etc/x"), [b"etc/x"]),
    "double slash": (member(b"a//b"), [b"a/b"]),
    "dot inside": (member(b"a/./b"), [b"a/b"]),
    "dot directory": (directory(b"."), [b""]),
    "dot slash directory": (directory(b"./"), [b""]),
    "newline and escape": (member(b"a\nb\x1b[31m"), [b"a\nb\x1b[31m"]),
    "component of 255": (pax((b"path", b"n" * 255)) + member(b"x"), [b"n" * 255]),
    "path of 4096": (pax((b"path", PATH_4096)) + member(b"x"), [PATH_4096]),
    "depth of 1024": (pax((b"path", DEEP)) + member(b"x"), [DEEP]),
    "backslashes": (member(b"..\\x"), [b"..\\x"]),
    "drive": (member(b"C:x"), [b"C:x"]),
    "trailing dot and space": (member(b"a. "), [b"a. "]),
    "prefix and name": (member(b"n" * 100, prefix=b"p" * 155), [b"p" * 155 + b"/" + b"n" * 100]),
    "proc": (member(b"proc/self/fd/3"), [b"proc/self/fd/3"]),
    "v7 directory": (member(b"d/", magic=V7, typeflag=b"\0"), [b"d"]),
    "two names, last wins": (member(b"a", b"1") + member(b"a", b"2"), [b"a"]),
}

# -- B: links ----------------------------------------------------------------------

R_LINKS = {
    "write through a loop": symlink(b"a", b"b") + symlink(b"b", b"a") + member(b"a/x"),
    "empty symlink": symlink(b"a", b""),
    "NUL in symlink": pax((b"linkpath", b"a\0b")) + symlink(b"a", b"x"),
    "symlink of 4096": pax((b"linkpath", b"t" * 4096)) + symlink(b"a", b"x"),
    "hard link to absolute": member(b"a") + hardlink(b"b", b"/a"),
    "hard link to parent": hardlink(b"b", b"../x"),
    "hard link to later": hardlink(b"b", b"a") + member(b"a"),
    "hard link to directory": directory(b"d/") + hardlink(b"b", b"d"),
    "hard link to implied directory": member(b"d/f") + hardlink(b"b", b"d"),
    "hard link to itself": member(b"a") + hardlink(b"a", b"a"),
    "hard link through symlink": directory(b"d/") + symlink(b"s", b"d") + hardlink(b"b", b"s/f"),
    "hard link without target": hardlink(b"b", b""),
    "linked file replaced": member(b"a", b"1") + hardlink(b"b", b"a") + member(b"a", b"2"),
    "directory becomes symlink, then child": (
        directory(b"d/") + symlink(b"d", b"/etc") + member(b"d/x")
    ),
    "directory with entries becomes symlink": (
        directory(b"d/") + member(b"d/x") + symlink(b"d", b"/etc")
    ),
    "file through absolute symlink": symlink(b"d", b"/etc") + member(b"d/passwd"),
    "file through relative symlink": symlink(b"d", b"..") + member(b"d/passwd"),
    "file below file": member(b"f") + member(b"f/x"),
    "linkpath on a file": pax((b"linkpath", b"x")) + member(b"f"),
}
S_LINKS = {
    "symlink to passwd": symlink(b"a", b"/etc/passwd"),
    "symlink to proc root": symlink(b"a", b"/proc/self/root"),
    "symlink to descriptor": symlink(b"a", b"/proc/self/fd/7"),
    "symlink to itself": symlink(b"a", b"a"),
    "symlink of 4095": pax((b"linkpath", b"t" * 4095)) + symlink(b"a", b"x"),
    "chain of 41": b"".join(symlink(b"s%d" % i, b"s%d" % (i + 1)) for i in range(41)),
    "hard link to symlink": symlink(b"a", b"x") + hardlink(b"b", b"a"),
    "hard link to lower file": hardlink(b"b", b"lower/file"),
    "hard link to device": (
        member(b"n", typeflag=b"3", devmajor=1, devminor=3) + hardlink(b"m", b"n")
    ),
    "file, symlink, file": member(b"a", b"1") + symlink(b"a", b"x") + member(b"a", b"2"),
    "empty directory becomes file": directory(b"d/") + member(b"d", b"1"),
    "symlink becomes directory": symlink(b"d", b"/etc") + directory(b"d/") + member(b"d/x"),
}

# -- C: headers --------------------------------------------------------------------

R_HEADERS = {
    "bad checksum first": member(b"a", checksum=b"000001\0 "),
    "bad checksum middle": member(b"a") + member(b"b", checksum=b"000001\0 ") + member(b"c"),
    "negative size": member(b"a", size=base256(-1, 12)),
    "garbage size": member(b"a", size=b"12x4"),
    "underscore size": member(b"a", size=b"1_0"),
    "signed size": member(b"a", size=b"-1"),
    "size with 8": member(b"a", size=b"00000000008"),
    "pax size contradicts": pax((b"size", b"4")) + member(b"a", b"12345678"),
    "pax size, header zero": pax((b"size", b"512")) + member(b"a", b"") + fill(b"1"),
    "size on symlink": symlink(b"a", b"x", size=5) + fill(b"12345"),
    "size on directory": directory(b"d/", size=5) + fill(b"12345"),
    "pax size on symlink": pax((b"size", b"5")) + symlink(b"a", b"x"),
    "size on hard link": member(b"a", b"12345") + hardlink(b"b", b"a", size=5) + fill(b"12345"),
    "duplicate pax path": pax((b"path", b"a"), (b"path", b"b")) + member(b"x"),
    "duplicate pax size": pax((b"size", b"0"), (b"size", b"0")) + member(b"x"),
    "L then x": gnu_long(b"a") + pax((b"path", b"b")) + member(b"x", magic=GNU),
    "x then L": pax((b"path", b"b")) + gnu_long(b"a") + member(b"x", magic=GNU),
    "two L": gnu_long(b"a") + gnu_long(b"b") + member(b"x", magic=GNU),
    "two x": pax((b"path", b"a")) + pax((b"path", b"b")) + member(b"x"),
    "K without link": gnu_long(b"a", typeflag=b"K") + member(b"x", magic=GNU),
    "pax length short": pax_raw(b"5 path=x\n") + member(b"x"),
    "pax length long": pax_raw(b"99 path=x\n") + member(b"x"),
    "pax length zero": pax_raw(b"0 path=x\n") + member(b"x"),
    "pax length text": pax_raw(b"ab path=x\n") + member(b"x"),
    "pax without length": pax_raw(b"path=x\n") + member(b"x"),
    "pax without newline": pax_raw(b"9 path=xy") + member(b"x"),
    "pax key empty": pax((b"", b"x")) + member(b"x"),
    "pax without equals": pax_raw(b"7 path\n") + member(b"x"),
    "pax key with NUL": pax((b"pa\0th", b"x")) + member(b"x"),
    "global path": pax((b"path", b"x"), typeflag=b"g") + member(b"a"),
    "global size": pax((b"size", b"1"), typeflag=b"g") + member(b"a"),
    "global owner": pax((b"uid", b"1"), typeflag=b"g") + member(b"a"),
    "type Z": member(b"a", typeflag=b"Z"),
    "volume label": member(b"a", typeflag=b"V"),
    "multi volume": member(b"a", typeflag=b"M"),
    "dump directory": member(b"a", typeflag=b"D"),
    "sparse overlapping": old_sparse(b"s", [(0, 1024), (512, 512)], 4096, bytes(1536)),
    "sparse unordered": old_sparse(b"s", [(2048, 512), (0, 512)], 4096, bytes(1024)),
    "sparse beyond": old_sparse(b"s", [(4096, 512)], 4100, bytes(512)),
    "sparse sum": old_sparse(b"s", [(0, 512)], 4096, bytes(1024)),
    "sparse 1.0 overlapping": sparse_1([(0, 1024), (512, 512)], 4096, bytes(1536)),
    "sparse 1.0 text": pax(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"10"),
    )
    + member(b"s", fill(b"x\n")),
    "sparse 1.0 without map": pax(
        (b"GNU.sparse.major", b"1"),
        (b"GNU.sparse.minor", b"0"),
        (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.realsize", b"10"),
    )
    + member(b"s", b""),
    "sparse 2.0": pax((b"GNU.sparse.major", b"2"), (b"GNU.sparse.size", b"0")) + member(b"s"),
    "sparse directory": pax((b"GNU.sparse.size", b"0")) + directory(b"d/"),
    "sparse half a pair": pax((b"GNU.sparse.size", b"10"), (b"GNU.sparse.offset", b"0"))
    + member(b"s"),
    "uid 2^32": pax((b"uid", b"4294967296")) + member(b"a"),
    "uid 2^32-1": pax((b"uid", b"4294967295")) + member(b"a"),
    "uid -1": member(b"a", uid=base256(-1, 8)),
    "pax uid -1": pax((b"uid", b"-1")) + member(b"a"),
    "zero block then entry": member(b"a") + bytes(512) + member(b"b"),
    "garbage first": b"\xa5" * 512 + member(b"a"),
    "x at the end": member(b"a") + pax((b"path", b"b")),
    "x before end blocks": member(b"a") + pax((b"path", b"b")) + END,
    "mtime NaN": pax((b"mtime", b"nan")) + member(b"a"),
    "mtime 1e300": pax((b"mtime", b"1e300")) + member(b"a"),
    "mtime far": pax((b"mtime", b"9" * 19)) + member(b"a"),
    "charset": pax((b"hdrcharset", b"latin-1")) + member(b"a"),
    "unknown magic": member(b"a", magic=b"ustax\x0000"),
    "device of v7": member(b"a", typeflag=b"3", magic=V7),
    "device number": member(b"a", typeflag=b"3", devmajor=5000, devminor=1),
}
CUT = {
    "truncated header": member(b"a")[:300],
    "truncated second header": member(b"a") + member(b"b")[:511],
    "truncated body": member(b"a", b"x" * 1000)[:900],
    "truncated padding": member(b"a", b"x" * 1000)[:1520],
    "truncated pax": pax((b"path", b"b"))[:700],
    "empty stream": b"",
    "only a header's name": b"abc",
}
S_HEADERS = {
    "invalid UTF-8": pax((b"path", b"\xff\xfe")) + member(b"x"),
    "charset binary": pax((b"hdrcharset", b"BINARY"), (b"path", b"\xff")) + member(b"x"),
    "global at the end": member(b"a") + pax((b"comment", b"x"), typeflag=b"g"),
    "global only": pax((b"comment", b"x"), typeflag=b"g"),
    "contiguous file": member(b"a", b"1", typeflag=b"7"),
    "v7": member(b"a", b"1", magic=V7, typeflag=b"\0"),
    "mixed formats": (
        member(b"a", magic=V7) + member(b"b", magic=GNU) + pax((b"path", b"c")) + member(b"x")
    ),
    "file type in mode": member(b"a", mode=0o100644),
    "L and K": (
        gnu_long(b"n" * 120) + gnu_long(b"t" * 120, typeflag=b"K") + symlink(b"n", b"t", magic=GNU)
    ),
    "base-256 size": member(b"a", b"123", size=base256(3, 12)),
    "base-256 mtime": member(b"a", mtime=base256(-5, 12)),
    "negative mtime": pax((b"mtime", b"-1.5")) + member(b"a"),
    "leading spaces": member(b"a", mode=b"   644 "),
    "unknown pax key": pax((b"VENDOR.key", b"x")) + member(b"a"),
    "sparse 1.0": sparse_1([(512, 512), (2048, 100)], 4096, bytes(612)),
    "sparse 1.0 all hole": sparse_1([(4096, 0)], 4096, b""),
    "sparse 0.1": pax(
        (b"GNU.sparse.size", b"4096"),
        (b"GNU.sparse.numblocks", b"2"),
        (b"GNU.sparse.name", b"s"),
        (b"GNU.sparse.map", b"0,512,1024,512"),
    )
    + member(b"GNUSparseFile.1/s", b"1" * 1024),
    "sparse 0.0": pax_raw(
        record(b"GNU.sparse.size", b"4096")
        + record(b"GNU.sparse.numblocks", b"2")
        + record(b"GNU.sparse.offset", b"0")
        + record(b"GNU.sparse.numbytes", b"512")
        + record(b"GNU.sparse.offset", b"1024")
        + record(b"GNU.sparse.numbytes", b"512")
    )
    + member(b"s", b"1" * 1024),
    "old sparse extended": old_sparse(
        b"s", [(i * 1024, 512) for i in range(60)], 1 << 20, b"1" * 30720
    ),
    "many same names": b"".join([member(b"a")] * 99),
}
L_HEADERS = {
    "size 2^63-1": (member(b"a", size=base256(2**63 - 1, 12)), "expanded_bytes"),
    "pax of 8 GiB": (member(b"x", typeflag=b"x", size=0o77777777777), "expanded_bytes|pax_bytes"),
    "long name of 2 MiB": (member(b"x", bytes(2 << 20), typeflag=b"L"), "pax_bytes"),
    "pax of 1 MiB and 1": (
        member(b"x", b"1" * ((1 << 20) + 1), typeflag=b"x"),
        "pax_bytes",
    ),
    "300,000 records": (
        pax_raw(b"".join(b"11 k%05d=v\n" % (i % 100_000) for i in range(300_000))),
        "pax_bytes",
    ),
    "2,000 globals": (
        b"".join(pax((b"comment", b"%d" % i), typeflag=b"g") + member(b"a") for i in range(90)),
        "global_pax_bytes",
    ),
    "sparse regions": (
        old_sparse(b"s", [(i * 2, 1) for i in range(1001)], 1 << 20, bytes(1001)),
        "sparse_regions",
    ),
    "sparse 1.0 regions": (
        sparse_1([(i * 2, 1) for i in range(1001)], 1 << 20, bytes(1001)),
        "sparse_regions",
    ),
    "sparse 0.1 regions": (
        pax((b"GNU.sparse.size", b"9999"), (b"GNU.sparse.map", b",".join([b"1"] * 2002)))
        + member(b"s"),
        "sparse_regions",
    ),
    "real size of 8 EiB": (sparse_1([(0, 1)], 2**63, b"1"), "logical_bytes"),
    "sparse TiB twice": (
        sparse_1([(0, 1)], 1 << 40, b"1") + sparse_1([(0, 1)], 1 << 40, b"1"),
        "logical_bytes",
    ),
    "uname of 10 KiB": (pax((b"uname", b"u" * 10240)) + member(b"a"), "owner_name_bytes"),
    "trailing zeros": (member(b"a") + END + bytes(1 << 17), "trailing_bytes"),
    "entries": (b"".join(member(b"a%d" % i) for i in range(101)), "entries"),
}

# -- D: whiteouts ------------------------------------------------------------------

R_WHITEOUTS = {
    "nothing": member(b".wh."),
    "dot": member(b".wh.."),
    "dot dot": member(b".wh..."),
    "aufs metadata": member(b".wh..wh.x"),
    "aufs plink": directory(b".wh..wh.plnk/"),
    "below": member(b".wh.a/b"),
    "with content": member(b".wh.a", b"1"),
    "symlink": symlink(b".wh.a", b"x"),
    "hard link": member(b"b") + hardlink(b".wh.a", b"b"),
    "through symlink": symlink(b"s", b"d") + member(b"s/.wh.a"),
    "opaque in file": member(b"f") + member(b"f/.wh..wh..opq"),
    "file over opaque": member(b"f/.wh..wh..opq") + member(b"f"),
    "char 0:0": member(b"c", typeflag=b"3"),
    "directory of that name": directory(b".wh.d/"),
    "of the parent": member(b"../.wh.a"),
}
S_WHITEOUTS = {
    "opaque at root": (member(b".wh..wh..opq"), (), (b"",)),
    "opaque and children": (
        directory(b"d/") + member(b"d/.wh..wh..opq") + member(b"d/x"),
        (),
        (b"d",),
    ),
    "same layer": (member(b"a", b"1") + member(b".wh.a"), (b"a",), ()),
    "same name": (member(b".wh.a") + member(b"a", b"1"), (b"a",), ()),
    "twice": (member(b".wh.a") + member(b"d/.wh.b") + member(b".wh.a"), (b"a", b"d/b"), ()),
}

# -- E: inodes ---------------------------------------------------------------------

R_INODES = {
    "capability short": xattr(b"security.capability", b"\1\0\0\2"),
    "capability size": xattr(b"security.capability", cap(0x02000001, 24)),
    "capability flags": xattr(b"security.capability", cap(0x02000101, 20)),
    "capability version": xattr(b"security.capability", cap(0x04000001, 20)),
    "socket": member(b"s", typeflag=b"s"),
    "no namespace": xattr(b"name", b"x"),
    "unknown namespace": xattr(b"system.nfs4_acl", b"x"),
    "empty name": xattr(b"user.", b"x"),
    "not UTF-8": xattr(b"user.\xff", b"x"),
    "acl version": xattr(b"system.posix_acl_access", b"\3\0\0\0"),
    "acl length": xattr(b"system.posix_acl_access", ACL + b"123"),
    "acl tag": xattr(b"system.posix_acl_access", ACL + b"\3\0\7\0\0\0\0\0"),
    "acl order": xattr(
        b"system.posix_acl_access", ACL + b"\4\0\7\0\xff\xff\xff\xff" + b"\1\0\7\0\xff\xff\xff\xff"
    ),
    "acl incomplete": xattr(b"system.posix_acl_access", ACL + b"\1\0\7\0\xff\xff\xff\xff"),
    "acl text with a name": pax(
        (b"SCHILY.acl.access", b"user::rw-,user:nobody-here:rwx,group::r--,mask::rwx,other::r--")
    )
    + member(b"a"),
    "two values": pax((b"SCHILY.xattr.user.a", b"1"), (b"LIBARCHIVE.xattr.user.a", b"Mg"))
    + member(b"a"),
    "not base64": pax((b"LIBARCHIVE.xattr.user.a", b"M")) + member(b"a"),
}
S_INODES = {
    "setuid": member(b"a", mode=0o4755),
    "setgid": member(b"a", mode=0o2755),
    "capability 2": xattr(b"security.capability", cap(0x02000001, 20)),
    "capability 3": xattr(b"security.capability", cap(0x03000000, 24)),
    "fifo": member(b"a", typeflag=b"6"),
    "block 8:0": member(b"a", typeflag=b"4", devmajor=8),
    "selinux": xattr(b"security.selinux", b"system_u:object_r:bin_t:s0\0"),
    "selinux of GNU tar": pax((b"RHT.security.selinux", b"a:b:c:s0")) + member(b"a"),
    "directory of mode 0": directory(b"d/"),
    "type changed later": member(b"a", typeflag=b"6") + member(b"a", b"1"),
    "empty acl text": pax((b"SCHILY.acl.default", b"")) + directory(b"d/"),
}
L_INODES = {
    "xattr of 64 KiB and 1": (xattr(b"user.a", b"x" * 65537), "xattr_value_bytes"),
    "10,000 xattrs": (
        pax(*((b"SCHILY.xattr.user.%d" % i, b"") for i in range(10_000))) + member(b"a"),
        "xattrs",
    ),
    "xattrs of 1 MiB": (
        pax(*((b"SCHILY.xattr.user.%d" % i, b"x" * 65000) for i in range(17))) + member(b"a"),
        "xattr_total_bytes|pax_bytes",
    ),
}


def all_of(*groups: dict[str, bytes]) -> dict[str, bytes]:
    return {name: archive for group in groups for name, archive in group.items()}


ALL_REFUSED = all_of(R_PATHS, R_LINKS, R_HEADERS, R_WHITEOUTS, R_INODES)
ALL_SAFE = all_of(
    {name: archive for name, (archive, _) in S_PATHS.items()},
    S_LINKS, S_HEADERS, {name: archive for name, (archive, *_) in S_WHITEOUTS.items()}, S_INODES,
)  # fmt: skip
ALL_LIMITED = {**L_PATHS, **L_HEADERS, **L_INODES}
