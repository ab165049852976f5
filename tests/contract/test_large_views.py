"""Images that strain whatever shows them: very large, wide, deep in layers, or full of traps."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from layerstore.errors import UnsupportedError
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.store.store import Store
from tests.support.views import (
    publish_changeset,
    publish_image,
    shown_in_every_way,
    undo_all_mounts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.writing.session import WriteSession

pytestmark = shown_in_every_way

HUGE_BYTES = 5 << 30
WIDE = 100_000
LAYERS = 200


class Spot:
    """One store, images made once, and a directory to mount on."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = base / "store"
        self._images: dict[str, ImageRecord] = {}

    def image(
        self, name: str, layers: Callable[[WriteSession], Sequence[Changeset]]
    ) -> ImageRecord:
        if name not in self._images:
            with Store.open(self.store, create=True) as store, store.begin("test") as session:
                ids = [publish_changeset(session, changeset) for changeset in layers(session)]
                self._images[name] = publish_image(session, ids, f"{name}:1")
        return self._images[name]


@pytest.fixture(scope="module")
def spot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spot]:
    spot = Spot(tmp_path_factory.mktemp("large"))
    yield spot
    if spot.store.exists():
        undo_all_mounts(spot.store)


@pytest.fixture
def show(
    spot: Spot, tmp_path: Path, backend: str, rw: bool
) -> Iterator[Callable[[ImageRecord], Path]]:
    target = tmp_path / "view"
    target.mkdir()

    def mount(image: ImageRecord) -> Path:
        mounts.mount(str(spot.store), image, str(target), rw=rw, backend=backend)
        return target

    yield mount
    if mounts.mounts(str(spot.store)):
        mounts.unmount(str(spot.store), str(target))


def file(session: WriteSession, path: bytes, content: bytes, **fields: object) -> Entry:
    extents = tuple(session.put_bytes(content))
    return Entry(path, Kind.FILE, 0o644, size=len(content), extents=extents, **fields)


def test_a_sparse_file_beyond_four_gibibytes(
    spot: Spot, show: Callable[[ImageRecord], Path], backend: str
) -> None:
    def layers(session: WriteSession) -> list[Changeset]:
        (start,) = session.put_bytes(b"start" * 1000)
        (end,) = session.put_bytes(b"end" * 1000)
        hole = (HUGE_BYTES - start[0] - end[0], None)
        huge = Entry(b"huge", Kind.FILE, 0o644, size=HUGE_BYTES, extents=(start, hole, end))
        tail = Entry(b"tail", Kind.FILE, 0o644, size=1 << 33, extents=((1 << 33, None),))
        return [Changeset((huge, tail))]

    view = show(spot.image("huge", layers))
    assert (view / "huge").stat().st_size == HUGE_BYTES
    assert (view / "tail").stat().st_size == 1 << 33
    with (view / "huge").open("rb") as huge:
        assert huge.read(5000) == b"start" * 1000
        huge.seek((4 << 30) + 123)
        assert huge.read(4096) == bytes(4096)
        huge.seek(-3000, os.SEEK_END)
        assert huge.read() == b"end" * 1000
        if backend != "fusepy":  # libfuse 2 cannot tell holes
            assert 5000 <= os.lseek(huge.fileno(), 0, os.SEEK_HOLE) <= 8192
    # The kernel's overlay knows a file's blocks once it was opened; before, those of its size.
    assert (view / "huge").stat().st_blocks * 512 < 1 << 20


def test_a_directory_of_a_hundred_thousand_entries(
    spot: Spot, show: Callable[[ImageRecord], Path]
) -> None:
    def layers(session: WriteSession) -> list[Changeset]:
        (extent,) = session.put_bytes(b"the same everywhere")
        names = (b"wide/%06d" % number for number in range(WIDE))
        files = (Entry(name, Kind.FILE, 0o644, size=19, extents=(extent,)) for name in names)
        return [Changeset((Entry(b"wide", Kind.DIR, 0o755), *files))]

    view = show(spot.image("wide", layers))
    assert sorted(os.listdir(view / "wide")) == [f"{number:06}" for number in range(WIDE)]
    for name in ("000000", "054321", "099999"):
        assert (view / "wide" / name).read_bytes() == b"the same everywhere"
    assert not (view / "wide" / "100000").exists()


def test_two_hundred_layers(spot: Spot, show: Callable[[ImageRecord], Path]) -> None:
    def layers(session: WriteSession) -> list[Changeset]:
        made = []
        for number in range(LAYERS):
            own = file(session, b"own-%03d" % number, b"of layer %d" % number)
            top = file(session, b"top", b"top %d" % number)
            gone = (b"own-%03d" % (number - 1),) if number % 2 else ()
            made.append(Changeset((own, top), gone))
        return made

    view = show(spot.image("layers", layers))
    assert (view / "top").read_bytes() == b"top 199"
    assert sorted(os.listdir(view)) == [*(f"own-{n:03}" for n in range(1, LAYERS, 2)), "top"]
    assert (view / "own-101").read_bytes() == b"of layer 101"


def test_what_overlays_would_obey(
    spot: Spot, show: Callable[[ImageRecord], Path], backend: str, rw: bool
) -> None:
    """A directory that says it is opaque, files that redirect, and names like whiteouts."""
    opaque = ((b"trusted.overlay.opaque", b"y"),)
    redirect = ((b"trusted.overlay.metacopy", b""), (b"trusted.overlay.redirect", b"/secret"))
    nested = ((b"trusted.overlay.overlay.opaque", b"x"), (b"user.overlay.opaque", b"y"))

    def layers(session: WriteSession) -> list[Changeset]:
        entries = (
            Entry(b"", Kind.DIR, 0o755, xattrs=opaque),
            Entry(b"dir", Kind.DIR, 0o755, xattrs=opaque),
            file(session, b"dir/inside", b"inside"),
            file(session, b"empty", b"", xattrs=redirect),
            file(session, b"nested", b"nested", xattrs=nested),
            file(session, b"redirected", b"its own", xattrs=redirect),
            file(session, b"secret", b"secret"),
        )
        return [Changeset(entries)]

    view = show(spot.image("traps", layers))
    assert (view / "dir" / "inside").read_bytes() == b"inside"
    assert sorted(os.listdir(view)) == ["dir", "empty", "nested", "redirected", "secret"]
    assert (view / "redirected").read_bytes() == b"its own"
    assert (view / "empty").read_bytes() == b""
    assert os.getxattr(view, "trusted.overlay.opaque") == b"y"
    assert os.getxattr(view / "dir", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(view / "redirected", "trusted.overlay.redirect") == b"/secret"
    assert os.getxattr(view / "nested", "trusted.overlay.overlay.opaque") == b"x"
    assert os.getxattr(view / "nested", "user.overlay.opaque") == b"y"
    if rw:
        (view / "dir" / "new").write_bytes(b"new")
        (view / "redirected").write_bytes(b"changed")
        assert sorted(os.listdir(view / "dir")) == ["inside", "new"]
        assert os.getxattr(view / "redirected", "trusted.overlay.redirect") == b"/secret"


def test_attributes_of_all_sizes(spot: Spot, show: Callable[[ImageRecord], Path]) -> None:
    def xattrs(number: int) -> tuple[tuple[bytes, bytes], ...]:
        pairs = [(b"user.n%03d" % n, b"v" * (n * 7 % 400)) for n in range(number)]
        return (*pairs, (b"user.same", b"same"), (b"user.zz", b"\0" * 3))

    def layers(session: WriteSession) -> list[Changeset]:
        entries = [
            file(session, b"x%03d" % n, b"content %d" % n, xattrs=xattrs(n)) for n in (0, 1, 50)
        ]
        big = ((b"user.big", bytes(range(256)) * 200),)
        return [Changeset((file(session, b"big", b"big", xattrs=big), *entries))]

    view = show(spot.image("xattrs", layers))
    for number in (0, 1, 50):
        path = view / f"x{number:03}"
        wanted = {name.decode(): value for name, value in xattrs(number)}
        assert {name: os.getxattr(path, name) for name in os.listxattr(path)} == wanted
    assert os.getxattr(view / "big", "user.big") == bytes(range(256)) * 200


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Entry(b"white", Kind.CHAR, 0o600), "0/0"),
        (Entry(b"f", Kind.FIFO, 0o600, xattrs=((b"user.x", bytes(65536)),)), "65536"),
        (Entry(b"f", Kind.FIFO, 0o600, xattrs=((b"system.odd", b""),)), "system.odd"),
    ],
    ids=["whiteout device", "attribute too long", "unknown attribute"],
)
def test_what_the_kernel_cannot_show(
    spot: Spot,
    show: Callable[[ImageRecord], Path],
    tmp_path: Path,
    backend: str,
    rw: bool,
    entry: Entry,
    reason: str,
) -> None:
    image = spot.image(f"odd-{reason.replace('/', '-')}", lambda _: [Changeset((entry,))])
    if backend.startswith("kernel"):
        with pytest.raises(UnsupportedError, match=reason) as caught:
            show(image)
        assert "fuse" in str(caught.value.hint)
        assert mounts.mounts(str(spot.store)) == []
        return
    view = show(image)
    if rw and entry.kind is Kind.CHAR:
        return  # overlayfs takes it for a whiteout, whatever is below
    assert os.listdir(view) == [entry.path.decode()]
    mounts.unmount(str(spot.store), str(view))
    record = mounts.mount(str(spot.store), image, str(view), rw=rw, backend="auto")
    assert record.backend == "fuse"
    assert stat.S_IMODE((view / entry.path.decode()).lstat().st_mode) == 0o600
