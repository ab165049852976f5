"""The document of the build cache's formats, held against the code."""

from __future__ import annotations

from pathlib import Path

import msgspec

from layerstore.build.cache_value import alias_of, encode_alias
from layerstore.build.records import BuildNote, BuildRecords, StepNote
from layerstore.digest import DiffId, Digest
from layerstore.formats import build_cache
from layerstore.formats.build_cache import CachedStep, CacheLayer
from layerstore.formats.oci import LAYER_ZSTD_TYPE, Descriptor
from layerstore.store.paths import StorePaths

DOCUMENT = Path(__file__).parents[2] / "docs" / "format" / "build-cache.md"
DIGEST = Digest("sha256:" + "5a" * 32)


WITHOUT_PLACES = bytes.fromhex(
    "4c534255494c4401919891a87368613235363a6991a3613a31a0a22f63ad2f632f446f636b657266696c65cb"
    "3ff8000000000000cb3fd00000000000009196ab5b322f325d2052554e2078a552554e207891a6737465703a"
    "6bc0cb3ff0000000000000c2cded2a4989809bad2bdab90a25deb075c6aa5a116e1f924a5449b8d727032f4d"
)
"""The same record as versions wrote it that kept no places of instructions."""


def tiny() -> bytes:
    """The record whose hexdump the document shows."""
    dump = DOCUMENT.read_text().partition("```hexdump\n")[2].partition("```")[0]
    return b"".join(bytes.fromhex(line.partition(": ")[2][:47]) for line in dump.splitlines())


def test_the_documented_record_is_read_and_written(tmp_path: Path) -> None:
    step = StepNote("[2/2] RUN x", "RUN x", ("step:k",), None, 1.0, False, "Dockerfile", 3)
    build = BuildNote(("sha256:i",), ("a:1",), "", "/c", "/c/Dockerfile", 1.5, 0.25, (step,))
    records = BuildRecords(StorePaths(str(tmp_path)))
    records.add(build, lambda: str(tmp_path / "staging"))
    (path,) = (tmp_path / "builds").iterdir()
    assert path.name == "e3964038d1ff5568d0f3bf8c7c760ddd"
    assert path.read_bytes() == tiny()
    assert records.of_spec("/c", "/c/Dockerfile") == (build,)
    path.write_bytes(WITHOUT_PLACES)
    plain = msgspec.structs.replace(step, file="", line=0)
    assert records.of_spec("/c", "/c/Dockerfile") == (
        msgspec.structs.replace(build, steps=(plain,)),
    )


def test_references_and_exported_documents_stay_as_they_are() -> None:
    assert encode_alias("step:k").hex() == "010191a6737465703a6b"
    assert alias_of(bytes.fromhex("010191a6737465703a6b")) == "step:k"
    layer = CacheLayer(
        DiffId(DIGEST), Descriptor(media_type=LAYER_ZSTD_TYPE, digest=DIGEST, size=7)
    )
    step = CachedStep("step:" + "0" * 64, DiffId(DIGEST), 1.5)
    config = build_cache.encode_config([step], [layer])
    assert config == (
        b'{"diff_ids":["%(id)b"],"steps":[{"created":"1.5","key":"step:%(zeros)b","layer":"%(id)b"}],'
        b'"version":1}' % {b"id": DIGEST.encode(), b"zeros": b"0" * 64}
    )
    manifest = build_cache.encode_manifest(config, [layer])
    described, blobs = build_cache.decode_manifest(manifest)
    assert (described.size, blobs) == (len(config), (layer.blob,))
    assert b'"artifactType":"application/vnd.layerstore.build-cache.config.v1+json"' in manifest
