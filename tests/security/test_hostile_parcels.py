"""Parcels of a registry that are well-formed and would cost memory without end."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, cast

import msgspec
import pytest

from layerstore.digest import ChunkId
from layerstore.errors import FormatError, LimitExceededError
from layerstore.formats.pack import PREFIX_MAX_BYTES, Block, Item, ItemKind
from layerstore.formats.parcels import ParcelDescription
from layerstore.image.transfer import remote as remotes
from layerstore.image.transfer.artefacts import Artefact
from layerstore.image.transfer.remote import RegistryRemote
from layerstore.store.records import encode_layer
from layerstore.store.references import layer_chunks
from tests.property.test_parcel_laws import world

if TYPE_CHECKING:
    from layerstore.registry.repository import Repository

MIB = 1 << 20


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
