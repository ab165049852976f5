"""Layouts with attestations, and SBOMs, judged by other people's tools.

Capabilities: peers (skopeo; pyspdxtools of the Python package spdx-tools, where it is installed).
"""

import hashlib
import json
import shutil
import subprocess

import pytest

from tests.support.cli import Cli

pytestmark = pytest.mark.peers

STATUS = (
    "Package: libc6\nStatus: install ok installed\nVersion: 2.36-9+deb12u9\nArchitecture: amd64\n"
    "Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>\n"
    "Homepage: https://www.gnu.org/software/libc/libc.html\n\n"
    "Package: odd\nVersion: 1:2~rc1\nMaintainer: nobody (really) <>\nHomepage: UNKNOWN\n"
)


@pytest.fixture
def built(tmp_path):
    """An image with both attestations in a store, and in a layout."""
    cli = Cli(tmp_path / "store")
    context = tmp_path / "context"
    (context / "root/var/lib/dpkg").mkdir(parents=True)
    (context / "root/var/lib/dpkg/status").write_text(STATUS)
    (context / "root/node_modules/@a/b").mkdir(parents=True)
    (context / "root/node_modules/@a/b/package.json").write_text(
        '{"name":"@a/b","version":"1.0.0","license":"see file","author":"x <y>"}'
    )
    (context / "Dockerfile").write_text("FROM scratch\nCOPY root /\n")
    cli.ok(
        "build", "-t", "web:1", "--sbom", "--provenance=mode=max", "-o", "type=image",
        "-o", f"type=oci,tar=false,dest={tmp_path / 'layout'}", context,
    )  # fmt: skip
    return cli, context, tmp_path / "layout"


def statements(layout):
    found = {}
    for path in (layout / "blobs" / "sha256").iterdir():
        try:
            plain = json.loads(path.read_bytes())
        except ValueError:
            continue
        if "predicateType" in plain:
            found[plain["predicateType"]] = plain["predicate"]
    return found


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_takes_the_image_out(built, tmp_path):
    cli, _, layout = built
    (told,) = cli.ok("inspect", "web:1").json()
    assert told["Attestations"] == ["https://slsa.dev/provenance/v1", "https://spdx.dev/Document"]
    command = ["skopeo", "--insecure-policy", "copy", f"oci:{layout}:1", f"dir:{tmp_path}/copy"]
    subprocess.run(command, check=True, capture_output=True)
    manifest = json.loads((tmp_path / "copy" / "manifest.json").read_text())
    assert manifest["config"]["digest"] == told["Id"]
    assert len(manifest["layers"]) == 1


@pytest.mark.skipif(shutil.which("pyspdxtools") is None, reason="spdx-tools is not installed")
def test_the_sbom_is_spdx(built, tmp_path):
    document = tmp_path / "sbom.spdx.json"
    document.write_text(json.dumps(statements(built[2])["https://spdx.dev/Document"]))
    done = subprocess.run(["pyspdxtools", "-i", document], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_store_stays_sound(built, tmp_path):
    """A manifest that another one replaced is garbage, and nothing else is."""
    cli, context, layout = built
    cli.ok("save", "web:1", "-o", tmp_path / "saved")
    assert statements(tmp_path / "saved") == statements(layout)
    cli.ok("build", "-t", "web:1", "--sbom", context)
    cli.ok("gc")
    cli.ok("check", "--read-data")
    cli.ok("save", "web:1", "-o", tmp_path / "again")
    assert list(statements(tmp_path / "again")) == ["https://spdx.dev/Document"]
    cli.ok("check", "--rebuild-index")
    cli.ok("save", "web:1", "-o", tmp_path / "rebuilt")
    assert statements(tmp_path / "rebuilt") == statements(tmp_path / "again")


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
def test_skopeo_takes_the_image_for_each_platform_out(tmp_path):
    cli = Cli(tmp_path / "store")
    context = tmp_path / "context"
    context.mkdir()
    for name in ("amd64", "arm64"):
        (context / name).write_text(name)
    (context / "Dockerfile").write_text("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /program\n")
    archive = tmp_path / "web.tar"
    cli.ok(
        "build", "-t", "web:1", "--platform", "linux/amd64,linux/arm64", "--provenance=true",
        "-o", f"type=oci,dest={archive}", "-o", tmp_path / "files", context,
    )  # fmt: skip
    for name in ("amd64", "arm64"):
        command = ["skopeo", "--override-arch", name, "inspect", "--config"]
        done = subprocess.run(
            [*command, f"oci-archive:{archive}"], capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout)["architecture"] == name
        folder = tmp_path / "files" / f"linux_{name}"
        statement = json.loads((folder / "provenance.json").read_text())
        (subject,) = statement["subject"]
        assert subject["name"] == "program"
        digest = hashlib.sha256((folder / "program").read_bytes()).hexdigest()
        assert subject["digest"] == {"sha256": digest}
