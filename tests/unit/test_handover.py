import threading

import pytest

from layerstore.handover import Beside, Handover


def test_pieces_arrive_in_order_and_an_end_follows_them():
    handover: Handover[int] = Handover(2)
    taken = []

    def take():
        while (piece := handover.get()) is not None:
            taken.append(piece)

    thread = threading.Thread(target=take)
    thread.start()
    for piece in range(1000):
        handover.put(piece)
    handover.end()
    thread.join(60)
    assert not thread.is_alive()
    assert taken == list(range(1000))


def test_who_puts_waits_for_a_place():
    handover: Handover[str] = Handover(1)
    handover.put("first")
    placed = threading.Event()

    def put():
        handover.put("second")
        placed.set()

    thread = threading.Thread(target=put, daemon=True)
    thread.start()
    assert not placed.wait(0.1)
    assert handover.get() == "first"
    assert placed.wait(60)


def test_an_end_needs_no_place():
    handover: Handover[str] = Handover(1)
    handover.put("piece")
    handover.end()
    assert (handover.get(), handover.get()) == ("piece", None)


def test_what_is_done_beside_has_an_end_and_an_error():
    begun, go = threading.Event(), threading.Event()

    def work():
        begun.set()
        assert go.wait(60)
        raise ValueError("of the thread")

    beside = Beside(work, "test")
    assert begun.wait(60)
    go.set()
    beside.wait()
    with pytest.raises(ValueError, match="of the thread"):
        beside.result()
    done = []
    Beside(lambda: done.append(1), "test").result()
    assert done == [1]
