"""A store against a dict: any order of publishing, naming, collecting, reopening, rebuilding."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.store import Store
from layerstore.store.writing.session import WriteSession  # noqa: TC001 -- hypothesis looks at annotations
from tests.support.store import (
    Files,
    blobs_of,
    disk_bytes,
    noise,
    put_image,
    put_unpublished_layer,
    read_image,
)

NAMES = st.sampled_from(["a:1", "b:1", "c:1"])
LAYERS = st.lists(st.integers(0, 5), min_size=1, max_size=3)


def files_of(number: int) -> Files:
    """Neighbouring numbers share half of their files; some are large enough to be cut."""
    parts = {b"f%d" % n: noise(n, 2_000 + 700 * n) for n in range(number, number + 4)}
    return parts | {b"big": noise(number // 2, 400_000)} if number % 2 else parts


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="layerstore-machine-"))
        self.store = Store.open(self.root / "store", create=True)
        self.names: dict[str, list[Files]] = {}
        self.session: WriteSession | None = None
        self.pending: list[tuple[object, Files]] = []

    def teardown(self) -> None:
        self.end_session()
        self.store.close()
        shutil.rmtree(self.root)

    @rule(name=NAMES, layers=LAYERS)
    def publish(self, name: str, layers: list[int]) -> None:
        content = [files_of(number) for number in layers]
        with self.store.begin("publish") as session:
            put_image(session, *content, names=[name])
        self.names[name] = content

    @rule(name=NAMES)
    def untag(self, name: str) -> None:
        if self.names.pop(name, None) is not None:
            self.store.untag(name)

    @rule(old=NAMES, new=NAMES)
    def tag(self, old: str, new: str) -> None:
        if old in self.names:
            self.store.tag(new, self.store.resolve(old).image_id)
            self.names[new] = self.names[old]

    @rule(number=st.integers(0, 5))
    def put_in_long_session(self, number: int) -> None:
        if self.session is None:
            self.session = self.store.begin("long")
        self.pending.append(
            (put_unpublished_layer(self.session, files_of(number)), files_of(number))
        )

    @precondition(lambda self: self.pending)
    @rule(name=NAMES)
    def publish_long_session(self, name: str) -> None:
        assert self.session is not None
        diff_ids = []
        for record, _ in self.pending:
            self.session.publish_layer(record)  # type: ignore[arg-type]
            diff_ids.append(record.diff_id)  # type: ignore[attr-defined]
        self.session.publish_image(*blobs_of(diff_ids), diff_ids, names=[name])
        self.names[name] = [files for _, files in self.pending]
        self.end_session()

    @rule()
    def end_session(self) -> None:
        if self.session is not None:
            self.session.close()
        self.session = None
        self.pending = []

    @rule(sparse=st.sampled_from([0.01, 0.25, 0.9]))
    def collect(self, sparse: float) -> None:
        before = disk_bytes(self.store.root)
        plan = plan_gc(self.store, rewrite_dead_fraction=sparse)
        report = execute(plan)
        assert report.freed_bytes == plan.freed_bytes
        if self.session is None:
            assert before - disk_bytes(self.store.root) == plan.freed_bytes
            assert plan.deferred_bytes == 0

    @rule()
    def reopen(self) -> None:
        if self.session is None:
            self.store.close()
            self.store = Store.open(self.root / "store")

    @rule()
    def rebuild(self) -> None:
        self.store.rebuild_catalog()

    @invariant()
    def names_are_right(self) -> None:
        assert set(self.store.tags()) == set(self.names)

    @invariant()
    def everything_reads_back(self) -> None:
        for name, layers in self.names.items():
            assert read_image(self.store, name) == layers

    @rule()
    def check(self) -> None:
        report = check(self.store, read_data=True)
        assert report.ok, report.findings


StoreMachine.TestCase.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestStore = StoreMachine.TestCase
