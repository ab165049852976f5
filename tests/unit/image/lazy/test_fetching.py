"""Fetching from remotes of every kind of bad manners."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from blake3 import blake3

from layerstore.digest import ChunkId
from layerstore.image.lazy.fetching import (
    Fetched,
    Fetcher,
    RemoteContentError,
    RemoteUnavailableError,
    fetch_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

DATA = [b"chunk %d" % number * 10 for number in range(8)]
IDS = [ChunkId(blake3(data).digest()) for data in DATA]
HELD = dict(zip(IDS, DATA, strict=True))


class FakeRemote:
    """Answers with whatever ``answer`` makes of each question; notes the questions."""

    location = "/the/remote"

    def __init__(self, answer: Callable[[Sequence[ChunkId]], Iterator] | None = None) -> None:
        self.asked: list[list[ChunkId]] = []
        self._answer = answer or (lambda ids: ((name, HELD[name]) for name in ids))

    def chunks(self, chunk_ids: Sequence[ChunkId]) -> Iterator[tuple[ChunkId, bytes]]:
        self.asked.append(list(chunk_ids))
        yield from self._answer(chunk_ids)


def whole(fetcher: Fetcher, ids: Sequence[ChunkId], **how) -> dict[ChunkId, bytes]:
    with fetcher.held(ids, **how) as held:
        return held


def test_chunks_come_in_one_question_and_are_counted():
    told = []
    remote = FakeRemote()
    fetcher = Fetcher(remote, start=Fetched(10, 1000, 1), on_change=told.append)
    assert whole(fetcher, [*IDS[:3], IDS[0]]) == dict(zip(IDS[:3], DATA, strict=False))
    assert remote.asked == [IDS[:3]]
    assert fetcher.fetched == Fetched(13, 1000 + sum(map(len, DATA[:3])), 1)
    assert told[-1] == fetcher.fetched


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda ids: ((name, HELD[name] + b"!") for name in ids), "gave other bytes"),
        (lambda ids: ((name, b"") for name in ids), "gave other bytes"),
        (lambda ids: ((name, HELD[IDS[7]]) for name in ids), "gave other bytes"),
        (lambda ids: iter(()), "does not have it"),
        (lambda ids: iter([(IDS[7], HELD[IDS[7]])]), "does not have it"),
    ],
    ids=["longer", "empty", "another chunk's", "nothing", "only what was not asked for"],
)
def test_lies_and_gaps_are_refused(answer, words):
    fetcher = Fetcher(FakeRemote(answer))
    with pytest.raises(RemoteContentError, match=words):
        whole(fetcher, IDS[:1])
    assert fetcher.fetched.failures == 1
    assert fetcher.fetched.size == 0


def test_what_is_right_comes_although_another_is_not():
    def answer(ids):
        return ((name, b"lie" if name == IDS[1] else HELD[name]) for name in ids)

    fetcher = Fetcher(FakeRemote(answer))
    with pytest.raises(RemoteContentError):
        whole(fetcher, IDS[:3])
    assert fetcher.fetched == Fetched(2, len(DATA[0]) + len(DATA[2]), 1)
    assert whole(fetcher, [IDS[0]]) == {IDS[0]: DATA[0]}


@pytest.mark.parametrize("failure", [OSError("gone"), ValueError("odd"), RecursionError("deep")])
def test_whatever_a_remote_raises_is_told_and_it_is_asked_again(failure):
    answers = [failure]

    def answer(ids):
        if answers:
            raise answers.pop()
        return ((name, HELD[name]) for name in ids)

    fetcher = Fetcher(FakeRemote(answer))
    with pytest.raises(RemoteUnavailableError, match=f"/the/remote failed: .*{failure}"):
        whole(fetcher, IDS[:2])
    assert whole(fetcher, IDS[:2]).keys() == set(IDS[:2])


def test_many_who_ask_for_a_chunk_have_it_fetched_once():
    begun, go_on = threading.Event(), threading.Event()

    def answer(ids):
        begun.set()
        assert go_on.wait(60)
        return ((name, HELD[name]) for name in ids)

    remote = FakeRemote(answer)
    fetcher = Fetcher(remote)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(whole(fetcher, [IDS[0]]))) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    # As long as the first question is open, nobody asks another one.
    assert remote.asked == [[IDS[0]]]
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert found == [{IDS[0]: DATA[0]}] * 6


def test_what_somebody_holds_is_not_fetched_again():
    remote = FakeRemote()
    fetcher = Fetcher(remote)
    with fetcher.held(IDS[:2], ahead=True), fetcher.held(IDS[1:3]) as held:
        assert held == dict(zip(IDS[1:3], DATA[1:3], strict=True))
    assert remote.asked == [IDS[:2], IDS[2:3]]
    whole(fetcher, IDS[:1])
    assert remote.asked[2:] == [IDS[:1]]  # nobody holds it any more


def test_what_came_to_be_local_in_between_is_not_fetched():
    remote = FakeRemote()
    fetcher = Fetcher(remote)
    assert whole(fetcher, IDS[:2], local={IDS[0]: DATA[0]}.get).keys() == set(IDS[:2])
    assert remote.asked == [IDS[1:2]]
    assert fetcher.fetched.chunks == 1


def test_a_failure_to_look_here_leaves_others_what_they_wait_for():
    def local(_):
        raise MemoryError

    fetcher = Fetcher(FakeRemote())
    with pytest.raises(MemoryError):
        whole(fetcher, IDS[:2], local=local)
    assert whole(fetcher, IDS[:2]).keys() == set(IDS[:2])


def test_who_waits_too_long_is_let_go_and_others_are_served():
    forever = threading.Event()

    def answer(ids):
        if IDS[5] in ids:
            forever.wait(60)
        return ((name, HELD[name]) for name in ids)

    fetcher = Fetcher(FakeRemote(answer), patience_s=1.0)
    with pytest.raises(RemoteUnavailableError, match="did not answer in time"):
        whole(fetcher, [IDS[5]])
    assert whole(fetcher, [IDS[6]], ahead=True) == {IDS[6]: DATA[6]}
    forever.set()


def test_descriptions_are_fetched_whole_or_not_at_all():
    assert fetch_all(FakeRemote(), [IDS[0], IDS[1], IDS[0]]) == {IDS[0]: DATA[0], IDS[1]: DATA[1]}
    with pytest.raises(RemoteContentError, match="layer's tree"):
        fetch_all(FakeRemote(lambda ids: iter([(IDS[0], b"lie")])), [IDS[0]])
