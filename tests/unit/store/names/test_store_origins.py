"""What a store remembers of how images came: lives as long as the image, no longer, no shorter."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import Digest, sha256_digest
from layerstore.errors import FormatError
from layerstore.formats.origins import (
    Encoding,
    Origins,
    decode_origins,
    encode_origins,
    replace_origins,
    with_origins_of,
)
from layerstore.formats.reference import names_that_go
from layerstore.measure.ledger import Owner, take_ledger
from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.collect.retention import KeepRules
from layerstore.store.config import parse_config
from layerstore.store.names.origins import keeps_origins
from layerstore.store.store import Store
from tests.support.store import add_image, blobs_of, diff_id_of, noise, put_layer, text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from layerstore.store.catalog.rows import ImageRecord

FILES = {b"bin/sh": text(1, 3_000)}
ORIGINAL = {b"original": noise("gz", 40_000)}
KEPT = diff_id_of(ORIGINAL)
LAYER = diff_id_of(FILES)
DOCUMENT = b'{"schemaVersion":2,"what":"the manifest it came under"}'
COMPRESSED = Digest("sha256:" + "c" * 64)
MADE_AGAIN = Digest("sha256:" + "d" * 64)
ORIGINS = Origins(
    {sha256_digest(DOCUMENT): "application/vnd.oci.image.manifest.v1+json"},
    {
        COMPRESSED: Encoding(LAYER, 40_000, kept=KEPT),
        MADE_AGAIN: Encoding(LAYER, 700, recipe={"codec": "zlib", "level": 6}),
    },
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def load(
    root: Path,
    names: Sequence[str],
    origins: Origins = ORIGINS,
    documents: Sequence[bytes] = (DOCUMENT,),
) -> ImageRecord:
    """Add the image of FILES with what is remembered of it, as an adoption does."""
    with Store.open(root, create=True) as store, store.begin("load") as session:
        put_layer(session, FILES)
        if origins.kept:
            put_layer(session, ORIGINAL)
        config, manifest = blobs_of([LAYER])
        manifest = replace_origins(manifest, origins)
        return session.publish_image(config, manifest, [LAYER], names=names, documents=documents)


def collect(root: Path) -> int:
    with Store.open(root) as store:
        return execute(plan_gc(store)).freed_bytes


def test_annotations_and_origins_are_one_thing() -> None:
    manifest = json.dumps({"annotations": encode_origins(ORIGINS)}).encode()
    assert decode_origins(manifest) == ORIGINS
    assert ORIGINS.kept == (KEPT,)
    assert not decode_origins(b'{"annotations":{"other":"x"}}')


@pytest.mark.parametrize(
    "annotations",
    [
        {"layerstore.origin/sha256:../../x": "x"},
        {"layerstore.encoding/sha256:" + "c" * 64: "{}"},
        {"layerstore.encoding/sha256:" + "c" * 64: "not json"},
        {"layerstore.encoding/sha256:" + "c" * 64: '{"diff_id":"x","size":1,"kept":"y"}'},
        {"layerstore.encoding/sha256:" + "c" * 64: "[" * 5000},
    ],
)
def test_what_is_malformed_is_refused(annotations: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        decode_origins(json.dumps({"annotations": annotations}).encode())


def test_a_layer_that_can_be_made_again_wins_over_its_kept_original() -> None:
    made = Encoding(LAYER, 40_000, recipe={"codec": "zlib"})
    kept = json.dumps({"annotations": encode_origins(ORIGINS)}).encode()
    again = json.dumps({"annotations": encode_origins(Origins({}, {COMPRESSED: made}))}).encode()
    for one, other in ((kept, again), (again, kept)):
        assert decode_origins(with_origins_of(one, other)).encodings[COMPRESSED] == made


def test_gc_keeps_what_is_remembered_and_takes_it_with_the_image(root: Path) -> None:
    image = load(root, ["web:1"])
    assert collect(root) == 0
    with Store.open(root) as store:
        assert store.origins(image) == ORIGINS
        assert store.get_blob(sha256_digest(DOCUMENT)) == DOCUMENT
        assert store.has_layer(KEPT)
        assert check(store, read_data=True).ok
        store.untag("web:1")
    assert collect(root) > 40_000
    with Store.open(root) as store:
        assert not store.has_blob(sha256_digest(DOCUMENT))
        assert not store.has_layer(KEPT)


def test_an_older_layerstore_may_not_collect_it(root: Path) -> None:
    load(root, ["web:1"], Origins(), ())
    assert "origins" not in (root / "config.toml").read_text()
    load(root, ["web:1"])
    config = (root / "config.toml").read_bytes()
    assert parse_config(config).origins
    # What an older version does not know it may only read.
    assert not parse_config(config.replace(b'"origins"', b'"what is new"')).writable
    with Store.open(root) as store:
        assert keeps_origins(store.paths)


def test_the_same_image_from_elsewhere_is_remembered_too(root: Path) -> None:
    load(root, ["web:1"])
    other = b'{"schemaVersion":2,"what":"another registry compressed it anew"}'
    more = Origins({sha256_digest(other): "x"}, {})
    load(root, ["web:2"], more, [other])
    load(root, ["web:3"], Origins(), ())  # built here once more
    assert collect(root) < 3_000  # the manifests that are replaced
    with Store.open(root) as store:
        found = store.origins(store.resolve("web:1"))
        assert found.documents == {**ORIGINS.documents, **more.documents}
        assert found.encodings == ORIGINS.encodings
        assert check(store, read_data=True).ok


def test_loads_at_once_lose_nothing(root: Path) -> None:
    documents = [b'{"schemaVersion":2,"number":%d}' % number for number in range(8)]
    add_image(root, "other:1", {b"x": b"x"})

    def one(document: bytes) -> None:
        load(root, ["web:1"], Origins({sha256_digest(document): "x"}), [document])

    threads = [threading.Thread(target=one, args=(each,)) for each in documents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with Store.open(root) as store:
        found = store.origins(store.resolve("web:1")).documents
        assert set(found) == {sha256_digest(document) for document in documents}


def test_gc_sees_what_came_while_it_was_at_work(root: Path) -> None:
    load(root, ["web:1"], Origins(), ())
    with Store.open(root) as store:
        plan = plan_gc(store)
        load(root, ["web:1"])  # the same image, under a manifest now
        execute(plan)
        assert store.has_layer(KEPT)
        assert check(store, read_data=True).ok


def test_a_rebuilt_catalog_remembers(root: Path) -> None:
    image = load(root, ["web:1", f"web@{sha256_digest(DOCUMENT)}"], Origins(), ())
    image = load(root, ["web:1"])
    (root / "catalog.sqlite").unlink()
    from layerstore.store.rebuild.rebuild import rebuild_catalog

    rebuild_catalog(str(root))
    with Store.open(root) as store:
        assert store.resolve("web:1") == image
        assert store.origins(image) == ORIGINS
        assert f"web@{sha256_digest(DOCUMENT)}" in store.tags()
        assert check(store, read_data=True).ok
    assert collect(root) < 1_000  # the first manifest, which remembered nothing


def test_check_tells_what_is_lost_of_it(root: Path) -> None:
    image = load(root, ["web:1"])
    with Store.open(root) as store:
        path = root / "blobs" / "sha256" / sha256_digest(DOCUMENT).partition(":")[2]
        path.write_bytes(b"x")
        found = check(store, read_data=False).findings
        assert [(each.problem, each.images) for each in found] == [
            (Problem.BLOB_DAMAGED, (image.image_id,))
        ]
        path.unlink()
        assert check(store, read_data=False).findings[0].problem is Problem.BLOB_MISSING
        with store.catalog.write() as connection:
            connection.execute("DELETE FROM layers WHERE diff_id = ?", (KEPT,))
        problems = {each.problem for each in check(store, read_data=False).findings}
        assert problems == {Problem.BLOB_MISSING, Problem.LAYER_MISSING}


def test_gc_deletes_nothing_while_a_manifest_cannot_be_read(root: Path) -> None:
    image = load(root, ["web:1"])
    add_image(root, "old:1", {b"x": noise(1, 9_000)})
    with Store.open(root) as store:
        store.untag("old:1")
        path = root / "blobs" / "sha256" / image.manifest_digest.partition(":")[2]
        path.write_bytes(path.read_bytes()[:-1])
    from layerstore.store.names import origins

    origins._origins.cache_clear()  # another process does not remember it
    with Store.open(root) as store:
        plan = plan_gc(store)
        assert any("unreadable manifest" in each for each in plan.dangling)


def test_the_ledger_has_a_line_for_originals(root: Path) -> None:
    image = load(root, ["web:1"])
    with Store.open(root) as store:
        ledger = take_ledger(store)
        assert ledger.size_of(Owner.ORIGINALS) >= 40_000
        documents = len(DOCUMENT) + len(store.get_blob(image.image_id))
        assert ledger.size_of(Owner.BLOBS) == documents + len(store.get_blob(image.manifest_digest))
        assert ledger.images[0].freed_size >= 40_000


# -- names with digests


def test_names_with_digests(root: Path) -> None:
    digest = sha256_digest(DOCUMENT)
    image = load(root, ["web:1", f"web@{digest}"])
    with Store.open(root) as store:
        for name in (f"web@{digest}", f"docker.io/library/web:9@{digest}", digest, "web:1"):
            assert store.resolve(name) == image, name
        assert store.resolve(f"elsewhere/app@{digest}") == image  # by its document
        store.tag("web:2", image.image_id)
        store.untag("web:1")
        assert f"web@{digest}" in store.tags()
        store.untag("web:2")
        assert store.tags() == {}


def test_a_digest_goes_with_its_repositorys_last_tag_only() -> None:
    at = "@sha256:" + "a" * 64
    names = ["a:1", "a:2", "a" + at, "b" + at, "b:1"]
    assert names_that_go(["a:1"], names) == ["a:1"]
    assert names_that_go(["a:1", "a:2"], names) == ["a:1", "a:2", "a" + at]
    assert names_that_go(["a" + at], names) == ["a" + at]
    assert names_that_go(["b:1"], names) == ["b:1", "b" + at]


def test_rules_take_a_digest_with_its_tag(root: Path) -> None:
    digest = sha256_digest(DOCUMENT)
    load(root, ["web:1", f"web@{digest}"])
    add_image(root, "web:2", {b"y": b"y"})
    with Store.open(root) as store:
        plan = plan_gc(store, keep=KeepRules(keep_last=2))
        assert plan.dropped.names == ()
        plan = plan_gc(store, keep=KeepRules(keep_last=0))
        gone = {named.name for named in plan.dropped.names}
        assert gone == {"web:1", "web:2", f"web@{digest}"}
        plan = plan_gc(store, keep=KeepRules(keep_last=0, keep_tags=("web:1",)))
        assert {named.name for named in plan.dropped.names} == {"web:2"}
