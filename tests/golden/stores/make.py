"""Makes the tiny store of a format version that tests open for ever after.

    python -m tests.golden.stores.make OUT

writes ``OUT/format-N.tar.xz`` (the store) and ``OUT/format-N.json`` (what it holds), N
being the version that this program's layerstore writes. Run it once for every version,
before the next one is begun, and commit both files; never again for an older version.

The store holds two images over one layer that came as a tar with a recipe, a layer of
our own with hard links, a whiteout, a hole and attributes, a file stored as a difference
(from format 2 on), a name that was given and taken away, a build step, and dead chunks in
a pack of their own.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.formats.oci_config import ContainerConfig, ImageConfig
from layerstore.formats.tree import Entry, Kind
from layerstore.image.images import create_image
from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.layers.layer_writer import LayerItem, write_layer
from layerstore.image.trees.export_layer import export_rootfs
from layerstore.store.config import FORMAT_VERSION
from layerstore.store.records import CacheRecord
from layerstore.store.store import Store
from tests.support.store import noise, text
from tests.support.tars import END, fill, header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.store.records import LayerRecord
    from layerstore.store.writing.session import WriteSession

CREATED = "2026-11-23T00:00:00Z"


def base_tar() -> bytes:
    """A root file system as GNU tar would write it, with fields that only a recipe keeps."""
    big = b"".join(b"%08d\n" % number for number in range(70_000))  # cut into several chunks
    files = {b"./etc/issue": b"a tiny system\n", b"./usr/lib/big": big}
    files |= {b"./usr/lib/%d" % n: text(n, 700 + 150 * n) for n in range(2, 20)}
    out = [header(b"./", typeflag=b"5", mode=0o755)]
    out += [
        header(folder, typeflag=b"5", mode=0o755, uid=7, gid=8)
        for folder in (b"./etc/", b"./usr/", b"./usr/lib/")
    ]
    for path, content in sorted(files.items()):
        out += [header(path, size=len(content), mtime=1_700_000_000), fill(content)]
    out.append(header(b"./lib", typeflag=b"2", linkname=b"usr/lib"))
    return b"".join([*out, END])


def app_items(seed: int) -> list[LayerItem]:
    """A layer of an application."""

    def file(path: bytes, content: bytes, **attributes: object) -> LayerItem:
        entry = Entry(path, Kind.FILE, 0o644, size=len(content), **attributes)  # type: ignore[arg-type]
        return LayerItem(entry, lambda: io.BytesIO(content))

    held = bytes(100_000) + b"end of a hole\n"
    return [
        LayerItem(Entry(b"srv", Kind.DIR, 0o755, mtime_ns=5)),
        file(b"srv/app", text(seed, 9_000), mtime_ns=seed, xattrs=((b"user.note", b"x"),)),
        LayerItem(Entry(b"srv/app-link", Kind.HARDLINK, target=b"srv/app")),
        file(b"srv/icon", noise(seed, 3_000), uid=1000, gid=1000),
        LayerItem(
            Entry(b"srv/sparse", Kind.FILE, 0o600, size=len(held)),
            lambda: io.BytesIO(held),
            ((0, 98_304),),
        ),
    ]


def fill_store(session: WriteSession) -> None:
    """Write everything the module's text promises."""
    store = session.store
    base = ingest_tar(session, io.BytesIO(base_tar()), rootfs=True)
    config = ImageConfig(architecture="amd64", config=ContainerConfig(cmd=("/srv/app",)))

    def image(layers: Sequence[LayerRecord], *names: str) -> None:
        ids = [layer.diff_id for layer in layers]
        create_image(session, config, ids, [], names=names, created=CREATED)

    image([base], "base:1", "gone:1")
    apps = [
        write_layer(session, store, app_items(seed), whiteouts=[b"etc/issue"]) for seed in (50, 51)
    ]
    image([base, apps[0]], "app:1", "app:latest")
    image([base, apps[1]], "example.org/team/app:2")
    changed = b"a new version" + text(19, 3_550)[13:]
    entry = Entry(b"usr/lib/19", Kind.FILE, 0o644, size=len(changed))
    update = write_layer(session, store, [LayerItem(entry, lambda: io.BytesIO(changed))])
    image([base, apps[0], update], "app:3")
    assert store.catalog.base_rows(), "the update is no difference: format 2 is not covered"
    session.cache_put(CacheRecord("step-1", apps[0].diff_id, b"value", 1_764_000_000.0))
    session.cache_put(CacheRecord("step-2", None, b"no layer", 1_764_000_001.0))


def contents(store: Store) -> dict[str, object]:
    """What the store holds, by values that do not depend on its format."""
    roots = {}
    for name, image_id in store.tags().items():
        tar = io.BytesIO()
        export_rootfs(store, store.image(image_id).layers, tar)
        roots[name] = {
            "image": image_id,
            "rootfs_tar": hashlib.sha256(tar.getvalue()).hexdigest(),
        }
    return {
        "names": roots,
        "images": {image.image_id: list(image.layers) for image in store.images()},
        "layers": {layer.diff_id: layer.tar_size for layer in store.layers()},
        "build_cache": {
            record.key: [record.diff_id, record.value.decode()] for record in store.cache_records()
        },
        "chunks": sorted(row.chunk_id.hex() for row in store.catalog.scan_chunks()),
    }


def main(out: Path) -> None:
    name = f"format-{FORMAT_VERSION}"
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / name
        with Store.open(root, create=True) as store:
            with store.begin("dead bytes") as session:
                session.put_bytes(noise(99, 2_000))
                session.flush()
            with store.begin("fixture") as session:
                fill_store(session)
            store.untag("gone:1")
            held = contents(store)
        options = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner"]
        subprocess.run(
            ["tar", "-C", scratch, *options, "-cJf", str(out / f"{name}.tar.xz"), name], check=True
        )
    (out / f"{name}.json").write_text(json.dumps(held, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
