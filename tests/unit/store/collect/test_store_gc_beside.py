"""Collections with sessions at work between two of their turns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layerstore.image.layers.similar import SimilarFiles
from layerstore.store.collect.collection import Execution
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import LayerNotFoundError
from layerstore.store.store import Store
from tests.support.store import (
    Files,
    add_image,
    add_version,
    assert_sound,
    blobs_of,
    noise,
    put_unpublished_layer,
    read_image,
    versions,
)

if TYPE_CHECKING:
    from pathlib import Path

    from layerstore.store.records import LayerRecord
    from layerstore.store.writing.session import WriteSession

ONE: Files = {b"d/%d" % n: noise(n, 60_000) for n in range(5)}
TWO: Files = {path: data + b"!" * 100 for path, data in ONE.items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def publish(session: WriteSession, record: LayerRecord, name: str) -> None:
    session.publish_layer(record)
    session.publish_image(*blobs_of([record.diff_id]), [record.diff_id], names=[name])


def test_a_base_that_went_before_its_difference_was_written_stops_no_gc(root: Path) -> None:
    """Nothing needs the difference yet; its session takes the base back when it publishes."""
    one, two = versions(2)
    add_version(root, "app:1", one)
    with Store.open(root) as store, store.begin("test") as session:
        record = put_unpublished_layer(session, two, SimilarFiles(store))
        session._settle()
        session._close_groups()
        sealed = session._pipeline.flush()
        store.untag("app:1")
        with Store.open(root) as other:
            execute(plan_gc(other))
            before = plan_gc(other)
            session._commit_packs(sealed)
            execute(before)
            plan = plan_gc(other)
            assert not plan.dangling
            publish(session, record, "app:2")
            execute(plan)  # the base came back after the plan was made
            assert not plan_gc(other).dangling
    assert_sound(root, {"app:2": [two]})


def test_a_pack_under_a_used_number_keeps_its_bases(root: Path, monkeypatch) -> None:
    """Numbers of packs are used again, within one collection too."""
    with Store.open(root, create=True) as store:
        with store.begin("test") as session:
            both = (ONE, {b"k": noise("k", 300_000)})
            records = [put_unpublished_layer(session, files) for files in both]
            for name, record in zip(("app:1", "keep"), records, strict=True):
                publish(session, record, name)
        add_image(root, "last", {b"l": noise("l", 100_000)})
        numbers = {row.pack for row in store.catalog.pack_rows()}
        like = SimilarFiles(store)
        assert like.find(b"d/1")
        for name in ("app:1", "last"):
            store.untag(name)
        copy = Execution._copy_packs

        def copy_beside_a_session(self: Execution) -> None:
            with Store.open(root) as other, other.begin("beside") as session:
                publish(session, put_unpublished_layer(session, TWO, like), "app:2")
                assert {row.pack for row in other.catalog.pack_rows() if row.lease} <= numbers
                assert other.catalog.base_rows()
            copy(self)

        monkeypatch.setattr(Execution, "_copy_packs", copy_beside_a_session)
        plan = plan_gc(store)
        assert plan.dead_packs
        assert plan.sparse_packs
        execute(plan)
    with Store.open(root) as store:
        assert read_image(store, "app:2") == [TWO]


def test_a_layer_that_came_and_died_since_the_plan_is_not_held_out_to_anybody(root: Path) -> None:
    """Its chunks lie in a pack that the plan found dead: nobody may build on it afterwards."""
    add_image(root, "app:1", ONE)
    with Store.open(root) as store:
        image = store.resolve("app:1")
        record = store.layer(image.layers[0])
        store.remove_image(image.image_id)
        with store.catalog.write() as connection:  # as a collection that was killed leaves it
            connection.execute("DELETE FROM layers")
        plan = plan_gc(store)
        assert plan.dead_packs
        with store.begin("publishes no image") as session:
            put_unpublished_layer(session, ONE)
            session.publish_layer(record)
            assert session.stats.new_chunks == 0
        execute(plan)
        with store.begin("late") as session, pytest.raises(LayerNotFoundError):
            session.hold_layers(image.layers)


def test_a_name_that_came_since_rm_looked_keeps_its_image(root: Path) -> None:
    image = add_image(root, "app:1", ONE)
    with Store.open(root) as store:
        store.tag("late:1", image.image_id)
        assert not store.remove_image(image.image_id, names=["app:1"])
        assert store.tags() == {"late:1": image.image_id}
        execute(plan_gc(store))
        assert read_image(store, "late:1") == [ONE]
        assert store.remove_image(image.image_id, names=["late:1"])
        assert store.images() == []
