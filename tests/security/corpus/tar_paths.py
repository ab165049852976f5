"""Class A: paths. Class L: names, whose bytes are kept as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layerstore.cli.output import printable
from layerstore.formats.tar_limits import Limits
from tests.security.corpus.entrances import tar
from tests.security.corpus.model import case
from tests.support.tars import (
    GNU,
    V7,
    directory,
    gnu_long,
    hardlink,
    member,
    pax,
    symlink,
)

if TYPE_CHECKING:
    from layerstore.formats.tree import Changeset
    from tests.security.corpus.entrances import Check

DEEP = b"/".join([b"d"] * 1024)
PATH_4096 = b"/".join([b"p" * 254] * 16) + b"/" + b"q" * 16


def paths(*expected: bytes) -> Check:
    """Return a check that a layer has exactly these entries, in this order."""

    def check(changeset: Changeset) -> None:
        found = [entry.path for entry in changeset.entries]
        assert found == list(expected), found

    return check


def named(name: bytes, **fields: object) -> bytes:
    return pax((b"path", name)) + member(b"x", **fields)


def safe(entry: str, name: str, archive: bytes, *expected: bytes, **more: object):
    return tar(entry, name, "S", archive, check=paths(*expected), **more)


_REFUSED = [
    ("A01", "parent", member(b"../x")),
    ("A01", "parent directory", directory(b"../")),
    ("A01", "parent as hard link", member(b"a") + hardlink(b"../b", b"a")),
    ("A02", "parent inside", member(b"a/../../x")),
    ("A02", "parent that stays inside", member(b"a/b/../x")),
    ("A03", "only the parent", member(b"..")),
    ("A04", "dot", member(b".")),
    ("A04", "dot and slash", member(b"./")),
    ("A05", "dot", symlink(b".", b"/")),
    ("A05", "dot in a pax path", pax((b"path", b"./")) + symlink(b"x", b"/")),
    ("A06", "dot and slash", member(b"a") + hardlink(b"./", b"a")),
    ("A07", "empty pax path", named(b"")),
    ("A08", "pax path", named(b"a\0b")),
    ("A08", "long name", gnu_long(b"a\0b") + member(b"x", magic=GNU)),
    ("A09", "file", named(b"n" * 256)),
    ("A09", "directory above", named(b"n" * 256 + b"/x")),
    ("A10", "file", member(b"file/")),
    ("A10", "file with content", member(b"file/", b"content")),
    ("A10", "symlink", symlink(b"link/", b"x")),
    ("A10", "v7 file with content", member(b"f/", b"1", magic=V7, typeflag=b"\0")),
]

CASES = [
    *(tar(entry, name, "R", archive) for entry, name, archive in _REFUSED),
    tar("A07", "no name", "R", member(b"x", b"1") + member(b"", b"2"), add="S"),
    safe("A11", "absolute", member(b"/etc/x"), b"etc/x"),
    safe("A11", "two slashes", member(b"//etc/x"), b"etc/x"),
    safe("A12", "double slash", member(b"a//b"), b"a/b"),
    safe("A12", "dot inside", member(b"a/./b"), b"a/b"),
    safe("A12", "many", member(b"a" + b"/" * 40 + b"./" * 10 + b"b"), b"a/b"),
    safe("A13", "dot", directory(b"."), b""),
    safe("A13", "dot and slash", directory(b"./"), b""),
    safe("A14", "newline and escape", member(b"a\nb\x1b[31m"), b"a\nb\x1b[31m"),
    safe("A15", "component of 255", named(b"n" * 255), b"n" * 255),
    safe("A16", "path of 4,095", named(PATH_4096[:-1]), PATH_4096[:-1], add="R"),
    safe("A16", "path of 4,096", named(PATH_4096), PATH_4096, add="R"),
    safe("A17", "backslashes", member(b"..\\x"), b"..\\x"),
    safe("A17", "drive", member(b"C:x"), b"C:x"),
    safe("A18", "dot and space", member(b"a. ") + member(b"b."), b"a. ", b"b."),
    safe("A18", "three dots", member(b"..."), b"..."),
    safe("A19", "prefix and name", member(b"n" * 100, prefix=b"p" * 155),
         b"p" * 155 + b"/" + b"n" * 100),
    safe("A20", "descriptor", member(b"proc/self/fd/3"), b"proc/self/fd/3"),
    tar("A21", "path of 4,097", "L", named(PATH_4096 + b"q"), says="path"),
    tar("A21", "depth of 2,000", "L", named(b"/".join([b"d"] * 2000)), says="depth"),
    tar("A21", "depth of 1,025", "L", named(DEEP + b"/d"), says="depth"),
    safe("A21", "depth of 1,024", named(DEEP), DEEP, add="R"),
]  # fmt: skip


# -- L: names ----------------------------------------------------------------------

ALL_BYTES = [bytes([value]) for value in range(1, 256) if value not in b"./"]
_NAMES = {
    "L01": [b"\xff\xfe", b"\xfe"],
    "L02": [b"\xed\xa0\x80", b"\xed\xb0\x80x", b"\xed\xa0\x80\xed\xb0\x80"],
    "L03": [b"\xc0\xaf", b"\xc0\xae\xc0\xae\xc0\xafetc", b"\xe0\x80\xaf"],
    "L04": ["\N{LATIN SMALL LETTER E WITH ACUTE}".encode(), "e\N{COMBINING ACUTE ACCENT}".encode()],
    "L05": [b"PAM", b"Pam", b"pam"],
    "L06": [name.encode() for name in ("i", "I", "\u0130", "\u0131")],
    "L07": [name.encode() for name in ("a\u200bb", "ab", "\u202etxt.exe", "\ufeff", "\u2066x")],
    "L08": [b"CON", b"NUL.txt", b"a:b", b"COM1", b"a|b", b"a*b?"],
    "L09": [b"-x", b"--delete", b"$(touch x)", b"`id`", b"; rm -rf x", b"%s%n", b"'"],
    "L10": ["\N{FULL BLOCK}".encode() * 85, "\u00e9".encode() * 127 + b"x"],
    "L11": [b"lease-0.pack", b"config.toml", b"catalog.sqlite", b".layerstore-x", b"index.json"],
    "L12": ALL_BYTES,
}


def _name_archive(names: list[bytes]) -> bytes:
    return directory(b"d/") + b"".join(pax((b"path", b"d/" + n)) + member(b"x", n) for n in names)


def _shown(entry: str, names: list[bytes]):
    """What people see of a name sends nothing to their terminal."""

    def act(_place: object) -> None:
        for name in names:
            assert printable(name.decode(errors="surrogateescape")).isprintable()

    return case(entry, "shown", "S", act, entrance="output")


CASES += [
    *(
        tar(entry, "kept as they are", "S", _name_archive(names),
            check=paths(b"d", *sorted(b"d/" + name for name in names)),
            limits=Limits())
        for entry, names in _NAMES.items()
    ),
    *(_shown(entry, names) for entry, names in _NAMES.items()),
    _shown("A14", [b"a\nb\x1b[31m", b"\x9b31m", b"\r"]),
]  # fmt: skip
