"""Images for several platforms under one name, by every command that takes names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.registry_stub import StubRegistry

DOCKERFILE = "FROM scratch\nARG TARGETARCH\nCOPY f /$TARGETARCH\n"
BOTH = ("--platform", "linux/amd64,linux/arm64")
PASSPHRASE = {"COSIGN_PASSWORD": "x"}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    place.mkdir()
    (place / "Dockerfile").write_text(DOCKERFILE)
    (place / "f").write_bytes(b"f" * 10_000)
    return place


def built(cli: Cli, context: Path, name: str, *options: str) -> None:
    cli.ok("build", "-q", *BOTH, "-t", name, *options, context)


def index_of(cli: Cli, name: str) -> dict[str, object]:
    (found,) = json.loads(cli.ok("inspect", name).out)
    return found["Index"]


def platforms(index: dict[str, object]) -> list[str]:
    return [each["Platform"] for each in index["Manifests"]]


def images(cli: Cli) -> list[dict[str, object]]:
    return json.loads(cli.ok("images", "--format", "json").out)


def test_a_build_is_one_name(cli: Cli, context: Path) -> None:
    built(cli, context, "web:1")
    assert platforms(index_of(cli, "web:1")) == ["linux/amd64", "linux/arm64"]
    assert [each["in_indexes"] for each in images(cli)] == [["web:1"]] * 2
    assert sorted(each["names"] for each in images(cli)) == [[], ["web:1"]]
    built(cli, context, "web:1")
    cli.ok("tag", "web:1", "prod:1")
    assert index_of(cli, "prod:1")["Digest"] == index_of(cli, "web:1")["Digest"]
    (arm,) = [each["id"] for each in images(cli) if not each["names"]]
    said = cli.fails(4, "rm", arm)
    assert "is one of the index that prod:1 means" in said
    dry = cli.ok("rm", "--dry-run", "--json", "web:1", "prod:1").json()
    assert dry["untagged"] == ["web:1", "prod:1"]
    assert len(dry["deleted"]) == len(dry["freed"]["images"]) == 2
    assert cli.ok("rm", "web:1").out == "Untagged: web:1\n"
    assert len(cli.ok("rm", "prod:1").lines) == 3
    freed = cli.ok("gc", "--json").json()
    assert freed["freed_bytes"] == dry["freed"]["freed_bytes"]
    assert images(cli) == []


def test_a_base_is_the_one_for_the_platform(cli: Cli, context: Path, tmp_path: Path) -> None:
    built(cli, context, "base:1")
    above = tmp_path / "above"
    above.mkdir()
    (above / "Dockerfile").write_text("FROM base:1\nLABEL a=b\n")
    built(cli, above, "app:1")
    bases, apps = index_of(cli, "base:1"), index_of(cli, "app:1")
    for base, app in zip(bases["Manifests"], apps["Manifests"], strict=True):
        layers = [
            json.loads(cli.ok("inspect", each["Id"]).out)[0]["RootFS"]["Layers"]
            for each in (base, app)
        ]
        assert layers[0] == layers[1]


def test_a_mounted_image_of_it_keeps_all(cli: Cli, context: Path, tmp_path: Path) -> None:
    built(cli, context, "web:1")
    cli.ok("pin", index_of(cli, "web:1")["Manifests"][1]["Id"])
    assert "is pinned" in cli.fails(4, "rm", "web:1")
    assert len(index_of(cli, "web:1")["Manifests"]) == 2
    cli.ok("rm", "--force", "web:1")
    assert images(cli) == []


@pytest.mark.parametrize("kind", ["oci-archive", "oci-dir", "docker-archive"])
def test_save_and_load(cli: Cli, context: Path, tmp_path: Path, kind: str) -> None:
    built(cli, context, "web:1")
    place = tmp_path / "saved"
    cli.ok("save", "web:1", "-o", place, "--format", kind)
    other = Cli(tmp_path / "other")
    other.ok("load", "--all-platforms", "-i", place)
    assert platforms(index_of(other, "web:1")) == ["linux/amd64", "linux/arm64"]
    other.ok("save", "web:1", "-o", tmp_path / "again", "--format", "oci-dir")
    (entry,) = json.loads((tmp_path / "again/index.json").read_text())["manifests"]
    assert entry["digest"] == index_of(other, "web:1")["Digest"]
    third = Cli(tmp_path / "third")
    third.ok("load", "-i", place)
    assert len(images(third)) == 1


def test_bundles(cli: Cli, context: Path, tmp_path: Path) -> None:
    cli.ok("build", "-q", "-t", "old:1", context)
    built(cli, context, "web:1")
    other = Cli(tmp_path / "other")
    cli.ok("save", "old:1", "-o", tmp_path / "old.tar")
    other.ok("load", "-i", tmp_path / "old.tar")
    cli.ok("save", "web:1", "--since", "old:1", "-o", tmp_path / "b")
    assert other.ok("load", "-i", tmp_path / "b").lines[0] == "Loaded image: web:1"
    assert index_of(other, "web:1") == index_of(cli, "web:1")
    other.ok("check")


def test_through_a_registry(cli: Cli, context: Path, stub: StubRegistry, tmp_path: Path) -> None:
    name = f"{stub.name}/a:1"
    built(cli, context, name)
    made = cli.ok("push", "--tls-verify=false", name, "--json").json()[0]["digest"]
    assert index_of(cli, name)["Digest"] == made  # the name means what the registry has
    assert cli.ok("push", "--tls-verify=false", name, "--json").json()[0] == {
        "name": name, "digest": made, "original": True,
        "size": len(stub.repository("a").manifests[made][0]),
    }  # fmt: skip
    other = Cli(tmp_path / "other")
    other.ok("pull", "-q", "--tls-verify=false", "--all-platforms", name)
    assert index_of(other, name)["Digest"] == made
    assert platforms(index_of(other, name)) == ["linux/amd64", "linux/arm64"]
    said = other.ok("pull", "--tls-verify=false", name).out
    assert "up to date" in said
    other.ok("tag", name, f"{stub.name}/b:2")
    pushed = other.ok("push", "--tls-verify=false", f"{stub.name}/b:2", "--json").json()[0]
    assert (pushed["digest"], pushed["original"]) == (made, True)
    zstd = other.ok(
        "push", "--tls-verify=false", "--compression", "zstd", name, f"{stub.name}/c:3", "--json"
    ).json()[0]["digest"]
    assert zstd != made
    raw = json.loads(stub.repository("c").manifests[zstd][0])
    assert [each["platform"]["architecture"] for each in raw["manifests"]] == ["amd64", "arm64"]
    other.ok("rm", name, f"{stub.name}/b:2")
    other.ok("gc")
    assert images(other) == []


def test_signatures_are_of_the_index(
    cli: Cli, context: Path, stub: StubRegistry, tmp_path: Path
) -> None:
    name = f"{stub.name}/a:1"
    cli.ok("generate-key-pair", "--output-key-prefix", tmp_path / "k", **PASSPHRASE)
    built(cli, context, name, "--sbom=true", "--provenance=mode=max")
    key = ("--sign-by-sigstore-private-key", tmp_path / "k.key")
    digest = cli.ok("push", "--tls-verify=false", *key, name, "--json", **PASSPHRASE).json()[0][
        "digest"
    ]
    done = cli.ok("verify", "--tls-verify=false", "--key", tmp_path / "k.pub", name, "--json")
    assert done.json()["digest"] == digest
    again = cli.ok("push", "--tls-verify=false", name, "--json").json()[0]["digest"]
    assert again == digest  # attestations are made anew, and are the same
    listed = json.loads(stub.repository("a").manifests[digest][0])["manifests"]
    assert len(listed) == 4
    policy = tmp_path / "policy.json"
    signed = {"type": "sigstoreSigned", "keyPath": str(tmp_path / "k.pub")}
    policy.write_text(json.dumps({"default": [signed]}))
    other = Cli(tmp_path / "other")
    words = ("pull", "-q", "--tls-verify=false", "--signature-policy", policy, "--all-platforms")
    other.ok(*words, name)
    assert index_of(other, name)["Digest"] == digest
    copied = other.ok("push", "--tls-verify=false", name, f"{stub.name}/b:1", "--json").json()[0]
    assert (copied["digest"], copied["original"]) == (digest, True)


def test_manifests_by_hand(cli: Cli, context: Path, tmp_path: Path) -> None:
    for architecture in ("amd64", "arm64"):
        words = ("--platform", f"linux/{architecture}", "-t", f"web:{architecture}")
        cli.ok("build", "-q", *words, context)
    digest = cli.ok("manifest", "create", "all:1", "web:amd64").out.strip()
    assert index_of(cli, "all:1")["Digest"] == digest
    cli.ok("manifest", "add", "all:1", "web:arm64")
    raw = cli.ok("manifest", "inspect", "all:1").out.removesuffix("\n")
    assert [e["platform"]["architecture"] for e in json.loads(raw)["manifests"]] == [
        "amd64", "arm64",
    ]  # fmt: skip
    cli.ok("manifest", "create", "again:1", "all:1")
    assert platforms(index_of(cli, "again:1")) == ["linux/amd64", "linux/arm64"]
    assert "two images" in cli.fails(4, "manifest", "add", "all:1", "web:arm64")
    assert "means no index" in cli.fails(3, "manifest", "add", "web:amd64", "web:arm64")
    assert "one image and no index" in cli.fails(3, "manifest", "inspect", "web:amd64")
    assert "takes the images" in cli.fails(2, "manifest", "create", "x:1")
    assert "takes one name" in cli.fails(2, "manifest", "inspect", "all:1", "all:1")
    assert "no verb" in cli.fails(2, "manifest", "melt", "all:1")
    cli.ok("rm", "web:amd64", "web:arm64")
    cli.ok("gc")
    assert len(images(cli)) == 2
    cli.ok("check", "--read-data")
