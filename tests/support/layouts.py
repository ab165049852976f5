"""OCI layouts made by hand, as somebody else would: any compression, any manifest, any index."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zlib
from typing import TYPE_CHECKING

import zstandard

from layerstore.formats import oci

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

TYPES = {"gzip": oci.LAYER_GZIP_TYPE, "zstd": oci.LAYER_ZSTD_TYPE, "none": oci.LAYER_TAR_TYPE}


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """Return a tar of files, the same for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def like_gos(data: bytes) -> bytes:
    """Return a gzip member that no library of ours makes, as Go's are: blocks end elsewhere."""
    coder = zlib.compressobj(6, zlib.DEFLATED, 31)
    half = len(data) // 2
    made = coder.compress(data[:half]) + coder.flush(zlib.Z_FULL_FLUSH)
    return made + coder.compress(data[half:]) + coder.flush()


def zstd_stream(data: bytes) -> bytes:
    coder = zstandard.ZstdCompressor(3, write_checksum=True).compressobj()
    return coder.compress(data) + coder.flush()


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "go": like_gos,
    "zstd": zstd_stream,
    "none": lambda data: data,
}


class Layout:
    """A layout that grows.

    Attributes:
        entries: Of its index.json, written by :meth:`finish`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs" / "sha256"
        self.blobs.mkdir(parents=True)
        self.entries: list[dict[str, object]] = []

    def put(self, raw: bytes, media_type: str, **more: object) -> dict[str, object]:
        """Write a blob; return its descriptor."""
        digest = hashlib.sha256(raw).hexdigest()
        (self.blobs / digest).write_bytes(raw)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(raw), **more}

    def put_json(self, value: object, media_type: str, **more: object) -> dict[str, object]:
        # Not as we write JSON: what survives is not what we happen to encode alike.
        return self.put(json.dumps(value, indent=3).encode(), media_type, **more)

    def image(
        self,
        layers: Sequence[bytes],
        compression: str = "gzip",
        *,
        architecture: str = "amd64",
        **more: object,
    ) -> dict[str, object]:
        """Write an image of these tars; return its manifest's descriptor."""
        config = {
            "created": "2026-11-26T00:00:00Z",
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in layers],
            },
        }
        kind = TYPES["gzip" if compression == "go" else compression]
        manifest = {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST_TYPE,
            "config": self.put_json(config, oci.CONFIG_TYPE),
            "layers": [self.put(COMPRESSORS[compression](tar), kind) for tar in layers],
            "annotations": {"com.example.made-by": "somebody"},
        }
        platform = {"architecture": architecture, "os": "linux"}
        return self.put_json(manifest, oci.MANIFEST_TYPE, platform=platform, **more)

    def attestation(self, of: Mapping[str, object]) -> dict[str, object]:
        """Write what BuildKit writes beside an image."""
        statement = self.put_json({"_type": "statement"}, "application/vnd.in-toto+json")
        config = {"architecture": "unknown", "os": "unknown", "rootfs": {"diff_ids": []}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": oci.MANIFEST_TYPE,
            "config": self.put_json(config, oci.CONFIG_TYPE),
            "layers": [statement],
        }
        return self.put_json(
            manifest,
            oci.MANIFEST_TYPE,
            platform={"architecture": "unknown", "os": "unknown"},
            annotations={
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": of["digest"],
            },
        )

    def index(self, *entries: dict[str, object]) -> dict[str, object]:
        """Write an index of descriptors."""
        value = {"schemaVersion": 2, "mediaType": oci.INDEX_TYPE, "manifests": list(entries)}
        return self.put_json(value, oci.INDEX_TYPE)

    def finish(self, *named: tuple[str, dict[str, object]]) -> Path:
        """Write index.json with these entries; return the layout."""
        for name, entry in named:
            annotations = {oci.REF_NAME: name.rpartition(":")[2]}
            if ":" in name:
                annotations["io.containerd.image.name"] = name
            self.entries.append({**entry, "annotations": annotations} if name else entry)
        (self.root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        index = {"schemaVersion": 2, "manifests": self.entries}
        (self.root / "index.json").write_text(json.dumps(index))
        return self.root
