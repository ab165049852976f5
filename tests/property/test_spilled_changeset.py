"""A layer gathered in a scratch file is the layer gathered in memory, refusals included."""

from __future__ import annotations

import io
import re
from array import array
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layerstore.digest import ChunkId
from layerstore.errors import FormatError, LayerstoreError, UnsafeContentError
from layerstore.formats.recipe import content_entries
from layerstore.formats.tree import Entry, Kind, check_references
from layerstore.image.layers import ingest_tar as ingesting
from layerstore.image.layers.changeset_builder import ChangesetBuilder, LayerRules
from layerstore.image.layers.ingest_tar import ingest_tar
from layerstore.image.layers.spilled_changeset import SpilledChangeset
from layerstore.image.trees.export_layer import export_layer
from layerstore.store.store import Store
from tests.support.tars import END, member

NAMES = st.sampled_from([b"a", b"b", b"a.b", b"c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)


class Op(NamedTuple):
    what: str
    entry: Entry


@st.composite
def ops(draw: st.DrawFn) -> Op:
    path = draw(PATHS)
    what = draw(st.sampled_from(["file"] * 4 + ["dir", "link", "link", "symlink", "wh", "opq"]))
    mode = draw(st.integers(0, 7))
    if what == "file":
        chunk = ChunkId(bytes([draw(st.integers(0, 255))]) * 32)
        size = draw(st.integers(0, 3))
        extents = ((size, chunk),) if size else ()
        return Op(what, Entry(path, Kind.FILE, mode, size=size, extents=extents))
    if what == "link":
        return Op(what, Entry(path, Kind.HARDLINK, mode, target=draw(PATHS)))
    if what == "symlink":
        return Op(what, Entry(path, Kind.SYMLINK, mode, target=b"x"))
    return Op(what, Entry(path, Kind.DIR, mode))


def take(rules: LayerRules, op: Op) -> str:
    try:
        if op.what == "wh":
            rules.add_whiteout(op.entry.path)
        elif op.what == "opq":
            rules.add_opaque(op.entry.path)
        else:
            rules.add(op.entry)
    except UnsafeContentError as err:
        return err.message
    return ""


def up_to_refusal(given_: list[Op]) -> list[Op]:
    """Return the operations up to the first that is refused: a layer ends there."""
    probe = ChangesetBuilder()
    for number, op in enumerate(given_):
        if take(probe, op):
            return given_[: number + 1]
    return given_


def has_content(op: Op) -> bool:
    return op.what == "file" and op.entry.size > 0


@given(st.lists(ops(), max_size=25), st.integers(0, 25))
@settings(max_examples=150, deadline=None)
def test_both_builders_agree(
    tmp_path_factory: pytest.TempPathFactory, given_: list[Op], spilled_after: int
) -> None:
    given_ = up_to_refusal(given_)
    memory, begun = ChangesetBuilder(), ChangesetBuilder()
    first: list[Entry] = []
    contents: list[Entry] = []
    for op in given_[:spilled_after]:
        told = take(memory, op)
        assert take(begun, op) == told
        if not told and has_content(op):
            first.append(op.entry)
    contents += first
    path = tmp_path_factory.mktemp("spill") / "scratch"
    with SpilledChangeset(str(path), begun, first) as spilled:
        for op in given_[spilled_after:]:
            told = take(memory, op)
            assert take(spilled, op) == told
            if not told and has_content(op):
                contents.append(op.entry)
        changeset = memory.finish()
        try:
            check_references(changeset)
        except FormatError as err:
            with pytest.raises(FormatError, match=re.escape(err.message)):
                list(spilled.entries(array("q", [-1]) * spilled.contents))
            return
        places = {id(entry): n for n, entry in enumerate(content_entries(changeset))}
        finals = [memory.final(entry) for entry in contents]
        expected = [places[id(entry)] if entry is not None else -1 for entry in finals]
        sources = array("q", [-1]) * spilled.contents
        assert tuple(spilled.entries(sources)) == changeset.entries
        assert list(sources) == expected
        assert list(spilled.lost()) == [
            (number, entry.extents) for number, entry in enumerate(contents) if expected[number] < 0
        ]
        (whiteouts, hidden), (opaques, below) = spilled.paths()
        assert (whiteouts, tuple(hidden)) == (len(changeset.whiteouts), changeset.whiteouts)
        assert (opaques, tuple(below)) == (len(changeset.opaques), changeset.opaques)
    assert not path.exists()


def as_tar(some: list[Op]) -> bytes:
    """The same as a layer's tar; contents differ by their entries' chunks."""
    parts = []
    for op in some:
        path, mode = op.entry.path, op.entry.mode
        head, _, name = path.rpartition(b"/")
        if op.what == "file":
            content = op.entry.extents[0][1] or b"" if op.entry.extents else b""
            parts.append(member(path, content, mode=mode))
        elif op.what == "link":
            parts.append(member(path, typeflag=b"1", linkname=op.entry.target, mode=mode))
        elif op.what == "symlink":
            parts.append(member(path, typeflag=b"2", linkname=b"x", mode=mode))
        elif op.what == "wh":
            parts.append(member((head + b"/" if head else b"") + b".wh." + name))
        elif op.what == "opq":
            parts.append(member(path + b"/.wh..wh..opq"))
        else:
            parts.append(member(path + b"/", typeflag=b"5", mode=mode))
    return b"".join(parts) + END


@given(st.lists(ops(), max_size=12), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
@example(
    [Op("file", Entry(b"b", Kind.FILE)), Op("link", Entry(b"a", Kind.HARDLINK, target=b"a/a"))], 1
)
def test_a_spilled_layer_is_the_same_layer(
    tmp_path_factory: pytest.TempPathFactory, given_: list[Op], spilled_after: int
) -> None:
    archive = as_tar(given_)
    root = tmp_path_factory.mktemp("spill")
    outcomes = []
    with Store.open(root / "store", create=True) as store:
        for limit in (1 << 30, spilled_after):
            with pytest.MonkeyPatch.context() as patch, store.begin("test") as session:
                patch.setattr(ingesting, "GATHERED_MAX", limit)
                try:
                    outcomes.append(ingest_tar(session, io.BytesIO(archive)))
                except LayerstoreError as err:
                    outcomes.append((type(err), err.message))
        assert outcomes[0] == outcomes[1]
        if not isinstance(outcomes[1], tuple):
            back = io.BytesIO()
            export_layer(store, outcomes[1].diff_id, back)
            assert back.getvalue() == archive
        assert not list((store.root / "tmp").iterdir())
