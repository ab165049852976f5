"""Layers that Go compressed: made again where numba is, kept where it is not."""

from __future__ import annotations

import io
import sys
import zlib
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import FormatError, IntegrityError, UnsupportedError
from layerstore.formats import oci
from layerstore.formats.goflate.encoder import Deflate
from layerstore.image.exchange import adopting, finding
from layerstore.image.exchange.originals import original_pieces
from layerstore.image.exchange.reencoding import encode, find_recipe
from layerstore.image.layouts.layout_reader import LayoutReader
from layerstore.store.check.check import check
from layerstore.store.store import Store
from tests.support.layouts import Layout, like_gos, tar_of
from tests.support.store import noise, text

if TYPE_CHECKING:
    from pathlib import Path

LAYER = tar_of({"app": noise(2, 70_000), "lib": text(3, 250_000)})
HEADERS = {
    6: bytes.fromhex("1f8b08000000000000ff"),
    9: bytes.fromhex("1f8b08000000000002ff"),
    1: bytes.fromhex("1f8b08000000000004ff"),
}
"""As Go's compress/gzip writes them at these levels."""


def gzip_by_go(tar: bytes, level: int = 6) -> bytes:
    """Return what Go's compress/gzip makes, as tests/unit/formats/test_goflate.py has proven."""
    coder = Deflate(level)
    trailer = zlib.crc32(tar).to_bytes(4, "little") + len(tar).to_bytes(4, "little")
    return HEADERS[level] + coder.compress(tar) + coder.flush() + trailer


def without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.startswith("layerstore.formats.goflate")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "numba", None)


@pytest.mark.parametrize("level", HEADERS)
def test_a_recipe_is_found_and_makes_the_bytes(level: int) -> None:
    made = gzip_by_go(LAYER, level)
    recipe = find_recipe(lambda: io.BytesIO(made))
    assert recipe == {
        "codec": "goflate", "level": level, "method": 1, "header": HEADERS[level].hex(),
    }  # fmt: skip
    assert b"".join(encode(recipe, [LAYER[:1000], LAYER[1000:]])) == made


@pytest.mark.parametrize(
    "other", [HEADERS[9] + gzip_by_go(LAYER)[10:], HEADERS[6] + like_gos(LAYER)[10:]]
)
def test_what_only_has_gos_header_is_no_recipe(other: bytes) -> None:
    assert zlib.decompress(other, 31) == LAYER
    assert find_recipe(lambda: io.BytesIO(other)) is None


def test_a_method_of_the_future_is_unknown() -> None:
    with pytest.raises(FormatError, match="unknown here"):
        encode({"codec": "goflate", "level": 6, "method": 2, "header": ""}, [])


def test_without_numba_none_is_found_and_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = gzip_by_go(LAYER)
    recipe = find_recipe(lambda: io.BytesIO(made))
    assert recipe is not None
    without_numba(monkeypatch)
    assert find_recipe(lambda: io.BytesIO(made)) is None
    with pytest.raises(UnsupportedError, match="numba, which cannot be loaded") as told:
        encode(recipe, [LAYER])
    assert "layerstore[go]" in str(told.value.hint)


def test_an_image_of_gos_layers_is_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And read as always without numba; only its original form waits for it."""
    layout = Layout(tmp_path / "layout")
    blob = layout.put(gzip_by_go(LAYER), oci.LAYER_GZIP_TYPE)
    entry = layout.image([LAYER])
    manifest = layout.blobs / str(entry["digest"]).removeprefix("sha256:")
    parsed = oci.decode_manifest(manifest.read_bytes())
    entry = layout.put_json(
        {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST_TYPE,
            "config": {"mediaType": oci.CONFIG_TYPE, "digest": parsed.config.digest,
                       "size": parsed.config.size},
            "layers": [blob],
        },
        oci.MANIFEST_TYPE,
        platform={"architecture": "amd64", "os": "linux"},
    )  # fmt: skip
    with (
        Store.open(tmp_path / "store", create=True) as store,
        LayoutReader(layout.finish(("1", entry))) as reader,
    ):
        with store.begin("load") as session:
            image = finding.find_image(reader, "", lambda _: True)
            adopted = adopting.adopt_image(session, reader, image, names=["web:1"])
        assert not adopted.kept_bytes
        ((digest, encoding),) = store.origins(adopted.image).encodings.items()
        assert b"".join(original_pieces(store, digest, encoding)) == gzip_by_go(LAYER)
        other = encoding._replace(recipe={**encoding.recipe, "level": 5})
        with pytest.raises(IntegrityError, match="came out as"):
            list(original_pieces(store, digest, other))
        without_numba(monkeypatch)
        assert check(store, read_data=True).ok
        with pytest.raises(UnsupportedError, match="numba"):
            list(original_pieces(store, digest, encoding))
