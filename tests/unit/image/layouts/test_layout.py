"""Saving OCI layouts: what is written, added to, and refused."""

import errno
import gzip
import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard

from layerstore.errors import FormatError, IntegrityError, NotFoundError, StorageError
from layerstore.formats import oci
from layerstore.formats.oci_config import ContainerConfig, History, ImageConfig
from layerstore.formats.tree import Entry, Kind
from layerstore.image.exchange.sending import Policy
from layerstore.image.images import create_image
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.layouts import layout
from layerstore.image.layouts.layout import (
    NamedImage,
    OutputTakenError,
    save_oci_layout,
)
from layerstore.image.layouts.layout_archive import save_archive
from layerstore.image.layouts.layout_reader import LayoutReader
from layerstore.store.store import Store

CREATED = "2026-11-23T12:00:00Z"


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def make(store, *names, cmd="sh"):
    """Return an image of two tiny layers."""
    with store.begin("test") as session:
        layers = [
            write_layer(
                session, store, [LayerItem(Entry(path=path, kind=Kind.DIR, mode=0o755), None)]
            ).diff_id
            for path in (b"one", b"two")
        ]
        config = ImageConfig(architecture="arm64", config=ContainerConfig(cmd=(cmd,)))
        steps = [History(created_by="a"), History(created_by="b")]
        return create_image(session, config, layers, steps, names=names, created=CREATED)


def read_blob(root, descriptor):
    raw = (root / "blobs" / "sha256" / descriptor.digest.partition(":")[2]).read_bytes()
    oci.verify(raw, descriptor)
    return raw


def read_index(root):
    raw = (root / "index.json").read_bytes()
    return raw, oci.decode_index(raw)


def write_archive(store, images, out, compression="gzip"):
    with open(out, "wb") as stream:
        policy = Policy(compression, compression)
        return save_archive(store, images, stream, policy, for_docker=False)


DECOMPRESS = {
    "gzip": gzip.decompress,
    "zstd": lambda raw: zstandard.ZstdDecompressor().decompressobj().decompress(raw),
    "none": lambda raw: raw,
}


@pytest.mark.parametrize("compression", sorted(DECOMPRESS))
def test_layers_come_out_with_their_diff_ids(store, tmp_path, compression):
    image = make(store, "web:1")
    root = tmp_path / "layout"
    report = save_oci_layout(store, [NamedImage("web:1", image)], root, compression=compression)
    raw, index = read_index(root)
    assert report.index_digest == f"sha256:{hashlib.sha256(raw).hexdigest()}"
    assert report.references == ("1",)
    (entry,) = index.manifests
    assert entry.platform is not None
    assert (entry.platform.os, entry.platform.architecture) == ("linux", "arm64")
    assert entry.annotations == {
        oci.REF_NAME: "1",
        oci.CONTAINERD_NAME: "docker.io/library/web:1",
    }
    manifest = oci.decode_manifest(read_blob(root, entry), media_type=entry.media_type)
    assert manifest.config.digest == image.image_id
    assert read_blob(root, manifest.config) == store.get_blob(image.image_id)
    tars = [DECOMPRESS[compression](read_blob(root, layer)) for layer in manifest.layers]
    assert [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars] == list(image.layers)


def test_saving_is_deterministic(store, tmp_path):
    image = make(store, "web:1")
    for name in ("a", "b"):
        save_oci_layout(store, [NamedImage("web:1", image)], tmp_path / name)
        write_archive(store, [NamedImage("web:1", image)], tmp_path / f"{name}.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert read_index(tmp_path / "a")[0] == read_index(tmp_path / "b")[0]


def test_an_existing_layout_is_added_to(store, tmp_path):
    root = tmp_path / "layout"
    first, second = make(store, "web:1"), make(store, "app:2", cmd="other")
    save_oci_layout(store, [NamedImage("web:1", first)], root)
    plain = json.loads((root / "index.json").read_bytes())
    plain["annotations"] = {"kept": "yes"}
    (root / "index.json").write_text(json.dumps(plain))
    save_oci_layout(store, [NamedImage("app:2", second)], root)
    _, index = read_index(root)
    assert [entry.annotations[oci.REF_NAME] for entry in index.manifests] == ["1", "2"]
    assert index.annotations == {"kept": "yes"}


def test_a_name_saved_again_moves(store, tmp_path):
    root = tmp_path / "layout"
    for cmd in ("first", "second"):
        image = make(store, "web:1", cmd=cmd)
        save_oci_layout(store, [NamedImage("web:1", image)], root)
    _, index = read_index(root)
    (entry,) = index.manifests
    assert oci.decode_manifest(read_blob(root, entry)).config.digest == image.image_id


def test_two_repositories_with_one_tag_get_whole_names(store, tmp_path):
    first, second = make(store, "web:1"), make(store, "app:1", cmd="other")
    images = [NamedImage("web:1", first), NamedImage("app:1", second)]
    for _ in range(2):
        report = save_oci_layout(store, images, tmp_path / "layout")
        assert report.references == ("1", "app:1")
    assert len(read_index(tmp_path / "layout")[1].manifests) == 2


def test_an_image_without_a_name(store, tmp_path):
    image = make(store)
    for _ in range(2):
        report = save_oci_layout(store, [NamedImage(None, image)], tmp_path / "layout")
    (entry,) = read_index(tmp_path / "layout")[1].manifests
    assert (report.references, entry.annotations) == ((None,), {})


def test_foreign_directories_are_refused(store, tmp_path):
    image = make(store, "web:1")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("taken", "file"):
        with pytest.raises(OutputTakenError):
            save_oci_layout(store, [NamedImage("web:1", image)], tmp_path / name)
    assert os.listdir(tmp_path / "taken") == ["precious"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("oci-layout", '{"imageLayoutVersion":"2.0.0"}'),
        ("oci-layout", "[]"),
        ("index.json", "{}"),
        ("index.json", '{"schemaVersion":2,"manifests":[],"layers":[]}'),
    ],
)
def test_layouts_that_cannot_be_understood_are_left_alone(store, tmp_path, name, text):
    image = make(store, "web:1")
    root = tmp_path / "layout"
    save_oci_layout(store, [NamedImage("web:1", image)], root)
    (root / name).write_text(text)
    with pytest.raises(FormatError):
        save_oci_layout(store, [NamedImage("web:1", image)], root)
    assert (root / name).read_text() == text


def test_an_index_without_media_type_is_read(store, tmp_path):
    """As older umoci and skopeo wrote it."""
    image = make(store, "web:1")
    root = tmp_path / "layout"
    save_oci_layout(store, [NamedImage("web:1", image)], root)
    plain = json.loads((root / "index.json").read_bytes())
    del plain["mediaType"]
    (root / "index.json").write_text(json.dumps(plain))
    save_oci_layout(store, [NamedImage("web:1", image)], root)
    assert len(read_index(root)[1].manifests) == 1


def test_damage_leaves_the_layout_as_it_was(store, tmp_path, monkeypatch):
    root = tmp_path / "layout"
    image = make(store, "web:1")
    save_oci_layout(store, [NamedImage("web:1", image)], root)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}

    def broken(_store, _diff_id):
        yield b"some of it"
        raise IntegrityError("damaged")

    monkeypatch.setattr("layerstore.image.exchange.sending.verified_tar", broken)
    other = make(store, "app:2", cmd="other")
    with pytest.raises(IntegrityError):
        save_oci_layout(store, [NamedImage("app:2", other)], root)
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert before == after


def test_a_save_that_fails_leaves_no_new_directory(store, tmp_path, monkeypatch):
    root = tmp_path / "layout"
    images = [NamedImage(name, make(store, name, cmd=name)) for name in ("web:1", "app:2")]
    send = layout.send_named

    def full(store, sender, named):
        if named is images[1]:
            raise OSError(errno.ENOSPC, "no space left")
        return send(store, sender, named)

    monkeypatch.setattr(layout, "send_named", full)
    with pytest.raises(StorageError, match="No space left"):
        save_oci_layout(store, images, root)
    assert not root.exists()
    root.mkdir()
    with pytest.raises(StorageError, match="No space left"):
        save_oci_layout(store, images, root)
    assert not [path for path in root.rglob("*") if path.is_file()]


def test_an_archive_is_a_layout_in_a_tar(store, tmp_path):
    image = make(store, "web:1")
    target = tmp_path / "image.tar"
    target.write_text("old")
    write_archive(store, [NamedImage("web:1", image)], target)
    with tarfile.open(target) as archive:
        assert archive.getnames()[-2:] == ["oci-layout", "index.json"]
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "-xf", target, "-C", tmp_path / "out"], check=True)
    (entry,) = read_index(tmp_path / "out")[1].manifests
    read_blob(tmp_path / "out", entry)


def test_a_blob_that_is_not_what_it_was_spoils_the_archive(store, tmp_path, monkeypatch):
    image = make(store, "web:1")

    def other(_store, _diff_id):
        yield b"not the layer"

    monkeypatch.setattr("layerstore.image.exchange.sending.verified_tar", other)
    with pytest.raises(IntegrityError, match="came out as"):
        write_archive(store, [NamedImage("web:1", image)], tmp_path / "a.tar", "none")


def test_a_place_that_cannot_be_written_is_named(store):
    image = make(store, "web:1")
    target = Path("/proc/nowhere/layout")
    with pytest.raises(StorageError, match=f"could not write {target}: No such file"):
        save_oci_layout(store, [NamedImage("web:1", image)], target)


def test_a_save_that_ran_out_of_space_can_be_done_again(store, tmp_path, monkeypatch):
    image = make(store, "web:1")
    out = tmp_path / "layout"

    def full(_fd, _data):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        replace = layout._replace

        def replace_on_a_full_disk(path, raw):
            patched.setattr(layout, "write_all", full)
            replace(path, raw)

        patched.setattr(layout, "_replace", replace_on_a_full_disk)
        with pytest.raises(StorageError, match="No space left"):
            save_oci_layout(store, [NamedImage("web:1", image)], out)
    assert os.listdir(out) == ["blobs"]
    save_oci_layout(store, [NamedImage("web:1", image)], out)
    (entry,) = read_index(out)[1].manifests
    read_blob(out, entry)


def test_images_of_a_layout_are_found_by_tag_and_by_whole_name(store, tmp_path):
    web, app = make(store, "web:1"), make(store, "reg.example/app:1", cmd="other")
    images = [NamedImage("web:1", web), NamedImage("reg.example/app:1", app)]
    save_oci_layout(store, images[:1], tmp_path / "one")
    save_oci_layout(store, images, tmp_path / "two")
    with LayoutReader(tmp_path / "one") as one:
        first = one.document("1").raw
        for reference in ("web:1", "docker.io/library/web:1", "", "latest"):
            assert one.document(reference).raw == first
        for reference in ("2", "web:2", "app:1", "reg.example/web:1", "Not:A Name"):
            with pytest.raises(NotFoundError, match="has no image of tag"):
                one.document(reference)
    with LayoutReader(tmp_path / "two") as two:
        assert two.document("docker.io/library/web:1").raw == first
        assert two.document("reg.example/app:1").raw != first
        with pytest.raises(NotFoundError):
            two.document("latest")
