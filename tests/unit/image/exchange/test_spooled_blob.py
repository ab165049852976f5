"""A blob that comes in a scratch file: nobody waits for what does not come any more."""

from __future__ import annotations

import io
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest

from layerstore.formats import oci
from layerstore.image.exchange.spooled_blob import BlobStoppedError, SpooledBlob

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DATA = bytes(range(200))
DESCRIPTOR = oci.describe(DATA, oci.LAYER_TAR_TYPE)


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[SpooledBlob]:
    made = SpooledBlob(str(tmp_path / "blob"))
    try:
        yield made
    finally:
        made.close()


def beside(work: Callable[[], object]) -> Future[object]:
    """Do something in a thread that holds up nobody, should it never end."""
    done: Future[object] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as err:  # noqa: BLE001 -- handed to the test
            done.set_exception(err)

    threading.Thread(target=run, daemon=True).start()
    return done


class Halves:
    """A blob of which one half comes, and the other when somebody lets it."""

    def __init__(self) -> None:
        self.goes_on = threading.Event()
        self._pieces = [DATA[:100], DATA[100:]]

    def read(self, _: int, /) -> bytes:
        if len(self._pieces) == 1:
            assert self.goes_on.wait(20)
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        pass


def read_all(spool: SpooledBlob) -> bytes:
    reader = spool.open()
    return b"".join(iter(lambda: reader.read(64), b""))


def test_it_is_read_while_it_comes_and_again(spool: SpooledBlob) -> None:
    source = Halves()
    filled = beside(lambda: spool.fill(lambda: source, DESCRIPTOR))
    first = beside(lambda: read_all(spool))
    assert spool.read_at(100, 0) == DATA[:100]
    source.goes_on.set()
    assert first.result(20) == DATA
    filled.result(20)
    spool.stop()
    assert spool.is_whole
    assert read_all(spool) == DATA, "what is whole is there though it was stopped"


@pytest.mark.parametrize("begun", [False, True])
def test_who_reads_does_not_wait_for_what_was_stopped(spool: SpooledBlob, begun: bool) -> None:
    """A pull that failed waited for ever: somebody compared a layer that came no further."""
    source = Halves()
    filled = beside(lambda: spool.fill(lambda: source, DESCRIPTOR)) if begun else None
    reading = beside(lambda: read_all(spool))
    if begun:
        assert spool.read_at(1, 99) == DATA[99:100]
    spool.stop()
    with pytest.raises(BlobStoppedError):
        reading.result(20)
    with pytest.raises(BlobStoppedError):
        spool.read_at(1, 0)
    assert not spool.is_whole
    source.goes_on.set()
    if filled is not None:
        filled.result(20)
        assert not spool.is_whole


def test_its_error_is_told_and_not_that_it_was_stopped(spool: SpooledBlob) -> None:
    filled = beside(lambda: spool.fill(lambda: io.BytesIO(b"other"), DESCRIPTOR))
    with pytest.raises(Exception, match="not what its descriptor says"):
        filled.result(20)
    spool.stop()
    with pytest.raises(Exception, match="not what its descriptor says"):
        spool.read_at(10, 5)
