"""Manifests, indexes and configs from strangers: what is read, what is refused."""

import base64
import json

import pytest

from layerstore.digest import sha256_digest
from layerstore.errors import (
    FormatError,
    IntegrityError,
    LimitExceededError,
    UnsafeContentError,
)
from layerstore.formats import oci, strict_json
from layerstore.formats.oci_config import (
    ContainerConfig,
    Healthcheck,
    History,
    ImageConfig,
    decode_config,
    encode_config,
)

DIGEST = "sha256:" + "a" * 64


def config_json(**changes: object) -> dict[str, object]:
    plain: dict[str, object] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
        "history": [{"created_by": "x"}],
    }
    plain.update(changes)
    return plain


def manifest_json(**changes: object) -> dict[str, object]:
    plain: dict[str, object] = {
        "schemaVersion": 2,
        "mediaType": oci.MANIFEST_TYPE,
        "config": {"mediaType": oci.CONFIG_TYPE, "digest": DIGEST, "size": 7},
        "layers": [{"mediaType": oci.LAYER_GZIP_TYPE, "digest": DIGEST, "size": 32}],
    }
    plain.update(changes)
    return plain


def layer_json(**changes: object) -> dict[str, object]:
    plain: dict[str, object] = {"mediaType": oci.LAYER_TAR_TYPE, "digest": DIGEST, "size": 9}
    plain.update(changes)
    return plain


def raw(plain: object) -> bytes:
    return json.dumps(plain).encode()


FULL = ImageConfig(
    architecture="arm64",
    variant="v8",
    created="2026-11-23T00:00:00Z",
    author="A. Nonymous",
    config=ContainerConfig(
        user="www:www",
        exposed_ports=("443/tcp", "80/tcp"),
        env=("PATH=/bin", "EMPTY=", "NO_EQUALS"),
        entrypoint=("/init", "--"),
        cmd=(),
        volumes=("/data",),
        working_dir="/srv",
        labels={"b": "2", "a": "é"},
        stop_signal="SIGQUIT",
        stop_timeout_s=3,
        on_build=("RUN true",),
        shell=("/bin/bash", "-c"),
        healthcheck=Healthcheck(
            test=("CMD-SHELL", "true"),
            interval_ns=1,
            timeout_ns=2,
            start_period_ns=3,
            start_interval_ns=4,
            retries=5,
            extra={"Later": 1},
        ),
        args_escaped=True,
        extra={"Hostname": "h"},
    ),
    diff_ids=(sha256_digest(b"1"), sha256_digest(b"2")),
    rootfs_extra={"base": 1},
    history=(
        History(created="2026-11-23T00:00:00.5+01:00", created_by="RUN x", comment="c"),
        History(author="A", empty_layer=True, extra={"later": [None]}),
    ),
    extra={"docker_version": "28"},
)


def test_config_round_trip_keeps_every_field_and_unknown_ones():
    encoded = encode_config(FULL)
    assert decode_config(encoded) == FULL
    assert encode_config(decode_config(encoded)) == encoded


def test_config_encoding_does_not_depend_on_the_order_of_mappings():
    turned = ContainerConfig(labels={"a": "1", "b": "2"}, volumes=("/b", "/a"))
    straight = ContainerConfig(labels={"b": "2", "a": "1"}, volumes=("/a", "/b"))
    one = ImageConfig(architecture="amd64", config=turned)
    other = ImageConfig(architecture="amd64", config=straight)
    assert sha256_digest(encode_config(one)) == sha256_digest(encode_config(other))


def test_null_means_absent_and_absent_cmd_differs_from_empty():
    nulls = {"Cmd": None, "Env": None, "Labels": None, "Healthcheck": None, "StopTimeout": None}
    assert decode_config(raw(config_json(config=nulls))).config == ContainerConfig()
    assert decode_config(raw(config_json(config={"Cmd": []}))).config.cmd == ()


def test_bare_string_commands_of_old_writers_are_one_word():
    config = decode_config(raw(config_json(config={"Cmd": "a b", "Entrypoint": "/x"}))).config
    assert (config.cmd, config.entrypoint) == (("a b",), ("/x",))


@pytest.mark.parametrize(
    "created", ["0000-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"]
)
def test_strange_years_pass(created):
    assert decode_config(raw(config_json(created=created))).created == created


@pytest.mark.parametrize(
    "changes",
    [
        {"os": ""},
        {"architecture": 1},
        {"created": "yesterday"},
        {"config": []},
        {"config": {"User": "0:0:0"}},
        {"config": {"Env": "A=1"}},
        {"config": {"Env": [1]}},
        {"config": {"Env": ["A=\0"]}},
        {"config": {"Labels": {"a": 1}}},
        {"config": {"cmd": ["x"], "Cmd": ["y"]}},
        {"config": {"ArgsEscaped": "yes"}},
        {"config": {"Healthcheck": {"Interval": -1}}},
        {"config": {"Healthcheck": {"Interval": 1.0}}},
        {"config": {"StopTimeout": True}},
        {"rootfs": {"type": "tar", "diff_ids": []}},
        {"rootfs": {"type": "layers", "diff_ids": ["sha256:../../etc/passwd"]}},
        {"rootfs": {"type": "layers", "diff_ids": [DIGEST.upper()]}},
        {"history": {}},
        {"history": ["x"]},
    ],
)
def test_config_refused(changes):
    with pytest.raises(FormatError):
        decode_config(raw(config_json(**changes)))


def test_layers_are_limited():
    rootfs = {"type": "layers", "diff_ids": [DIGEST] * 513}
    with pytest.raises(LimitExceededError, match="513 layers"):
        decode_config(raw(config_json(rootfs=rootfs)))
    rootfs["diff_ids"].pop()
    assert len(decode_config(raw(config_json(rootfs=rootfs))).diff_ids) == 512


def test_manifest_round_trip():
    manifest = oci.decode_manifest(
        raw(
            manifest_json(
                annotations={"a": "b"},
                subject={"x": 1},
                layers=[layer_json(annotations={"k": "v"}, artifactType="t"), layer_json()],
            )
        )
    )
    assert manifest.extra == {"subject": {"x": 1}}
    assert manifest.layers[0].extra == {"artifactType": "t"}
    assert oci.decode_manifest(oci.encode_manifest(manifest)) == manifest


def test_zero_layers_and_the_same_layer_twice_pass():
    assert oci.decode_manifest(raw(manifest_json(layers=[]))).layers == ()
    twice = oci.decode_manifest(raw(manifest_json(layers=[layer_json(), layer_json()])))
    assert len(twice.layers) == 2


@pytest.mark.parametrize(
    "digest",
    [
        "sha256:../../x",
        "sha256:" + "A" * 64,
        "sha256:" + "a" * 63,
        "sha256:" + "a" * 65,
        "sha256:" + "a" * 64 + "?x",
        "sha256:" + "a" * 63 + "\0",
        "md5:" + "a" * 32,
        "a" * 64,
        "",
    ],
)
def test_hostile_digests_refused(digest):
    with pytest.raises(FormatError):
        oci.decode_manifest(raw(manifest_json(layers=[layer_json(digest=digest)])))


@pytest.mark.parametrize("size", ["0", "-1", str(2**63), "1.5", '"9"', "1e3", "true", "[]"])
def test_hostile_sizes_refused(size):
    text = json.dumps(manifest_json(layers=[layer_json(size=77777)])).replace("77777", size)
    with pytest.raises(FormatError):
        oci.decode_manifest(text.encode())


def test_missing_size_refused():
    layer = layer_json()
    del layer["size"]
    with pytest.raises(FormatError, match="size is missing"):
        oci.decode_manifest(raw(manifest_json(layers=[layer])))


@pytest.mark.parametrize(
    "changes",
    [
        {"manifests": []},
        {"fsLayers": [], "schemaVersion": 1},
        {"schemaVersion": 1},
        {"schemaVersion": 3},
        {"mediaType": oci.INDEX_TYPE},
        {"mediaType": "text/html"},
        {"mediaType": None},
        {"config": None},
        {"config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": DIGEST, "size": 2}},
        {"layers": None},
        {"layers": [None]},
        {"layers": [layer_json(mediaType="application/zip")]},
        {"Layers": []},
        {"layers": [layer_json(Digest=DIGEST)]},
        {"layers": [layer_json(platform={"os": "linux"})]},
        {"layers": [layer_json(data="####")]},
        {"layers": [layer_json(data=base64.b64encode(b"other").decode())]},
    ],
)
def test_manifest_refused(changes):
    with pytest.raises(FormatError):
        oci.decode_manifest(raw(manifest_json(**changes)))


def test_manifest_type_must_agree_with_its_descriptor():
    text = raw(manifest_json())
    assert oci.decode_manifest(text, media_type=oci.MANIFEST_TYPE).layers
    with pytest.raises(FormatError, match="its descriptor says"):
        oci.decode_manifest(text, media_type=oci.DOCKER_MANIFEST_TYPE)
    untyped = raw(manifest_json(mediaType=None))
    assert oci.decode_manifest(untyped, media_type=oci.MANIFEST_TYPE).media_type


def test_urls_are_never_followed():
    layer = layer_json(urls=["http://169.254.169.254/latest"])
    with pytest.raises(UnsafeContentError, match="urls"):
        oci.decode_manifest(raw(manifest_json(layers=[layer])))


def test_embedded_content_is_checked_and_kept():
    content = b"content"
    layer = layer_json(
        data=base64.b64encode(content).decode(), digest=sha256_digest(content), size=len(content)
    )
    manifest = oci.decode_manifest(raw(manifest_json(layers=[layer])))
    assert oci.decode_manifest(oci.encode_manifest(manifest)) == manifest


def test_manifest_and_config_must_list_equally_many_layers():
    manifest = oci.decode_manifest(raw(manifest_json()))
    oci.check_pair(manifest, decode_config(raw(config_json())))
    fewer = decode_config(raw(config_json(rootfs={"type": "layers", "diff_ids": []})))
    with pytest.raises(FormatError, match="1 layers, its config 0"):
        oci.check_pair(manifest, fewer)


def test_index_round_trip_and_limits():
    entry = {
        "mediaType": oci.MANIFEST_TYPE,
        "digest": DIGEST,
        "size": 5,
        "platform": {"os": "linux", "architecture": "arm", "variant": "v7", "os.version": "1"},
        "annotations": {oci.REF_NAME: "x:1"},
    }
    plain = {"schemaVersion": 2, "mediaType": oci.INDEX_TYPE, "manifests": [entry], "x": 1}
    index = oci.decode_index(raw(plain))
    assert oci.decode_index(oci.encode_index(index)) == index
    with pytest.raises(LimitExceededError):
        oci.decode_index(raw(plain | {"manifests": [entry] * 10_001}))
    with pytest.raises(FormatError):
        oci.decode_index(raw(plain | {"layers": []}))
    with pytest.raises(FormatError):
        oci.decode_index(raw({"schemaVersion": 2, "mediaType": oci.INDEX_TYPE}))


def test_verify_says_what_differs():
    descriptor = oci.describe(b"blob", oci.CONFIG_TYPE)
    oci.verify(b"blob", descriptor)
    with pytest.raises(IntegrityError, match="5 bytes"):
        oci.verify(b"blobs", descriptor)
    with pytest.raises(IntegrityError, match="other content"):
        oci.verify(b"blub", descriptor)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xef\xbb\xbf{}",
        '{"a":1}'.encode("utf-16"),
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e400}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":0.' + b"9" * 5000 + b"}",
        b'{"a":1} x',
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":1 /* no */}',
        b'{"a":1,"a":2}',
        b'{"b":{"a":1,"\\u0061":2}}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b'{"a":"\n"}',
        b'"open',
        b"]",
    ],
)
def test_ambiguous_json_refused(text):
    with pytest.raises(FormatError):
        strict_json.decode(text, "document")


def test_json_limits():
    with pytest.raises(LimitExceededError, match="deeper"):
        strict_json.decode(b"[" * 100_000 + b"]" * 100_000, "document")
    assert strict_json.decode(b"[" * 100 + b"]" * 100, "document")
    assert strict_json.decode(b'["' + b"[" * 1000 + b'"]', "document")
    assert strict_json.decode(b'["\\"' + b"[" * 1000 + b'"]', "document")
    longest = b'"' + b"a" * (strict_json.MAX_DOCUMENT_BYTES - 2) + b'"'
    assert strict_json.decode(longest, "document")
    with pytest.raises(LimitExceededError, match="limit"):
        strict_json.decode(longest + b" ", "document")


def test_surrogate_pairs_pass():
    assert strict_json.decode(b'"\\ud83d\\ude00"', "document") == "\N{GRINNING FACE}"
