"""Class B: links. Nothing is ever reached through a link of the same layer."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from layerstore.formats.tar_limits import Limits
from layerstore.formats.tree import Kind
from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.trees.export_layer import export_rootfs
from layerstore.image.trees.stack import load_root, walk
from tests.security.corpus.entrances import tar
from tests.security.corpus.model import case
from tests.security.corpus.tar_paths import paths
from tests.support.tars import END, directory, hardlink, member, pax, symlink

if TYPE_CHECKING:
    from layerstore.formats.tree import Changeset
    from tests.security.corpus.model import Case, Place


def long_target(size: int) -> bytes:
    return pax((b"linkpath", b"t" * size)) + symlink(b"a", b"x")


# ADD resolves inside its destination what a layer may not hold at all (docker does).
_REFUSED = [
    ("B01", "file through the chain", symlink(b"a", b"b") + symlink(b"b", b"a") + member(b"a/x")),
    ("B02", "empty", symlink(b"a", b"")),
    ("B03", "NUL", pax((b"linkpath", b"a\0b")) + symlink(b"a", b"x")),
    ("B04", "4,096 bytes", long_target(4096)),
    ("B04", "100,000 bytes", long_target(100_000)),
    ("B05", "absolute", member(b"a") + hardlink(b"b", b"/a")),
    ("B06", "parent", hardlink(b"b", b"../x")),
    ("B06", "parent inside", member(b"a") + hardlink(b"b", b"d/../a")),
    ("B07", "no target", hardlink(b"b", b"")),
    ("B09", "directory", directory(b"d/") + hardlink(b"b", b"d")),
    ("B09", "implied directory", member(b"d/f") + hardlink(b"b", b"d")),
]


def _one_entry(changeset: Changeset) -> None:
    assert len(changeset.entries) == 1


def _links(changeset: Changeset) -> None:
    first, *others = changeset.entries
    assert first.kind is Kind.FILE
    assert all(entry.target == b"l00000" for entry in others)


def _canary_file(place: Place, name: str) -> bytes:
    """A symlink to the directory of the canaries, then a file through it."""
    return symlink(b"d", place.canary(".")) + member(b"d/" + name.encode(), b"evil")


def _two_layers(place: Place) -> None:
    """Layer 2 puts a file at a path that is a symlink in layer 1: it stays in the image."""
    first = symlink(b"d", place.canary("directory")) + directory(b"real/") + symlink(b"r", b"real")
    second = member(b"d/evil", b"1") + member(b"r/file", b"2") + END
    with place.store() as store, store.begin("corpus") as session:
        layers = [ingest_tar(session, io.BytesIO(data)).diff_id for data in (first + END, second)]
        found = {path: node.entry.kind for path, node in walk(load_root(store, layers))}
        export_rootfs(store, layers, io.BytesIO())
    assert found[b"d"] is Kind.DIR, "a directory of layer 2 takes the symlink's place"
    assert found[b"d/evil"] is Kind.FILE
    assert b"real/file" not in found


def _whole(entry: str, name: str, archive: bytes, check=None, **more: object) -> Case:
    return tar(entry, name, "S", archive, check=check, **more)


_MANY = member(b"z", b"1") + b"".join(
    hardlink(b"l%05d" % i, b"l%05d" % (i - 1) if i else b"z") for i in range(10_000)
)

CASES = [
    *(tar(entry, name, "R", archive) for entry, name, archive in _REFUSED),
    tar("B07", "missing", "S", hardlink(b"b", b"missing"), alone="R", add="R"),
    tar("B08", "later file", "R", hardlink(b"b", b"a") + member(b"a")),
    tar("B10", "itself", "R", member(b"a") + hardlink(b"a", b"a"), add="S"),
    tar("B11", "through symlink", "R",
        directory(b"d/") + member(b"d/f") + symlink(b"s", b"d") + hardlink(b"b", b"s/f"), add="S"),
    tar("B08", "linked file replaced", "R",
        member(b"a", b"1") + hardlink(b"b", b"a") + member(b"a", b"2"), add="S"),
    tar("B12", "empty directory", "R",
        directory(b"d/") + symlink(b"d", b"/etc") + member(b"d/x"), add="S"),
    tar("B12", "directory with entries", "R",
        directory(b"d/") + member(b"d/x") + symlink(b"d", b"/etc"), add="S"),
    tar("B12", "file below a file", "R", member(b"f") + member(b"f/x"), add="R"),
    _whole("B13", "passwd", symlink(b"a", b"/etc/passwd"), paths(b"a")),
    _whole("B14", "root of the host", symlink(b"a", b"/proc/self/root"), paths(b"a")),
    _whole("B15", "descriptor", symlink(b"a", b"/proc/self/fd/7"), paths(b"a")),
    _whole("B16", "itself", symlink(b"a", b"a"), paths(b"a")),
    _whole("B17", "chain of 41", b"".join(symlink(b"s%02d" % i, b"s%02d" % (i + 1))
                                          for i in range(41)), None),
    _whole("B18", "4,095 bytes", long_target(4095), paths(b"a")),
    _whole("B18", "links that grow", b"".join(
        symlink(b"s%d" % i, b"/".join([b"s%d" % (i + 1)] * 50)) for i in range(20)), None),
    _whole("B19", "symlink", symlink(b"a", b"x") + hardlink(b"b", b"a"), paths(b"a", b"b")),
    tar("B20", "lower file", "S", hardlink(b"b", b"lower/file"), check=paths(b"b"),
        alone="R", add="R"),
    _whole("B21", "device", member(b"n", typeflag=b"3", devmajor=1, devminor=3)
           + hardlink(b"m", b"n"), paths(b"m", b"n")),
    _whole("B22", "chain of 10,000", _MANY, _links, limits=Limits()),
    _whole("B23", "three in a row", member(b"a", b"1") + symlink(b"a", b"x") + member(b"a", b"2"),
           _one_entry),
    _whole("B23", "directory becomes file", directory(b"d/") + member(b"d", b"1"), _one_entry),
    _whole("B23", "symlink becomes directory", symlink(b"d", b"/etc") + directory(b"d/")
           + member(b"d/x"), paths(b"d", b"d/x")),
    case("B24", "two layers", "S", _two_layers, entrance="layer"),
    tar("B23", "two symlinks", "R", symlink(b"a", b"/etc") + symlink(b"a", b"../x"), add="S"),
    _whole("B23", "one symlink twice", symlink(b"a", b"/etc") * 2, _one_entry),
    tar("B12", "empty directory, no children", "R", directory(b"d/") + symlink(b"d", b"/etc"),
        add="S"),
    tar("B25", "passwd", "R", symlink(b"d", b"/etc") + member(b"d/passwd"), add="S"),
    tar("B25", "canary", "R", lambda place: _canary_file(place, "file"), add="S"),
    tar("B25", "setuid canary", "R", lambda place: _canary_file(place, "setuid"), add="S"),
    tar("B25", "fifo canary", "R", lambda place: _canary_file(place, "fifo"), add="S"),
    tar("B26", "parent", "R", symlink(b"d", b"..") + member(b"d/passwd"), add="S"),
    tar("B26", "many parents", "R", symlink(b"d", b"../" * 40 + b"etc") + member(b"d/passwd"),
        add="S"),
    tar("B26", "linkpath on a file", "R", pax((b"linkpath", b"x")) + member(b"f")),
]  # fmt: skip
