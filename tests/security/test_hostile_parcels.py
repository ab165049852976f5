"""Parcels of a registry that are well-formed and would cost memory without end."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from layerstore.digest import ChunkId
from layerstore.errors import FormatError, LimitExceededError
from layerstore.formats.framed import encode_framed
from layerstore.formats.oci_config import MAX_LAYERS
from layerstore.formats.pack import BLOCK_MAX_BYTES, PREFIX_MAX_BYTES, Block, Item, ItemKind
from layerstore.formats.parcels import (
    DESCRIPTION_MAX_BYTES,
    ParcelDescription,
    decode_parcel_description,
    table_bytes,
)
from layerstore.image.transfer import artefacts, publishing
from layerstore.image.transfer import remote as remotes
from layerstore.image.transfer.artefacts import Artefact, artefact_tag, find_artefact
from layerstore.image.transfer.remote import RegistryRemote
from layerstore.store.records import encode_layer
from layerstore.store.references import layer_chunks
from tests.property.test_parcel_laws import World, pull, push, world

if TYPE_CHECKING:
    from layerstore.registry.repository import Repository

MIB = 1 << 20
DIGEST = "sha256:" + "ab" * 32


def test_a_tree_that_names_one_chunk_without_end() -> None:
    with world() as (there, _):
        record = there.sender.layer(there.second.image.layers[0])
        refs = ((MIB, ChunkId(b"x" * 32)),) * 10_000
        long = encode_layer(msgspec.structs.replace(record, tree=refs))
        artefact = Artefact(cast("Repository", None), ParcelDescription((long,)), [])
        with pytest.raises(LimitExceededError, match="a tree of 10485760000 bytes"):
            artefact.records()


def test_a_difference_against_one_chunk_without_end() -> None:
    base = ChunkId(b"b" * 32)
    count = PREFIX_MAX_BYTES // MIB + 1
    item = Item(ChunkId(b"i" * 32), 5)
    block = Block(64, 20, 5, ItemKind.DATA, (item,), (base,) * count, 1, MIB)
    with pytest.raises(FormatError, match="against too much"):
        remotes._decoded(block, b"", {base: bytes(MIB)})


def test_differences_that_lead_to_more_than_memory_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remotes, "DECODE_MAX_BYTES", 10)
    with world() as (there, _):
        repository = cast("Repository", there.repository)
        with closing(RegistryRemote(repository, there.second.digest, lambda _: True)) as remote:
            record = remote.layer(remote.image("").layers[0])
            wanted = list(layer_chunks(record, there.sender.read_refs))
            with pytest.raises(FormatError, match="the limit is 10"):
                list(remote.chunks(wanted))


def artefact_of(there: World) -> Artefact:
    found = find_artefact(cast("Repository", there.repository), there.second.digest)
    assert found is not None
    return found


def test_tables_that_are_too_much_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with world() as (there, receiver):
        artefact = artefact_of(there)
        assert len(artefact.packs) == 2
        limit = sum(table_bytes(artefact.table(number)) for number in range(2))
        monkeypatch.setattr(artefacts, "TABLES_MAX_BYTES", limit)
        again = artefact_of(there)
        assert [again.table(number) for number in range(2)] == [
            artefact.table(number) for number in range(2)
        ]
        monkeypatch.setattr(artefacts, "TABLES_MAX_BYTES", limit - 1)
        again = artefact_of(there)
        again.table(0)
        digest = again.packs[1].pack.digest
        with pytest.raises(
            LimitExceededError, match=rf"memory\.example/app .* {digest}, .* {limit - 1}"
        ):
            again.table(1)
        told = pull(receiver, there.repository, there.second.digest)
        assert "the tables of an image's parcels" in told[0]
        assert receiver.image(there.second.image.image_id).layers == there.second.image.layers


def test_parcels_that_no_reader_takes_are_not_pushed(monkeypatch: pytest.MonkeyPatch) -> None:
    with world() as (there, _):
        sent = there.repository.documents.copy()
        monkeypatch.setattr(publishing, "TABLES_MAX_BYTES", 100)
        with pytest.raises(LimitExceededError, match="over the limit of 100") as caught:
            push(there.sender, there.repository, there.second.image, "again")
        assert "without --delta" in str(caught.value.hint)
        tag = artefact_tag(there.second.digest)
        assert there.repository.documents[tag] == sent[tag]


TABLES = """
import hashlib, io, resource, struct
from layerstore.errors import LimitExceededError
from layerstore.formats import oci
from layerstore.formats.framed import encode_framed
from layerstore.formats.pack import BLOCK_ENTRY_2, COUNTS_2, ITEM_ENTRY, PACK_VERSION, TRAILER
from layerstore.formats.pack import TRAILER_MAGIC
from layerstore.formats.parcels import PACK_TYPE, TABLE_TYPE, PackBlob, ParcelDescription
from layerstore.formats.parcels import TABLES_MAX_BYTES
from layerstore.image.transfer.artefacts import Artefact
from blake3 import blake3

ITEMS = 300_000
FOOTER_AT = 1 << 20


def table(number):
    ids = (b"%032d" % (number * ITEMS + n) for n in range(ITEMS))
    entry = BLOCK_ENTRY_2.pack(64, 20, ITEMS, ITEMS, 1, 0, 0, 0)
    footer = COUNTS_2.pack(1, ITEMS, 0) + entry + b"".join(ITEM_ENTRY.pack(i, 1) for i in ids)
    sum = blake3(footer).digest()
    trailer = TRAILER.pack(FOOTER_AT, len(footer), sum, PACK_VERSION, 0, TRAILER_MAGIC)
    raw = encode_framed(footer + trailer, TABLES_MAX_BYTES, "a table", level=1)
    return raw, FOOTER_AT + len(footer) + TRAILER.size


class Repository:
    name = "hostile.example/app"
    blobs = {}

    def open_blob(self, digest, size):
        return io.BytesIO(self.blobs[digest])


packs = []
for number in range(20):
    raw, size = table(number % 4)
    descriptor = oci.describe(raw, TABLE_TYPE)
    Repository.blobs[descriptor.digest] = raw
    pack = oci.Descriptor(media_type=PACK_TYPE, digest=descriptor.digest, size=size)
    packs.append(PackBlob(descriptor, pack))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    Artefact(Repository(), ParcelDescription(()), packs).find([b"nowhere"])
except LimitExceededError as err:
    print(err.message)
print(before // 1024, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_tables_of_a_few_kilobytes_take_no_gigabytes() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TABLES], check=True, capture_output=True, text=True, timeout=300
    )
    message, peaks = done.stdout.splitlines()
    assert message.startswith("the tables of an image's parcels in hostile.example/app have ")
    before, peak = map(int, peaks.split())
    assert peak < before + 350, done.stdout


@pytest.mark.parametrize("what", ["layers", "encodings"])
def test_a_description_of_more_layers_than_an_image_has(what: str) -> None:
    encoding = {"digest": DIGEST, "diff_id": DIGEST, "size": 1}
    entry: object = b"ab" if what == "layers" else encoding
    plain = {"layers": []} | {what: [entry] * (MAX_LAYERS + 1)}
    blob = encode_framed(msgspec.msgpack.encode(plain), DESCRIPTION_MAX_BYTES, "")
    with pytest.raises(FormatError, match=f"length <= {MAX_LAYERS}.*{what}"):
        decode_parcel_description(blob)


def test_a_record_that_no_store_writes() -> None:
    """References of a few bytes are objects of many before anybody sees that they are none."""
    description = ParcelDescription((bytes(BLOCK_MAX_BYTES + 1),))
    artefact = Artefact(cast("Repository", None), description, [])
    with pytest.raises(LimitExceededError, match=f"a record of {BLOCK_MAX_BYTES + 1} bytes"):
        artefact.records()
