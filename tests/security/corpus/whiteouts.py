"""Class D: whiteouts. A root file system (import) may have none; ADD knows none."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.trees.stack import load_root, walk
from tests.security.corpus.entrances import tar
from tests.security.corpus.model import case
from tests.support.tars import END, directory, hardlink, member, pax, symlink

if TYPE_CHECKING:
    from layerstore.formats.tree import Changeset
    from tests.security.corpus.entrances import Check
    from tests.security.corpus.model import Place

_REFUSED = [
    ("D01", "nothing", member(b".wh.")),
    ("D02", "dot", member(b".wh..")),
    ("D03", "dot dot", member(b".wh...")),
    ("D04", "aufs metadata", member(b".wh..wh.x")),
    ("D04", "aufs plink", directory(b".wh..wh.plnk/")),
    ("D05", "below", member(b".wh.a/b")),
    ("D06", "content", member(b".wh.a", b"1")),
    ("D07", "symlink", symlink(b".wh.a", b"x")),
    ("D08", "hard link", member(b"b") + hardlink(b".wh.a", b"b")),
    ("D09", "through symlink", symlink(b"s", b"d") + member(b"s/.wh.a")),
    ("D10", "in a file", member(b"f") + member(b"f/.wh..wh..opq")),
    ("D10", "file over opaque", member(b"f/.wh..wh..opq") + member(b"f")),
    ("D11", "char", member(b"c", typeflag=b"3")),
    ("D12", "directory", directory(b".wh.d/")),
    ("D12", "parent directory", member(b".wh.d/x/y")),
    ("D13", "parent", member(b"../.wh.a")),
    ("D13", "of nothing in a directory", member(b"d/.wh.")),
]


def hides(whiteouts: tuple[bytes, ...], opaques: tuple[bytes, ...]) -> Check:
    """Return a check of what a layer removes."""

    def check(changeset: Changeset) -> None:
        assert (changeset.whiteouts, changeset.opaques) == (whiteouts, opaques)

    return check


_SAFE = [
    ("D14", "root", member(b".wh..wh..opq"), hides((), (b"",))),
    ("D15", "children behind", directory(b"d/") + member(b"d/.wh..wh..opq") + member(b"d/x"),
     hides((), (b"d",))),
    ("D15", "no directory", member(b"d/.wh..wh..opq"), hides((), (b"d",))),
    ("D16", "behind the file", member(b"a", b"1") + member(b".wh.a"), hides((b"a",), ())),
    ("D17", "before the file", member(b".wh.a") + member(b"a", b"1"), hides((b"a",), ())),
    ("D17", "twice", member(b".wh.a") + member(b"d/.wh.b") + member(b".wh.a"),
     hides((b"a", b"d/b"), ())),
]  # fmt: skip
_TRUSTED = pax(
    (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
    (b"SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
    (b"SCHILY.xattr.trusted.overlay.metacopy", b""),
    (b"SCHILY.xattr.trusted.overlay.whiteout", b"y"),
    (b"SCHILY.xattr.user.kept", b"1"),
)
_USER = pax(
    (b"SCHILY.xattr.user.overlay.whiteout", b"y"),
    (b"LIBARCHIVE.xattr.user.overlay.opaque", b"eQ"),
    (b"SCHILY.xattr.user.kept", b"1"),
)


def _stripped(changeset: Changeset) -> None:
    (entry,) = changeset.entries
    assert entry.xattrs == ((b"user.kept", b"1"),)


def _layers(place: Place) -> None:
    """Each layer removes the file of the one before: the last one's is left."""
    with place.store() as store, store.begin("corpus") as session:
        layers = []
        for number in range(128):
            archive = member(b"d/%d" % number) + END
            if number:
                archive = member(b"d/.wh.%d" % (number - 1)) + archive
            layers.append(ingest_tar(session, io.BytesIO(archive)).diff_id)
        assert [path for path, _ in walk(load_root(store, layers))] == [b"", b"d", b"d/127"]


CASES = [
    *(tar(entry, name, "R", archive) for entry, name, archive in _REFUSED),
    *(
        tar(entry, name, "S", archive, check=check, alone="R", add="R")
        for entry, name, archive, check in _SAFE
    ),
    tar("D18", "on a directory", "S", _TRUSTED + directory(b"d/"), check=_stripped),
    tar("D18", "on a file", "S", _TRUSTED + member(b"f"), check=_stripped),
    tar("D19", "on a directory", "S", _USER + directory(b"d/"), check=_stripped),
    case("D20", "128 layers", "S", _layers, entrance="layer"),
]
