"""Records of containers/storage: ids as podman 4.3.1 gives them, and files it would write."""

from __future__ import annotations

import json

from layerstore.digest import DiffId, Digest, ImageId, sha256_digest
from layerstore.formats.containers_storage import (
    StorageImage,
    StorageLayer,
    encode_images,
    encode_layers,
    image_files,
    layer_ids,
    link_name,
)

BASE = DiffId(Digest("sha256:27292307334ccded3d7095fde88f667c0ea7d7c1aca75ec72593ada13d0eba8f"))
NEXT = DiffId(Digest("sha256:d98ef7e47c4b51d125405a19995f0c49ce294deef2fdce96ed3d2e0ab968d4a9"))


def test_layers_have_the_ids_that_podman_gave_them_when_it_loaded_the_image() -> None:
    assert layer_ids([BASE, NEXT]) == [
        "27292307334ccded3d7095fde88f667c0ea7d7c1aca75ec72593ada13d0eba8f",
        "20f5f911f2f22baf0347c00f5e1f9769a60cb30436b0af35c977bcc1445f5d1a",
    ]
    assert layer_ids([]) == []


def test_links_are_short_and_one_for_a_layer() -> None:
    ids = layer_ids([BASE, NEXT])
    one, other = (link_name(layer, "/a") for layer in ids)
    assert one == link_name(ids[0], "/a")
    assert len({one, other, link_name(ids[0], "/b")}) == 3
    assert len(one) == len(other) == 26
    assert one.isalnum()
    assert one.upper() == one


def test_what_is_listed_of_a_layer() -> None:
    ids = layer_ids([BASE, NEXT])
    listed = json.loads(
        encode_layers(
            [StorageLayer(ids[0], "", BASE, 10, ""), StorageLayer(ids[1], ids[0], NEXT, 20, "")]
        )
    )
    assert [layer.get("parent") for layer in listed] == [None, ids[0]]
    assert [layer["diff-digest"] for layer in listed] == [BASE, NEXT]
    assert [layer["diff-size"] for layer in listed] == [10, 20]


def test_files_beside_an_image_have_the_names_that_podman_looks_for() -> None:
    config, manifest = b'{"a": 1}', b'{"b": 2}'
    image_id = ImageId(sha256_digest(config))
    image = StorageImage(image_id, ("docker.io/library/a:1",), "", "", manifest, config)
    files = image_files(image)
    assert files["manifest"] == manifest
    assert sorted(files.values()) == sorted([config, manifest, manifest])
    assert all("/" not in name and ":" not in name for name in files)
    (listed,) = json.loads(encode_images([image]))
    assert listed["digest"] == sha256_digest(manifest)
    assert listed["big-data-sizes"]["manifest"] == len(manifest)
    assert listed["big-data-digests"][image_id] == image_id
    assert "layer" not in listed


def test_a_big_data_name_with_other_characters_is_written_in_base64() -> None:
    config = b"{}"
    image = StorageImage(ImageId(sha256_digest(config)), (), "", "", b"{}", config)
    assert (
        "=c2hhMjU2OjQ0MTM2ZmEzNTViMzY3OGExMTQ2YWQxNmY3ZTg2NDllOTRmYjRmYzIxZmU3N2U4MzEwYzA2MGY2MWNhYWZmOGE="
        in image_files(image)
    )
