"""Collectors and optimizations with writers, readers and removals at every turn they take.

gc and optimize hold the catalog lock for short turns; whatever others do happens between
two of them. Here it does, before every turn, driven by one seed: writers that stop at
each step of putting, committing and publishing, removals, views, checks, other
collections. Everything published must read back through a fresh store after every
collection, and no reference may ever dangle.
"""

from __future__ import annotations

import contextlib
import json
import random
from typing import TYPE_CHECKING

import pytest

from layerstore.image.layers.similar import SimilarFiles
from layerstore.image.optimize import contents_in_order
from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import GcRunningError, LayerNotFoundError
from layerstore.store.rewriting.optimize import optimize
from layerstore.store.store import Store
from tests.support.store import (
    Files,
    blobs_of,
    disk_bytes,
    noise,
    put_unpublished_layer,
    read_image,
    read_layer,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from layerstore.digest import DiffId
    from layerstore.store.writing.session import WriteSession

PARTS = 4
LEVEL = 6


def part(number: int, version: int) -> bytes:
    """A file that resembles its other versions."""
    data = bytearray(noise(f"part {number}", 9_000))
    for change in range(version):
        data[change * 700 : change * 700 + 60] = noise(f"{number}.{change}", 60)
    return bytes(data)


class History:
    """One random history of a store."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.random = random.Random(seed)
        self.names: dict[str, Files] = {}
        self.views: dict[str, Files] = {}
        self.contents: dict[DiffId, Files] = {}
        self.writers: list[Iterator[None]] = []
        self.counter = 0
        Store.open(root, create=True).close()

    def files(self) -> Files:
        chosen = self.random.sample(range(PARTS), self.random.randint(1, 3))
        files = {b"lib/%d" % n: part(n, self.random.randrange(4)) for n in chosen}
        if self.random.random() < 0.3:
            files[b"alone"] = noise(self.random.randrange(6), 30_000)
        return files

    def writer(self) -> Iterator[None]:
        """Publish one to three images in one session, pausing wherever others may get in."""
        with Store.open(self.root) as store, store.begin("writer") as session:
            like = SimilarFiles(store)
            contents = [self.files() for _ in range(self.random.randint(1, 3))]
            records = []
            for files in contents:
                records.append(put_unpublished_layer(session, files, like))
                yield
            if self.random.random() < 0.5:
                session._settle()
                yield
                session._close_groups()
                sealed = session._pipeline.flush()
                yield
                if sealed:
                    session._commit_packs(sealed)
                yield
            if self.random.random() < 0.15:
                return  # gives up
            for files, record in zip(contents, records, strict=True):
                session.publish_layer(record)
                yield
                self.publish(session, record.diff_id, files)
                yield
            known = self.random.choice(sorted(self.contents))
            with contextlib.suppress(LayerNotFoundError):
                session.hold_layers([known])  # of an image that is gone, as likely as not
                yield
                self.publish(session, known, self.contents[known])
                yield

    def publish(self, session: WriteSession, diff_id: DiffId, files: Files) -> None:
        self.contents[diff_id] = files
        self.counter += 1
        name = f"n{self.random.randrange(6)}:latest"
        session.publish_image(*blobs_of([diff_id], str(self.counter)), [diff_id], names=[name])
        self.names[name] = files

    def step(self) -> None:
        """Let something else happen."""
        choice = self.random.random()
        if choice < 0.25 and len(self.writers) < 3:
            self.writers.append(self.writer())
        elif choice < 0.75 and self.writers:
            writer = self.random.choice(self.writers)
            if next(writer, "end") == "end":
                self.writers.remove(writer)
        elif choice < 0.9 and self.names:
            self.remove()
        elif choice < 0.94:
            self.mount()
        elif choice < 0.96:
            with contextlib.suppress(GcRunningError), Store.open(self.root) as store:
                assert not plan_gc(store).dangling

    def remove(self) -> None:
        name = self.random.choice(sorted(self.names))
        del self.names[name]
        with Store.open(self.root) as store:
            if self.random.random() < 0.5:
                store.untag(name)
                return
            image_id = store.resolve(name).image_id
            for other in [n for n, i in store.tags().items() if i == image_id]:
                self.names.pop(other, None)
            store.remove_image(image_id)

    def mount(self) -> None:
        if self.views and self.random.random() < 0.5:
            view = self.random.choice(sorted(self.views))
            (self.root / "views" / view).unlink()
            del self.views[view]
        elif self.names:
            name = self.random.choice(sorted(self.names))
            with Store.open(self.root) as store:
                image = store.resolve(name)
                self.counter += 1
                view = f"v{self.counter}.json"
                record = {"image_id": image.image_id, "layers": list(image.layers)}
                (self.root / "views" / view).write_text(json.dumps(record))
                assert store.catalog.image_after_writers(image.image_id) is not None
            self.views[view] = self.names[name]

    @contextlib.contextmanager
    def beside(self) -> Iterator[Store]:
        """Yield a store before whose every write others get some steps."""
        with Store.open(self.root) as store:
            write = store.catalog.write

            def crowded() -> contextlib.AbstractContextManager[sqlite3.Connection]:
                for _ in range(self.random.randrange(4)):
                    self.step()
                return write()

            store.catalog.write = crowded  # type: ignore[method-assign]
            yield store

    def collect(self) -> None:
        fraction = self.random.choice([0.01, 0.25, 0.5])
        with self.beside() as store:
            plan = plan_gc(store, rewrite_dead_fraction=fraction, measure=False)
            for _ in range(self.random.randrange(3)):
                self.step()
            execute(plan)

    def optimize(self) -> None:
        with self.beside() as store:
            optimize(store, contents_in_order(store), level=LEVEL, workers=1)

    def finish_writers(self) -> None:
        for writer in self.writers:
            for _ in writer:
                pass
        self.writers.clear()

    def verify(self) -> None:
        with Store.open(self.root) as store:
            for name, files in self.names.items():
                assert read_image(store, name) == [files], name
            for view, files in self.views.items():
                record = json.loads((self.root / "views" / view).read_text())
                assert [read_layer(store, diff_id) for diff_id in record["layers"]] == [files]
            assert set(store.tags()) == set(self.names)

    def verify_quiet(self) -> None:
        """Nobody else is at work: plans are exact, and nothing is left over."""
        self.finish_writers()
        self.verify()
        with Store.open(self.root) as store:
            report = check(store, read_data=True)
            assert report.ok, report.findings
            before = disk_bytes(self.root)
            plan = plan_gc(store)
            report = execute(plan)
            assert before - disk_bytes(self.root) == plan.freed_bytes == report.freed_bytes
            assert disk_bytes(self.root) == plan.size_after
            assert plan.deferred_bytes == 0
            assert [row for row in store.catalog.pack_rows() if row.lease is not None] == []
        self.verify()


@pytest.mark.parametrize("seed", range(6))
def test_nothing_is_lost_whatever_happens_between_two_turns(tmp_path: Path, seed: int) -> None:
    history = History(tmp_path / "store", seed)
    for _ in range(12):
        for _ in range(history.random.randrange(8)):
            history.step()
        if history.random.random() < 0.7:
            history.collect()
        else:
            history.optimize()
        history.verify()
        if history.random.random() < 0.2:
            history.verify_quiet()
    history.verify_quiet()
