"""The hostile corpus for layer tars: each entry with its verdict.

R is a typed refusal, L a limit error that names the limit, S is accepted. Whatever
the verdict, what was accepted must come out again bit for bit.
"""

from __future__ import annotations

import io
import resource
import time
from typing import TYPE_CHECKING

import pytest
import zstandard
from isal import igzip

from layerstore.errors import FormatError, LimitExceededError, UnsafeContentError
from layerstore.formats.tree import Changeset, Kind
from layerstore.image.export_layer import export_layer
from layerstore.image.ingest_tar import ingest_tar
from layerstore.image.layers import load_changeset
from layerstore.image.limits import Limits
from layerstore.store.store import Store
from tests.support.hostile_tars import (
    ALL_LIMITED,
    ALL_REFUSED,
    ALL_SAFE,
    CUT,
    S_PATHS,
    S_WHITEOUTS,
    SMALL,
)
from tests.support.tars import END, directory, hardlink, member, old_sparse, pax

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED = (FormatError, UnsafeContentError)
PRINTED_SECONDS = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with Store.open(tmp_path_factory.mktemp("store") / "s", create=True) as opened:
        yield opened


def ingest(
    store: Store, archive: bytes, *, limits: Limits | None = None, rootfs: bool = False
) -> Changeset:
    with store.begin("test") as session:
        record_ = ingest_tar(session, io.BytesIO(archive), limits=limits, rootfs=rootfs)
    out = io.BytesIO()
    export_layer(store, record_.diff_id, out)
    if tars_magic(archive):
        assert out.getvalue() == archive
    return load_changeset(store, record_.diff_id)


def tars_magic(archive: bytes) -> bool:
    """Whether the archive is plain, so that export must give exactly it."""
    return archive[:2] != b"\x1f\x8b" and archive[:4] not in (
        b"\x28\xb5\x2f\xfd",
        b"\x50\x2a\x4d\x18",
    )


@pytest.mark.parametrize("name", ALL_REFUSED)
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_refused(store: Store, name: str, compression: str) -> None:
    archive = packed(ALL_REFUSED[name] + END, compression)
    layers = len(list(store.layers()))
    with pytest.raises(REFUSED) as caught:
        ingest(store, archive, limits=SMALL)
    assert not isinstance(caught.value, LimitExceededError)
    assert len(list(store.layers())) == layers


@pytest.mark.parametrize("name", CUT)
def test_truncated_is_refused(store: Store, name: str) -> None:
    with pytest.raises(FormatError):
        ingest(store, CUT[name])


@pytest.mark.parametrize("name", ALL_LIMITED)
def test_limited(store: Store, name: str) -> None:
    archive, limit = ALL_LIMITED[name]
    with pytest.raises(LimitExceededError, match=limit):
        ingest(store, archive + END, limits=SMALL)


@pytest.mark.parametrize("name", ALL_SAFE)
@pytest.mark.parametrize("end", [END, b"", END + b"\xa5" * 777], ids=["ended", "open", "trailing"])
def test_accepted_and_written_again(store: Store, name: str, end: bytes) -> None:
    ingest(store, ALL_SAFE[name] + end, limits=SMALL)


@pytest.mark.parametrize("name", S_PATHS)
def test_paths(store: Store, name: str) -> None:
    archive, paths = S_PATHS[name]
    assert [entry.path for entry in ingest(store, archive + END).entries] == paths


@pytest.mark.parametrize("name", S_WHITEOUTS)
def test_whiteouts(store: Store, name: str) -> None:
    archive, whiteouts, opaques = S_WHITEOUTS[name]
    changeset = ingest(store, archive + END)
    assert (changeset.whiteouts, changeset.opaques) == (whiteouts, opaques)


def packed(archive: bytes, compression: str) -> bytes:
    if compression == "gzip":
        return igzip.compress(archive)
    if compression == "zstd":
        return zstandard.ZstdCompressor(write_checksum=True).compress(archive)
    return archive


def test_error_names_the_member_and_its_offset(store: Store) -> None:
    with pytest.raises(UnsafeContentError, match=r"'\.\.' \(member b'\.\./x' at offset 512\)"):
        ingest(store, member(b"a") + member(b"../x") + END)


def test_empty_archives(store: Store) -> None:
    assert ingest(store, END).entries == ()
    assert ingest(store, bytes(512)).entries == ()
    assert ingest(store, bytes(10240)).entries == ()


def test_mode_keeps_only_permissions(store: Store) -> None:
    entry = ingest(store, member(b"a", mode=0o107755) + END).entries[0]
    assert entry.mode == 0o7755


def test_last_of_one_name_wins_and_all_come_back(store: Store) -> None:
    archive = b"".join(member(b"a", b"%d" % i * 3000) for i in range(50)) + END
    (entry,) = ingest(store, archive).entries
    assert entry.size == 6000


def test_ten_thousand_links_to_one_file(store: Store) -> None:
    archive = member(b"z", b"1") + b"".join(
        hardlink(b"l%05d" % i, b"l%05d" % (i - 1) if i else b"z") for i in range(10_000)
    )
    changeset = ingest(store, archive + END)
    assert changeset.entries[0].kind is Kind.FILE
    assert all(entry.target == b"l00000" for entry in changeset.entries[1:])


def test_overlay_xattrs_are_stripped(store: Store) -> None:
    archive = pax(
        (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
        (b"SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        (b"SCHILY.xattr.trusted.overlay.metacopy", b""),
        (b"SCHILY.xattr.user.overlay.whiteout", b"y"),
        (b"SCHILY.xattr.user.kept", b"1"),
    )
    (entry,) = ingest(store, archive + directory(b"d/") + END).entries
    assert entry.xattrs == ((b"user.kept", b"1"),)


@pytest.mark.parametrize(
    "archive", [member(b".wh.a"), hardlink(b"b", b"missing"), member(b"d/.wh..wh..opq")]
)
def test_root_file_system_stands_alone(store: Store, archive: bytes) -> None:
    with pytest.raises(UnsafeContentError):
        ingest(store, archive + END, rootfs=True)


def test_every_byte_in_a_name(store: Store) -> None:
    names = [bytes([value]) for value in range(1, 256) if value not in b"./"]
    archive = b"".join(member(b"d/" + name, name) for name in names) + END
    assert {entry.path for entry in ingest(store, archive).entries} == {b"d/" + n for n in names}


@pytest.mark.parametrize("limit", [99, 100, 101])
def test_limit_is_exact(store: Store, limit: int) -> None:
    archive = b"".join(member(b"%d" % i) for i in range(100)) + END
    if limit < 100:
        with pytest.raises(LimitExceededError, match="entries"):
            ingest(store, archive, limits=Limits(entries=limit))
    else:
        assert len(ingest(store, archive, limits=Limits(entries=limit)).entries) == 100


def test_full_size_bombs_end_quickly_and_in_little_memory(store: Store) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    million = [(i * 2, 1) for i in range(1_000_001)]
    bomb = old_sparse(b"s", million, 1 << 22, b"")
    with pytest.raises(LimitExceededError, match="sparse_regions"):
        ingest(store, bomb, limits=Limits())
    zeros = member(b"a") + END + bytes(64 << 20)
    with pytest.raises(LimitExceededError, match="trailing_bytes"):
        ingest(store, zeros)
    assert time.monotonic() - started < PRINTED_SECONDS * 2  # building the bombs included
    # The bombs themselves are in this process too.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 512 * 1024


def test_polyglot_with_zip(store: Store) -> None:
    assert len(ingest(store, member(b"a") + END + b"PK\x03\x04" + bytes(26)).entries) == 1
