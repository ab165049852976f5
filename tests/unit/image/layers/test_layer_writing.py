"""What whoever writes a layer hears, and when."""

from __future__ import annotations

import io
from functools import partial
from typing import TYPE_CHECKING

import pytest

from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.layers.source_file import SourceChangedError
from layerstore.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

SIZES = (5, 300_000)
"""One chunk, and several."""


def items(opened: list[bytes], *, short: int = 0) -> list[LayerItem]:
    def item(size: int) -> LayerItem:
        path = b"%d" % size

        def content() -> io.BytesIO:
            opened.append(path)
            return io.BytesIO(bytes(size - short))

        return LayerItem(Entry(path=path, kind=Kind.FILE, size=size), content)

    return [item(size) for size in SIZES]


def test_what_was_read_may_go_before_the_layer_is_there(tmp_path: Path) -> None:
    opened: list[bytes] = []
    heard: list[tuple[int, int]] = []
    with Store.open(tmp_path, create=True) as store, store.begin("test") as session:

        def was_read() -> None:
            heard.append((len(opened), len(list(store.layers()))))

        layer = write_layer(session, store, items(opened), was_read=was_read)
        assert heard == [(len(SIZES), 0)]
        assert [each.diff_id for each in store.layers()] == [layer.diff_id]


def test_what_is_in_memory_lets_all_else_go_at_once(tmp_path: Path) -> None:
    heard: list[int] = []
    held = [
        LayerItem(Entry(path=name, kind=Kind.FILE, size=len(name)), content=name)
        for name in (b"one", b"two")
    ]
    with Store.open(tmp_path, create=True) as store, store.begin("test") as session:

        def was_read() -> None:
            heard.append(session.stats.new_bytes)

        layer = write_layer(session, store, held, was_read=was_read)
        assert heard == [0]
        opened = [
            each._replace(content=None, open=partial(io.BytesIO, each.content)) for each in held
        ]
        assert write_layer(session, store, opened).diff_id == layer.diff_id


def test_of_what_could_not_be_read_nobody_hears(tmp_path: Path) -> None:
    heard: list[int] = []
    with Store.open(tmp_path, create=True) as store, store.begin("test") as session:
        with pytest.raises(SourceChangedError):
            write_layer(session, store, items([], short=1), was_read=lambda: heard.append(1))
        assert heard == []
        assert list(store.layers()) == []
