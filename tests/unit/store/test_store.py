from __future__ import annotations

import errno
import io
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import ChunkId, DiffId, Digest, ImageId, blake3_id
from layerstore.errors import (
    FormatError,
    InputError,
    IntegrityError,
    StorageError,
    UnsupportedVersionError,
)
from layerstore.formats.pack import Item, ItemKind
from layerstore.formats.reference import ReferenceSyntaxError, parse_tag_name
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.catalog.rows import ImageRecord
from layerstore.store.config import StoreNotFoundError
from layerstore.store.failures import (
    CatalogDamagedError,
    ChunkNotFoundError,
    CorruptPackError,
    ImageNotFoundError,
    LayerNotFoundError,
    ShortSourceError,
    StoreExistsError,
)
from layerstore.store.names.names import AmbiguousIdError
from layerstore.store.names.tags import insert_image
from layerstore.store.packs.pack_writer import PackWriter
from layerstore.store.packs.pipeline import BlockJob, Pipeline
from layerstore.store.records import CacheRecord
from layerstore.store.store import Store
from tests.support.store import (
    add_image,
    assert_sound,
    blobs_of,
    noise,
    put_image,
    put_layer,
    put_unpublished_layer,
    read_image,
    text,
)

if TYPE_CHECKING:
    from pathlib import Path

FILES = {b"etc/motd": b"hello\n", b"usr/lib/big": noise(1, 3_000_000), b"usr/text": text(1, 90_000)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_what_was_published_reads_back_after_reopening(root: Path) -> None:
    image = add_image(root, "web", FILES)
    with Store.open(root) as store:
        assert read_image(store, "web") == [FILES]
        assert store.image(image.image_id) == image
        assert store.images() == [image]
        assert image.size == sum(map(len, FILES.values()))
        assert store.tags() == {"web:latest": image.image_id}


def test_nothing_is_visible_without_publishing(root: Path) -> None:
    with Store.open(root, create=True) as store:
        with store.begin("test") as session:
            record = put_unpublished_layer(session, FILES)
        assert list(store.layers()) == []
        assert not store.has_chunk(record.tree[0][1])
        assert list((root / "tmp").iterdir()) == []
        assert list((root / "locks").glob("lease-*")) == []


def test_the_same_content_is_stored_once(root: Path) -> None:
    with Store.open(root, create=True) as store, store.begin("test") as session:
        put_layer(session, FILES)
        first = session.stats
        put_layer(session, FILES)
        with store.begin("other") as other:
            put_layer(other, FILES)
            assert other.stats.new_bytes == 0
        assert session.stats.stored_bytes == first.stored_bytes
        assert session.stats.reused_bytes >= first.new_bytes - 1000


def test_modes_are_private_under_any_umask(root: Path) -> None:
    old = os.umask(0)
    try:
        add_image(root, "a", {b"f": b"1"})
        os.umask(0o777)
        add_image(root, "b", {b"f": b"2"})
    finally:
        os.umask(old)
    for path in [root, *root.rglob("*")]:
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected, path


def test_a_file_system_without_modes_is_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:  # as vfat does, root or not
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "chmod", refuse)
    with pytest.raises(StorageError, match="could not make the store") as caught:
        Store.open(tmp_path / "store", create=True)
    assert "keeps no modes (vfat, exFAT)" in str(caught.value.hint)


def test_stream_of_any_read_size_gives_the_same_references(root: Path) -> None:
    data = noise(5, 2_500_000)

    def reader(step: int):
        position = 0

        def read(count: int) -> bytes:
            nonlocal position
            part = data[position : position + min(count, step)]
            position += len(part)
            return part

        return read

    with Store.open(root, create=True) as store, store.begin("test") as session:
        whole = session.put_bytes(data)
        assert session.put_stream(reader(1000), len(data)) == whole
        assert session.put_stream(reader(1 << 30), len(data)) == whole
        assert session.put_bytes(b"") == ()
        with pytest.raises(ShortSourceError, match="shrank"):
            session.put_stream(reader(70_000), len(data) + 1)


def test_publishing_refuses_what_dangles(root: Path) -> None:
    with Store.open(root, create=True) as store, store.begin("test") as session:
        record = put_unpublished_layer(session, {b"f": b"x"})
        ghost = ChunkId(blake3_id(b"nowhere"))
        import msgspec

        with pytest.raises(IntegrityError, match="does not have"):
            session.publish_layer(msgspec.structs.replace(record, recipe=((7, ghost),)))
        other = DiffId(Digest("sha256:" + "0" * 64))
        with pytest.raises(LayerNotFoundError):
            session.publish_image(*blobs_of([other]), [other])
        assert store.images() == []


def test_publishing_refuses_blobs_that_do_not_belong_together(root: Path) -> None:
    with Store.open(root, create=True) as store, store.begin("test") as session:
        layer = put_layer(session, {b"f": b"x"}).diff_id
        config, manifest = blobs_of([layer])
        with pytest.raises(FormatError, match="other layers"):
            session.publish_image(config, manifest, [layer, layer])
        with pytest.raises(FormatError, match="another config"):
            session.publish_image(config + b" ", manifest, [layer])
        for bad in (b"", b"[]", b"\xff", b"{}", b'{"rootfs":{"diff_ids":[1]}}', b"[" * 100_000):
            with pytest.raises(FormatError):
                session.publish_image(bad, manifest, [layer])


def test_names_resolve_as_docker_resolves_them(root: Path) -> None:
    image = add_image(root, "docker.io/library/web:1", {b"f": b"x"})
    with Store.open(root) as store:
        store.tag("web", image.image_id)
        hex_id = image.image_id.removeprefix("sha256:")
        for reference in (
            "web:1",
            "web",
            "docker.io/library/web",
            image.image_id,
            hex_id,
            hex_id[:4],
            hex_id[:12],
            "sha256:" + hex_id[:9],
            f"web@{image.image_id}",
            image.manifest_digest,
        ):
            assert store.resolve(reference) == image, reference
        for reference in ("nginx", "beef", "sha256:" + "0" * 64):
            with pytest.raises(ImageNotFoundError):
                store.resolve(reference)
        for reference in ("", "UPPER", "a b", "../x", "x:" + "t" * 129, "x:ü", "http://x/y", "/x"):
            with pytest.raises(ReferenceSyntaxError):
                store.resolve(reference)


def test_an_ambiguous_prefix_is_refused(root: Path) -> None:
    with Store.open(root, create=True) as store:
        ids = ["sha256:abcd" + str(n) * 60 for n in (1, 2)]
        with store.catalog.write() as connection:
            for image_id in ids:
                insert_image(connection, ImageRecord(image_id, image_id, "", (), 0))
        with pytest.raises(AmbiguousIdError):
            store.resolve("abcd")
        assert store.resolve("abcd1").image_id == ids[0]


@pytest.mark.parametrize("name", ["[::1]:5000/app:1", "index.docker.io/team/app", "HOST/app:1"])
def test_whatever_can_be_written_as_a_name_can_be_given(root: Path, name: str) -> None:
    kept = parse_tag_name(name)
    image = add_image(root, name, {b"f": b"x"})
    with Store.open(root) as store:
        assert store.tags() == {kept: image.image_id}
        assert store.tag(name, image.image_id) == kept
        assert store.resolve(name) == store.resolve(kept) == image
        assert store.pin(name) == kept
        assert store.unpin(name) == kept
        assert store.untag(name) == image.image_id


def test_tag_moves_and_untag_forgets(root: Path) -> None:
    first = add_image(root, "web", {b"f": b"1"})
    second = add_image(root, "web", {b"f": b"2"})
    with Store.open(root) as store:
        assert store.tags() == {"web:latest": second.image_id}
        store.tag("old", first.image_id)
        assert store.untag("old") == first.image_id
        with pytest.raises(ImageNotFoundError):
            store.untag("old")
        with pytest.raises(ImageNotFoundError):
            store.tag("x", ImageId(Digest("sha256:" + "0" * 64)))


def test_build_cache(root: Path) -> None:
    with Store.open(root, create=True) as store:
        with store.begin("test") as session:
            layer = put_layer(session, {b"f": b"x"}).diff_id
            step = CacheRecord("k1", layer, b"v", 1.5)
            empty = CacheRecord("k2", None, b"", 2.5)
            session.cache_put(step)
            session.cache_put(empty)
            with pytest.raises(LayerNotFoundError):
                session.cache_put(CacheRecord("k3", DiffId(Digest("sha256:" + "0" * 64)), b"", 0))
        assert store.cache_get("k1") == step
        assert store.cache_records() == [step, empty]
        with store.catalog.write() as connection:
            connection.execute("DELETE FROM layers")
        assert store.cache_get("k1") is None
        store.cache_drop(["k1", "nothing"])
        assert store.cache_records() == [empty]


def test_missing_things_are_typed(root: Path) -> None:
    with pytest.raises(StoreNotFoundError) as caught:
        Store.open(root)
    assert caught.value.hint
    with Store.open(root, create=True) as store:
        with pytest.raises(ChunkNotFoundError):
            store.read_chunk(ChunkId(bytes(32)))
        with pytest.raises(LayerNotFoundError):
            store.layer(DiffId(Digest("sha256:" + "0" * 64)))
        with pytest.raises(ImageNotFoundError):
            store.image(ImageId(Digest("sha256:" + "0" * 64)))
        with pytest.raises(FormatError):
            store.get_blob("sha256:../../x")


def without_digest(config: str) -> str:
    """Return a config as versions wrote it that gave its numbers no digest."""
    lines = config.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("digest = "))


def test_a_newer_store_is_refused_with_a_hint(root: Path) -> None:
    add_image(root, "web", {b"f": b"x"})
    config = root / "config.toml"
    original = without_digest(config.read_text())
    for old, new in (
        ("format = 2", "format = 3"),
        ("incompatible = []", 'incompatible = ["holograms"]'),
        ("\nmax_bytes = 262144", "\nmax_bytes = 2097152"),
    ):
        config.write_text(original.replace(old, new, 1))
        with pytest.raises(UnsupportedVersionError) as caught:
            Store.open(root)
        assert caught.value.hint
    config.write_text(
        original.replace("read_only_compatible = []", 'read_only_compatible = ["x"]').replace(
            "\ncompatible = []", '\ncompatible = ["y"]'
        )
    )
    with Store.open(root) as store:
        assert store.resolve("web")
        with pytest.raises(Exception, match="only read"):
            store.begin("test")
    for garbage in ("", "x", "[store]\nformat = 1\n", "[store]\nformat = 'one'\n"):
        config.write_text(garbage)
        with pytest.raises(FormatError):
            Store.open(root)


@pytest.mark.parametrize("sizes", [(64, 128, 2048), (64, 256, 1023), (64, 256, 1024)])
def test_cut_parameters_are_refused_or_cut(root: Path, sizes: tuple[int, int, int]) -> None:
    """Whoever wrote config.toml: content is cut as it says, or the store is not opened."""
    Store.open(root, create=True).close()
    config = root / "config.toml"
    written = without_digest(config.read_text())
    for name, old, new in zip(
        ("min", "average", "max"), (16384, 65536, 262144), sizes, strict=True
    ):
        written = written.replace(f"\n{name}_bytes = {old}", f"\n{name}_bytes = {new}")
    config.write_text(written.replace("whole_max_bytes = 262144", "whole_max_bytes = 1"))
    if sizes == (64, 256, 1024):
        add_image(root, "web", {b"f": b"x" * 5000})
        assert_sound(root, {"web": [{b"f": b"x" * 5000}]})
    else:
        with pytest.raises(UnsupportedVersionError, match="parameters"):
            add_image(root, "web", {b"f": b"x" * 5000})


def test_a_newer_catalog_is_refused(root: Path) -> None:
    add_image(root, "web", {b"f": b"x"})
    with Store.open(root) as store, store.catalog.write() as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(UnsupportedVersionError):
        Store.open(root)


def test_a_short_store_is_an_error_not_an_empty_store(root: Path) -> None:
    add_image(root, "web", {b"f": b"x"})
    os.rename(root / "views", root / "gone")
    with pytest.raises(FormatError, match="views"):
        Store.open(root)
    os.rename(root / "gone", root / "views")
    os.rename(root / "config.toml", root / "gone")
    with pytest.raises(FormatError, match=r"config\.toml"):
        Store.open(root)
    with pytest.raises((FormatError, StoreExistsError)):
        Store.open(root, create=True)
    os.rename(root / "gone", root / "config.toml")
    for path in root.glob("catalog.sqlite*"):
        path.unlink()
    with pytest.raises(CatalogDamagedError) as caught:
        Store.open(root)
    assert "--rebuild-index" in (caught.value.hint or "")
    (root / "catalog.sqlite").write_bytes(b"")
    with pytest.raises(CatalogDamagedError):
        Store.open(root, create=True)
    (root / "catalog.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(CatalogDamagedError):
        Store.open(root)


def test_a_foreign_directory_is_not_made_a_store(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StoreExistsError, match=r"thesis\.tex"):
        Store.open(tmp_path, create=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_interrupted_creation_is_finished(root: Path) -> None:
    (root / "packs").mkdir(parents=True)
    (root / "locks").mkdir()
    add_image(root, "web", {b"f": b"x"})


def test_damaged_pack_names_itself_and_heals_nothing_silently(root: Path) -> None:
    image = add_image(root, "web", {b"f": text(3, 100_000)})
    (pack,) = (root / "packs").rglob("*.pack")
    data = bytearray(pack.read_bytes())
    data[200] ^= 1
    pack.write_bytes(data)
    with Store.open(root) as store:
        with pytest.raises(CorruptPackError) as caught:
            read_image(store, "web")
        assert caught.value.pack == pack.stem
        assert caught.value.offset >= 32
        assert store.image(image.image_id) == image
    pack.unlink()
    with Store.open(root) as store, pytest.raises(CorruptPackError, match="missing"):
        read_image(store, "web")


def test_threads_share_a_store(root: Path) -> None:
    files = {b"f%d" % n: text(n, 60_000) for n in range(40)}
    add_image(root, "web", files)
    errors: list[BaseException] = []
    with Store.open(root) as store:

        def work() -> None:
            try:
                for _ in range(5):
                    assert read_image(store, "web") == [files]
            except BaseException as err:  # noqa: BLE001 -- shown by the main thread
                errors.append(err)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []


def test_a_store_survives_fork(root: Path) -> None:
    add_image(root, "web", {b"f": b"x"})
    with Store.open(root) as store:
        read_image(store, "web")
        child = os.fork()
        if child == 0:
            code = 1
            try:
                store.tag("child", store.resolve("web").image_id)
                code = 0 if read_image(store, "web") == [{b"f": b"x"}] else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert set(store.tags()) == {"web:latest", "child:latest"}
        store.tag("parent", store.resolve("child").image_id)


def test_an_error_in_the_worker_reaches_the_caller(root: Path, monkeypatch) -> None:
    from layerstore.store.packs import pipeline

    with Store.open(root, create=True) as store:
        with store.begin("test") as session:
            monkeypatch.setattr(
                pipeline,
                "compress_block",
                lambda raw: (_ for _ in ()).throw(InputError("no")),
            )
            with pytest.raises(InputError):
                put_image(session, FILES)
            with pytest.raises(InputError):
                put_image(session, {b"g": noise(9, 400_000)})
        assert list((root / "tmp").iterdir()) == []
        assert isinstance(store.images(), list)
        assert list((root / "packs").iterdir()) == []


def test_image_record_is_a_plain_tuple() -> None:
    assert ImageRecord._fields == ("image_id", "manifest_digest", "created", "layers", "size")


def test_a_session_that_forgets_ids_writes_none_twice(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerstore.store.writing.putting.KNOWN_CHUNKS", 10)
    files = {b"f%02d" % n: b"content %d" % (n % 25) for n in range(60)}
    add_image(root, "web", files)
    assert_sound(root, {"web": [files]})


def test_a_pack_that_lists_an_item_twice_is_not_sealed(tmp_path: Path) -> None:
    from layerstore.store.packs.codec import compress_block

    writer = PackWriter(str(tmp_path / "pack"))
    item = Item(blake3_id(b"x"), 1)
    for _ in range(2):
        writer.add_frame(ItemKind.DATA, [item], compress_block(b"x"), 1)
    with pytest.raises(FormatError, match="twice"):
        writer.seal()


def test_new_pieces_of_a_long_file_keep_no_buffers_alive(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few new pieces among known ones would each keep the 4 MiB that they were read with."""
    kept: list[int] = []
    submit = Pipeline.submit

    def counted(self: Pipeline, job: BlockJob) -> None:
        kept.extend(len(p.obj) if isinstance(p, memoryview) else len(p) for p in job.parts)
        submit(self, job)

    monkeypatch.setattr(Pipeline, "submit", counted)
    data = noise(1, 3_000_000)
    with Store.open(root, create=True) as store, store.begin("test") as session:
        refs = session.put_stream(io.BytesIO(data).read, len(data))
        session.flush()
        assert store.read_refs(refs) == data
    assert sum(kept) == len(data)


def test_images_are_read_in_one_statement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit between two would look like a damaged catalog."""
    root = tmp_path / "store"
    first = add_image(root, "a", {b"f": b"one"}, {b"g": b"two"})
    second = add_image(root, "b", {b"f": b"one"})
    asked: list[str] = []
    real = Catalog.query

    def query(catalog: Catalog, sql: str, *arguments: object) -> list[tuple[object, ...]]:
        asked.append(sql)
        return real(catalog, sql, *arguments)  # type: ignore[arg-type]

    with Store.open(root) as store:
        monkeypatch.setattr(Catalog, "query", query)
        assert sorted(store.catalog.images()) == sorted([first, second])
        assert store.catalog.image(first.image_id) == first
        assert store.catalog.image("sha256:" + "0" * 64) is None
    assert len(asked) == 3


def test_several_steps_are_remembered_together_or_not_at_all(root: Path) -> None:
    missing = CacheRecord("k2", DiffId(Digest("sha256:" + "0" * 64)), b"", 0)
    with Store.open(root, create=True) as store, store.begin("test") as session:
        layer = put_layer(session, {b"f": b"x"}).diff_id
        first, second = CacheRecord("k1", layer, b"v", 1.5), CacheRecord("k3", None, b"", 2.5)
        with pytest.raises(LayerNotFoundError):
            session.cache_put(first, missing)
        assert store.cache_records() == []
        session.cache_put(first, second)
        assert store.cache_records() == [first, second]


def test_a_layer_is_held_again_after_a_collection(root: Path) -> None:
    with Store.open(root, create=True) as store, store.begin("test") as session:
        layer = put_layer(session, {b"f": b"x"}).diff_id
        with store.catalog.write() as connection:
            connection.execute("DELETE FROM lease_holds")
        session.hold_layers([layer])  # in one epoch a row that was written is there
        assert store.catalog.query("SELECT id FROM lease_holds") == []
        with store.catalog.write() as connection:
            connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
        session.hold_layers([layer])
        assert store.catalog.query("SELECT id FROM lease_holds") == [(layer,)]
