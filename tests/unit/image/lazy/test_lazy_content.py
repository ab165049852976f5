"""Content that is fetched: what is kept of it, what is believed, and what a crash leaves."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from layerstore.digest import ChunkId
from layerstore.image.lazy import lazy_content
from layerstore.image.lazy.fetching import Fetcher, RemoteContentError
from layerstore.image.lazy.lazy_content import LazyContent
from layerstore.store.objects.objects import object_id
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PIECES = [bytes([number]) * 3000 for number in range(1, 6)]
IDS = [ChunkId(blake3(piece).digest()) for piece in PIECES]
HOLE = (5000, None)
SINGLE = ((3000, IDS[0]),)
LONG = ((3000, IDS[1]), HOLE, (3000, IDS[2]), (3000, IDS[1]), (3000, IDS[3]))
LONG_BYTES = PIECES[1] + bytes(5000) + PIECES[2] + PIECES[1] + PIECES[3]
OBJECTS = {object_id(extents): extents for extents in (SINGLE, LONG)}


class CountingRemote:
    location = "/the/remote"

    def __init__(self) -> None:
        self.held = dict(zip(IDS, PIECES, strict=True))
        self.given: list[ChunkId] = []
        self.asked: list[list[ChunkId]] = []

    def chunks(self, chunk_ids: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, bytes]]:
        self.asked.append(list(chunk_ids))
        for chunk_id in chunk_ids:
            if chunk_id in self.held:
                self.given.append(chunk_id)
                yield chunk_id, self.held[chunk_id]


class Place:
    """A store, a view's directory, and a remote that counts."""

    def __init__(self, base: Path) -> None:
        self.store = Store.open(base / "store", create=True)
        self.directory = base / "store/views/instance"
        self.directory.mkdir()
        self.remote = CountingRemote()
        self.read: list[ChunkId] = []

    def content(self) -> LazyContent:
        return LazyContent(
            self.store, Fetcher(self.remote), OBJECTS, str(self.directory), self.read.append
        )

    def staged(self, extents: tuple) -> Path:
        name = object_id(extents).hex()
        return self.directory / "staged" / name[:2] / name

    def partial(self, extents: tuple) -> Path:
        return self.directory / "partial" / object_id(extents).hex()

    def joined(self, extents: tuple) -> str:
        return self.store.paths.object(object_id(extents))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.store.close()


def test_a_chunk_is_fetched_once_and_kept_where_it_belongs(place):
    content = place.content()
    for _ in range(2):
        assert content.read_chunk(IDS[2]) == PIECES[2]
    assert place.remote.given == [IDS[2]]
    part = place.partial(LONG).read_bytes()
    assert part == bytes(8000) + PIECES[2] + bytes(6000)
    assert place.read == [IDS[2], IDS[2]]


def test_a_file_whose_chunks_all_came_is_staged_and_joins_the_tier(place):
    content = place.content()
    for chunk_id in (IDS[3], IDS[1], IDS[2]):
        content.read_chunk(chunk_id)
    assert place.staged(LONG).read_bytes() == LONG_BYTES
    assert not place.partial(LONG).exists()
    assert not os.path.exists(place.joined(LONG))
    assert content.settle() == 1
    with open(place.joined(LONG), "rb") as file:
        assert file.read() == LONG_BYTES
    assert os.stat(place.joined(LONG)).st_mode & 0o777 == 0o600
    assert content.settle() == 0


def test_staging_asks_for_what_is_missing_in_one_question(place):
    content = place.content()
    content.read_chunk(IDS[1])
    assert content.stage(object_id(LONG))
    assert place.remote.given == [IDS[1], IDS[2], IDS[3]]
    assert place.staged(LONG).read_bytes() == LONG_BYTES
    with place.staged(LONG).open("rb") as file:  # holes stay holes, where the disk knows them
        assert os.fstat(file.fileno()).st_size == len(LONG_BYTES)


def test_what_the_tier_has_is_linked_and_not_fetched(place):
    content = place.content()
    content.stage(object_id(SINGLE))
    content.settle()
    place.staged(SINGLE).unlink()
    assert content.stage(object_id(SINGLE))
    assert place.staged(SINGLE).samefile(place.joined(SINGLE))
    assert not content.stage_if_whole(object_id(LONG))
    assert place.remote.given == [IDS[0]]


@pytest.mark.parametrize("torn", [b"", bytes(17000), b"\xff" * 17000, bytes(8000) + PIECES[2][:9]])
def test_a_part_that_does_not_verify_is_fetched_again(place, torn):
    place.content().read_chunk(IDS[2])
    place.partial(LONG).write_bytes(torn)
    again = place.content()  # as after a power cut
    assert again.read_chunk(IDS[2]) == PIECES[2]
    assert place.remote.given == [IDS[2], IDS[2]]


def test_a_damaged_file_of_the_tier_is_passed_over(place):
    content = place.content()
    content.stage(object_id(SINGLE))
    content.settle()
    with open(place.joined(SINGLE), "r+b") as file:  # both names: it is one file
        file.write(b"damage")
    assert content.read_chunk(IDS[0]) == PIECES[0]
    assert place.remote.given == [IDS[0], IDS[0]]


def test_who_follows_a_killed_server_finds_what_it_had_staged(place):
    place.content().stage(object_id(SINGLE))
    follower = place.content()
    assert follower.read_chunk(IDS[0]) == PIECES[0]
    assert follower.settle() == 1
    assert os.path.exists(place.joined(SINGLE))
    assert place.remote.given == [IDS[0]]


def test_a_file_that_lacks_a_chunk_is_not_staged_but_its_other_chunks_are_read(place):
    del place.remote.held[IDS[3]]
    content = place.content()
    with pytest.raises(RemoteContentError):
        content.stage(object_id(LONG))
    assert not place.staged(LONG).exists()
    assert content.read_chunk(IDS[2]) == PIECES[2]
    with pytest.raises(RemoteContentError):
        content.read_chunk(IDS[3])


def test_nothing_has_a_name_in_the_tier_before_it_is_on_disk(place, monkeypatch):
    content = place.content()
    content.stage(object_id(SINGLE))
    seen = []

    def fail(paths):
        seen.append(os.path.exists(place.joined(SINGLE)))
        raise OSError(5, "the disk failed")

    force = lazy_content._force
    monkeypatch.setattr(lazy_content, "_force", fail)
    with pytest.raises(lazy_content.LayerstoreError):
        content.settle()
    assert seen == [False]
    assert not os.path.exists(place.joined(SINGLE))
    monkeypatch.setattr(lazy_content, "_force", force)
    assert content.settle() == 1  # it is not forgotten


def test_many_files_are_brought_to_disk_by_one_call(place, monkeypatch):
    calls = []
    monkeypatch.setattr(lazy_content, "FORCED_ALONE", 1)
    monkeypatch.setattr(lazy_content, "sync_file_system", calls.append)
    content = place.content()
    for extents in (SINGLE, LONG):
        content.stage(object_id(extents))
    assert content.settle() == 2
    assert len(calls) == 1


def test_without_room_content_is_read_and_not_kept(place, monkeypatch):
    content = place.content()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lazy_content, "_write_at", full)
    assert content.read_chunk(IDS[2]) == PIECES[2]
    assert not content.stage(object_id(SINGLE))
    assert not place.staged(SINGLE).exists()


def test_much_that_gathered_is_settled_without_being_asked(place, monkeypatch):
    monkeypatch.setattr(lazy_content, "SETTLE_FILES", 2)
    content = place.content()
    content.stage(object_id(SINGLE))
    assert content.settle(force=False) == 0
    content.stage(object_id(LONG))
    content.settle()  # waits for whoever does so already
    assert os.path.exists(place.joined(SINGLE))
    assert os.path.exists(place.joined(LONG))


def test_a_read_is_brought_what_it_needs_in_one_question(place):
    content = place.content()
    name = object_id(LONG)
    content.bring(name, 8500, 3000)  # the second piece and the third, which is the first again
    assert place.remote.asked == [[IDS[2], IDS[1]]]
    assert content.read_chunk(IDS[1]) == PIECES[1]
    content.bring(name, 8500, 3000)
    content.bring(name, 100, 10)
    assert place.remote.asked == [[IDS[2], IDS[1]]]


def test_a_sequential_reader_is_brought_more(place):
    content = place.content()
    content.bring(object_id(LONG), 0, 8000)
    assert place.remote.asked == [[IDS[1], IDS[2], IDS[3]]]
    assert place.staged(LONG).read_bytes() == LONG_BYTES


def test_bringing_leaves_it_to_reading_to_fail(place):
    place.remote.held.clear()
    content = place.content()
    content.bring(object_id(LONG), 0, 17000)
    with pytest.raises(RemoteContentError):
        content.read_chunk(IDS[1])


def test_fetching_ahead_makes_files_and_stops_when_told(place):
    content = place.content()
    content.fetch_ahead([*IDS, IDS[0]], stop=lambda: False)
    assert place.staged(SINGLE).exists()
    assert place.staged(LONG).exists()
    assert sorted(place.remote.given) == sorted(IDS[:4])  # the fifth is none of the image's
    assert place.read == []
    before = len(place.remote.given)
    place.staged(LONG).unlink()
    content.fetch_ahead(IDS, stop=lambda: True)
    assert len(place.remote.given) == before
