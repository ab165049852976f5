"""Class M: a store that somebody else could write, or that was copied. Never a wrong byte."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
from typing import TYPE_CHECKING

import msgspec

from fuse_mount import mounts as views
from fuse_mount import records, recovering
from layerstore.digest import DiffId, Digest, PackId, blake3_id
from layerstore.errors import MountError
from layerstore.formats import pack
from layerstore.formats.tree import MAGIC, Changeset, Entry, Kind, decode_changeset
from layerstore.image.trees.export_layer import export_layer
from layerstore.store.catalog.seals import seal
from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.packs.pack_reader import PackReader
from layerstore.store.paths import StorePaths
from layerstore.store.rebuild.rebuild import rebuild_catalog
from layerstore.store.records import LayerRecord
from layerstore.store.store import Store
from tests.security.corpus.model import Case, Way, case
from tests.security.fuzz.seeds import repair_pack
from tests.support.store import add_image, noise, read_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.security.corpus.model import Place

FILES = {b"a": noise(1, 5000), b"b": noise(2, 400_000)}


def filled(place: Place) -> Path:
    """Make a store of this case's own, with the image ``x`` in it."""
    root = place.scratch / "store"
    add_image(root, "x", FILES)
    return root


def the_pack(root: Path) -> Path:
    (found,) = (root / "packs").glob("*/*.pack")
    return found


def reads(root: Path) -> None:
    with Store.open(root) as store:
        assert read_image(store, "x:latest") == [FILES]


def attacked(entry: str, name: str, verdict: str, attack: Callable[[Path, Place], object],
             act: Callable[[Path], object] = reads, *, says: str = "") -> Case:  # fmt: skip
    """Return a case that does something to a store and then uses it."""

    def run(place: Place) -> None:
        root = filled(place)
        attack(root, place)
        act(root)

    return Case(entry, name, (Way(act.__name__, verdict, run, says),))


def checked(root: Path) -> None:
    """``check --read-data`` finds the damage and says so; it does not raise or hang."""
    with Store.open(root) as store:
        report = check(store, read_data=True)
        assert not report.ok


def noted(root: Path) -> None:
    """``check`` says that the log of names cannot be read; the catalog has the names."""
    with Store.open(root) as store:
        problems = {finding.problem for finding in check(store, read_data=False).findings}
        assert Problem.NAMES_LOG_DAMAGED in problems


def rebuilt(root: Path) -> None:
    """A rebuild counts what it cannot read; what the old index kept of it is found damaged."""
    report = rebuild_catalog(os.fspath(root))
    assert report.damaged_packs
    if report.images:
        checked(root)


def listed(root: Path) -> None:
    """A pack says what it holds."""
    reader = PackReader(StorePaths(os.fspath(root)))
    reader.footer(PackId(bytes.fromhex(the_pack(root).stem)))


def rebuilt_well(root: Path) -> None:
    rebuild_catalog(os.fspath(root))
    reads(root)


def collected(root: Path) -> None:
    with Store.open(root) as store:
        execute(plan_gc(store))


def collected_and_read(root: Path) -> None:
    collected(root)
    reads(root)


# -- M01, M09: other kinds of files ------------------------------------------------


def _replace(which: Callable[[Path], Path], make: Callable[[Path, Place], object]):
    def attack(root: Path, place: Place) -> None:
        path = which(root)
        path.unlink(missing_ok=True)
        make(path, place)

    return attack


def _to_canary(path: Path, place: Place) -> None:
    path.symlink_to(place.canaries / "secret")


def _fifo(path: Path, _place: Place) -> None:
    os.mkfifo(path)


def _socket(path: Path, _place: Place) -> None:
    before = os.getcwd()
    os.chdir(path.parent)  # the path of a socket may have 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def _of(name: str) -> Callable[[Path], Path]:
    return lambda root: root / name


def a_blob(root: Path) -> Path:
    return min((root / "blobs" / "sha256").iterdir())


def opened(root: Path) -> None:
    Store.open(root).close()


def tagged(root: Path) -> None:
    with Store.open(root) as store:
        store.tag("y", store.resolve("x").image_id)


def described(root: Path) -> None:
    with Store.open(root) as store:
        image = store.resolve("x")
        for digest in (image.image_id, image.manifest_digest):
            store.get_blob(digest)


def _beside(suffix: str, make: Callable[[Path, Place], object]):
    """Put something where SQLite keeps a log."""

    def attack(root: Path, place: Place) -> None:
        path = root / f"catalog.sqlite{suffix}"
        path.unlink(missing_ok=True)
        make(path, place)

    return attack


def _kinds() -> list[Case]:
    makers = {"symlink": _to_canary, "fifo": _fifo, "socket": _socket}
    uses = [
        ("pack", the_pack, reads), ("blob", a_blob, described),
        ("config.toml", _of("config.toml"), opened),
        ("catalog.sqlite", _of("catalog.sqlite"), opened),
        ("locks/catalog", _of("locks/catalog"), tagged), ("locks/gc", _of("locks/gc"), collected),
        ("names.log", _of("names.log"), tagged), ("names.log", _of("names.log"), noted),
    ]  # fmt: skip
    found = [
        attacked("M09" if kind == "socket" else "M01", f"{what} is a {kind}",
                 # A pipe can be locked as well as a file.
                 "S" if (what.startswith("locks") and kind == "fifo") or act is noted else "R",
                 _replace(which, make), act)
        for what, which, act in uses
        for kind, make in makers.items()
    ]  # fmt: skip
    found += [
        attacked("M01", f"catalog.sqlite{suffix} is a {kind}", "R", _beside(suffix, make), tagged)
        for suffix in ("-wal", "-shm", "-journal")
        for kind, make in makers.items()
    ]
    found += [
        attacked(
            "M01",
            f"a lease is a {kind}",
            "S",
            _replace(_of("locks/lease-0011"), make),
            collected_and_read,
        )
        for kind, make in makers.items()
    ]
    found += [
        attacked("M01", f"pack is a {kind}, rebuild", "S", _replace(the_pack, make), rebuilt)
        for kind, make in makers.items()
    ]
    return found


# -- M02: footers ------------------------------------------------------------------


def _footer(change: Callable[[list[pack.Block], int], list[pack.Block]]):
    """Give the pack a footer that says something else, checksums and name right."""

    def attack(root: Path, _place: Place) -> None:
        path = the_pack(root)
        data = path.read_bytes()
        trailer = pack.decode_trailer(data[-pack.TRAILER.size :], len(data))
        footer = data[trailer.footer_offset : -pack.TRAILER.size]
        blocks = pack.decode_footer(footer, trailer)
        frames = data[: trailer.footer_offset]
        body = frames + pack.encode_footer(change(blocks, len(frames)), len(frames))
        _rename(path, body)

    return attack


def _rename(path: Path, data: bytes) -> None:
    pack_id = blake3_id(data).hex()
    folder = path.parent.parent / pack_id[:2]
    path.unlink()
    folder.mkdir(exist_ok=True)
    (folder / f"{pack_id}.pack").write_bytes(data)


def _counts(blocks: int, items: int):
    """Give the footer counts that it does not hold."""

    def attack(root: Path, _place: Place) -> None:
        path = the_pack(root)
        data = bytearray(path.read_bytes())
        trailer = pack.decode_trailer(bytes(data[-pack.TRAILER.size :]), len(data))
        pack.COUNTS.pack_into(data, trailer.footer_offset, blocks, items)
        _rename(path, repair_pack(bytes(data)))

    return attack


def _footers() -> list[Case]:
    first = lambda blocks, **new: [blocks[0]._replace(**new), *blocks[1:]]  # noqa: E731
    changes = {
        "beyond the footer": lambda b, end: first(b, offset=end - 10),
        "far beyond": lambda b, _end: first(b, offset=2**63),
        "in the header": lambda b, _end: first(b, offset=0),
        "overlapping": lambda b, _end: [b[0], b[1]._replace(offset=b[0].offset + 1), *b[2:]],
        "one frame twice": lambda b, _end: [b[0], b[1]._replace(offset=b[0].offset), *b[2:]],
        "out of order": lambda b, _end: b[::-1],
        "stored 4 GiB": lambda b, _end: first(b, stored_length=2**32 - 1),
        "plain 4 GiB": lambda b, _end: first(b, raw_length=2**32 - 1),
        "an item too long": lambda b, _end: first(
            b, items=(b[0].items[0]._replace(length=2**32 - 1), *b[0].items[1:])),
        "an item twice": lambda b, _end: first(b, items=b[0].items + b[0].items[:1]),
        "no items": lambda b, _end: first(b, items=()),
    }  # fmt: skip
    found = [
        attacked("M02", name, verdict, _footer(change), act)
        for name, change in changes.items()
        for verdict, act in (("R", listed), ("S", rebuilt))
    ]
    found += [
        attacked("M02", f"{blocks:,} blocks, {items:,} items", "R", _counts(blocks, items), listed)
        for blocks, items in ((2**32 - 1, 0), (1, 2**32 - 1), (0, 8 << 20), (2**31, 2**31))
    ]
    return found


# -- M03, M08: the catalog ---------------------------------------------------------


def sql(*statements: str | tuple[str, tuple[object, ...]]):
    """Run statements in the catalog, as somebody else's sqlite3 would."""

    def attack(root: Path, _place: Place) -> None:
        connection = sqlite3.connect(root / "catalog.sqlite")
        with contextlib.closing(connection), connection:
            for statement in statements:
                text, values = statement if isinstance(statement, tuple) else (statement, ())
                connection.execute(text, values)

    return attack


def _lease_row(root: Path, place: Place) -> None:
    """A dead lease whose lock file would be a canary: gc unlinks lock files of dead leases."""
    (root / "locks" / "lease-..").mkdir()
    target = os.path.relpath(place.canaries / "file", root / "locks")
    sql(("INSERT INTO leases VALUES (?, 'evil', 1, 1, 0)", (f"../{target}",)))(root, place)


def _image_row(root: Path, place: Place) -> None:
    values = ("../../../x", "../../../y", "", 0)
    sql(
        ("INSERT INTO images VALUES (?, ?, ?, ?, ?)", (*values, seal("images", *values))),
        ("UPDATE tags SET image_id = ?, seal = ?",
         (values[0], seal("tags", "x:latest", values[0]))),
    )(root, place)  # fmt: skip


# -- M04 to M06, M15, M16: trees, chunks, formats ----------------------------------


def _decode(*entries: Entry, whiteouts: tuple[bytes, ...] = ()) -> Callable[[Place], None]:
    """Decode a tree that no encoder of ours would write."""
    wire = msgspec.msgpack.encode(
        msgspec.structs.astuple(Changeset(entries=entries, whiteouts=whiteouts))
    )
    return lambda _place: decode_changeset(MAGIC + b"\1" + wire)


def _raw_tree(body: bytes) -> Callable[[Place], None]:
    return lambda _place: decode_changeset(MAGIC + b"\1" + body)


def _lying_layer(place: Place) -> None:
    """A layer whose tree says other lengths than its chunks have."""
    with place.store() as store:
        with store.begin("corpus") as session:
            chunk = session.put_chunk(b"12345")
            wire = Changeset((Entry(b"a", Kind.FILE, size=9, extents=((9, chunk),)),))
            tree = session.put_bytes(MAGIC + b"\1" + msgspec.msgpack.encode(
                msgspec.structs.astuple(wire)), meta=True)  # fmt: skip
            diff_id = DiffId(Digest("sha256:" + "1" * 64))
            session.publish_layer(LayerRecord(diff_id, 2048, tree, (), "canonical-1", 1, 9))
        with open(os.devnull, "wb") as out:
            export_layer(store, diff_id, out)


def _flipped(root: Path, _place: Place) -> None:
    path = the_pack(root)
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)


def _swapped_frames(root: Path, _place: Place) -> None:
    """The catalog points a chunk at the place of another one."""
    connection = sqlite3.connect(root / "catalog.sqlite")
    with contextlib.closing(connection), connection:
        connection.execute("UPDATE chunks SET block = 0, offset = 0")


def _places(column: str, value: int):
    table = "blocks" if column in ("stored", "raw") else "chunks"
    return sql(f"UPDATE {table} SET {column} = {value}")


def _edit(name: str, old: str, new: str):
    def attack(root: Path, _place: Place) -> None:
        path = root / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return attack


def _newer_pack(root: Path, _place: Place) -> None:
    path = the_pack(root)
    data = bytearray(path.read_bytes())
    data[8] = 3
    _rename(path, bytes(data))


def _mode(mode: int):
    return lambda root, _place: root.chmod(mode)


# -- M11, M14: locks and copies ----------------------------------------------------


def _dead_lease(pid: int):
    """A lease whose holder is gone, with the pid of nobody or of somebody else."""

    def attack(root: Path, place: Place) -> None:
        (root / "locks" / "lease-00112233").touch()
        (root / "tmp" / "lease-00112233.1.pack").write_bytes(b"half")
        sql(("INSERT INTO leases VALUES ('00112233', 'dead', ?, 1, 0)", (pid,)))(root, place)

    return attack


def _without_leavings(root: Path) -> None:
    collected_and_read(root)
    assert not os.listdir(root / "tmp")
    assert not [name for name in os.listdir(root / "locks") if name.startswith("lease-")]


def _copied(place: Place) -> None:
    """A copy stands alone: it shares nothing with the original, gc included."""
    original = filled(place)
    copy = place.scratch / "copy"
    shutil.copytree(original, copy)
    with Store.open(copy) as store:
        store.untag("x")
    collected(copy)
    assert not list((copy / "packs").glob("*/*.pack"))
    reads(original)


def _copied_while_mounted(place: Place) -> None:
    """Cleaning up a copy leaves the original's view and its writable layer alone."""
    original = filled(place)
    target = place.scratch / "view"
    target.mkdir()
    with Store.open(original) as store:
        views.mount(os.fspath(original), store.resolve("x"), os.fspath(target), rw=True)
    copy = place.scratch / "copy"
    try:
        (target / "kept").write_bytes(b"written")
        ignored = shutil.ignore_patterns("root")
        shutil.copytree(original, copy, ignore=ignored, symlinks=True)
        (listed,) = views.mounts(os.fspath(copy))
        assert listed.state == views.STALE
        views.unmount(os.fspath(copy), os.fspath(target))
        recovering.clean_stale(os.fspath(copy))
        assert (target / "kept").read_bytes() == b"written"
        assert views.mounts(os.fspath(copy)) == []
        assert os.listdir(copy / "uppers") == []
    finally:
        views.unmount(os.fspath(original), os.fspath(target))


def _view_record(change: dict[str, object]) -> Callable[[Place], None]:
    """A record that names directories of the host as what a view may remove."""

    def act(place: Place) -> None:
        root = filled(place)
        target = os.fspath(place.scratch / "nowhere")
        view_id = records.view_id_of(target)
        record = {
            "view_id": view_id, "image_id": "", "image": "", "layers": [], "target": target,
            "mode": "rw", "kind": "overlay", "upper": os.fsdecode(place.canary("directory")),
            "lower": os.fsdecode(place.canary("directory/a")), "mount_id": 0, "device": 0,
            "boot_id": "", "namespace": 0, "created": 0.0,
        } | change  # fmt: skip
        (root / "views" / f"{view_id}.json").write_text(json.dumps(record))
        with contextlib.suppress(MountError):
            recovering.clean_stale(os.fspath(root))
        with contextlib.suppress(MountError):
            views.unmount(os.fspath(root), view_id)

    return act


def _deep_json(place: Place) -> None:
    root = filled(place)
    (root / "views" / "0123456789ab.json").write_text("[" * 100_000)
    collected(root)


_DEEP = b"/".join([b"d"] * 100_000)
_FILE = Entry(b"a", Kind.FILE)

CASES = [
    *_kinds(),
    *_footers(),
    attacked("M03", "image", "R", _image_row, described),
    attacked("M03", "lease", "R", _lease_row, collected, says="lease"),
    attacked("M03", "tag without its seal", "R", sql("UPDATE tags SET image_id = '../x'")),
    attacked("M03", "pack id", "R", sql("UPDATE packs SET id = X'2E2E2F78'")),
    # Too long a length ends with its block, and what it gives is hashed.
    attacked("M03", "length of 2^40", "R", _places("length", 2**40)),
    *(attacked("M03", f"{column} of {value:,}", "R", _places(column, value))
      for column, value in (("offset", -1), ("offset", 2**62), ("length", -1), ("stored", -1),
                             ("stored", 2**40), ("raw", 2**40), ("raw", -5))),
    case("M04", "two files", "R", _decode(Entry(b"b", Kind.FILE), _FILE), entrance="tree"),
    case("M04", "one path twice", "R", _decode(_FILE, _FILE), entrance="tree"),
    case("M04", "child first", "R", _decode(Entry(b"d/x", Kind.FILE), Entry(b"d", Kind.DIR)),
         entrance="tree"),
    case("M04", "whiteouts", "R", _decode(whiteouts=(b"b", b"a")), entrance="tree"),
    *(case("M04", os.fsdecode(path), "R", _decode(Entry(path, Kind.FILE)), entrance="tree")
      for path in (b"../x", b"/x", b"a//b", b".", b".wh.a", b"a/", b"n" * 256)),
    case("M05", "length", "R", _lying_layer, entrance="tree"),
    attacked("M05", "flipped", "R", _flipped),
    attacked("M05", "flipped, check", "S", _flipped, checked),
    attacked("M05", "places exchanged", "R", _swapped_frames),
    attacked("M06", "store", "R", _edit("config.toml", "format = 2", "format = 3"), says="know"),
    attacked("M06", "feature", "R",
             _edit("config.toml", "incompatible = []", 'incompatible = ["x"]'), says="feature"),
    attacked("M06", "chunking", "R", _edit("config.toml", "fastcdc-2020", "other")),
    attacked("M06", "catalog", "R", sql("PRAGMA user_version = 99"), says="version"),
    attacked("M06", "pack", "S", _newer_pack, rebuilt),
    case("M06", "tree", "R", lambda _place: decode_changeset(MAGIC + b"\2\x93\x90\x90\x90"),
         entrance="tree", says="version"),
    *(attacked("M07", f"{mode:o}", verdict, _mode(mode), opened,
               says="mode" if verdict == "R" else "")
      for mode, verdict in ((0o777, "R"), (0o770, "R"), (0o702, "R"), (0o1777, "R"), (0o755, "S"),
                            (0o700, "S"))),
    attacked("M08", "trigger", "R",
             sql("CREATE TRIGGER t AFTER INSERT ON tags BEGIN DELETE FROM images; END"),
             opened, says="trigger"),
    attacked("M08", "view", "R", sql("CREATE VIEW v AS SELECT * FROM tags"), opened, says="view"),
    attacked("M08", "view in place of a table", "R",
             sql("ALTER TABLE tags RENAME TO t", "CREATE VIEW tags AS SELECT * FROM t"), opened),
    attacked("M08", "trigger, rebuild", "S",
             sql("CREATE TRIGGER t AFTER INSERT ON tags BEGIN DELETE FROM images; END"),
             rebuilt_well),
    attacked("M11", "pid of nobody", "S", _dead_lease(2**22 - 1), _without_leavings),
    attacked("M11", "pid of init", "S", _dead_lease(1), _without_leavings),
    case("M14", "at rest", "S", _copied, entrance="gc"),
    case("M14", "while mounted", "S", _copied_while_mounted, entrance="umount", needs=("root",)),
    case("M14", "record of a host's directory", "S", _view_record({}), entrance="umount"),
    case("M14", "record of the store itself", "S", _view_record({"upper": ".."}),
         entrance="umount"),
    case("M14", "record of another view", "S", _view_record({"view_id": "0123456789ab"}),
         entrance="umount"),
    case("M14", "record of other types", "S", _view_record({"upper": 5, "lower": 7}),
         entrance="umount"),
    case("M14", "record 100,000 deep", "R", _deep_json, entrance="gc"),
    case("M15", "two links", "R", _decode(
        Entry(b"a", Kind.HARDLINK, target=b"b"), Entry(b"b", Kind.HARDLINK, target=b"a")),
        entrance="tree"),
    case("M15", "one link", "R", _decode(Entry(b"a", Kind.HARDLINK, target=b"a")), entrance="tree"),
    case("M15", "link below itself", "R", _decode(
        Entry(b"a", Kind.HARDLINK, target=b"a/b")), entrance="tree"),
    case("M16", "10^5 deep", "R", _decode(Entry(_DEEP, Kind.FILE)), entrance="tree", says="longer"),
    case("M16", "claims 10^7 entries", "R", _raw_tree(b"\x93\xdd" + (10**7).to_bytes(4, "big")),
         entrance="tree"),
    case("M16", "claims 2^32-1 entries", "R", _raw_tree(b"\x93\xdd\xff\xff\xff\xff"),
         entrance="tree"),
    case("M16", "claims a name of 4 GiB", "R", _raw_tree(b"\x93\x91\x9c\xc6\xff\xff\xff\xff"),
         entrance="tree"),
    case("M16", "arrays 100,000 deep", "R", _raw_tree(b"\x91" * 100_000), entrance="tree"),
    case("M16", "10^7 empty whiteouts", "R", lambda _place: decode_changeset(
        MAGIC + b"\1\x93\x90\xdd" + (10**7).to_bytes(4, "big") + b"\xc4\x00" * 10**7 + b"\x90"),
        entrance="tree", memory=512 << 20),
]  # fmt: skip
