"""Laws of parcels: whoever has whatever gets the image, whole, or none; whatever lies there."""

from __future__ import annotations

import io
import json
import random
import shutil
import tempfile
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerstore.digest import Digest, sha256_digest
from layerstore.errors import NotFoundError
from layerstore.formats import oci
from layerstore.formats.parcels import PACK_TYPE
from layerstore.image.exchange.adopting import adopt_image
from layerstore.image.exchange.finding import find_image
from layerstore.image.exchange.registry_places import RegistrySource
from layerstore.image.exchange.sending import Policy, Sender
from layerstore.image.transfer.artefacts import artefact_tag, find_artefact
from layerstore.image.transfer.fetching import layers_by_parcels
from layerstore.image.transfer.publishing import publish_parcels
from layerstore.image.transfer.remote import RegistryRemote
from layerstore.progress import Silent
from layerstore.registry.errors import UnknownToRegistryError
from layerstore.registry.repository import RawManifest
from layerstore.store.check.check import check
from layerstore.store.references import layer_chunks
from layerstore.store.store import Store
from tests.property.test_bundle_laws import IMAGE, files_of
from tests.support.memory_place import MemoryPlace
from tests.support.transfer import add_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.image.images import ImageParts
    from layerstore.store.catalog.rows import ImageRecord


class Stream(io.BytesIO):
    """A part of a blob."""


class MemoryRepository(MemoryPlace):
    """A repository in memory, with as much of the client's interface as parcels need."""

    name = "memory.example/app"

    def __init__(self) -> None:
        super().__init__()
        self.fetched = 0

    def manifest(self, reference: str) -> RawManifest:
        try:
            found = self.documents[reference]
        except KeyError as err:
            raise UnknownToRegistryError(f"no {reference}") from err
        return RawManifest(found.raw, found.media_type, found.digest)

    def open_blob(  # type: ignore[override]
        self, digest: Digest, size: int, offset: int = 0, end: int | None = None
    ) -> Stream:
        if digest not in self.blobs:
            raise UnknownToRegistryError(f"no {digest}")
        data = self.blobs[digest][offset:end]
        self.fetched += len(data)
        return Stream(data)


class Pushed(NamedTuple):
    image: ImageRecord
    digest: Digest


def push(store: Store, repository: MemoryRepository, image: ImageRecord, name: str) -> Digest:
    from layerstore.image.images import load_parts

    parts: ImageParts = load_parts(store, image)
    earlier = [d.digest for d in repository.documents.values()][::-1]
    sent = Sender(store, repository, Policy(), Silent()).send(parts, name)
    publish_parcels(
        store, image, sent.descriptor, sent.manifest, repository, repository,  # type: ignore[arg-type]
        earlier=earlier, level=3,
    )  # fmt: skip
    return sent.descriptor.digest


def pull(store: Store, repository: MemoryRepository, digest: Digest) -> list[str]:
    """Pull as the command does; return what it told."""
    told: list[str] = []
    source = RegistrySource(repository)  # type: ignore[arg-type]
    with store.begin("pull") as session:
        found = find_image(source, digest, lambda _: True)
        received = layers_by_parcels(session, repository, found, note=told.append)  # type: ignore[arg-type]
        adopt_image(session, source, found, names=["i:1"], received=received)
    return told


@contextmanager
def stores() -> Iterator[tuple[Store, Store]]:
    root = Path(tempfile.mkdtemp(prefix="layerstore-parcels-"))
    try:
        with Store.open(root / "a", create=True) as one, Store.open(root / "b", create=True) as two:
            yield one, two
    finally:
        shutil.rmtree(root)


@settings(max_examples=10)
@given(
    images=st.lists(IMAGE, min_size=1, max_size=4),
    order=st.permutations(range(4)),
    built=st.booleans(),
)
def test_images_come_in_any_order(
    images: list[list[dict[int, int]]], order: list[int], built: bool
) -> None:
    repository = MemoryRepository()
    with stores() as (sender, receiver):
        pushed = []
        for number, layers in enumerate(images):
            image = add_image(sender, f"i:{number}", *map(files_of, layers), built=built)
            pushed.append(Pushed(image, push(sender, repository, image, str(number))))
        for number in order:
            if number < len(pushed):
                assert pull(receiver, repository, pushed[number].digest) == []
                there = receiver.image(pushed[number].image.image_id)
                assert there.layers == pushed[number].image.layers
                for diff_id in there.layers:
                    assert receiver.layer(diff_id).tree == sender.layer(diff_id).tree
        assert check(receiver, read_data=True).ok


OLD = [{0: 0, 1: 0, 2: 0}]
NEW = [{0: 1, 1: 2, 2: 0}]


class World(NamedTuple):
    sender: Store
    repository: MemoryRepository
    first: Pushed
    second: Pushed


@contextmanager
def world() -> Iterator[tuple[World, Store]]:
    repository = MemoryRepository()
    with stores() as (sender, receiver):
        pushed = []
        for number, layers in enumerate((OLD, NEW)):
            image = add_image(sender, f"i:{number}", *map(files_of, layers))
            pushed.append(Pushed(image, push(sender, repository, image, str(number))))
        yield World(sender, repository, *pushed), receiver


def test_the_next_version_is_a_fraction() -> None:
    with world() as (there, receiver):
        pull(receiver, there.repository, there.first.digest)
        before = there.repository.fetched
        pull(receiver, there.repository, there.second.digest)
        assert there.repository.fetched - before < before / 10
        same = receiver.image(there.second.image.image_id)
        assert same.layers == there.second.image.layers


def test_a_pack_is_sent_once_and_listed_while_it_is_needed() -> None:
    with world() as (there, _):
        first, second = (
            find_artefact(there.repository, each.digest)  # type: ignore[arg-type]
            for each in (there.first, there.second)
        )
        assert first is not None
        assert second is not None
        assert [each.pack.digest for each in first.packs] == [
            each.pack.digest for each in second.packs[1:]
        ]
        again = push(there.sender, there.repository, there.second.image, "again")
        assert again == there.second.digest
        third = find_artefact(there.repository, again)  # type: ignore[arg-type]
        assert third is not None
        assert third.packs == second.packs


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), has_first=st.booleans())
def test_whatever_lies_there_the_image_comes_whole(seed: int, has_first: bool) -> None:
    """Blobs and documents of the artefact are damaged, swapped and taken away at random."""
    source = random.Random(seed)
    with world() as (there, receiver):
        if has_first:
            pull(receiver, there.repository, there.first.digest)
        artefact = there.repository.documents[artefact_tag(there.second.digest)]
        manifest = oci.decode_artifact(artefact.raw, media_type=artefact.media_type)
        blobs = there.repository.blobs
        names = [manifest.config.digest, *(layer.digest for layer in manifest.layers)]
        for name in source.sample(names, source.randrange(1, len(names) + 1)):
            raw = bytearray(blobs[name])
            match source.randrange(4):
                case 0:
                    raw[source.randrange(len(raw))] ^= 1 << source.randrange(8)
                case 1:
                    del raw[source.randrange(len(raw)) :]
                case 2:
                    raw = bytearray(blobs[source.choice(names)])
                case _:
                    raw[:] = source.randbytes(len(raw))
            blobs[name] = bytes(raw)
        pull(receiver, there.repository, there.second.digest)
        same = receiver.image(there.second.image.image_id)
        assert same.layers == there.second.image.layers
        assert check(receiver, read_data=True).ok


def rewritten(there: World, change: object) -> None:
    """Put an artefact that is well-formed and lies in the place of the second image's."""
    tag = artefact_tag(there.second.digest)
    document = there.repository.documents[tag]
    plain = json.loads(document.raw)
    change(plain)  # type: ignore[operator]
    raw = json.dumps(plain).encode()
    there.repository.documents[tag] = document._replace(raw=raw)


LIES = {
    "packs in the wrong order": lambda plain: plain["layers"].reverse(),
    "pairs in the wrong order": lambda plain: plain.update(
        layers=plain["layers"][2:] + plain["layers"][:2]
    ),
    "no packs": lambda plain: plain.update(layers=[]),
    "a pack without a table": lambda plain: plain["layers"].pop(0),
    "a pack of another size": lambda plain: [
        layer.update(size=layer["size"] + 4096)
        for layer in plain["layers"]
        if layer["mediaType"] == PACK_TYPE
    ],
    "another kind of artefact": lambda plain: plain["config"].update(mediaType="text/plain"),
    "a description without end": lambda plain: plain["config"].update(size=1 << 40),
    "a table without end": lambda plain: plain["layers"][0].update(size=1 << 40),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_artefact_that_lies_costs_time(lie: str) -> None:
    with world() as (there, receiver):
        rewritten(there, LIES[lie])
        pull(receiver, there.repository, there.second.digest)
        same = receiver.image(there.second.image.image_id)
        assert same.layers == there.second.image.layers
        assert check(receiver, read_data=True).ok


def test_a_remote_gives_every_chunk_of_the_image() -> None:
    with world() as (there, _):
        with closing(
            RegistryRemote(there.repository, there.second.digest, lambda _: True)  # type: ignore[arg-type]
        ) as remote:
            image = remote.image("")
            assert image.image_id == there.second.image.image_id
            with pytest.raises(NotFoundError):
                remote.image("sha256:" + "0" * 64)
            for diff_id in image.layers:
                record = remote.layer(diff_id)
                assert record == there.sender.layer(diff_id)
                wanted = list(layer_chunks(record, there.sender.read_refs))
                found = dict(remote.chunks(wanted))
                assert found == {c: there.sender.read_chunk(c) for c in wanted}
                before = there.repository.fetched
                assert dict(remote.chunks(wanted[:5])) == {c: found[c] for c in wanted[:5]}
                assert there.repository.fetched == before
        del there.repository.documents[artefact_tag(there.second.digest)]
        with pytest.raises(NotFoundError, match="parcels"):
            RegistryRemote(there.repository, there.second.digest, lambda _: True)  # type: ignore[arg-type]


def test_same_image_is_told_by_its_digest() -> None:
    with world() as (there, receiver):
        pull(receiver, there.repository, there.second.digest)
        image = receiver.image(there.second.image.image_id)
        assert sha256_digest(receiver.get_blob(image.image_id)) == image.image_id
        assert there.second.digest in receiver.origins(image).documents
