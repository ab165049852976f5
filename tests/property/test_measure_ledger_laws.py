"""The ledger adds up after any history: puts, names moved and dropped, views, cache, gc, waste.

Held to ``du``, which knows nothing of packs.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from layerstore.digest import sha256_digest
from layerstore.formats.origins import Encoding, Origins
from layerstore.image.optimize import contents_in_order
from layerstore.measure.attribution import attribute
from layerstore.measure.charges import take_charges
from layerstore.measure.df import take_df
from layerstore.measure.inventory import ChunkReader, take_inventory
from layerstore.measure.ledger import Owner, assert_exact
from layerstore.measure.removing import freed_by_removing, removal_shares
from layerstore.measure.savings import Scheme, take_savings
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.records import CacheRecord
from layerstore.store.rewriting.optimize import optimize
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

    @rule(name=NAMES, files=FILES, index=st.sampled_from([b'{"index":1}', b'{"index":2}']))
    def load(self, name, files, index):
        """With compressed originals that are kept, and an index that other images came under."""
        self.steps += 1
        with self.store.begin("load") as session:
            layer = put_layer(session, {p: noise(seed, size) for p, (seed, size) in files.items()})
            kept = put_layer(session, {b"original": noise(("gz", layer), 30_000)})
            encoding = Encoding(layer, 30_000, kept=kept)
            origins = Origins(
                {sha256_digest(index): "application/x"}, {sha256_digest(layer.encode()): encoding}
            )
            put_image(
                session, [layer], name, created=self.steps % 28, origins=origins, documents=[index]
            )

    @precondition(lambda self: self.store.tags())
    @rule(data=st.data())
    def drop_names(self, data):
        tags = self.store.tags()
        names = data.draw(st.lists(st.sampled_from(sorted(tags)), min_size=1, unique=True))
        staying = {image_id for name, image_id in tags.items() if name not in names}
        gone = [tags[name] for name in names if tags[name] not in staying]
        inventory = take_inventory(self.store)
        attribution = attribute(inventory, ChunkReader(self.store, inventory))
        shares = removal_shares(inventory, attribution, gone)
        ledger = take_df(self.store).ledger
        freed_alone = {image.image_id: image.freed_size for image in ledger.images}
        for share in shares:
            assert share.alone_bytes == freed_alone[share.image_id] <= share.added_bytes
        before = ledger.size_of(Owner.UNREFERENCED)
        for name in names:
            self.store.untag(name)
        freed = take_df(self.store).ledger.size_of(Owner.UNREFERENCED) - before
        assert freed == sum(share.added_bytes for share in shares)
        assert freed == freed_by_removing(inventory, attribution, gone)

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

    @rule(beside_a_command=st.booleans())
    def collect_what_df_says(self, beside_a_command):
        with self.store.begin("beside") if beside_a_command else contextlib.nullcontext():
            said = take_df(self.store)
            before = self.collectable_bytes()
            report = execute(plan_gc(self.store, measure=False))
            assert said.doubt == ""
            assert said.reclaimable == report.freed_bytes == before - self.collectable_bytes()
            assert said.deferred == report.deferred_bytes

    def collectable_bytes(self):
        places = (self.store.root / "packs", self.store.root / "blobs", self.store.root / "tmp")
        files = [path for place in places for path in place.rglob("*") if path.is_file()]
        return sum(path.stat().st_size for path in files)

    @rule()
    def optimize(self):
        optimize(self.store, contents_in_order(self.store), level=3)

    @invariant()
    def what_is_remembered_is_true(self):
        assert_sums_are_true(self.store)

    @invariant()
    def parts_of_rows_are_the_file_contents(self):
        charges = take_charges(self.store)
        ledger = take_df(self.store).ledger
        owners = (Owner.EXCLUSIVE, Owner.SHARED, Owner.ORIGINALS)
        assert charges.contents_size == sum(map(ledger.size_of, owners))
        for rows in (
            charges.rows_by_image(),
            charges.rows(lambda layer, _: layer),
            charges.rows(lambda _, file: file.path),
        ):
            assert sum(row.share_size for row in rows.values()) == charges.contents_size
        assert sum(f.holding.share_size for f in charges.of_files()) == charges.contents_size

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
