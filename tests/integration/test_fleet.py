"""Many stores together: one store's sums are its savings', and every engine gives the same."""

from __future__ import annotations

import json
import shutil
import sys
from typing import ClassVar

import msgspec
import pytest

from layerstore.measure.fleet.analysis import LocalEngine, Place, analyse
from layerstore.measure.fleet.tables import fleet_tables
from layerstore.measure.savings import Scheme, take_savings
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.measure import build, noise

BASE = {b"bin/%d" % n: noise(n, 9000 + n) for n in range(40)} | {b"big": noise("big", 2_500_000)}
LIBRARY = {b"lib/%d" % n: noise(("lib", n), 15_000) for n in range(20)}


def app(name: str) -> dict[bytes, bytes]:
    return {b"app/%d" % n: noise((name, n), 20_000) for n in range(5)}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Three hosts' stores that share a base, a library, an image, and have parts of their own."""
    place = tmp_path_factory.mktemp("hosts")
    contents = {
        "a": {"base": (BASE,), "one": (BASE, app("one"))},
        "b": {"base": (BASE,), "two": (BASE, LIBRARY, app("two")), "three": (LIBRARY,)},
        "c": {"four": (LIBRARY, BASE, app("four")), "one": (BASE, app("one"))},
    }
    for host, images in contents.items():
        with Store.open(place / host, create=True) as store:
            for number, (name, layers) in enumerate(images.items()):
                build(store, name, *layers, created=number)
    return [place / host for host in contents]


def local(*roots):
    with LocalEngine() as engine:
        fleet, failures = analyse([Place("", str(root)) for root in roots], engine, top=10)
    assert not failures
    return fleet


def test_one_store_alone_is_what_its_savings_say(stores):
    for root in stores:
        fleet = local(root)
        with Store.open(root) as store:
            savings = take_savings(store)
        for row in fleet.schemes:
            assert row.separate == row.shared == savings.size_of(row.scheme), row
        assert fleet.content_shared == savings.stored_content_size
        assert fleet.stores[0].exclusive_size == savings.stored_content_size
        assert not (fleet.shared_images)
        assert not (fleet.shared_layers)
        assert not (fleet.shared_chunks)


def test_stores_together_keep_what_is_equal_once(stores, tmp_path):
    fleet = local(*stores)
    for row in fleet.schemes:
        alone = [local(root).scheme(row.scheme).shared for root in stores]
        assert row.separate == sum(alone)
        assert max(alone) <= row.shared <= row.separate
    # The same images in one real store: what is not compressed is the same to the byte.
    with Store.open(tmp_path / "all", create=True) as store:
        build(store, "base", BASE, created=0)
        build(store, "one", BASE, app("one"), created=1)
        build(store, "two", BASE, LIBRARY, app("two"), created=1)
        build(store, "three", LIBRARY, created=2)
        build(store, "four", LIBRARY, BASE, app("four"), created=0)
        savings = take_savings(store)
    for scheme in (Scheme.PLAIN_LAYERS, Scheme.WHOLE_FILES, Scheme.CHUNKS):
        assert fleet.scheme(scheme).shared == savings.size_of(scheme)
    stored = fleet.content_shared
    assert abs(stored - savings.stored_content_size) < 0.1 * savings.stored_content_size


def test_what_is_shared_is_listed_with_what_it_saves(stores):
    fleet = local(*stores)
    names = {image.names: image for image in fleet.shared_images}
    assert {("base:latest",), ("one:latest",)} == set(names)
    assert all(image.stores == 2 for image in fleet.shared_images)
    base = fleet.shared_layers[0]
    assert base.stores == 3
    assert base.saved == 2 * base.size
    assert fleet.shared_chunks[0].saved >= fleet.shared_chunks[-1].saved > 0
    held = {row.stores: row for row in fleet.held_by}
    assert sum(row.size for row in held.values()) == fleet.content_shared
    assert held[1].size == sum(store.exclusive_size for store in fleet.stores)


def test_of_many_names_of_an_image_the_table_tells_a_few(stores):
    fleet = local(*stores)
    names = tuple(f"one:{number}" for number in range(9))
    image = msgspec.structs.replace(fleet.shared_images[0], names=names)
    tables = fleet_tables(msgspec.structs.replace(fleet, shared_images=(image,)))
    (row,) = next(table.rows for table in tables if table.title.startswith("images that"))
    assert row[1] == "one:0, one:1, one:2 and 6 more"


def test_dask_gives_the_same_to_the_byte(stores):
    pytest.importorskip("distributed")
    run = Cli(stores[0])
    here = run.ok("fleet", *stores, "--json")
    there = run.ok("fleet", *stores, "--engine", "dask", "--workers", "2", "--format", "json")
    assert here.out == there.out
    assert len(json.loads(here.out)["stores"]) == 3


def damaged(store, place):
    """Copies of a store, each with other damage, and where no store is; by their exit codes."""
    missing, garbage = place / "missing", place / "garbage"
    for copy in (missing, garbage):
        shutil.copytree(store, copy)
    (missing / "catalog.sqlite").unlink()
    (garbage / "catalog.sqlite").write_bytes(b"no database " * 1000)
    return {place / "absent": 3, missing: 10, garbage: 10}


def test_a_damaged_or_absent_store_is_named_and_the_others_are_counted(stores, tmp_path):
    pytest.importorskip("distributed")
    bad = damaged(stores[0], tmp_path)
    run = Cli(stores[0])
    words = [stores[0], *bad, stores[1]]
    here, there = (
        run("fleet", *words, "--json", "--engine", engine) for engine in ("local", "dask")
    )
    assert (here.code, there.code) == (10, 10)  # of the last one that failed
    assert here.out == there.out
    found = here.json()
    unread = found.pop("unread")
    assert [each["name"] for each in unread] == [str(root) for root in bad]
    whole = run.ok("fleet", *stores[:2], "--json").json()
    assert whole.pop("unread") == []
    assert found == whole
    for each in unread:
        assert each["error"] in here.err
        assert each["error"] in there.err
        assert each["name"] in each["error"]
    assert "Traceback" not in here.err  # distributed tells its own when it ends on a busy host


def test_stores_of_which_none_can_be_read_give_no_table(stores, tmp_path):
    for root, code in damaged(stores[0], tmp_path).items():
        done = Cli(stores[0])("fleet", root)
        assert (done.code, done.out) == (code, "")
        assert str(root) in done.err


def test_a_file_that_may_not_be_read_is_damage_of_its_store(stores, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied", "/srv/a/packs")

    monkeypatch.setattr("layerstore.measure.fleet.summary.take_savings", refuse)
    with LocalEngine() as engine:
        _, (failure,) = analyse([Place("", str(stores[0]))], engine, top=1)
    assert (failure.exit_code, failure.message) == (
        12, f"{stores[0]}: /srv/a/packs: Permission denied",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("A", "A"), "named twice"),
        (("A", "--engine", "spark"), "'spark' is no engine"),
        (("A", "--workers", "2"), "add --engine dask"),
        (("host:/var/lib/x",), "a worker of a cluster"),
        (("A", "--engine", "dask", "--scheduler", "tcp://10.0.0.1:8786"), "is not encrypted"),
        (("A", "--engine", "dask", "--scheduler", "nonsense"), "no scheduler's address"),
    ],
)
def test_what_makes_no_sense_is_refused(stores, words, message):
    line = [str(stores[0]) if word == "A" else word for word in words]
    done = Cli(stores[0])("fleet", *line)
    assert done.code == 2
    assert message in done.err


def test_without_the_extra_the_engine_says_what_to_install(stores, tmp_path, monkeypatch):
    from layerstore.errors import UnsupportedError
    from layerstore.measure.fleet.dask_engine import DaskEngine

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UnsupportedError) as caught:
        DaskEngine()
    assert "pip install distributed" in str(caught.value.hint)


def test_workers_of_another_version_are_told_as_such(stores):
    """What such a worker answers has other fields, and errors of families that are unknown here."""
    from layerstore.errors import ConflictError, StorageError
    from layerstore.measure.fleet.dask_engine import DaskEngine

    class Client:
        answers: ClassVar = {"names": ["one"]}

        def submit(self, *_, **__):
            return None

        def scheduler_info(self, **_):
            return {"workers": {"tcp://w": {"name": "w", "host": "w"}}}

        def gather(self, tasks):
            if self.answers is None:
                raise RuntimeError("killed")
            return [self.answers for _ in tasks]

    engine = DaskEngine.__new__(DaskEngine)
    engine._held = []
    engine._client = Client()
    with pytest.raises(ConflictError, match="w:/srv/x: its worker has another version"):
        engine.summaries([Place("w", "/srv/x")])
    Client.answers = {"error": "NewError", "message": "what nobody knows", "code": 99}
    (told,) = engine.summaries([Place("w", "/srv/x")])
    assert isinstance(told, StorageError)
    assert told.message == "w:/srv/x: what nobody knows"
    Client.answers = None
    (told,) = engine.summaries([Place("w", "/srv/x")])
    assert told.message == "w:/srv/x: a worker failed: RuntimeError: killed"
    assert engine._held == []
