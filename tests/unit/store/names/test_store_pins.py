"""Pins: kept from rm and gc, and in names.log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layerstore.errors import NotFoundError
from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.collect.retention import KeepRules
from layerstore.store.failures import CatalogDamagedError, ImageNotFoundError
from layerstore.store.names import names_log
from layerstore.store.names.pins import PinnedError
from layerstore.store.store import Store
from tests.support.store import add_image, assert_sound, noise, read_image

if TYPE_CHECKING:
    from pathlib import Path

FILES = {b"f": noise(1, 20_000)}
OTHER = {b"g": noise(2, 20_000)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_image(tmp_path / "store", "web:1", FILES)
    add_image(tmp_path / "store", "db:1", OTHER)
    return tmp_path / "store"


def test_a_pinned_name_is_removed_by_force_only(root: Path) -> None:
    with Store.open(root) as store:
        image = store.resolve("web:1").image_id
        assert store.pin("web:1") == "web:1"
        assert store.pin("web:1") == "web:1", "twice is once"
        with pytest.raises(PinnedError, match="web:1 is pinned") as caught:
            store.untag("web:1")
        assert "unpin web:1" in (caught.value.hint or "")
        with pytest.raises(PinnedError):
            store.remove_image(image)
        store.untag("web:1", force=True)
        assert store.pins() == frozenset()


def test_a_pin_stays_with_a_name_that_moves(root: Path) -> None:
    with Store.open(root) as store:
        store.pin("web:1")
        store.tag("web:1", store.resolve("db:1").image_id)
        assert store.pins() == {"web:1"}
        with pytest.raises(PinnedError):
            store.remove_image(store.resolve("db:1").image_id)


def test_a_pinned_image_needs_no_name(root: Path) -> None:
    with Store.open(root) as store:
        image = store.resolve("web:1").image_id
        assert store.pin(image[:20]) == image
        store.untag("web:1")
        assert plan_gc(store).freed_bytes == 0
        execute(plan_gc(store))
        assert read_image(store, image) == [FILES]
        store.remove_image(image, force=True)
        assert store.pins() == frozenset()
        assert execute(plan_gc(store)).freed_bytes > 20_000
    assert_sound(root, {"db:1": [OTHER]})


def test_unpinning_what_is_not_pinned_and_pinning_nothing(root: Path) -> None:
    with Store.open(root) as store:
        with pytest.raises(NotFoundError, match="not pinned"):
            store.unpin("web:1")
        with pytest.raises(ImageNotFoundError):
            store.pin("nothing:1")
        store.pin("web:1")
        assert store.unpin("web:1") == "web:1"
        store.untag("web:1")


def test_no_rule_removes_what_is_pinned(root: Path) -> None:
    rules = KeepRules(keep_within_s=0.0, trust_clock=True)
    with Store.open(root) as store:
        store.pin("web:1")
        plan = plan_gc(store, keep=rules)
        assert [named.name for named in plan.dropped.names] in ([], ["db:1"])
        assert "web:1" not in [named.name for named in plan.dropped.names]
        store.pin(store.resolve("db:1").image_id)
        assert plan_gc(store, keep=rules).dropped.names == ()


def test_pins_outlive_the_catalog(root: Path) -> None:
    with Store.open(root) as store:
        image = store.resolve("db:1").image_id
        store.pin("web:1")
        store.pin(image)
        store.pin("db:1")
        store.unpin("db:1")
        store.rebuild_catalog()
        assert store.pins() == {"web:1", image}
        assert check(store, read_data=True).ok


def test_a_snapshot_of_names_has_the_pins(root: Path) -> None:
    """A log with a change that nobody was promised is set right by the next change."""
    with Store.open(root) as store:
        store.pin("web:1")
        names_log.append(store.paths.names_log, [("unpin", "web:1"), ("pin", "db:1")])
        assert Problem.NAMES_LOG_DIFFERS in {
            finding.problem for finding in check(store, read_data=False).findings
        }
        store.tag("more:1", store.resolve("web:1").image_id)
        assert check(store, read_data=False).ok
        store.rebuild_catalog()
        assert store.pins() == {"web:1"}


def test_replaying_pins_forgets_those_of_what_is_gone() -> None:
    records = [("pin", "a:1"), ("pin", "b:1"), ("pin", "sha256:x"), ("unpin", "b:1")]
    assert names_log.replay_pins(records, {"a:1": "i"}, set()) == {"a:1"}
    assert names_log.replay_pins(records, {}, {"sha256:x"}) == {"sha256:x"}
    assert names_log.replay_pins([*records, ("reset",)], {"a:1": "i"}, set()) == frozenset()
    for record in records:
        assert names_log.decode_record(names_log.encode_record(record)[:-1]) == record


def test_a_damaged_pin_is_not_believed(root: Path) -> None:
    with Store.open(root) as store:
        store.pin("web:1")
        with store.catalog.write() as connection:
            connection.execute("UPDATE pins SET target = 'web:2'")
        with pytest.raises(CatalogDamagedError, match="web:2"):
            store.pins()
        with pytest.raises(CatalogDamagedError):
            plan_gc(store)
        assert not check(store, read_data=False).ok
