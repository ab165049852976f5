"""The ledger adds up after any history: puts, names moved and dropped, views, cache, gc, waste.

Held to ``du``, which knows nothing of packs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from layerstore.image.optimize import contents_in_order
from layerstore.measure.attribution import attribute
from layerstore.measure.df import take_df
from layerstore.measure.inventory import ChunkReader, take_inventory
from layerstore.measure.ledger import Owner, assert_exact, freed_by_removing
from layerstore.measure.savings import Scheme, take_savings
from layerstore.store.gc import execute, plan_gc
from layerstore.store.optimize import optimize
from layerstore.store.records import CacheRecord
from layerstore.store.store import Store
from tests.support.measure import assert_sums_are_true, noise, put_image, put_layer

NAMES = st.sampled_from(["a", "b", "c"])
FILES = st.dictionaries(
    st.sampled_from([b"x", b"y", b"d/z"]),
    st.tuples(st.integers(0, 4), st.sampled_from([1, 700, 70_000, 600_000])),
    min_size=1,
)


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="ledger-"))
        self.store = Store.open(self.root / "store", create=True)
        self.steps = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.root)

    @rule(name=NAMES, layers=st.lists(FILES, min_size=1, max_size=3))
    def build(self, name, layers):
        self.steps += 1
        with self.store.begin("build") as session:
            ids = [
                put_layer(session, {p: noise(seed, size) for p, (seed, size) in files.items()})
                for files in layers
            ]
            put_image(session, ids, name, created=self.steps % 28)

    @rule(files=FILES)
    def remember_a_step(self, files):
        self.steps += 1
        with self.store.begin("step") as session:
            layer = put_layer(session, {p: noise(s, n) for p, (s, n) in files.items()})
            session.cache_put(CacheRecord(str(self.steps), layer, b"", float(self.steps)))

    @rule(files=FILES)
    def leave_a_session_behind(self, files):
        with self.store.begin("waste") as session:
            for seed, size in files.values():
                session.put_bytes(noise(("waste", seed), size))
            session._finish_packs()

    @rule()
    def forget_steps(self):
        self.store.cache_drop([record.key for record in self.store.cache_records()])

    @precondition(lambda self: self.store.tags())
    @rule(data=st.data())
    def drop_a_name(self, data):
        name = data.draw(st.sampled_from(sorted(self.store.tags())))
        image_id = self.store.tags()[name]
        inventory = take_inventory(self.store)
        attribution = attribute(inventory, ChunkReader(self.store, inventory))
        last = list(self.store.tags().values()).count(image_id) == 1
        freed = freed_by_removing(inventory, attribution, [image_id]) if last else 0
        before = take_df(self.store).ledger.size_of(Owner.UNREFERENCED)
        self.store.untag(name)
        assert take_df(self.store).ledger.size_of(Owner.UNREFERENCED) - before == freed

    @precondition(lambda self: self.store.tags())
    @rule(data=st.data(), size=st.integers(0, 20_000))
    def mount_and_write(self, data, size):
        image = self.store.resolve(data.draw(st.sampled_from(sorted(self.store.tags()))))
        self.steps += 1
        upper = self.store.root / "uppers" / f"v{self.steps}"
        (upper / "upper").mkdir(parents=True)
        (upper / "upper" / "written").write_bytes(os.urandom(size))
        view = {"image_id": image.image_id, "layers": image.layers, "upper": str(upper)}
        (self.store.root / "views" / f"v{self.steps}.json").write_text(json.dumps(view))

    @rule()
    def unmount_all(self):
        for record in (self.store.root / "views").glob("*.json"):
            record.unlink()
        for upper in (self.store.root / "uppers").iterdir():
            shutil.rmtree(upper)

    @rule(keep_cache=st.booleans())
    def collect(self, keep_cache):
        execute(plan_gc(self.store, keep_cache=keep_cache, rewrite_dead_fraction=0.0))
        ledger = take_df(self.store).ledger
        assert ledger.size_of(Owner.UNREFERENCED) == 0

    @rule()
    def optimize(self):
        optimize(self.store, contents_in_order(self.store), level=3)

    @invariant()
    def what_is_remembered_is_true(self):
        assert_sums_are_true(self.store)

    @invariant()
    def everything_adds_up(self):
        usage = take_df(self.store)
        assert_exact(usage.ledger)
        assert sum(row.size for row in usage.rows) + usage.slack == usage.disk_size
        done = subprocess.run(
            ["du", "-s", "-B1", self.store.root], capture_output=True, check=True, text=True
        )
        assert usage.disk_size == int(done.stdout.split()[0])

    @invariant()
    def savings_and_the_rest_are_the_disk(self):
        savings = take_savings(self.store)
        stored = savings.size_of(Scheme.STORED)
        total = stored + savings.not_counted_size + savings.writable_size
        assert total == take_df(self.store).disk_size
        assert savings.not_counted_size >= 0


LedgerMachine.TestCase.settings = settings(max_examples=20, stateful_step_count=15, deadline=None)
TestLedger = LedgerMachine.TestCase
