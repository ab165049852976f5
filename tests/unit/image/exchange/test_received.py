"""What came of an image before its pull failed: fetched once, kept for a day, and then freed."""

from __future__ import annotations

import hashlib
import json
import threading
from typing import TYPE_CHECKING

import msgspec
import pytest

from layerstore.errors import LayerstoreError, UnsafeContentError
from layerstore.formats import oci
from layerstore.formats.reference import parse_reference
from layerstore.image.exchange.originals import Originals
from layerstore.image.exchange.spooled_blob import SpooledBlob
from layerstore.image.pulling import Puller
from layerstore.progress import Silent
from layerstore.store.check.check import check
from layerstore.store.collect.explain import explain
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.collect.received import KEPT_S, PREFIX
from layerstore.store.store import Store
from tests.support.layouts import COMPRESSORS, tar_of
from tests.support.registry_stub import World, says, stub_registry
from tests.support.store import add_image, noise, read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from layerstore.progress import Progress
    from tests.support.registry_stub import Stub, StubRegistry

FILES = [{f"f{n}": noise(f"received {n}", 20_000 + n)} for n in range(3)]
TARS = [tar_of(files) for files in FILES]


def config_of(tars: Sequence[bytes]) -> bytes:
    diff_ids = [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    return json.dumps({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }).encode()  # fmt: skip


class Remote:
    """An image of three layers in a registry, and who pulls it."""

    def __init__(self, stub: StubRegistry, compression: str, tars: Sequence[bytes] = TARS) -> None:
        self.stub = stub
        kind = oci.LAYER_TAR_TYPE if compression == "none" else oci.LAYER_GZIP_TYPE
        blobs = [COMPRESSORS[compression](tar) for tar in tars]
        config = config_of(tars)
        layers = [oci.describe(blob, kind) for blob in blobs]
        self.digests = [layer.digest for layer in layers]
        for blob in (config, *blobs):
            stub.put_blob("a", blob)
        manifest = oci.Manifest(config=oci.describe(config, oci.CONFIG_TYPE), layers=tuple(layers))
        self.digest = stub.put_manifest("a", oci.encode_manifest(manifest), "v1", oci.MANIFEST_TYPE)

    def pull(
        self, store: Store, originals: Originals = Originals.AUTO, progress: Progress | None = None
    ) -> list[int]:
        """Pull the image; return which of its layers were asked for, lowest first."""
        self.stub.requests.clear()
        name = parse_reference(f"{self.stub.name}/a:v1")
        with World().client(window_s=0.05, silence_s=5.0) as client:
            puller = Puller(
                store, client.repository(name), lambda _: True,
                originals=originals, progress=progress or Silent(),
            )  # fmt: skip
            assert puller.pull(name).digest == self.digest
        assert read_image(store, name.name) == [
            {path.encode(): data for path, data in files.items()} for files in FILES
        ]
        return self.asked()

    def asked(self) -> list[int]:
        paths = [seen.path for seen in self.stub.requests]
        return [n for n, digest in enumerate(self.digests) if any(digest in path for path in paths)]

    def pull_in_vain(self, store: Store, **options: object) -> None:
        """Pull the image without its last layer."""
        self.stub.break_(self.digests[-1], says(404), times=99)
        with pytest.raises(LayerstoreError, match="404"):
            self.pull(store, **options)  # type: ignore[arg-type]
        self.stub.faults.clear()
        assert f"{self.stub.name}/a:v1" not in store.tags()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


@pytest.fixture
def stub() -> Iterator[StubRegistry]:
    with stub_registry() as running:
        yield running


def rows(store: Store) -> list[str]:
    return [each.key for each in store.cache_records() if each.key.startswith(PREFIX)]


def grow_old(store: Store, seconds: float) -> None:
    """Let all that was received be so much older, and something else be used now."""
    with store.catalog.write() as connection:
        connection.execute("UPDATE build_cache SET created = created - ?", (seconds,))
        connection.execute("UPDATE step_uses SET used = used - ?", (seconds,))
    add_image(store.root, "other:1", {b"x": b"y"})


@pytest.mark.parametrize("compression", ["gzip", "go", "none"])
@pytest.mark.parametrize("originals", [Originals.AUTO, Originals.DROP])
def test_a_layer_that_came_whole_is_fetched_once(
    store: Store, stub: StubRegistry, compression: str, originals: Originals
) -> None:
    remote = Remote(stub, compression)
    remote.pull_in_vain(store, originals=originals)
    execute(plan_gc(store))
    assert remote.pull(store, originals) == [2]
    assert not rows(store), "the image names them now"
    assert check(store, read_data=True).ok


@pytest.fixture
def others_first(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what waits until two layers came whole."""
    whole = threading.Semaphore(0)
    fill = SpooledBlob.fill

    def noted(self: SpooledBlob, *given: object) -> None:
        fill(self, *given)  # type: ignore[arg-type]
        whole.release()

    def wait() -> None:
        assert all(whole.acquire(timeout=20) for _ in "12")

    monkeypatch.setattr(SpooledBlob, "fill", noted)
    return wait


def test_layers_beside_the_one_that_fails_are_kept_too(
    store: Store, stub: StubRegistry, others_first: Callable[[], None]
) -> None:
    remote = Remote(stub, "gzip")

    def fail_last(answering: Stub) -> None:
        others_first()
        answering.error(404, "BLOB_UNKNOWN")

    stub.break_(remote.digests[0], fail_last)
    with pytest.raises(LayerstoreError, match="404"):
        remote.pull(store)
    assert remote.pull(store) == [0]


@pytest.mark.parametrize("compression", ["gzip", "go", "none"])
def test_platforms_before_the_one_that_fails_are_kept(
    store: Store, stub: StubRegistry, compression: str
) -> None:
    """The second platform comes first, whole, and nothing names it until all are there."""
    first, second = Remote(stub, compression, TARS[:1]), Remote(stub, compression, TARS[1:])
    repository = stub.repository("a")
    entries = [
        msgspec.structs.replace(
            oci.describe(repository.manifests[each.digest][0], oci.MANIFEST_TYPE),
            platform=oci.Platform(architecture=architecture, os="linux"),
        )
        for each, architecture in ((first, "amd64"), (second, "arm64"))
    ]
    index = oci.encode_index(oci.Index(manifests=tuple(entries)))
    stub.put_manifest("a", index, "all", oci.INDEX_TYPE)
    name = parse_reference(f"{stub.name}/a:all")

    def pull() -> None:
        stub.requests.clear()
        with World().client(window_s=0.05, silence_s=5.0) as client:
            puller = Puller(
                store, client.repository(name), lambda _: True,
                originals=Originals.AUTO, progress=Silent(),
            )  # fmt: skip
            puller.pull(name, every=True)

    stub.break_(first.digests[0], says(404), times=99)
    with pytest.raises(LayerstoreError, match="404"):
        pull()
    stub.faults.clear()
    assert name.name not in store.tags()
    assert len(rows(store)) >= len(second.digests)
    execute(plan_gc(store))
    assert not store.images()
    pull()
    assert (first.asked(), second.asked()) == ([0], [])
    assert not rows(store), "the images name them now"
    execute(plan_gc(store))
    assert len(store.images()) == 2
    assert check(store, read_data=True).ok


def test_nothing_more_is_taken_of_an_image_that_is_refused(
    store: Store, stub: StubRegistry, others_first: Callable[[], None]
) -> None:
    remote = Remote(stub, "none", [tar_of({"../x": b"x"}), *TARS[1:]])

    def answer_last(_: Stub) -> bool:
        others_first()
        return False

    stub.break_(remote.digests[0], answer_last)
    with pytest.raises(UnsafeContentError):
        remote.pull(store)
    assert not rows(store)
    assert not list(store.catalog.layers())


def test_a_layer_that_lies_is_not_kept(store: Store, stub: StubRegistry) -> None:
    remote = Remote(stub, "gzip")
    honest = stub.repository("a").blobs[remote.digests[1]]
    stub.repository("a").blobs[remote.digests[1]] = honest[:-1] + b"x"
    with pytest.raises(LayerstoreError):
        remote.pull(store)
    stub.repository("a").blobs[remote.digests[1]] = honest
    assert f"{PREFIX}{remote.digests[1][7:]}" not in rows(store)
    assert 1 in remote.pull(store)


def test_who_interrupts_keeps_what_is_done(store: Store, stub: StubRegistry) -> None:
    remote = Remote(stub, "none")

    class Interrupting(Silent):
        begun = 0

        def start(self, label: str, total: int | None) -> None:
            self.begun += 1
            if self.begun == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.pull(store, progress=Interrupting())
    assert remote.pull(store) == [2]


def test_gc_frees_what_nobody_came_back_for_in_a_day(store: Store, stub: StubRegistry) -> None:
    remote = Remote(stub, "go")
    remote.pull_in_vain(store)
    layers = {each.diff_id for each in store.cache_records()}
    reasons = explain(store, min(filter(None, layers)))
    assert "a pull that did not end" in str(reasons)
    grow_old(store, KEPT_S - 60)
    assert plan_gc(store).layers == ()
    grow_old(store, 120)
    plan = plan_gc(store)
    assert set(plan.layers) == layers
    execute(plan)
    assert not rows(store)
    assert remote.pull(store) == [0, 1, 2]


def test_who_comes_back_in_vain_has_another_day(store: Store, stub: StubRegistry) -> None:
    remote = Remote(stub, "go")
    remote.pull_in_vain(store)
    grow_old(store, KEPT_S + 60)
    remote.pull_in_vain(store)
    execute(plan_gc(store))
    assert remote.pull(store) == [2]
