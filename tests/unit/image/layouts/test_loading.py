"""Archives of images: what is read of them, whatever kind they are, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from typing import TYPE_CHECKING

import pytest
import zstandard

from layerstore.errors import (
    FormatError,
    IntegrityError,
    LayerstoreError,
    LimitExceededError,
    NotFoundError,
    UnsafeContentError,
)
from layerstore.formats import oci
from layerstore.image.exchange.finding import find_image
from layerstore.image.exchange.indexes import find_index
from layerstore.image.exchange.originals import Originals
from layerstore.image.exchange.sending import Policy
from layerstore.image.layouts import archive_file, docker_archive
from layerstore.image.layouts.layout import NamedImage
from layerstore.image.layouts.layout_archive import save_archive
from layerstore.image.layouts.layout_reader import LayoutReader
from layerstore.image.layouts.loading import Choice, Loaded, load_directory, load_file
from layerstore.progress import Silent
from layerstore.store.check.check import check
from layerstore.store.store import Store
from tests.support.layouts import Layout, tar_of
from tests.support.store import noise, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LOWER = tar_of({"bin/sh": text(1, 300_000), "etc/os": b"debian"})
UPPER = tar_of({"app": noise(2, 60_000)})
CHOICE = Choice(lambda platform: platform.architecture == "amd64", False, Originals.AUTO)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def hexed(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def config_of(*layers: bytes) -> bytes:
    diff_ids = [f"sha256:{hexed(tar)}" for tar in layers]
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "2026-11-26T00:00:00Z",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
    ).encode()


def archive(files: Mapping[str, bytes | tuple[str, str]]) -> bytes:
    """Return a tar of files and of links: (kind, target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            else:
                member.type = tarfile.SYMTYPE if content[0] == "symlink" else tarfile.LNKTYPE
                member.linkname = content[1]
                tar.addfile(member)
    return out.getvalue()


def docker(
    *layers: bytes, names: tuple[str, ...] = ("web:1",), **files: bytes
) -> dict[str, bytes | tuple[str, str]]:
    """Return the files of what ``docker save`` of 20.10 writes."""
    config = config_of(*layers)
    paths = [f"{hexed(tar)}/layer.tar" for tar in layers]
    listed = [{"Config": "c.json", "RepoTags": list(names), "Layers": paths}]
    found: dict[str, bytes | tuple[str, str]] = dict(zip(paths, layers, strict=True))
    return {**found, "c.json": config, "manifest.json": json.dumps(listed).encode(), **files}


def load(
    store: Store, raw: bytes | Mapping[str, bytes | tuple[str, str]], choice: Choice = CHOICE
) -> list[Loaded]:
    data = raw if isinstance(raw, bytes) else archive(raw)
    return list(load_file(store, io.BytesIO(data), "archive", choice, Silent()))


def refused(store: Store, raw: bytes | Mapping[str, bytes | tuple[str, str]], **how: str) -> str:
    with pytest.raises(LayerstoreError) as caught:
        load(store, raw)
    assert isinstance(
        caught.value,
        (FormatError, UnsafeContentError, LimitExceededError, IntegrityError, NotFoundError),
    )
    assert store.images() == []
    assert os.listdir(store.paths.tmp) == []
    return str(caught.value)


@pytest.mark.parametrize("packing", ["plain", "gzip", "zstd"])
def test_what_docker_saves(store: Store, packing: str) -> None:
    raw = archive(docker(LOWER, UPPER, names=("web:1", "docker.io/library/web:2")))
    if packing == "gzip":
        raw = gzip.compress(raw)
    elif packing == "zstd":
        raw = zstandard.compress(raw)
    (loaded,) = load(store, raw)
    assert loaded.names == ("web:1", "web:2")
    assert loaded.image.image_id == f"sha256:{hexed(config_of(LOWER, UPPER))}"
    assert not store.origins(loaded.image), "nobody made a manifest"


def test_a_pipe_that_cannot_seek(store: Store) -> None:
    raw = archive(docker(LOWER, UPPER))
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as out:
            out.write(raw)

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(reading, "rb") as stream:
        (loaded,) = list(load_file(store, stream, "stdin", CHOICE, Silent()))
    thread.join()
    assert loaded.names == ("web:1",)
    assert os.listdir(store.paths.tmp) == []


def test_a_pipe_that_breaks_off(store: Store) -> None:
    raw = archive(docker(LOWER, UPPER))
    assert "ends inside" in refused(store, raw[: len(raw) // 2])
    refused(store, gzip.compress(raw)[:-50])


def test_layers_may_be_compressed_and_linked(store: Store) -> None:
    """As Bazel, Nix and old versions of docker write them."""
    files = docker(LOWER, UPPER)
    paths = [f"{hexed(tar)}/layer.tar" for tar in (LOWER, UPPER)]
    files["layers/one.tar.gz"] = gzip.compress(LOWER)
    files[paths[0]] = ("symlink", "../layers/one.tar.gz")
    files["layers/two.tar.zst"] = zstandard.compress(UPPER)
    files[paths[1]] = ("hardlink", "layers/two.tar.zst")
    (loaded,) = load(store, files)
    assert len(loaded.image.layers) == 2


def test_a_layer_that_is_named_often_is_read_once(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a million names of one compressed layer fit an archive of some gigabytes."""
    files = docker(*[LOWER] * 40)
    files[f"{hexed(LOWER)}/layer.tar"] = gzip.compress(LOWER)
    made = []

    class Counted:
        @staticmethod
        def sha256() -> object:
            made.append(1)
            return hashlib.sha256()

    monkeypatch.setattr(archive_file, "hashlib", Counted)
    (loaded,) = load(store, files)
    assert len(loaded.image.layers) == 40
    assert len(made) == 1


def test_several_images_share_layers(store: Store) -> None:
    one, two = docker(LOWER), docker(LOWER, UPPER, names=("app:2",))
    files = {**one, **two, "c1.json": one["c.json"]}
    first = json.loads(one["manifest.json"])[0] | {"Config": "c1.json"}  # type: ignore[arg-type]
    listed = [first, *json.loads(two["manifest.json"])]  # type: ignore[arg-type]
    files["manifest.json"] = json.dumps(listed).encode()
    assert [each.names for each in load(store, files)] == [("web:1",), ("app:2",)]


def test_the_format_of_before_manifest_json(store: Store) -> None:
    lower, upper = "a" * 64, "b" * 64
    step = {"Cmd": ["/bin/sh", "-c", "#(nop) ADD file"]}
    files: dict[str, bytes | tuple[str, str]] = {
        f"{lower}/VERSION": b"1.0",
        f"{lower}/layer.tar": LOWER,
        f"{lower}/json": json.dumps(
            {"id": lower, "created": "2015-01-01T00:00:00Z", "container_config": step}
        ).encode(),
        f"{upper}/layer.tar": UPPER,
        f"{upper}/json": json.dumps(
            {
                "id": upper,
                "parent": lower,
                "created": "2015-01-02T00:00:00Z",
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["app"]},
            }
        ).encode(),
        "repositories": json.dumps({"web": {"1": upper, "old": upper}}).encode(),
    }
    (loaded,) = load(store, files)
    assert loaded.names == ("web:1", "web:old")
    assert [each[7:] for each in loaded.image.layers] == [hexed(LOWER), hexed(UPPER)]
    config = json.loads(store.get_blob(loaded.image.image_id))
    assert config["config"] == {"Cmd": ["app"]}
    assert [each.get("created_by") for each in config["history"]] == [
        "/bin/sh -c #(nop) ADD file",
        None,
    ]
    assert {"id", "parent"}.isdisjoint(config)
    files[f"{lower}/json"] = json.dumps({"id": lower, "parent": upper}).encode()
    with pytest.raises(LimitExceededError):
        load(store, files)


def test_a_layout_in_a_tar_is_named_by_both_of_its_lists(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    entry = layout.image([LOWER, UPPER], "go")
    root = layout.finish(("1", entry))  # a tag alone: no name
    manifest = json.loads((layout.blobs / str(entry["digest"])[7:]).read_bytes())
    listed = [
        {
            "Config": f"blobs/sha256/{manifest['config']['digest'][7:]}",
            "RepoTags": ["web:1"],
            "Layers": [f"blobs/sha256/{each['digest'][7:]}" for each in manifest["layers"]],
        }
    ]
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    (loaded,) = load(store, {**files, "manifest.json": json.dumps(listed).encode()})
    assert loaded.names == ("web:1",)
    assert loaded.documents == (entry["digest"],)
    out = io.BytesIO()
    save_archive(store, [NamedImage("web:1", loaded.image)], out, Policy(), for_docker=True)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as again:
        index = json.load(again.extractfile("index.json"))  # type: ignore[arg-type]
    assert index["manifests"][0]["digest"] == entry["digest"]


def test_what_is_saved_is_loaded(store: Store, tmp_path: Path) -> None:
    (loaded,) = load(store, docker(LOWER, UPPER))
    for policy in (Policy(), Policy("original", "none"), Policy("zstd", "zstd")):
        out = io.BytesIO()
        image = NamedImage("web:1", loaded.image)
        save_archive(store, [image], out, policy, for_docker=policy.form == "original")
        with Store.open(tmp_path / f"s{policy.anew}", create=True) as other:
            (again,) = load(other, out.getvalue())
            assert again.image.image_id == loaded.image.image_id
            assert again.names == ("web:1",)


def test_an_index_by_platform_and_all_of_it(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    images = [layout.image([LOWER]), layout.image([UPPER], architecture="arm64")]
    root = layout.finish(("docker.io/library/web:1", layout.index(*images)))
    arm = CHOICE._replace(serves=lambda platform: platform.architecture == "arm64")
    (loaded,) = list(load_directory(store, root, arm, Silent()))
    assert loaded.documents[0] == images[1]["digest"]
    everything = CHOICE._replace(all_platforms=True)
    first, second = list(load_directory(store, root, everything, Silent()))
    assert first.names == ("web:1",)
    assert second.names == (f"web:1@{images[1]['digest']}",)
    assert store.resolve("web:1") == first.image
    index = find_index(store, "web:1")
    assert index is not None
    assert [entry.digest for entry in index.entries] == [each["digest"] for each in images]
    assert list(index.images.values()) == [first.image, second.image]


ARM = CHOICE._replace(serves=lambda platform: platform.architecture == "arm64")


def flat(root: Path, name: str, *, platforms: bool = True) -> tuple[Layout, list[str]]:
    """Write a layout with two images of one name, arm64's first, and no index."""
    layout = Layout(root)
    images = [layout.image([UPPER], architecture="arm64"), layout.image([LOWER])]
    for each in images:
        if not platforms:
            del each["platform"]
    layout.finish(*((name, each) for each in images))
    return layout, [str(each["digest"]) for each in images]


@pytest.mark.parametrize("platforms", [True, False])
@pytest.mark.parametrize("name", ["docker.io/library/web:1", "1"])
def test_of_manifests_of_one_name_the_one_for_the_platform(
    store: Store, tmp_path: Path, name: str, platforms: bool
) -> None:
    layout, (arm, amd) = flat(tmp_path / "layout", name, platforms=platforms)
    layout.finish(("other", layout.image([LOWER, UPPER])))
    names = ("web:1",) if ":" in name else ()
    for choice, digest, other in ((CHOICE, amd, "linux/arm64"), (ARM, arm, "linux/amd64")):
        first, last = list(load_directory(store, layout.root, choice, Silent()))
        assert (first.names, first.documents, first.left_out) == (names, (digest,), (other,))
        assert first.tag == ("" if names else "1")
        assert (last.tag, last.left_out) == ("other", ())
        assert not names or store.resolve("web:1") == first.image
    neither = CHOICE._replace(serves=lambda _: False)
    with pytest.raises(NotFoundError, match="no image for this platform"):
        list(load_directory(store, layout.root, neither, Silent()))


def test_manifests_of_two_names_keep_both(store: Store, tmp_path: Path) -> None:
    layout, (_, amd) = flat(tmp_path / "layout", "docker.io/library/web:1")
    for each in list(layout.entries):
        named = {oci.CONTAINERD_NAME: "docker.io/library/web:2", oci.REF_NAME: "2"}
        layout.entries.append({**each, "annotations": named})
    (loaded,) = list(load_directory(store, layout.finish(), CHOICE, Silent()))
    assert (loaded.names, loaded.documents) == (("web:1", "web:2"), (amd,))


def test_all_manifests_of_one_name_are_an_index(store: Store, tmp_path: Path) -> None:
    layout, digests = flat(tmp_path / "layout", "docker.io/library/web:1")
    everything = CHOICE._replace(all_platforms=True)
    loaded = list(load_directory(store, layout.root, everything, Silent()))
    assert [each.left_out for each in loaded] == [(), ()]
    index = find_index(store, "web:1")
    assert index is not None
    assert [entry.digest for entry in index.entries] == digests
    assert store.resolve("web:1") == loaded[1].image
    assert check(store, read_data=True).ok


def test_images_of_one_name_and_platform_are_several(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    images = [layout.image([tar]) for tar in (LOWER, UPPER)]
    layout.finish(*(("1", each) for each in images), ("", layout.image([UPPER, LOWER])))
    loaded = list(load_directory(store, layout.root, CHOICE, Silent()))
    assert [(each.tag, each.left_out) for each in loaded] == [("1", ()), ("1", ()), ("", ())]


def test_what_is_attested_of_manifests_of_one_name(store: Store, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    image = layout.image([LOWER])
    attested = layout.attestation(image)
    named = {oci.REF_NAME: "1"}
    for each in (image, attested):
        each["annotations"] = {**each.get("annotations", {}), **named}  # type: ignore[dict-item]
        layout.entries.append(each)
    (loaded,) = list(load_directory(store, layout.finish(), CHOICE, Silent()))
    assert (loaded.documents, loaded.left_out) == ((image["digest"],), ())


def test_a_copy_out_of_manifests_of_one_name(tmp_path: Path) -> None:
    layout, (arm, amd) = flat(tmp_path / "layout", "docker.io/library/web:1")
    for reference in ("1", "web:1", ""):
        with LayoutReader(layout.root) as reader:
            index = oci.decode_index(reader.document(reference).raw, media_type=oci.INDEX_TYPE)
            assert [each.digest for each in index.manifests] == [arm, amd]
            found = find_image(reader, reference, CHOICE.serves)
            assert found.documents[0].digest == amd
    (layout.blobs / arm[7:]).unlink()
    with LayoutReader(layout.root) as reader:  # what is left out need not be there
        assert find_image(reader, "1", CHOICE.serves).documents[0].digest == amd


# -- refused


def test_configs_that_are_large_together(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files = docker(LOWER, UPPER)
    (listed,) = json.loads(files["manifest.json"])  # type: ignore[arg-type]
    monkeypatch.setattr(docker_archive, "DOCUMENTS_MAX_BYTES", 2_000)
    files["manifest.json"] = json.dumps([listed] * 20).encode()
    assert "more than 2000 bytes together" in refused(store, files)
    of_v1 = {
        "repositories": b'{"web":{"1":"a"}}',
        "a/json": json.dumps({"id": "a", "parent": "b", "comment": "x" * 1_500}).encode(),
        "b/json": json.dumps({"id": "b", "comment": "x" * 1_500}).encode(),
    }
    assert "more than 2000 bytes together" in refused(store, of_v1)
    shared = {
        "repositories": b'{"web":{"1":"a","2":"c"}}',
        # What no config keeps: the images' own are small together.
        "a/json": json.dumps({"id": "a", "throwaway": "x" * 1_500}).encode(),
        "c/json": json.dumps({"id": "c", "parent": "a"}).encode(),
        "a/layer.tar": LOWER,
        "c/layer.tar": UPPER,
    }
    assert "more than 2000 bytes together" in refused(store, shared)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "empty|neither"),
        ({"etc/passwd": b"x"}, "neither index.json nor manifest.json"),
        ({"manifest.json": b"[]"}, "holds no images"),
        ({"manifest.json": b"{}"}, "no list"),
        ({"manifest.json": b"[" * 200}, "nested"),
        ({"manifest.json": b'[{"Config":"c","Config":"d"}]'}, "twice"),
        ({"manifest.json": b"[1]"}, "manifest.json"),
        ({"repositories": b'{"web":{"1":"../../etc"}}'}, "no id"),
        ({"repositories": b'{"web":[]}'}, "no tags"),
        ({"index.json": b"{}", "oci-layout": b"{}"}, "index"),
    ],
)
def test_lists_that_say_nothing(store: Store, files: dict[str, bytes], why: str) -> None:
    import re

    assert re.search(why, refused(store, files))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"Config": "../../../etc/passwd"}, "leads out"),
        ({"Config": "/etc/passwd"}, "leads out"),
        ({"Config": "absent.json"}, "has no 'absent.json'"),
        ({"Layers": ["../x"]}, "layers"),
        ({"Layers": ["../x", "y"]}, "leads out"),
        ({"Layers": ["absent", "absent"]}, "has no 'absent'"),
        ({"Layers": []}, "layers"),
        ({"Layers": [1, 2]}, "Layers"),
        ({"RepoTags": ["UPPER:1"]}, "upper-case"),
        ({"RepoTags": ["web@sha256:" + "a" * 64]}, "digest"),
        ({"RepoTags": ["web:../x"]}, "bad name"),
        ({"Layers": ["x"] * 600}, "600 layers"),
    ],
)
def test_a_manifest_json_that_lies(store: Store, change: dict[str, object], why: str) -> None:
    files = docker(LOWER, UPPER)
    listed = json.loads(files["manifest.json"])  # type: ignore[arg-type]
    files["manifest.json"] = json.dumps([listed[0] | change]).encode()
    assert why in refused(store, files)


def test_links_lead_nowhere_but_to_members(store: Store, tmp_path: Path) -> None:
    secret = tmp_path / "secret.tar"
    secret.write_bytes(LOWER)
    path = f"{hexed(LOWER)}/layer.tar"
    for target in (str(secret), "../../../../../.." + str(secret), "../../x", "/proc/self/fd/0"):
        files = docker(LOWER)
        files[path] = ("symlink", target)
        refused(store, files)
    files = docker(LOWER)
    files[path] = ("symlink", "other")
    files[f"{hexed(LOWER)}/other"] = ("symlink", "layer.tar")
    assert "more than 8 links" in refused(store, files)
    files["manifest.json"] = ("symlink", "/etc/passwd")
    assert "neither" in refused(store, files)


def test_two_members_of_one_name(store: Store) -> None:
    raw = archive(docker(LOWER)).rstrip(b"\0")  # without its end
    raw += bytes(-len(raw) % 512)
    assert "twice" in refused(store, raw + archive({"manifest.json": b"[]"}))


def test_a_layer_that_is_another(store: Store) -> None:
    files = docker(LOWER)
    files[f"{hexed(LOWER)}/layer.tar"] = UPPER
    refused(store, files)
    files[f"{hexed(LOWER)}/layer.tar"] = b""
    assert "is empty" in refused(store, files)
    files[f"{hexed(LOWER)}/layer.tar"] = gzip.compress(UPPER)
    refused(store, files)


def test_more_members_than_images_have(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_file, "ENTRIES_MAX", 50)
    files = {**docker(LOWER), **{f"x{number}": b"" for number in range(60)}}
    assert "entries" in refused(store, files)


def test_more_images_than_archives_have(store: Store) -> None:
    files = docker(LOWER)
    listed = json.loads(files["manifest.json"])  # type: ignore[arg-type]
    files["manifest.json"] = json.dumps(listed * 1_001).encode()
    assert "1001 images" in refused(store, files)


def test_a_sparse_member_is_no_layer(store: Store) -> None:
    header = tarfile.TarInfo("c.json")
    header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                          "GNU.sparse.name": "c.json", "GNU.sparse.realsize": "4096"}  # fmt: skip
    body = b"1\n0\n10\n".ljust(512, b"\0") + b"{}".ljust(512, b" ")
    header.size = 512 + 10
    raw = header.tobuf(tarfile.PAX_FORMAT) + body
    rest = archive({"manifest.json": json.dumps([{"Config": "c.json", "Layers": []}]).encode()})
    assert "sparse" in refused(store, raw + rest)
