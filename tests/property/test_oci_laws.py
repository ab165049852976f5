"""Laws of the documents that name images: round trips, and what hostile bytes may raise."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from layerstore.digest import DiffId, Digest
from layerstore.errors import FormatError, UnsafeContentError
from layerstore.formats import oci, strict_json
from layerstore.formats.oci_config import (
    ContainerConfig,
    Healthcheck,
    History,
    ImageConfig,
    decode_config,
    encode_config,
)

words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
word_lists = st.lists(words, max_size=4).map(tuple)
name_sets = st.sets(words, max_size=3).map(lambda names: tuple(sorted(names)))
numbers = st.integers(0, 2**63 - 1)
digests = st.binary(min_size=32, max_size=32).map(lambda b: Digest("sha256:" + b.hex()))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=10,
)
extras = st.dictionaries(words.map(lambda w: "x-" + w), json_values, max_size=2)
healthchecks = st.builds(
    Healthcheck, test=word_lists, interval_ns=numbers, retries=numbers, extra=extras
)
container_configs = st.builds(
    ContainerConfig,
    user=words.map(lambda w: w.replace(":", "")),
    exposed_ports=name_sets,
    env=word_lists,
    entrypoint=st.none() | word_lists,
    cmd=st.none() | word_lists,
    volumes=name_sets,
    working_dir=words,
    labels=st.dictionaries(words, words, max_size=3),
    stop_timeout_s=st.none() | st.integers(-1, 1000),
    on_build=word_lists,
    shell=word_lists,
    healthcheck=st.none() | healthchecks,
    args_escaped=st.booleans(),
    extra=extras,
)
configs = st.builds(
    ImageConfig,
    architecture=st.just("amd64"),
    author=words,
    config=container_configs,
    diff_ids=st.lists(digests.map(DiffId), max_size=3).map(tuple),
    history=st.lists(st.builds(History, created_by=words, extra=extras), max_size=3).map(tuple),
    extra=extras,
)
descriptors = st.builds(
    oci.Descriptor,
    media_type=st.just(oci.LAYER_ZSTD_TYPE),
    digest=digests,
    size=st.integers(1, 2**63 - 1),
    annotations=st.dictionaries(words, words, max_size=2),
    extra=extras,
)
manifests = st.builds(
    oci.Manifest,
    config=st.builds(
        oci.Descriptor, media_type=st.just(oci.CONFIG_TYPE), digest=digests, size=st.just(1)
    ),
    layers=st.lists(descriptors, max_size=3).map(tuple),
    extra=extras,
)


@given(configs)
def test_a_config_comes_back(config):
    assert decode_config(encode_config(config)) == config


@given(manifests)
def test_a_manifest_comes_back(manifest):
    assert oci.decode_manifest(oci.encode_manifest(manifest)) == manifest


@given(json_values)
def test_canonical_json_is_a_fixed_point(value):
    encoded = strict_json.encode(value)
    assert strict_json.encode(strict_json.decode(encoded, "value")) == encoded


def decode_all(raw: bytes) -> None:
    """Run every decoder; anything but the two families of errors escapes and fails the test."""
    for decode in (decode_config, oci.decode_manifest, oci.decode_index):
        with contextlib.suppress(FormatError, UnsafeContentError):
            decode(raw)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_raise_only_our_errors(raw):
    decode_all(raw)


@given(json_values)
def test_arbitrary_json_raises_only_our_errors(value):
    decode_all(strict_json.encode(value))


@given(st.data(), st.one_of(manifests.map(oci.encode_manifest), configs.map(encode_config)))
def test_damaged_documents_raise_only_our_errors(data, raw):
    position = data.draw(st.integers(0, len(raw) - 1))
    damaged = bytearray(raw)
    damaged[position] = data.draw(st.integers(0, 255))
    decode_all(bytes(damaged))


@given(st.data(), manifests)
def test_a_manifest_with_one_odd_value_raises_only_our_errors(data, manifest):
    plain = strict_json.decode(oci.encode_manifest(manifest), "manifest")
    assert isinstance(plain, dict)
    spot = plain
    key = data.draw(st.sampled_from(sorted(plain)))
    if isinstance(plain[key], dict) and plain[key] and data.draw(st.booleans()):
        spot, key = plain[key], data.draw(st.sampled_from(sorted(plain[key])))
    spot[key] = data.draw(json_values)
    decode_all(strict_json.encode(plain))
