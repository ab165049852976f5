"""Laws of bundles: what was saved since anything is loaded equal, and nothing else is loaded."""

from __future__ import annotations

import io
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layerstore.errors import IntegrityError, LayerstoreError, NotFoundError, UnsafeContentError
from layerstore.formats.bundle import HEADER, RECORD
from layerstore.formats.have_list import decode_have_list, encode_have_list
from layerstore.image.transfer.having import chunks_of, having_list
from layerstore.image.transfer.loading import load_bundle
from layerstore.store.check.check import check
from layerstore.store.store import Store
from tests.support.store import noise, text
from tests.support.transfer import add_image, bundle_of, load, same_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.store import Files

REFUSALS = (IntegrityError, UnsafeContentError, NotFoundError)


def version(part: int, number: int) -> bytes:
    """Neighbouring numbers differ in a few places; every third part is cut into chunks."""
    data = bytearray(noise(f"part{part}", 400_000 if part % 3 == 0 else 5_000))
    for change in range(number):
        at = (change * 7_001) % len(data)
        data[at : at + 20] = noise(f"{part}.{change}", 25)
    return bytes(data)


LAYER = st.dictionaries(st.integers(0, 5), st.integers(0, 3), min_size=1, max_size=4)
IMAGE = st.lists(LAYER, min_size=1, max_size=3)


def files_of(layer: dict[int, int]) -> Files:
    files = {b"lib/p%d" % part: version(part, number) for part, number in layer.items()}
    return files | {b"etc/empty": b"", b"etc/text": text(len(layer), 3_000)}


@contextmanager
def two_stores() -> Iterator[tuple[Store, Store]]:
    root = Path(tempfile.mkdtemp(prefix="layerstore-bundles-"))
    try:
        with (
            Store.open(root / "a", create=True) as sender,
            Store.open(root / "b", create=True) as receiver,
        ):
            yield sender, receiver
    finally:
        shutil.rmtree(root)


@settings(max_examples=25)
@given(old=IMAGE, new=IMAGE, built=st.booleans())
@example(old=[{0: 0, 1: 0}], new=[{0: 0, 1: 0}], built=True)
@example(old=[{0: 0, 1: 0}], new=[{0: 1, 1: 3}], built=False)
def test_any_image_since_any_other_comes_equal(
    old: list[dict[int, int]], new: list[dict[int, int]], built: bool
) -> None:
    with two_stores() as (sender, receiver):
        first = add_image(sender, "i:1", *map(files_of, old), built=built)
        second = add_image(sender, "i:2", *map(files_of, new), built=built)
        load(receiver, bundle_of(sender, [("i:1", first)]))
        since = bundle_of(sender, [("i:2", second)], [first])
        assert since == bundle_of(sender, [("i:2", second)], [first])
        report = load(receiver, since)
        assert [each.image.image_id for each in report.images] == [second.image_id]
        for image in (first, second):
            same_image(sender, receiver, image)
        assert receiver.resolve("i:2").image_id == second.image_id
        assert check(receiver, read_data=True).ok


@settings(max_examples=15)
@given(theirs=IMAGE, new=IMAGE)
def test_a_have_list_of_anything_is_enough(
    theirs: list[dict[int, int]], new: list[dict[int, int]]
) -> None:
    """The receiver's image is not the sender's: other names, another id, perhaps other content."""
    with two_stores() as (sender, receiver):
        add_image(receiver, "their:1", *map(files_of, theirs))
        image = add_image(sender, "i:2", *map(files_of, new), built=True)
        add_image(sender, "i:1", *map(files_of, [{0: 0, 1: 1}, *theirs]))
        layers = receiver.resolve("their:1").layers
        listed = decode_have_list(encode_have_list(chunks_of(receiver, layers)))
        load(receiver, bundle_of(sender, [("i:2", image)], having=having_list(sender, listed)))
        same_image(sender, receiver, image)


OLD = {b"lib/a": version(1, 0), b"lib/b": version(0, 0)}
NEW = {b"lib/a": version(1, 2), b"lib/b": version(0, 1), b"etc/new": text(9, 2_000)}


@pytest.fixture(scope="module")
def travelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A store with the first image, and the bundle of the second since the first."""
    root = tmp_path_factory.mktemp("travelled")
    with Store.open(root / "a", create=True) as sender:
        first = add_image(sender, "i:1", OLD)
        second = add_image(sender, "i:2", OLD, NEW)
        bundle = bundle_of(sender, [("i:2", second)], [first])
        with Store.open(root / "b", create=True) as receiver:
            load(receiver, bundle_of(sender, [("i:1", first)]))
    return root / "b", bundle


def refused(root: Path, bundle: bytes) -> None:
    """Loading fails with one of our errors and publishes nothing."""
    with Store.open(root) as store:
        before = (store.tags(), [i.image_id for i in store.images()], store.catalog.layers())
        with pytest.raises(REFUSALS):
            load_bundle(store, io.BytesIO(bundle).read)
        assert before == (
            store.tags(),
            [i.image_id for i in store.images()],
            store.catalog.layers(),
        )
    assert not list((root / "tmp").iterdir())


def places(size: int) -> list[int]:
    """Every byte of the heads, and some of everything else."""
    first = HEADER.size + 2 * RECORD.size
    return [*range(first), *range(first, size, size // 150), *range(size - 80, size)]


def test_a_bundle_that_was_cut_anywhere_is_refused(travelled: tuple[Path, bytes]) -> None:
    root, bundle = travelled
    for size in places(len(bundle)):
        refused(root, bundle[:size])


def test_a_bundle_with_a_flipped_bit_anywhere_is_refused(travelled: tuple[Path, bytes]) -> None:
    root, bundle = travelled
    for number, at in enumerate(places(len(bundle))):
        damaged = bytearray(bundle)
        damaged[at] ^= 1 << number % 8
        refused(root, bytes(damaged))


def test_what_was_refused_is_loaded_after_all(travelled: tuple[Path, bytes]) -> None:
    root, bundle = travelled
    refused(root, bundle[:-1])
    with Store.open(root) as store:
        load(store, bundle)
        assert check(store, read_data=True).ok
        store.untag("i:2")


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_no_bytes_are_a_list_by_chance(data: bytes) -> None:
    for tried in (data, encode_have_list([bytes(32)])[: len(data)] + data):
        try:
            decode_have_list(tried)
        except LayerstoreError:
            continue
        assert tried == encode_have_list(
            tried[24 + at : 40 + at] for at in range(0, len(tried) - 56, 16)
        )
