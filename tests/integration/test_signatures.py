"""Signing at a registry and being asked for signatures, by the command line alone."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from layerstore.formats import oci
from layerstore.formats.reference import parse_reference
from layerstore.image.exchange.originals import Originals
from layerstore.image.pulling import Puller
from layerstore.progress import Silent
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.layouts import tar_of
from tests.support.registry_stub import StubRegistry, World

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PASSPHRASE = {"COSIGN_PASSWORD": "correct horse"}
SIGNATURE = "dev.cosignproject.cosign/signature"


@pytest.fixture
def key(cli: Cli, tmp_path: Path) -> Path:
    cli.ok("generate-key-pair", "--output-key-prefix", tmp_path / "k", **PASSPHRASE)
    return tmp_path / "k.key"


def _image(stub: StubRegistry, tag: str) -> str:
    blob, config = os.urandom(1000), json.dumps({"architecture": "amd64", "os": "linux"}).encode()
    for raw in (blob, config):
        stub.put_blob("a", raw)
    manifest = oci.Manifest(
        config=oci.describe(config, oci.CONFIG_TYPE),
        layers=(oci.describe(blob, oci.LAYER_GZIP_TYPE),),
    )
    return stub.put_manifest("a", oci.encode_manifest(manifest), tag, oci.MANIFEST_TYPE)


def _policy(path: Path, requirement: dict) -> Path:
    path.write_text(json.dumps({"default": [requirement]}))
    return path


def _sign(cli: Cli, name: str, key: Path) -> None:
    cli.ok("sign", "--tls-verify=false", "--key", key, name, **PASSPHRASE)


def test_keys_are_new_private_and_never_replaced(cli, key, tmp_path):
    assert key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "k.pub").read_text().startswith("-----BEGIN PUBLIC KEY-----")
    before = key.read_bytes()
    said = cli.fails(4, "generate-key-pair", "--output-key-prefix", tmp_path / "k", **PASSPHRASE)
    assert "is not replaced" in said
    assert key.read_bytes() == before


def test_sign_then_verify(cli, stub, key, tmp_path):
    digest = _image(stub, "1")
    name = f"{stub.name}/a:1"
    said = cli.fails(11, "verify", "--tls-verify=false", "--key", tmp_path / "k.pub", name)
    assert "it has no signature" in said
    assert "k.pub" in said
    assert "policy.json" not in said
    _sign(cli, name, key)
    done = cli.ok("verify", "--tls-verify=false", "--key", tmp_path / "k.pub", name, "--json")
    assert done.json() == {"image": name, "digest": digest, "result": "verified"}
    by_digest = f"{stub.name}/a@{digest}"
    cli.ok("verify", "--tls-verify=false", "--key", tmp_path / "k.pub", by_digest)


def test_another_key_and_another_image(cli, stub, key, tmp_path):
    _image(stub, "1")
    name = f"{stub.name}/a:1"
    _sign(cli, name, key)
    cli.ok("generate-key-pair", "--output-key-prefix", tmp_path / "other", **PASSPHRASE)
    other = tmp_path / "other.pub"
    said = cli.fails(11, "verify", "--tls-verify=false", "--key", other, name)
    assert "none of the keys" in said
    _image(stub, "1")  # the tag means another image now
    said = cli.fails(11, "verify", "--tls-verify=false", "--key", tmp_path / "k.pub", name)
    assert "it has no signature" in said


@pytest.mark.peers
def test_openssl_finds_the_signature_good(cli, stub, key, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    digest = _image(stub, "1")
    _sign(cli, f"{stub.name}/a:1", key)
    manifest = json.loads(_document(stub, f"sha256-{digest.partition(':')[2]}.sig"))
    (layer,) = manifest["layers"]
    payload, signature = tmp_path / "payload", tmp_path / "signature"
    payload.write_bytes(stub.repository("a").blobs[layer["digest"]])
    signature.write_bytes(base64.b64decode(layer["annotations"][SIGNATURE]))
    command = ["openssl", "dgst", "-sha256", "-verify", tmp_path / "k.pub"]
    subprocess.run([*command, "-signature", signature, payload], check=True, capture_output=True)
    claim = json.loads(payload.read_bytes())
    assert claim["critical"]["image"]["docker-manifest-digest"] == digest
    assert claim["critical"]["identity"]["docker-reference"] == f"{stub.name}/a:1"


def _document(stub: StubRegistry, tag: str) -> bytes:
    repository = stub.repository("a")
    return repository.manifests[repository.tags[tag]][0]


def test_copies_obey_the_policy_before_a_blob_is_read(cli, stub, key, tmp_path):
    _image(stub, "1")
    here, there = f"docker://{stub.name}/a:1", f"docker://{stub.name}/b:1"
    signed = {"type": "sigstoreSigned", "keyPath": str(tmp_path / "k.pub")}
    policy = ["--signature-policy", _policy(tmp_path / "policy.json", signed)]
    stub.requests.clear()
    said = cli.fails(11, "copy", "--tls-verify=false", *policy, here, there)
    assert "it has no signature" in said
    assert not [each for each in stub.requests if "/blobs/" in each.path]
    _sign(cli, f"{stub.name}/a:1", key)
    cli.ok("copy", "--tls-verify=false", *policy, here, there)


def test_a_copy_can_be_signed_on_its_way(cli, stub, key, tmp_path):
    _image(stub, "1")
    here, there = f"docker://{stub.name}/a:1", f"docker://{stub.name}/b:2"
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse\n")
    signing = ["--sign-by-sigstore-private-key", key, "--sign-passphrase-file", passphrase]
    cli.ok("copy", "--tls-verify=false", *signing, here, there)
    exact = {"type": "sigstoreSigned", "keyPath": str(tmp_path / "k.pub")}
    policy = _policy(tmp_path / "policy.json", exact)
    name = f"{stub.name}/b:2"
    cli.ok("verify", "--tls-verify=false", "--signature-policy", policy, name)


def test_a_policy_that_is_none_stops_everything(cli, stub, tmp_path):
    _image(stub, "1")
    policy = tmp_path / "policy.json"
    policy.write_text('{"default": [{"type": "signedByMagic"}]}')
    here, there = f"docker://{stub.name}/a:1", f"docker://{stub.name}/b:1"
    said = cli.fails(10, "copy", "--tls-verify=false", "--signature-policy", policy, here, there)
    assert "signedByMagic" in said
    missing = tmp_path / "missing.json"
    cli.fails(3, "copy", "--tls-verify=false", "--signature-policy", missing, here, there)


def test_the_user_s_policy_counts_without_being_named(cli, stub, tmp_path):
    _image(stub, "1")
    place = tmp_path / "home/.config/containers"
    place.mkdir(parents=True)
    _policy(place / "policy.json", {"type": "reject"})
    name = f"{stub.name}/a:1"
    said = cli.fails(11, "verify", "--tls-verify=false", name, HOME=str(tmp_path / "home"))
    assert "rejects every image" in said


def test_a_policy_that_cannot_be_read_is_not_none(cli, stub, tmp_path):
    _image(stub, "1")
    place = tmp_path / "home/.config/containers"
    place.mkdir(parents=True)
    (place / "policy.json").symlink_to(tmp_path / "absent")
    name = f"{stub.name}/a:1"
    said = cli.fails(3, "verify", "--tls-verify=false", name, HOME=str(tmp_path / "home"))
    assert "policy.json does not exist" in said


def test_a_wrong_passphrase_leaves_no_signature(cli, stub, key):
    _image(stub, "1")
    name = f"{stub.name}/a:1"
    said = cli.fails(2, "sign", "--tls-verify=false", "--key", key, name, COSIGN_PASSWORD="wrong")
    assert "does not open" in said
    assert list(stub.repository("a").tags) == ["1"]


# -- every way in asks the policy


def _rejecting_home(tmp_path: Path) -> dict[str, str]:
    place = tmp_path / "home/.config/containers"
    place.mkdir(parents=True)
    _policy(place / "policy.json", {"type": "reject"})
    return {"HOME": str(tmp_path / "home")}


def _whole_image(stub: StubRegistry, tag: str, content: bytes) -> str:
    """An image that can be pulled, with one file."""
    layer = tar_of({"f": content})
    diff_id = oci.describe(layer, "").digest
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }).encode()  # fmt: skip
    for raw in (layer, config):
        stub.put_blob("a", raw)
    manifest = oci.Manifest(
        config=oci.describe(config, oci.CONFIG_TYPE),
        layers=(oci.describe(layer, oci.LAYER_TAR_TYPE),),
    )
    return stub.put_manifest("a", oci.encode_manifest(manifest), tag, oci.MANIFEST_TYPE)


def test_pull_asks_for_what_is_here_already_too(cli, stub, key, tmp_path):
    _whole_image(stub, "1", b"one")
    name = f"{stub.name}/a:1"
    cli.ok("pull", "--platform", "linux/amd64", name)
    signed = {"type": "sigstoreSigned", "keyPath": str(tmp_path / "k.pub")}
    policy = ["--signature-policy", _policy(tmp_path / "policy.json", signed)]
    said = cli.fails(11, "pull", "--platform", "linux/amd64", *policy, name)
    assert "it has no signature" in said
    _sign(cli, name, key)
    assert "up to date" in cli.ok("pull", "--platform", "linux/amd64", *policy, name).out


def test_all_platforms_are_those_of_the_index_that_was_permitted(stub, tmp_path):
    first = oci.describe(stub.repository("a").manifests[_whole_image(stub, "", b"1")][0],
                         oci.MANIFEST_TYPE)  # fmt: skip
    other = oci.describe(stub.repository("a").manifests[_whole_image(stub, "", b"2")][0],
                         oci.MANIFEST_TYPE)  # fmt: skip
    index = oci.encode_index(oci.Index(manifests=(first,)))
    digest = stub.put_manifest("a", index, "1", oci.INDEX_TYPE)
    swapped = oci.encode_index(oci.Index(manifests=(other,)))

    def permit(digests: Sequence[str]) -> None:
        assert digests == [digest]
        stub.put_manifest("a", swapped, "1", oci.INDEX_TYPE)  # the tag means another one now

    with World().client() as client, Store.open(str(tmp_path / "s"), create=True) as store:
        name = parse_reference(f"{stub.name}/a:1")
        puller = Puller(
            store, client.repository(name), lambda _: True, originals=Originals.AUTO,
            progress=Silent(), permit=permit,
        )  # fmt: skip
        assert puller.pull(name, every=True).digest == digest


def test_lazy_views_ask_the_policy(cli, stub, tmp_path):
    _whole_image(stub, "1", b"one")
    (tmp_path / "view").mkdir()
    said = cli.fails(
        11, "mount", "--from", f"docker://{stub.name}", "a:1", tmp_path / "view",
        **_rejecting_home(tmp_path),
    )  # fmt: skip
    assert "rejects every image" in said
    assert not [each for each in stub.requests if "/blobs/" in each.path]


def test_lazy_views_show_nothing_that_must_be_signed(cli, stub, key, tmp_path):
    """Whoever may push could put other parcels beside a signed image."""
    _whole_image(stub, "1", b"one")
    _sign(cli, f"{stub.name}/a:1", key)
    place = tmp_path / "home/.config/containers"
    place.mkdir(parents=True)
    signed = {"type": "sigstoreSigned", "keyPath": str(tmp_path / "k.pub")}
    _policy(place / "policy.json", signed)
    (tmp_path / "view").mkdir()
    said = cli.fails(
        11, "mount", "--from", f"docker://{stub.name}", "a:1", tmp_path / "view",
        HOME=str(tmp_path / "home"),
    )  # fmt: skip
    assert "no signature covers its parcels" in said
    assert "pull it" in said


def test_caches_of_a_registry_ask_the_policy(cli, stub, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /f\n")
    cache = f"type=registry,ref={stub.name}/cache:1"
    cli.ok("build", "--cache-to", cache, tmp_path)
    stub.requests.clear()
    other = Cli(tmp_path / "other")
    said = other.ok("build", "--cache-from", cache, tmp_path, **_rejecting_home(tmp_path)).err
    assert "is not used" in said
    assert "rejects every image" in said
    assert not [each for each in stub.requests if "/blobs/" in each.path]
