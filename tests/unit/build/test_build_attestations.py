"""What is attested of a built image, how it travels, and what is never in it."""

from __future__ import annotations

import hashlib
import io
import json
from typing import TYPE_CHECKING

import pytest

from layerstore.build.attest import Attestations
from layerstore.build.outputs import Output, OutputKind
from layerstore.cli.build.attest_options import with_attestations
from layerstore.cli.build.bases import spelled_out
from layerstore.errors import InputError
from layerstore.formats import oci
from layerstore.formats.tree import Entry, Kind
from layerstore.image.exchange.attestations import PROVENANCE_TYPE, SBOM_TYPE
from layerstore.image.images import load_parts
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layouts.layout import NamedImage, save_oci_layout
from tests.support.build import add_image, builder  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.build import Builder

BOTH = Attestations(provenance="max", sbom=True)
DOCKERFILE = "FROM base:1\nARG TOKEN\nCOPY f /f\nCOPY --from=other:2 /x /y\n"


@pytest.fixture
def made(builder: Builder) -> Builder:  # noqa: F811
    content = b"Package: p\nVersion: 1\n"
    entry = Entry(path=b"var/lib/dpkg/status", kind=Kind.FILE, mode=0o644, size=len(content))
    add_image(builder.store, "base:1", [LayerItem(entry, lambda: io.BytesIO(content))])
    other = LayerItem(Entry(path=b"x", kind=Kind.DIR, mode=0o755))
    add_image(builder.store, "other:2", [other])
    builder.write({"f": "one", "unused": "x"})
    return builder


def predicates(builder: Builder, **options: object) -> dict[str, dict]:  # noqa: F811
    options.setdefault("attestations", BOTH)
    result = builder.build(options.pop("dockerfile", DOCKERFILE), **options)
    return {kind: json.loads(text) for kind, text in result.predicates.items()}


def test_provenance_names_everything_that_went_in(made: Builder) -> None:
    plain = predicates(
        made, build_args={"TOKEN": "t", "http_proxy": "http://u:p@proxy"}, labels={"l": "1"},
        secrets={"id": b"hidden-value"}, target=None,
    )[PROVENANCE_TYPE]  # fmt: skip
    definition = plain["buildDefinition"]
    external = definition["externalParameters"]
    assert external["configSource"] == {
        "path": "Dockerfile",
        "digest": {"sha256": hashlib.sha256(DOCKERFILE.encode()).hexdigest()},
    }
    assert external["request"]["args"] == {"build-arg:TOKEN": "t", "label:l": "1"}
    assert external["request"]["secrets"] == [{"id": "id"}]
    assert "hidden-value" not in json.dumps(plain)
    assert "proxy" not in json.dumps(plain)
    uris = [each.get("uri", each.get("name")) for each in definition["resolvedDependencies"]]
    platform = "?platform=linux%2Famd64"
    assert uris == ["context", f"pkg:docker/base@1{platform}", f"pkg:docker/other@2{platform}"]
    base = definition["resolvedDependencies"][1]
    assert f"sha256:{base['digest']['sha256']}" == made.store.resolve("base:1").manifest_digest
    steps = definition["internalParameters"]["buildConfig"]["steps"]
    assert [step["op"] for step in steps].count("copy") == 2
    assert plain["runDetails"]["metadata"]["startedOn"].endswith("Z")


def test_passwords_of_urls_are_not_in_the_text_either(made: Builder) -> None:
    dockerfile = f"# from https://me:hidden-value@example.org/x\n{DOCKERFILE}"
    text = json.dumps(predicates(made, dockerfile=dockerfile)[PROVENANCE_TYPE])
    assert "https://example.org/x" in text
    assert "hidden-value" not in text


def test_native_specs_are_told_as_such(made: Builder) -> None:
    from layerstore.build.api import build
    from layerstore.build.request import BuildRequest
    from tests.support.build import RecordingUi

    spec = made.context / "layerstore.toml"
    spec.write_text('base = "base:1"\n[env]\nA = "b"\n')
    request = BuildRequest(
        context=made.context, dockerfile=spec, attestations=Attestations(provenance="min")
    )
    result = build(made.store, request, RecordingUi())
    definition = json.loads(result.predicates[PROVENANCE_TYPE])["buildDefinition"]
    assert definition["externalParameters"]["request"]["frontend"] == "layerstore.v1"
    assert definition["externalParameters"]["configSource"]["path"] == "layerstore.toml"


def test_the_smaller_provenance_has_no_arguments(made: Builder) -> None:
    plain = predicates(
        made, attestations=Attestations(provenance="min", builder_id="https://ci.example/7"),
        build_args={"TOKEN": "t0ken"}, network=False,
    )[PROVENANCE_TYPE]  # fmt: skip
    assert "t0ken" not in json.dumps(plain)
    assert "buildConfig" not in plain["buildDefinition"]["internalParameters"]
    assert plain["runDetails"]["builder"] == {"id": "https://ci.example/7"}
    request = plain["buildDefinition"]["externalParameters"]["request"]
    assert request["args"] == {"force-network-mode": "none"}


def test_the_context_is_named_by_what_was_taken_from_it(made: Builder) -> None:
    def digest() -> str:
        plain = predicates(made)[PROVENANCE_TYPE]
        return plain["buildDefinition"]["resolvedDependencies"][0]["digest"]["sha256"]

    first = digest()
    made.write({"unused": "other"})
    assert digest() == first
    made.write({"f": "two"})
    assert digest() != first


def test_with_a_fixed_time_it_is_the_same_twice(made: Builder) -> None:
    first = made.build(DOCKERFILE, attestations=BOTH, source_date_epoch=1_700_000_000)
    again = made.build(
        DOCKERFILE, attestations=BOTH, source_date_epoch=1_700_000_000, no_cache=True
    )
    assert first.predicates == again.predicates
    assert first.descriptor == again.descriptor


def test_saving_carries_what_the_store_keeps(made: Builder, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    output = Output(kind=OutputKind.OCI, directory=layout)
    result = made.build(
        DOCKERFILE, attestations=BOTH, tags=["web:1"],
        outputs=[output, Output(kind=OutputKind.IMAGE)], source_date_epoch=1_700_000_000,
    )  # fmt: skip
    image = made.store.resolve("web:1")
    assert load_parts(made.store, image).predicates == result.predicates
    save_oci_layout(made.store, [NamedImage("web:1", image)], tmp_path / "saved")
    assert (tmp_path / "saved" / "index.json").read_bytes() == (layout / "index.json").read_bytes()
    # A build that is not asked for them leaves the same image, without.
    plain = made.build(DOCKERFILE, tags=["web:1"], source_date_epoch=1_700_000_000)
    assert plain.image_id == result.image_id
    assert load_parts(made.store, made.store.resolve("web:1")).predicates == {}


def test_the_layout_is_as_buildkit_writes_it(made: Builder, tmp_path: Path) -> None:
    output = Output(kind=OutputKind.OCI, directory=tmp_path / "layout")
    result = made.build(DOCKERFILE, attestations=BOTH, outputs=[output], tags=["web:1"])

    def blob(digest: str) -> dict:
        raw = (tmp_path / "layout" / "blobs" / "sha256" / digest.partition(":")[2]).read_bytes()
        assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == digest
        return json.loads(raw)

    top = json.loads((tmp_path / "layout" / "index.json").read_text())["manifests"][0]
    assert top["mediaType"] == oci.INDEX_TYPE
    assert top["digest"] == result.descriptor.digest
    image, attached = blob(top["digest"])["manifests"]
    assert attached["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert attached["annotations"] == {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image["digest"],
    }
    manifest = blob(attached["digest"])
    kinds = [layer["annotations"]["in-toto.io/predicate-type"] for layer in manifest["layers"]]
    assert kinds == [PROVENANCE_TYPE, SBOM_TYPE]
    for layer in manifest["layers"]:
        assert layer["mediaType"] == "application/vnd.in-toto+json"
        statement = blob(layer["digest"])
        assert statement["_type"] == "https://in-toto.io/Statement/v1"
        assert statement["predicateType"] == layer["annotations"]["in-toto.io/predicate-type"]
        assert statement["subject"][0]["digest"] == {"sha256": image["digest"][7:]}
    sbom = blob(manifest["layers"][1]["digest"])["predicate"]
    assert sbom["spdxVersion"] == "SPDX-2.3"
    assert [package["name"] for package in sbom["packages"]] == ["web:1", "p"]
    assert blob(manifest["config"]["digest"])["rootfs"]["diff_ids"] == [
        layer["digest"] for layer in manifest["layers"]
    ]
    assert "layerstore.attestation" not in json.dumps(blob(image["digest"]))


def test_words_for_attestations(made: Builder) -> None:
    from layerstore.build.request import BuildRequest

    request = BuildRequest(context=made.context)

    def asked(*words: str, provenance: str | None = None, sbom: str | None = None):
        return with_attestations(request, words, provenance, sbom).attestations

    assert asked() == ("", "", False)
    assert asked(provenance="true") == asked("type=provenance") == ("min", "", False)
    assert asked(provenance="mode=max,builder-id=x") == ("max", "x", False)
    assert asked("type=sbom", "type=provenance,mode=max") == ("max", "", True)
    assert asked("type=sbom", sbom="false") == asked("type=sbom,disabled=true") == ("", "", False)
    for word in (
        "provenance", "type=vex", "type=provenance,mode=mid", "type=provenance,version=v0.2",
        "type=sbom,generator=x", "type=sbom,disabled=maybe",
    ):  # fmt: skip
        with pytest.raises(InputError):
            asked(word)
    line = ["build", "--provenance", "--sbom", "mode=max"]
    assert spelled_out(line) == ["build", "--provenance=true", "--sbom=true", "mode=max"]
    assert spelled_out(["--provenance", "mode=max", "."]) == ["--provenance=mode=max", "."]
