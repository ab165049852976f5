"""Laws of the tar reader, the canonical tar, trees and recipes."""

from __future__ import annotations

import contextlib
import hashlib
import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerstore.errors import FormatError, UnsafeContentError
from layerstore.formats import recipe, tar_writer
from layerstore.formats.tar_reader import TarReader
from layerstore.formats.tree import (
    MAGIC,
    Changeset,
    Entry,
    Kind,
    decode_changeset,
)
from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.layers.layers import load_changeset
from layerstore.image.trees.export_layer import export_layer, export_rootfs
from layerstore.store.store import Store
from tests.security.corpus.archives import SAFE, SMALL
from tests.support.encoding import encode_changeset
from tests.support.tars import Trickle

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = (FormatError, UnsafeContentError)
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("store") / "s", create=True) as opened:
        yield opened


def read_all(archive: bytes, step: int = 1 << 16) -> tuple[int, bytes, bytes]:
    """Read an archive: (members, literal bytes, content bytes)."""
    reader = TarReader(iter(Trickle(archive, step).read, b""), SMALL)
    members, content = 0, b""
    while (member := reader.next_member()) is not None:
        members += 1
        content += reader.read_exactly(member.stored)
    return members, bytes(reader.literals), content


@given(st.binary(max_size=3000))
def test_random_bytes_raise_only_our_errors(data: bytes) -> None:
    for archive in (data, data.ljust(1024, b"\0")):
        with contextlib.suppress(*OURS):
            read_all(archive)


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(SAFE)),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), min_size=1, max_size=4),
    st.booleans(),
)
def test_mutated_archives_raise_only_our_errors(
    name: str, changes: list[tuple[int, int]], fix_checksum: bool
) -> None:
    archive = bytearray(SAFE[name])
    for at, value in changes if archive else ():
        archive[at % len(archive)] = value
    if fix_checksum and len(archive) >= 512:
        archive[148:156] = b" " * 8
        archive[148:156] = b"%06o\0 " % sum(archive[:512])
    try:
        _, literals, content = read_all(bytes(archive))
    except OURS:
        return
    assert len(literals) + len(content) == len(archive)


@given(st.sampled_from(sorted(SAFE)), st.integers(1, 700))
def test_reading_does_not_depend_on_the_pieces(name: str, step: int) -> None:
    archive = SAFE[name]
    assert read_all(archive, step) == read_all(archive)


@given(st.binary(max_size=400))
def test_random_trees_raise_only_our_errors(data: bytes) -> None:
    for encoded in (data, MAGIC + b"\1" + data):
        with pytest.raises(FormatError):
            decode_changeset(encoded)


@given(st.binary(max_size=400))
def test_random_recipes_raise_only_our_errors(data: bytes) -> None:
    for encoded in (data, recipe.HEAD.pack(recipe.MAGIC, 1, len(data), 5, 0) + data):
        with pytest.raises(FormatError):
            recipe.decode_plan(encoded)


NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"a.b", b"a-b", b"!", b"\xff", b"n" * 255, b"\x01"]),
    st.binary(min_size=1, max_size=12).filter(
        lambda n: b"/" not in n and b"\0" not in n and n not in (b".", b"..")
        and not n.startswith(b".wh.")
    ),
)  # fmt: skip
META = st.fixed_dictionaries(
    {
        "mode": st.integers(0, 0o7777),
        "uid": st.one_of(st.sampled_from([0, 2097151, 2097152, 2**32 - 2]), st.integers(0, 70000)),
        "gid": st.integers(0, 2**32 - 2),
        "mtime_ns": st.one_of(
            st.sampled_from([0, -1, 1, 10**9, -(10**9), 2**63 - 1, -(2**63) + 1]),
            st.integers(0, 2 * 10**18),
        ),
    }
)
XATTRS = st.dictionaries(
    st.sampled_from(
        [b"user.a", b"user.b=c%d", b"user.%25%3D%=%2=5", b"trusted.x", b"security.selinux"]
    ),
    st.binary(max_size=40),
    max_size=3,
).map(lambda d: tuple(sorted(d.items())))


@SLOW
@given(
    name=st.binary(min_size=1, max_size=120).filter(lambda name: b"\0" not in name),
    kind=st.sampled_from([Kind.FILE, Kind.DIR]),
    numbers=st.tuples(
        st.integers(0, 0o7777), *[st.integers(0, 0o10000001)] * 2,
        st.one_of(st.integers(-2, 2), st.integers(0, 1 << 63), st.just(1_700_000_000_500_000_000)),
    ),
    size=st.sampled_from([0, 1, 0o77777777777, 0o100000000000]),
)  # fmt: skip
def test_headers_of_plain_files_are_those_of_all(
    name: bytes, kind: Kind, numbers: tuple[int, int, int, int], size: int
) -> None:
    entry = Entry(name, kind, *numbers, size if kind is Kind.FILE else 0)
    plain = tar_writer._plain_blocks(entry, name)
    assert plain in (None, tar_writer._blocks(entry, name, entry.size, {}))
    if len(name) <= 100 and max(numbers[1:3]) <= 0o7777777 and size <= 0o77777777777:
        assert (plain is None) == (not 0 <= numbers[3] // 10**9 <= 0o77777777777)


@st.composite
def layers(
    draw: st.DrawFn,
) -> tuple[list[LayerItem], list[bytes], list[bytes]]:
    """Items, whiteouts and opaque directories that agree with each other."""
    directories = [b""]
    items: dict[bytes, LayerItem] = {}
    for _ in range(draw(st.integers(0, 12))):
        parent = draw(st.sampled_from(directories))
        name = draw(NAMES)
        path = parent + b"/" + name if parent else name
        if path in items or len(path) > 1000:
            continue
        item = draw(_item(path, [p for p, i in items.items() if i.entry.kind not in
                                 (Kind.DIR, Kind.HARDLINK)]))  # fmt: skip
        items[path] = item
        if item.entry.kind is Kind.DIR:
            directories.append(path)
    whiteouts = {
        parent + b"/" + name if parent else name
        for parent, name in draw(
            st.lists(st.tuples(st.sampled_from(directories), NAMES), max_size=3)
        )
    }
    opaques = draw(st.sets(st.sampled_from(directories), max_size=2))
    return draw(st.permutations(list(items.values()))), sorted(whiteouts), sorted(opaques)


@st.composite
def _item(draw: st.DrawFn, path: bytes, files: list[bytes]) -> LayerItem:
    kind = draw(st.sampled_from([k for k in Kind if files or k is not Kind.HARDLINK]))
    meta = draw(META)
    if kind is Kind.HARDLINK:
        return LayerItem(Entry(path, kind, target=draw(st.sampled_from(files)), **meta))
    xattrs = draw(XATTRS)
    if kind is Kind.SYMLINK:
        target = draw(st.binary(min_size=1, max_size=150).filter(lambda t: b"\0" not in t))
        return LayerItem(Entry(path, kind, target=target, xattrs=xattrs, **meta))
    if kind in (Kind.CHAR, Kind.BLOCK):
        major, minor = draw(st.integers(1, 0xFFF)), draw(st.integers(0, 0xFFFFF))
        entry = Entry(path, kind, dev_major=major, dev_minor=minor, xattrs=xattrs, **meta)
        return LayerItem(entry)
    if kind is not Kind.FILE:
        return LayerItem(Entry(path, kind, xattrs=xattrs, **meta))
    content = draw(st.binary(max_size=1500))
    holes = draw(st.sampled_from([(), ((0, len(content)),), ((len(content) // 2, 1),)]))
    if len(content) < 2:
        holes = ()
    for offset, length in holes:
        content = content[:offset] + bytes(length) + content[offset + length :]
    entry = Entry(path, kind, size=len(content), xattrs=xattrs, **meta)
    return LayerItem(entry, lambda: io.BytesIO(content), holes)


@SLOW
@given(layers())
def test_layers_come_back_through_their_tar(
    store: Store, layer: tuple[list[LayerItem], list[bytes], list[bytes]]
) -> None:
    items, whiteouts, opaques = layer
    with store.begin("test") as session:
        record = write_layer(session, store, items, whiteouts=whiteouts, opaques=opaques)
        changeset = load_changeset(store, record.diff_id)
        out = io.BytesIO()
        export_layer(store, record.diff_id, out)
        archive = out.getvalue()
        again = ingest_tar(session, io.BytesIO(archive))
    assert again.diff_id == record.diff_id
    assert load_changeset(store, record.diff_id) == changeset
    out = io.BytesIO()
    export_layer(store, again.diff_id, out)
    assert out.getvalue() == archive
    assert decode_changeset(encode_changeset(changeset)) == changeset


@SLOW
@given(layers())
def test_flattening_one_layer_of_entries_gives_the_layer(
    store: Store, layer: tuple[list[LayerItem], list[bytes], list[bytes]]
) -> None:
    items, _, _ = layer
    root = LayerItem(Entry(b"", Kind.DIR, mode=0o755))
    with store.begin("test") as session:
        record = write_layer(session, store, [*items, root])
    out = io.BytesIO()
    export_rootfs(store, [record.diff_id], out)
    assert "sha256:" + hashlib.sha256(out.getvalue()).hexdigest() == record.diff_id


@SLOW
@given(layers())
def test_flipped_trees_are_refused_or_valid(
    store: Store, layer: tuple[list[LayerItem], list[bytes], list[bytes]]
) -> None:
    items, whiteouts, opaques = layer
    with store.begin("test") as session:
        record = write_layer(session, store, items, whiteouts=whiteouts, opaques=opaques)
    encoded = encode_changeset(load_changeset(store, record.diff_id))
    for at in range(0, len(encoded), max(len(encoded) // 40, 1)):
        damaged = encoded[:at] + bytes([encoded[at] ^ 4]) + encoded[at + 1 :]
        try:
            decoded = decode_changeset(damaged)
        except FormatError:
            continue
        assert encode_changeset(decoded) == damaged


def test_canonical_order_puts_markers_before_everything_in_their_directory() -> None:
    changeset = Changeset(
        entries=(Entry(b"d", Kind.DIR), Entry(b"d/!", Kind.FIFO), Entry(b"d/x", Kind.FIFO)),
        whiteouts=(b"d/!", b"d/x"),
        opaques=(b"d",),
    )
    headers = [header[:100].rstrip(b"\0") for header, _ in tar_writer.canonical_members(changeset)]
    assert headers == [b"d/", b"d/.wh..wh..opq", b"d/.wh.!", b"d/.wh.x", b"d/!", b"d/x"]
