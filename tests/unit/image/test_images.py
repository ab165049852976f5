"""Making images and telling what they are."""

import hashlib
from pathlib import Path

import pytest

from layerstore.digest import DiffId, Digest
from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats import oci
from layerstore.formats.oci_config import ContainerConfig, History, ImageConfig, decode_config
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.image.images import create_image, history, host_platform, inspect, load_config
from layerstore.store.records import LayerRecord
from layerstore.store.store import Store
from tests.support.encoding import encode_changeset

CREATED = "2026-11-23T12:00:00Z"


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def put_layer(session, content: bytes) -> DiffId:
    """Publish a layer of one file; nobody asks for its tar here."""
    extents = session.put_bytes(content)
    entry = Entry(path=b"file", kind=Kind.FILE, mode=0o644, size=len(content), extents=extents)
    tree = session.put_bytes(encode_changeset(Changeset(entries=(entry,))), meta=True)
    diff_id = DiffId(Digest("sha256:" + hashlib.sha256(content).hexdigest()))
    session.publish_layer(
        LayerRecord(
            diff_id=diff_id,
            tar_size=len(content) + 1024,
            tree=tree,
            recipe=(),
            recipe_format="canonical-1",
            entry_count=1,
            content_size=len(content),
        )
    )
    return diff_id


CONFIG = ImageConfig(
    architecture="amd64",
    author="someone",
    config=ContainerConfig(cmd=("sh",), env=("A=1",), labels={"l": "v"}, exposed_ports=("80/tcp",)),
)
STEPS = [
    History(created=CREATED, created_by="first"),
    History(created=CREATED, created_by="CMD", empty_layer=True),
    History(created=CREATED, created_by="second", comment="c"),
]


def make(store, steps=STEPS, names=("web:1",)):
    with store.begin("test") as session:
        layers = [put_layer(session, b"one"), put_layer(session, b"three")]
        return create_image(session, CONFIG, layers, steps, names=names, created=CREATED)


def test_create_and_load(store):
    image = make(store)
    config = load_config(store, image.image_id)
    assert config.diff_ids == image.layers
    assert config.created == image.created == CREATED
    assert config.config == CONFIG.config
    assert store.resolve("web:1") == image
    manifest = oci.decode_manifest(store.get_blob(image.manifest_digest))
    oci.check_pair(manifest, config)
    assert [(layer.digest, layer.size) for layer in manifest.layers] == [
        (image.layers[0], 3 + 1024),
        (image.layers[1], 5 + 1024),
    ]
    assert manifest.config.digest == image.image_id


def test_the_same_image_twice_is_one(store):
    assert make(store).image_id == make(store, names=("other:1",)).image_id
    assert len(store.images()) == 1


def test_a_missing_layer_leaves_no_image(store):
    with store.begin("test") as session, pytest.raises(NotFoundError):
        create_image(session, CONFIG, [DiffId(Digest("sha256:" + "0" * 64))], [], created=CREATED)
    assert store.images() == []


def test_history_newest_first(store):
    image = make(store)
    rows = history(store, image)
    assert [(row.created_by, row.size) for row in rows] == [("second", 5), ("CMD", 0), ("first", 3)]
    assert [row.diff_id for row in rows] == [image.layers[1], None, image.layers[0]]
    assert [row.image_id for row in rows] == [image.image_id, None, None]


@pytest.mark.parametrize("steps", [[], STEPS[:1]])
def test_history_that_lacks_layers_hides_none(store, steps):
    rows = history(store, make(store, steps))
    assert sum(row.size for row in rows) == 8


def test_inspect_speaks_docker(store):
    image = make(store, names=("web:1", "web:2"))
    told = inspect(store, image)
    assert told["Id"] == image.image_id
    assert told["RepoTags"] == ["web:1", "web:2"]
    assert told["Config"] == {
        "Cmd": ["sh"],
        "Env": ["A=1"],
        "Labels": {"l": "v"},
        "ExposedPorts": {"80/tcp": {}},
    }
    assert told["RootFS"] == {"Type": "layers", "Layers": list(image.layers)}
    assert (told["Size"], told["Architecture"], told["Os"]) == (8, "amd64", "linux")


def test_damaged_config_is_not_believed(store):
    image = make(store)
    path = store.paths.blob(image.image_id)
    raw = bytearray(Path(path).read_bytes())
    raw[-3] ^= 1
    Path(path).write_bytes(raw)
    with pytest.raises(IntegrityError):
        load_config(store, image.image_id)


def test_catalog_and_config_must_agree(store):
    image = make(store)
    with store.catalog.write() as connection:
        connection.execute("DELETE FROM image_layers WHERE position = 1")
    with pytest.raises(IntegrityError, match="catalog lists"):
        load_config(store, image.image_id)


def test_platform_has_ocis_words():
    assert host_platform()[0] not in {"x86_64", "aarch64"}


def test_decoding_what_was_stored(store):
    image = make(store)
    assert decode_config(store.get_blob(image.image_id)).author == "someone"


def test_removing_an_image_takes_its_names(store):
    image = make(store, names=("web:1", "web:2"))
    assert store.remove_image(image.image_id)
    assert (store.tags(), store.images()) == ({}, [])
    with pytest.raises(NotFoundError):
        store.remove_image(image.image_id)


def test_an_image_in_use_loses_only_its_names(store):
    with store.begin("holder") as session:
        layers = [put_layer(session, b"one")]
        image = create_image(session, CONFIG, layers, STEPS[:1], names=["a:1"], created=CREATED)
        assert not store.remove_image(image.image_id)
        assert store.tags() == {}
        assert store.images() == [image]
