"""Merged inputs: which layers they add, and what the merged root holds."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from layerstore.build.context import Context
from layerstore.build.contexts import Contexts
from layerstore.build.executor import BuildExecutor
from layerstore.build.fetch.lazy import LazyFetcher
from layerstore.build.graph import BaseOp, MergeOp, Vertex
from layerstore.build.ignore import IgnoreRules
from layerstore.build.merging import own_layers
from layerstore.build.run.settings import RunSettings
from layerstore.build.solver import Result, Solver
from layerstore.build.ui import SilentUi
from layerstore.digest import DiffId, sha256_digest
from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.trees.stack import load_root, walk
from layerstore.store.store import Store
from tests.support.build import SilentNotes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from layerstore.store.records import CacheRecord


def ids(text: str) -> tuple[DiffId, ...]:
    return tuple(DiffId(sha256_digest(letter.encode())) for letter in text)


@pytest.mark.parametrize(
    ("stacks", "added"),
    [
        (["ba", "bc"], ["c"]),
        (["b", "ba", "bc"], ["a", "c"]),
        (["b", "bxa", "bxc"], ["xa", "c"]),  # x is there already, with its input
        (["ba", "dc"], ["dc"]),
        (["ba", "ba"], [""]),
        (["ba", "b"], [""]),
        (["", "a", "b"], ["a", "b"]),
        (["ba", "bca"], ["ca"]),  # the same layer over another one is another one
    ],
)
def test_an_input_adds_what_lies_over_the_beginning_it_shares(
    stacks: list[str], added: list[str]
) -> None:
    found = own_layers([ids(text) for text in stacks])
    assert [each.own for each in found] == [ids(text) for text in added]
    assert [each.shared + each.own for each in found] == [ids(text) for text in stacks[1:]]


class Merger:
    """Merges stacks of real layers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store.open(root / "store", create=True)
        self.remembered: list[str] = []

    def layer(self, *items: LayerItem, whiteouts: Sequence[bytes] = ()) -> DiffId:
        with self.store.begin("test") as session:
            return write_layer(session, self.store, items, whiteouts=whiteouts).diff_id

    def merge(self, *stacks: tuple[DiffId, ...]) -> Result:
        inputs = tuple(Vertex(BaseOp(layers), (), None) for layers in stacks)
        settings = RunSettings(proxies={}, secrets={}, cache_root=self.root)
        with (
            Context(self.root, IgnoreRules(), now_ns=0) as context,
            LazyFetcher(self.store, {}, {}) as fetcher,
            BuildExecutor(
                self.store, Contexts(context, {}), fetcher, settings, SilentUi(), epoch=None
            ) as executor,
        ):
            solver = Solver(
                executor, cache=None, remember=Remembering(executor), notes=SilentNotes(),
                ui=SilentUi(), epoch=None,
            )  # fmt: skip
            return solver.solve(Vertex(MergeOp(), inputs, None))

    def names(self, layers: Sequence[DiffId]) -> dict[bytes, bytes]:
        """Return the content of every file, and of directories their mode."""
        found = {}
        for path, node in walk(load_root(self.store, layers)):
            refs = tuple((length, chunk) for length, chunk in node.entry.extents if chunk)
            found[path] = (
                self.store.read_refs(refs) if node.children is None else b"%o" % node.entry.mode
            )
        del found[b""]
        return found


class Remembering:
    """The store's cache, as a build uses it."""

    def __init__(self, executor: BuildExecutor) -> None:
        self._session = executor.session

    def get(self, key: str) -> CacheRecord | None:
        return self._session.store.cache_get(key)

    def put(self, records: Sequence[CacheRecord]) -> None:
        for record in records:
            self._session.cache_put(record)


@pytest.fixture
def merger(tmp_path: Path) -> Iterator[Merger]:
    merger = Merger(tmp_path)
    yield merger
    merger.store.close()


def file(path: bytes, content: bytes) -> LayerItem:
    entry = Entry(path=path, kind=Kind.FILE, mode=0o644, size=len(content))
    return LayerItem(entry, lambda: io.BytesIO(content))


def directory(path: bytes, mode: int) -> LayerItem:
    return LayerItem(Entry(path=path, kind=Kind.DIR, mode=mode))


def link(path: bytes, target: bytes) -> LayerItem:
    return LayerItem(Entry(path=path, kind=Kind.HARDLINK, target=target))


def test_merged_layers_are_the_inputs_own(merger: Merger) -> None:
    base = merger.layer(file(b"base", b"b"))
    one, two = merger.layer(file(b"one", b"1")), merger.layer(file(b"two", b"2"))
    result = merger.merge((base, one), (base, two))
    assert result.layers == (base, one, two)
    assert merger.names(result.layers) == {b"base": b"b", b"one": b"1", b"two": b"2"}


def test_later_inputs_win_and_directories_are_united(merger: Merger) -> None:
    one = merger.layer(directory(b"d", 0o755), file(b"d/both", b"1"), file(b"d/one", b"1"))
    two = merger.layer(directory(b"d", 0o700), file(b"d/both", b"2"), file(b"d/two", b"2"))
    result = merger.merge((one,), (two,))
    assert merger.names(result.layers) == {
        b"d": b"700", b"d/both": b"2", b"d/one": b"1", b"d/two": b"2",
    }  # fmt: skip


def test_a_later_inputs_whiteouts_remove_what_earlier_ones_have(merger: Merger) -> None:
    base = merger.layer(file(b"f", b"base"), file(b"kept", b"base"))
    changed = merger.layer(file(b"f", b"changed"))
    removed = merger.layer(whiteouts=[b"f"])
    assert merger.names(merger.merge((base, changed), (base, removed)).layers) == {b"kept": b"base"}
    assert merger.names(merger.merge((base, removed), (base, changed)).layers)[b"f"] == b"changed"


def test_links_within_an_input_need_no_new_layer(merger: Merger) -> None:
    base = merger.layer(file(b"f", b"base"))
    own = merger.layer(file(b"g", b"own"))
    links = merger.layer(link(b"h", b"g"), link(b"i", b"h"))
    assert merger.merge((base,), (base, own, links)).layers == (base, own, links)


def test_a_link_to_what_lies_below_brings_its_file_along(merger: Merger) -> None:
    base = merger.layer(file(b"f", b"base"))
    without = merger.layer(whiteouts=[b"f"])
    linked = merger.layer(link(b"a", b"f"), link(b"b", b"f"), file(b"c", b"c"))
    result = merger.merge((base, without), (base, linked))
    assert result.layers[:2] == (base, without)
    assert result.layers[2] != linked
    assert merger.names(result.layers) == {b"a": b"base", b"b": b"base", b"c": b"c"}
    nodes = dict(walk(load_root(merger.store, result.layers)))
    assert nodes[b"a"] is nodes[b"b"]
    # What was found out is remembered.
    assert merger.merge((base, without), (base, linked)) == result


def test_a_layer_over_one_that_was_written_anew_stays(merger: Merger) -> None:
    base = merger.layer(file(b"f", b"base"))
    linked = merger.layer(link(b"a", b"f"))
    more = merger.layer(link(b"b", b"a"))
    other = merger.layer(file(b"f", b"other"))
    result = merger.merge((other,), (base,), (base, linked, more))
    assert result.layers[-1] == more
    assert merger.names(result.layers) == {b"f": b"base", b"a": b"base", b"b": b"base"}
