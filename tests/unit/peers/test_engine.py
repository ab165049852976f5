"""The client of docker's and podman's API, against engines that fail and lie. Root-free."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import (
    FormatError,
    InputError,
    IntegrityError,
    LayerstoreError,
    NotFoundError,
)
from layerstore.formats.oci_config import ContainerConfig
from layerstore.image.images import load_parts
from layerstore.image.importing import ImportSpec, import_directory
from layerstore.peers.engine import Engine, EngineError
from layerstore.peers.engine_images import SentImage, docker_archive, give_images, take_images
from layerstore.progress import Silent
from layerstore.store.store import Store
from tests.support.engine import stub_engine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.server import BaseHTTPRequestHandler
    from pathlib import Path

    from layerstore.store.catalog.rows import ImageRecord
    from tests.support.engine import Engine as Stub

NOTHING = Silent()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with stub_engine() as stub:
        yield stub


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


def add_image(store: Store, path: Path, word: str = "content") -> ImageRecord:
    tree = path / f"tree-{word}"
    tree.mkdir()
    (tree / "file").write_text(word * 1000)
    spec = ImportSpec(("a:1",), ContainerConfig(), "", "2026-11-26T00:00:00Z")
    return import_directory(store, tree, spec, progress=NOTHING).image


def archive_of(store: Store, record: ImageRecord) -> bytes:
    return b"".join(docker_archive(store, [SentImage(load_parts(store, record), ("a:1",))]))


def know(stub: Stub, record: ImageRecord, name: str = "a:1") -> None:
    """Let a stub say that it has an image."""
    said = {"Id": record.image_id, "RootFS": {"Type": "layers", "Layers": list(record.layers)}}
    stub.say(f"/images/{name}/json", said)


def take(store: Store, stub: Stub, silence_s: float = 30, name: str = "a:1") -> list[str]:
    with Engine(stub.address, "docker", silence_s=silence_s) as engine:
        return [
            taken.image.image_id
            for taken in take_images(store, engine, [name], lambda _: True, NOTHING)
        ]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[tuple[Store, ImageRecord]]:
    """Another store with the image that an engine is to have."""
    (tmp_path / "elsewhere").mkdir()
    with Store.open(tmp_path / "elsewhere/store", create=True) as store:
        yield store, add_image(store, tmp_path / "elsewhere")


def test_an_image_comes_as_it_is(
    store: Store, stub: Stub, elsewhere: tuple[Store, ImageRecord]
) -> None:
    other, record = elsewhere
    know(stub, record)
    stub.say("/images/get", archive_of(other, record))
    assert take(store, stub) == [record.image_id]
    assert store.tags() == {"a:1": record.image_id}
    assert stub.asked[-1] == "GET /v1.41/images/get?names=a%3A1"


@pytest.mark.parametrize(
    ("offered", "spoken"),
    [("1.24", "/v1.24/"), ("1.41", "/v1.41/"), ("1.51", "/v1.41/"), ("2.0", "/v1.41/")],
)
def test_the_newest_version_that_both_know_is_spoken(stub: Stub, offered: str, spoken: str) -> None:
    stub.headers["Api-Version"] = offered
    stub.say("/images/json", [])
    with Engine(stub.address, "docker") as engine:
        assert engine.images() == []
    assert stub.asked[-1] == f"GET {spoken}images/json"


@pytest.mark.parametrize("version", ["", "x", "1", "1.41.7", "1." + "9" * 100])
def test_what_names_no_version_is_no_engine(stub: Stub, version: str) -> None:
    stub.headers["Api-Version"] = version
    with pytest.raises(EngineError, match="does not answer as an engine"):
        Engine(stub.address, "docker")


@pytest.mark.parametrize("cut", [0, 1, 600, -1025, -1])
def test_an_archive_that_is_cut_off_leaves_nothing(
    store: Store, stub: Stub, elsewhere: tuple[Store, ImageRecord], cut: int
) -> None:
    other, record = elsewhere
    whole = archive_of(other, record)
    know(stub, record)

    def half(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        piece = whole[: cut if cut >= 0 else len(whole) + cut]
        if piece:
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        handler.close_connection = True  # no last chunk

    stub.replies["/images/get"] = half
    with pytest.raises(LayerstoreError):
        take(store, stub)
    assert store.tags() == {}
    assert store.images() == []


def test_another_image_than_the_one_that_was_announced_is_refused(
    store: Store, stub: Stub, elsewhere: tuple[Store, ImageRecord], tmp_path: Path
) -> None:
    other, record = elsewhere
    (tmp_path / "lie").mkdir()
    lie = add_image(other, tmp_path / "lie", "lie")
    know(stub, record)
    stub.say("/images/get", archive_of(other, lie))
    with pytest.raises(IntegrityError, match="sent another image"):
        take(store, stub)
    assert store.tags() == {}


def test_names_are_the_ones_that_were_asked_for(
    store: Store, stub: Stub, elsewhere: tuple[Store, ImageRecord]
) -> None:
    """An archive that calls its image what other images of the store are called moves no name."""
    other, record = elsewhere
    parts = load_parts(other, record)
    archive = b"".join(docker_archive(other, [SentImage(parts, ("debian:bookworm", "b:2"))]))
    know(stub, record)
    stub.say("/images/get", archive)
    take(store, stub)
    assert store.tags() == {"a:1": record.image_id}


def test_a_layer_that_is_not_what_the_config_says_is_refused(
    store: Store, stub: Stub, elsewhere: tuple[Store, ImageRecord]
) -> None:
    other, record = elsewhere
    whole = archive_of(other, record)
    know(stub, record)
    stub.say("/images/get", whole.replace(b"contentcontent", b"CONTENTcontent", 1))
    with pytest.raises(IntegrityError):
        take(store, stub)
    assert store.images() == []


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b'{"message": "disk on fire"}', "says 500: disk on fire"),
        (500, b"<html>", "says 500: <html>"),
        (404, b'{"message": "no such image"}', "no such image"),
        (301, b"", "says 301"),
    ],
)
def test_failures_are_told_in_the_engines_words(
    store: Store,
    stub: Stub,
    elsewhere: tuple[Store, ImageRecord],
    status: int,
    body: bytes,
    words: str,
) -> None:
    know(stub, elsewhere[1])
    stub.say("/images/get", body, status)
    with pytest.raises((EngineError, NotFoundError), match=words):
        take(store, stub)


@pytest.mark.parametrize(
    "value",
    [b"", b"[", b"7", [7], [{"Id": 7}], [{}], [{"Id": "x", "RepoTags": 7}], b"[" * 100_000],
)
def test_a_list_of_images_that_is_none_is_refused(stub: Stub, value: object) -> None:
    stub.say("/images/json", value)
    with Engine(stub.address, "docker") as engine, pytest.raises(EngineError):
        engine.images()


@pytest.mark.parametrize(
    "value", [b"", {}, {"Id": "../x"}, {"Id": "a" * 64, "RootFS": 7}, {"Id": "a" * 63}, []]
)
def test_details_that_are_none_are_refused(stub: Stub, value: object) -> None:
    stub.say("/images/a:1/json", value)
    with Engine(stub.address, "docker") as engine, pytest.raises((EngineError, FormatError)):
        engine.find("a:1")


def test_an_engine_that_falls_silent_is_given_up(
    store: Store, stub: Stub, elsewhere: tuple[Store, ImageRecord]
) -> None:
    know(stub, elsewhere[1])
    stub.replies["/images/get"] = lambda _: time.sleep(3)
    with pytest.raises(EngineError):
        take(store, stub, silence_s=0.2)


def test_messages_without_end_are_given_up(
    store: Store, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerstore.peers.engine.MAX_ANSWER_BYTES", 1 << 20)
    record = add_image(store, tmp_path)

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100_000):
            handler.wfile.write(b'{"stream": "' + b"x" * 100 + b'"}\r\n')

    stub.replies["/images/load"] = endless
    with Engine(stub.address, "podman") as engine:
        engine.is_podman = True
        with pytest.raises(EngineError, match="it tells more than"):
            give_images(store, engine, [(record, ["a:1"])], NOTHING)


def give(store: Store, stub: Stub, record: ImageRecord) -> None:
    with Engine(stub.address, "podman", silence_s=30) as engine:
        engine.is_podman = True
        give_images(store, engine, [(record, ["a:1"])], NOTHING)


def test_what_an_engine_is_given_is_an_archive_with_exact_layers(
    store: Store, stub: Stub, tmp_path: Path
) -> None:
    record = add_image(store, tmp_path)

    def took(handler: BaseHTTPRequestHandler) -> None:
        know(stub, record, "docker.io/library/a:1")
        handler.answer(200, b'{"stream": "Loaded image: a:1\\n"}\r\n')  # type: ignore[attr-defined]

    stub.replies["/images/load"] = took
    give(store, stub, record)
    assert b"docker.io/library/a:1" in stub.given
    with Store.open(tmp_path / "again", create=True) as again:
        know(stub, record)
        stub.say("/images/get", stub.given)
        assert take(again, stub) == [record.image_id]


def test_an_error_inside_of_the_stream_is_found(store: Store, stub: Stub, tmp_path: Path) -> None:
    record = add_image(store, tmp_path)
    said = b'{"status": "Loading"}\r\n{"errorDetail": {"message": "x"}, "error": "no space"}\r\n'
    stub.say("/images/load", said)
    with pytest.raises(EngineError, match="refused the images: no space"):
        give(store, stub, record)


def test_an_engine_that_says_yes_and_has_nothing_is_found_out(
    store: Store, stub: Stub, tmp_path: Path
) -> None:
    record = add_image(store, tmp_path)
    stub.say("/images/load", b'{"stream": "Loaded image: a:1"}\n')
    with pytest.raises(EngineError, match="has it not"):
        give(store, stub, record)


def test_damage_in_the_store_ends_what_is_sent_and_is_told(
    store: Store, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = add_image(store, tmp_path)

    def damaged(*_: object) -> Iterator[bytes]:
        yield b"x" * 1024
        raise IntegrityError("the store is damaged")

    monkeypatch.setattr("layerstore.peers.engine_images.verified_tar", damaged)
    stub.say("/images/load", b"")
    with pytest.raises(IntegrityError, match="damaged"):
        give(store, stub, record)


@pytest.mark.parametrize("address", ["", "x", "ssh://h", "unix://relative", "npipe://x", "fd://"])
def test_addresses_of_other_kinds_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="no address of an engine"):
        Engine(address, "docker")


def test_a_docker_is_sent_only_the_layers_that_it_lacks(
    store: Store, stub: Stub, tmp_path: Path
) -> None:
    record = add_image(store, tmp_path)
    ancestor = {"Id": "sha256:" + "a" * 64, "RootFS": {"Layers": list(record.layers)}}
    stub.say("/info", {"DriverStatus": [["Backing Filesystem", "extfs"]]})
    listed = {"Id": ancestor["Id"], "RepoTags": ["b:1"], "Created": 1, "Size": 2}
    stub.say("/images/json", [listed])
    stub.say(f"/images/{ancestor['Id']}/json", ancestor)

    def took(handler: BaseHTTPRequestHandler) -> None:
        know(stub, record, "docker.io/library/a:1")
        handler.answer(200, b"")  # type: ignore[attr-defined]

    stub.replies["/images/load"] = took
    with Engine(stub.address, "docker") as engine:
        (given,) = give_images(store, engine, [(record, ["a:1"])], NOTHING)
    assert given.sent_bytes == 0
    assert b"contentcontent" not in stub.given
    listed_layers = json.loads(stub.given[stub.given.index(b'[{"Config"') :].split(b"\0")[0])
    assert len(listed_layers[0]["Layers"]) == 1


def test_layers_that_turn_out_to_be_missing_are_sent_after_all(
    store: Store, stub: Stub, tmp_path: Path
) -> None:
    record = add_image(store, tmp_path)
    image_id = "sha256:" + "a" * 64
    stub.say("/info", {"DriverStatus": []})
    stub.say("/images/json", [{"Id": image_id}])
    stub.say(f"/images/{image_id}/json", {"Id": image_id, "RootFS": {"Layers": record.layers}})
    calls: list[int] = []

    def second_time(handler: BaseHTTPRequestHandler) -> None:
        calls.append(len(stub.given))
        if b"contentcontent" not in stub.given:
            handler.answer(200, b'{"error": "open x/layer.tar: no such file"}')  # type: ignore[attr-defined]
            return
        know(stub, record, "docker.io/library/a:1")
        handler.answer(200, b"")  # type: ignore[attr-defined]

    stub.replies["/images/load"] = second_time
    with Engine(stub.address, "docker") as engine:
        (given,) = give_images(store, engine, [(record, ["a:1"])], NOTHING)
    assert len(calls) == 2
    assert given.sent_bytes > 1000
