"""How archives are given to the product: as a layer, by import, by ADD, by load.

Pulling an image does with its layers what loading one does. Bounds are lowered by the cases
that say so, in their own process only.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import zstandard
from isal import igzip

from layerstore.build.api import build
from layerstore.build.request import BuildRequest
from layerstore.build.ui import SilentUi
from layerstore.digest import sha256_digest
from layerstore.formats import oci
from layerstore.formats.oci_config import ContainerConfig
from layerstore.formats.tar_limits import Limits
from layerstore.formats.tree import Changeset
from layerstore.image import importing
from layerstore.image.exchange import adopting, finding
from layerstore.image.exchange.originals import Originals
from layerstore.image.exchange.sending import Policy
from layerstore.image.importing import ImportSpec, import_tar
from layerstore.image.layers import ingest_tar
from layerstore.image.layers.layers import load_changeset
from layerstore.image.layouts.layout import NamedImage, save_layout
from layerstore.image.layouts.loading import Choice, load_directory
from layerstore.image.trees.export_layer import export_layer
from layerstore.image.trees.stack import load_root, walk
from layerstore.progress import Silent
from layerstore.store.store import Store
from tests.security.corpus.model import Case, Place, Way
from tests.support.layouts import Layout
from tests.support.tars import END

Archive = bytes | Callable[[Place], bytes]
Check = Callable[[Changeset], object]

SMALL = Limits(
    entries=100,
    sparse_regions=1000,
    trailing_bytes=1 << 16,
    expanded_bytes=1 << 30,
    logical_bytes=1 << 40,
)
"""Of most cases: reaching a limit shall not take gigabytes."""

_SPEC = ImportSpec((), ContainerConfig(), "", "2026-01-01T00:00:00Z")


class Stream(io.RawIOBase):
    """Pieces one after the other: archives too large to be made first."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._rest = piece
        piece = self._rest if size < 0 else self._rest[:size]
        self._rest = self._rest[len(piece) :]
        return piece


def as_layer(
    store: Store, stream: io.RawIOBase | io.BytesIO, limits: Limits, plain: bytes | None = None
) -> Changeset:
    """Ingest a layer; ``plain`` is what must come out again."""
    layers = sum(1 for _ in store.layers())
    try:
        with store.begin("corpus") as session:
            record = ingest_tar.ingest_tar(session, stream, limits=limits)  # type: ignore[arg-type]
    except BaseException:
        assert sum(1 for _ in store.layers()) == layers, "a refused layer is in the store"
        raise
    if plain is not None:
        out = io.BytesIO()
        export_layer(store, record.diff_id, out)
        assert out.getvalue() == plain, "the layer does not come out bit for bit"
    return load_changeset(store, record.diff_id)


def layer(make: Archive, limits: Limits, pack: Callable[[bytes], bytes] | None,
          check: Check | None) -> Callable[[Place], None]:  # fmt: skip
    def act(place: Place) -> None:
        plain = _made(make, place)
        packed = plain if pack is None else pack(plain)
        with place.store() as store:
            changeset = as_layer(store, io.BytesIO(packed), limits, plain)
        if check is not None:
            check(changeset)

    return act


def imported(make: Archive, limits: Limits) -> Callable[[Place], None]:
    """What ``layerstore import FILE`` does."""

    def act(place: Place) -> None:
        _lower(limits)
        path = place.scratch / "archive.tar"
        path.write_bytes(_made(make, place))
        with place.store() as store, path.open("rb") as stream:
            import_tar(store, stream, path.name, _SPEC, progress=Silent())

    assert importing.import_tar is import_tar
    return act


def added(make: Archive, limits: Limits, pack: Callable[[bytes], bytes] | None = None
          ) -> Callable[[Place], None]:  # fmt: skip
    """What ``ADD archive.tar /x/`` does; everything lies below ``/x``."""

    def act(place: Place) -> None:
        _lower(limits)
        archive = _made(make, place)
        (place.scratch / "archive.tar").write_bytes(archive if pack is None else pack(archive))
        text = b"FROM scratch\nADD archive.tar /x/\n"
        with place.store() as store:
            request = BuildRequest(context=place.scratch, dockerfile_text=text, no_cache=True)
            image = build(store, request, SilentUi()).image
            for path, _ in walk(load_root(store, image.layers)):
                assert path in (b"", b"x") or path.startswith(b"x/"), path

    return act


def loaded(
    make: Archive, limits: Limits, pack: Callable[[bytes], bytes] | None = None,
    plain: bytes | None = None,
) -> Callable[[Place], None]:  # fmt: skip
    """What ``load`` does with an OCI layout that has the archive as its layer.

    Args:
        make: The archive.
        limits: Lowered ones.
        pack: Compresses it.
        plain: What its config says that it holds; else the archive itself.
    """

    def act(place: Place) -> None:
        _lower(limits)
        archive = _made(make, place)
        layer = archive if pack is None else pack(archive)
        root = layout_of(fresh(place), layer, archive if plain is None else plain)
        # A store of its own: layers that are there are not read.
        with Store.open(fresh(place), create=True) as store:
            try:
                (found,) = load_directory(store, root, EVERY_PLATFORM, Silent())
            except BaseException:
                assert store.images() == [], "a refused image is in the store"
                raise
            (manifest,) = found.documents
            out = fresh(place)
            image = NamedImage(None, found.image)
            policy = Policy(prefer=frozenset([manifest]))
            report = save_layout(store, [image], out, policy)
            assert report.descriptors[0].digest == manifest, "it does not leave as it came"

    return act


def fresh(place: Place) -> Path:
    """Return a path in the case's scratch directory that no other way of it uses."""
    return Path(tempfile.mkdtemp(dir=place.scratch)) / "layout"


EVERY_PLATFORM = Choice(lambda _: True, False, Originals.AUTO)


def layout_of(root: Path, layer: bytes, plain: bytes, media_type: str = "") -> Path:
    """Write a layout of one image with one layer, as somebody might."""
    layout = Layout(root)
    start = layer[:10]
    kinds = {b"\x1f\x8b": oci.LAYER_GZIP_TYPE, b"\x28\xb5": oci.LAYER_ZSTD_TYPE,
             b"\x50\x2a": oci.LAYER_ZSTD_TYPE}  # fmt: skip
    config = {"architecture": "amd64", "os": "linux",
              "rootfs": {"type": "layers", "diff_ids": [sha256_digest(plain)]}}  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST_TYPE,
        "config": layout.put_json(config, oci.CONFIG_TYPE),
        "layers": [layout.put(layer, media_type or kinds.get(start[:2], oci.LAYER_TAR_TYPE))],
    }
    return layout.finish(("", layout.put_json(manifest, oci.MANIFEST_TYPE)))


def _made(make: Archive, place: Place) -> bytes:
    return make if isinstance(make, bytes) else make(place)


def _lower(limits: Limits) -> None:
    """Make limits the default ones of this process, which runs one case."""
    from layerstore.build import unpack

    for module in (ingest_tar, unpack, adopting, finding):
        module.Limits = lambda: limits  # type: ignore[attr-defined,misc]


def gzip(archive: bytes) -> bytes:
    return igzip.compress(archive)


def zstd(archive: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(archive)


def tar(entry: str, name: str, verdict: str, archive: Archive, *, limits: Limits = SMALL,
        says: str = "", check: Check | None = None, alone: str | None = None,
        add: str | None = None, end: bytes = END, long: bool = False) -> Case:  # fmt: skip
    """Return a case that goes through every entrance of archives.

    Args:
        entry: Of the list.
        name: Tells the entry's cases apart.
        verdict: For layers, however compressed.
        archive: Without end blocks.
        limits: Lowered ones.
        says: What the error's message matches.
        check: Looks at the accepted layer's changeset.
        alone: The verdict of import, where an archive must stand alone; as layers if None.
        add: The verdict of ADD; as layers if None. ADD follows docker there (decision 0085).
        end: What follows the archive.
        long: Only in the long tier.
    """

    def make(place: Place) -> bytes:
        return _made(archive, place) + end

    ways = [
        Way("layer", verdict, layer(make, limits, None, check), says),
        Way("layer, gzip", verdict, layer(make, limits, gzip, check), says),
        Way("layer, zstd", verdict, layer(make, limits, zstd, check), says),
        Way("import", alone or verdict, imported(make, limits), "" if alone else says),
        Way("ADD", add or verdict, added(make, limits), "" if add else says),
        Way("load", verdict, loaded(make, limits), says),
        Way("load, gzip", verdict, loaded(make, limits, gzip), says),
    ]
    plain = archive + end if isinstance(archive, bytes) else None
    return Case(entry, name, tuple(ways), long=long, archive=plain)


def stream(entry: str, name: str, verdict: str, pieces: Callable[[], Iterator[bytes]], *,
           limits: Limits | None = None, says: str = "", **more: object) -> Case:  # fmt: skip
    """Return a case of an archive at full size, made while it is read; limits as they are."""

    def act(place: Place) -> None:
        with place.store() as store:
            as_layer(store, Stream(pieces()), limits or Limits())

    return Case(entry, name, (Way("layer", verdict, act, says),), **more)  # type: ignore[arg-type]
