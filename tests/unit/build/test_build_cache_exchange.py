"""Build caches in directories and in other stores: what travels, and what strangers cannot do."""

from __future__ import annotations

import json
import os
import shutil
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.build import cache_directory, solver
from layerstore.build.api import build
from layerstore.build.cache_directory import DirectorySource, write_directory
from layerstore.build.cache_exchange import CacheExport, CacheImport, CacheKind
from layerstore.build.request import BuildRequest
from layerstore.cli.build.cache_options import parse_from, parse_to
from layerstore.digest import sha256_digest
from layerstore.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    LayerstoreError,
    LimitExceededError,
    StorageError,
    UnsafeContentError,
)
from layerstore.formats import build_cache
from layerstore.formats.build_cache import RECORDS_MAX, CachedStep
from layerstore.formats.reference import parse_reference
from layerstore.store.store import Store
from tests.support.build import RecordingUi, builder, tree_of  # noqa: F401
from tests.support.registry_stub import World, stub_registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.build.cache_exchange import Connect
    from layerstore.build.request import BuildResult
    from tests.support.build import Builder

STAGES = """\
FROM scratch AS one
COPY a /a
WORKDIR /w
FROM scratch
COPY --from=one /a /b
"""


class Exchange:
    """One context, a store that exports and another that imports."""

    def __init__(self, builder: Builder, connect: Connect) -> None:  # noqa: F811
        self.builder = builder
        self.connect = connect
        self.place = builder.directory / "cache"
        self.other = builder.directory / "other"
        builder.write({"a": "A"})

    def exported(self, kind: CacheKind = CacheKind.DIRECTORY, **options: object) -> BuildResult:
        if kind is CacheKind.REGISTRY:
            options["connect"] = self.connect
        to = CacheExport(kind, str(self.place), **options)  # type: ignore[arg-type]
        return self.builder.build(STAGES, cache_to=[to])

    def imported(self, kind: CacheKind = CacheKind.DIRECTORY) -> tuple[BuildResult, RecordingUi]:
        """Build in a store that knows nothing but the cache."""
        shutil.rmtree(self.other, ignore_errors=True)
        ui = RecordingUi()
        request = BuildRequest(
            context=self.builder.context,
            dockerfile=self.builder.directory / "Dockerfile",
            dockerfile_text=STAGES.encode(),
            cache_from=[CacheImport(kind, str(self.place), connect=self.connect)],
        )
        with Store.open(self.other, create=True) as store:
            return build(store, request, ui), ui

    def blobs(self) -> set[str]:
        return set(os.listdir(self.place / "blobs/sha256"))

    def layer_blobs(self) -> list[str]:
        index = json.loads((self.place / "index.json").read_bytes())
        manifest = json.loads(self.blob(index["manifests"][0]["digest"]))
        return [layer["digest"][7:] for layer in manifest["layers"]]

    def blob(self, digest: str) -> bytes:
        return (self.place / "blobs/sha256" / digest[7:]).read_bytes()


@pytest.fixture
def exchange(builder: Builder) -> Iterator[Exchange]:  # noqa: F811
    with stub_registry() as stub, World().client() as client:
        repository = client.repository(parse_reference(f"{stub.name}/caches"))
        yield Exchange(builder, lambda _: repository)


@pytest.mark.parametrize("kind", CacheKind)
def test_a_cache_of_everything_makes_the_same_image_elsewhere(
    exchange: Exchange, kind: CacheKind
) -> None:
    result = exchange.exported(kind, everything=True)
    again, ui = exchange.imported(kind)
    assert again.image_id == result.image_id
    assert ui.ran == ui.messages == []
    assert len(ui.cached) == 3


@pytest.mark.parametrize("kind", CacheKind)
@pytest.mark.parametrize(
    "fraction", [0.0, 0.0000002, 0.0000005, 0.0625005, 0.1234565, 0.9999995, 0.9999998]
)
def test_times_between_microseconds_make_the_same_image_elsewhere(
    exchange: Exchange, kind: CacheKind, fraction: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A time that is rounded on its way, or twice, is another image's."""
    clock = SimpleNamespace(time=lambda: 1_795_708_606 + fraction, monotonic=time.monotonic)
    monkeypatch.setattr(solver, "time", clock)
    result = exchange.exported(kind, everything=True)
    again, _ = exchange.imported(kind)
    assert again.image_id == result.image_id


@pytest.mark.parametrize("kind", CacheKind)
def test_by_default_only_the_image_s_own_steps_travel(exchange: Exchange, kind: CacheKind) -> None:
    exchange.exported(kind)
    _, ui = exchange.imported(kind)
    assert ui.ran == ["COPY a /a", "WORKDIR /w"]
    assert ui.cached == ["COPY --from=one /a /b"]


def test_a_cached_build_exports_as_much_as_the_first(exchange: Exchange) -> None:
    exchange.exported(everything=True)
    before = exchange.blobs()
    exchange.builder.build(STAGES)
    exchange.exported(everything=True)
    assert exchange.builder.ui.ran == []
    assert exchange.blobs() == before


def test_only_what_hits_is_taken(exchange: Exchange) -> None:
    exchange.exported(everything=True)
    exchange.builder.write({"a": "AA"})
    result, ui = exchange.imported()
    assert len(ui.ran) == 3
    with Store.open(exchange.other) as store:
        assert len(store.catalog.query("SELECT * FROM layers")) == 3
        assert result.image.layers[0] in {row.diff_id for row in store.cache_records()}


def test_a_step_that_came_is_the_store_s_own(exchange: Exchange) -> None:
    exchange.exported(everything=True)
    exchange.imported()
    shutil.rmtree(exchange.place)
    with Store.open(exchange.other) as store:
        ui = RecordingUi()
        request = BuildRequest(
            context=exchange.builder.context,
            dockerfile=exchange.builder.directory / "Dockerfile",
            dockerfile_text=STAGES.encode(),
        )
        build(store, request, ui)
        assert ui.ran == []


def test_what_no_cache_names_any_more_goes(exchange: Exchange) -> None:
    exchange.exported(everything=True)
    first = exchange.blobs()
    exchange.builder.write({"a": "AA"})
    (exchange.place / "blobs/sha256" / ".99.part").write_bytes(b"left by one that died")
    exchange.exported(everything=True)
    assert len(exchange.blobs()) == len(first)
    assert not exchange.blobs() & first
    exchange.exported(everything=True, tag="another")
    assert len(exchange.blobs()) == len(first)
    exchange.imported()


def test_layers_that_lie_there_damaged_are_written_anew(exchange: Exchange) -> None:
    exchange.exported(everything=True)
    for name in exchange.layer_blobs():
        path = exchange.place / "blobs/sha256" / name
        path.write_bytes(b"x" * path.stat().st_size)
    exchange.exported(everything=True)
    assert exchange.imported()[1].ran == []


@pytest.mark.parametrize("damage", ["cut", "other", "gone", "link", "fifo"])
def test_a_damaged_layer_is_a_miss(exchange: Exchange, damage: str) -> None:
    result = exchange.exported(everything=True)
    for name in exchange.layer_blobs():
        path = exchange.place / "blobs/sha256" / name
        content = path.read_bytes()
        path.unlink()
        match damage:
            case "cut":
                path.write_bytes(content[:-1])
            case "other":
                path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            case "link":
                path.symlink_to("/etc/passwd")
            case "fifo":
                os.mkfifo(path)
    again, ui = exchange.imported()
    assert ui.cached == []
    assert len(ui.ran) == 3
    assert len(ui.messages) == 3
    assert all("of the build cache" in text for text in ui.messages)
    assert len(again.image.layers) == len(result.image.layers)


def test_a_layer_under_another_name_is_a_miss(exchange: Exchange) -> None:
    """The blobs are whole, but the config says that one is the other."""
    exchange.exported(everything=True)
    folder = exchange.place / "blobs/sha256"
    index = json.loads((exchange.place / "index.json").read_bytes())
    manifest = json.loads(exchange.blob(index["manifests"][0]["digest"]))
    manifest["layers"].reverse()
    raw = json.dumps(manifest).encode()
    digest = sha256_digest(raw)
    (folder / digest[7:]).write_bytes(raw)
    index["manifests"][0] |= {"digest": digest, "size": len(raw)}
    (exchange.place / "index.json").write_text(json.dumps(index))
    result, ui = exchange.imported()
    assert ui.ran
    assert any("what came is the layer" in text for text in ui.messages)
    with Store.open(exchange.other) as store:
        assert tree_of(store, result.image)["b"].content == b"A"


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_no_cache_or_a_broken_one_is_told_and_left_out(exchange: Exchange, name: str) -> None:
    exchange.exported(everything=True)
    (exchange.place / name).write_bytes(b"\xff{")
    _, ui = exchange.imported()
    if name == "index.json":
        assert len(ui.ran) == 3
        (message,) = ui.messages
        assert "is not used" in message
    shutil.rmtree(exchange.place)
    _, ui = exchange.imported()
    assert [f"there is no build cache in {exchange.place}" in text for text in ui.messages] == [
        True
    ]


def test_a_directory_of_something_else_is_not_written(exchange: Exchange) -> None:
    exchange.place.mkdir()
    (exchange.place / "thesis.txt").write_text("ten years")
    with pytest.raises(ConflictError, match="not empty"):
        exchange.exported()
    assert os.listdir(exchange.place) == ["thesis.txt"]
    to = CacheExport(CacheKind.DIRECTORY, str(exchange.place), may_fail=True)
    exchange.builder.build(STAGES, cache_to=[to])
    assert "was not written" in exchange.builder.ui.messages[-1]


@pytest.mark.parametrize("planted", ["blobs", "blobs/sha256", "index.json"])
def test_planted_links_lead_nowhere(exchange: Exchange, planted: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    name = "0" * 64
    (victim / name).write_text("precious")
    exchange.exported()
    path = exchange.place / planted
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(victim)
    with pytest.raises(UnsafeContentError, match="is not what a build cache has there"):
        exchange.exported()
    assert os.listdir(victim) == [name]


def test_an_export_that_dies_leaves_the_cache_as_it_was(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange.exported(everything=True)
    before = exchange.blobs()

    def die(_root: str, _index: object) -> None:
        raise KeyboardInterrupt

    exchange.builder.write({"a": "AA"})
    with monkeypatch.context() as patch:
        patch.setattr(cache_directory, "replace_index", die)
        with pytest.raises(KeyboardInterrupt):
            exchange.exported(everything=True)
    assert exchange.blobs() > before
    exchange.builder.write({"a": "A"})
    _, ui = exchange.imported()
    assert len(ui.cached) == 3
    exchange.exported(everything=True)
    assert len(exchange.blobs()) == len(before)


def test_an_image_in_the_same_layout_stays(exchange: Exchange) -> None:
    from layerstore.image.layouts.layout import NamedImage, save_oci_layout

    result = exchange.builder.build(STAGES)
    save_oci_layout(
        exchange.builder.store, [NamedImage("docker.io/library/x:1", result.image)], exchange.place
    )
    before = exchange.blobs()
    exchange.exported()
    assert before <= exchange.blobs()
    exchange.imported()


def test_a_full_disk_says_that_the_image_is_stored(exchange: Exchange) -> None:
    with pytest.raises(StorageError, match="could not write the build cache"):
        write_directory(exchange.builder.store, "/proc/none", [])


STEP = CachedStep("step:" + "a" * 64, None, 1.5)


def test_documents() -> None:
    config = build_cache.encode_config([STEP], [])
    assert build_cache.decode_config(config, ()) == ({STEP.key: STEP}, {})
    for created in (0.0, 1700000000.0, 1795708606.1234565):
        config = build_cache.encode_config([STEP._replace(created=created)], [])
        assert build_cache.decode_config(config, ())[0][STEP.key].created == created
    with pytest.raises(LimitExceededError):
        build_cache.encode_config([STEP] * (RECORDS_MAX + 1), [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"version":1', b'"version":2'),
        (b"step:a", b"stap:a"),
        (b'"layer":""', b'"layer":"sha256:' + b"0" * 64 + b'"'),
        (b'"created":"1.5"', b'"created":"-1.5"'),
        (b'"created":"1.5"', b'"created":"1e9"'),
        (b'"created":"1.5"', b'"created":"nan"'),
        (b'"created":"1.5"', b'"created":1.5'),
        (b'"diff_ids":[]', b'"diff_ids":["../../x"]'),
        (b'"diff_ids":[]', b'"diff_ids":["sha256:' + b"0" * 64 + b'"]'),
        (b'"steps":[{', b'"steps":[{},{'),
    ],
)
def test_documents_refused(old: bytes, new: bytes) -> None:
    config = build_cache.encode_config([STEP], [])
    assert old in config
    with pytest.raises(IntegrityError):
        build_cache.decode_config(config.replace(old, new), ())


@given(st.binary(max_size=200))
def test_documents_of_strangers(raw: bytes) -> None:
    for read in (build_cache.decode_manifest, lambda text: build_cache.decode_config(text, ())):
        with pytest.raises((IntegrityError, UnsafeContentError)):
            read(raw)


def test_a_cache_of_another_tag(exchange: Exchange) -> None:
    exchange.exported(tag="one")
    with pytest.raises(LayerstoreError, match="no cache 'two'"):
        DirectorySource(str(exchange.place), "two").find(STEP.key)


# -- the words of the command line


def test_words(tmp_path: Path) -> None:
    store = tmp_path / "store"
    Store.open(store, create=True).close()
    local, other = CacheKind.DIRECTORY, CacheKind.STORE
    assert parse_from(["d", f"{store}", "type=local,src=d,tag=t"], "/s") == (
        CacheImport(local, "d"),
        CacheImport(other, str(store)),
        CacheImport(local, "d", "t"),
    )
    assert parse_to(
        [
            '"dest=a,b",mode=max',
            f"type=store,dest={store}",
            "dest=d,compression=gzip,ignore-error=true",
        ],
        "/s",
    ) == (
        CacheExport(local, "a,b", everything=True),
        CacheExport(other, str(store)),
        CacheExport(local, "d", compression="gzip", may_fail=True),
    )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("type=gha,ref=x", "not supported yet"),
        ("type=registry", "names no repository"),
        ("type=registry,ref=A", "upper-case"),
        ("type=registry,ref=a/b,src=x", "has no"),
        ("type=floppy,dest=x", "is not a build cache"),
        ("type=local", "names no directory"),
        ("dest=x,mode=some", "not a value of mode"),
        ("dest=x,frob=1", "has no 'frob'"),
        ("dest=x,dest=y", "is not a part of a build cache"),
        ("=", "is not a part of a build cache"),
        ("dest=/s", "the store of the build itself"),
    ],
)
def test_wrong_words(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_to([word], "/s")
