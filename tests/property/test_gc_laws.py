"""Laws of removing and collecting, over random histories: what is said is what happens."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from layerstore.image.layers.similar import SimilarFiles
from layerstore.measure.attribution import attribute
from layerstore.measure.inventory import ChunkReader, take_inventory
from layerstore.measure.removing import freed_by_removing
from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.collect.removal import COMPACT_DEAD_FRACTION, removal_effect
from layerstore.store.collect.retention import KeepRules
from layerstore.store.records import CacheRecord
from layerstore.store.store import Store
from tests.support.measure import assert_sums_are_true
from tests.support.store import (
    Files,
    blobs_of,
    disk_bytes,
    noise,
    put_image,
    put_layer,
    put_unpublished_layer,
    read_image,
)

NAMES = st.sampled_from([f"{repository}:{tag}" for repository in "ab" for tag in range(4)])
NUMBERS = st.integers(0, 9)


def files_of(number: int) -> Files:
    """Neighbouring numbers share most files; every third has one that is cut."""
    parts = {b"f%d" % n: noise(n, 1_000 + 900 * n) for n in range(number, number + 4)}
    return parts | {b"big": noise(number // 3, 400_000)} if number % 3 == 0 else parts


def version_of(part: int, version: int) -> bytes:
    data = bytearray(noise(f"part{part}", 60_000))
    for change in range(version):
        data[change * 9_000 : change * 9_000 + 200] = noise(f"{part}.{change}", 200)
    return bytes(data)


class RemovalMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="layerstore-removal-"))
        self.store = Store.open(self.root / "store", create=True)
        self.names: dict[str, list[Files]] = {}
        self.steps = 0

    def teardown(self) -> None:
        for name, layers in self.names.items():
            assert read_image(self.store, name) == layers
        assert check(self.store, read_data=True).ok
        assert set(self.store.tags()) == set(self.names)
        self.store.close()
        shutil.rmtree(self.root)

    @invariant()
    def what_is_remembered_of_packs_is_true(self) -> None:
        assert_sums_are_true(self.store)

    @rule(name=NAMES, layers=st.lists(NUMBERS, min_size=1, max_size=3), waste=st.booleans())
    def publish(self, name: str, layers: list[int], waste: bool) -> None:
        content = [files_of(number) for number in layers]
        with self.store.begin("publish") as session:
            if waste:
                put_unpublished_layer(session, files_of(sum(layers)))
            put_image(session, *content, names=[name])
        self.names[name] = content

    @rule(name=NAMES, version=st.integers(0, 3), parts=st.sets(st.integers(0, 3), min_size=1))
    def publish_a_version(self, name: str, version: int, parts: set[int]) -> None:
        """What differs from the version before in some places: differences, half of them dead."""
        files = {b"v/%d" % part: version_of(part, version) for part in parts}
        with self.store.begin("version") as session:
            layer = put_layer(session, files, SimilarFiles(self.store))
            session.publish_image(*blobs_of([layer.diff_id]), [layer.diff_id], names=[name])
        self.names[name] = [files]

    @rule(number=NUMBERS)
    def remember_a_step(self, number: int) -> None:
        self.steps += 1
        with self.store.begin("step") as session:
            layer = put_layer(session, files_of(number)).diff_id
            session.cache_put(CacheRecord(str(self.steps), layer, b"", float(self.steps)))

    @rule(name=NAMES, pinned=st.booleans())
    def pin(self, name: str, pinned: bool) -> None:
        if name in self.names and (name in self.store.pins()) != pinned:
            (self.store.pin if pinned else self.store.unpin)(name)

    @precondition(lambda self: self.names)
    @rule(data=st.data(), compact=st.booleans())
    def remove_as_it_was_said(self, data: st.DataObject, compact: bool) -> None:
        names = data.draw(st.sets(st.sampled_from(sorted(self.names)), min_size=1, max_size=3))
        tags = self.store.tags()
        gone = {tags[name] for name in names} - {i for n, i in tags.items() if n not in names}
        inventory = take_inventory(self.store)
        attribution = attribute(inventory, ChunkReader(self.store, inventory))
        attributed = freed_by_removing(inventory, attribution, gone)
        before = disk_bytes(self.store.root)
        effect = removal_effect(self.store, names)
        assert disk_bytes(self.store.root) == before
        assert plan_gc(self.store).freed_bytes == effect.freed_anyway_bytes
        for name in names:
            self.store.untag(name, force=True)
            del self.names[name]
        if compact:
            execute(plan_gc(self.store, rewrite_dead_fraction=COMPACT_DEAD_FRACTION))
            freed = before - disk_bytes(self.store.root)
            assert freed >= effect.compact_bytes
        else:
            report = execute(plan_gc(self.store))
            freed = before - disk_bytes(self.store.root)
            assert freed == effect.freed_bytes == report.freed_bytes
            assert report.deferred_bytes == effect.deferred_bytes == 0
        assert attributed >= 0

    @rule(
        last=st.one_of(st.none(), st.integers(1, 2)),
        cap=st.one_of(st.none(), st.integers(0, 1_500_000)),
        all_cache=st.booleans(),
    )
    def collect_by_rules(self, last: int | None, cap: int | None, all_cache: bool) -> None:
        before = disk_bytes(self.store.root)
        rules = KeepRules(max_size=cap, keep_last=last)
        pinned = self.store.pins()
        plan = plan_gc(self.store, keep=rules, keep_cache=not all_cache)
        dropped = [named.name for named in plan.dropped.names]
        assert pinned.isdisjoint(dropped)
        assert not dropped or last is not None
        execute(plan)
        assert before - disk_bytes(self.store.root) == plan.freed_bytes
        assert disk_bytes(self.store.root) == plan.size_after
        for name in dropped:
            del self.names[name]
        if last is not None:
            for repository in "ab":
                left = [n for n in self.names if n.startswith(repository) and n not in pinned]
                assert cap is not None or len(left) <= last + len(pinned)
        if cap is not None and plan.size_after > cap:
            assert self.store.cache_records() == []


RemovalMachine.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestRemoval = RemovalMachine.TestCase
