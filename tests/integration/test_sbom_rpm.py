"""The packages of an image that rpm itself installed, beside what rpm says of them.

Capabilities: peers (rpm, rpmbuild).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(
        shutil.which("rpmbuild") is None or shutil.which("rpm") is None,
        reason="rpm and rpmbuild are not installed",
    ),
]

SPEC = """\
Name: {name}
Version: 1.2
Release: 3.fc40
{epoch}
Summary: says hello
License: MIT and GPL-2.0-only
URL: https://example.org/{name}
Vendor: Fedora Project
BuildArch: noarch
%description
Text.
%files
"""


def test_rpm_and_the_list_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where rpmbuild makes a database
    context = tmp_path / "context"
    place = context / "root/usr/lib/sysimage/rpm"
    (context / "root/etc").mkdir(parents=True)
    (context / "root/etc/os-release").write_text("ID=fedora\nVERSION_ID=40\n")
    for name, epoch in (("hello", "Epoch: 2"), ("world", "")):
        spec = tmp_path / f"{name}.spec"
        spec.write_text(SPEC.format(name=name, epoch=epoch))
        _run("rpmbuild", "--define", f"_topdir {tmp_path / 'top'}", "-bb", spec)
    packages = sorted((tmp_path / "top/RPMS/noarch").iterdir())
    database = ("rpm", "--define", "_db_backend sqlite", "--dbpath", place)
    _run(*database, "--initdb")
    _run(*database, "-i", "--justdb", "--nodeps", *packages)
    told = _run(*database, "-qa", "--qf", "%{NAME} %{EVR} %{ARCH} %{SOURCERPM}\n")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY root /\n")

    cli = Cli(tmp_path / "store")
    cli.ok("build", "--sbom=true", "-o", f"type=local,dest={tmp_path / 'out'}", context)

    statement = json.loads((tmp_path / "out/sbom.spdx.json").read_text())
    found = {
        each["name"]: each
        for each in statement["predicate"]["packages"]
        if each.get("sourceInfo") == "found in /usr/lib/sysimage/rpm/rpmdb.sqlite"
    }
    lines = [line.split() for line in told.splitlines()]
    assert sorted(found) == sorted(name for name, *_ in lines) == ["hello", "world"]
    for name, version, architecture, source in lines:
        assert found[name]["versionInfo"] == version
        (ref,) = found[name]["externalRefs"]
        epoch = "&epoch=2" if version.startswith("2:") else ""
        assert ref["referenceLocator"] == (
            f"pkg:rpm/fedora/{name}@1.2-3.fc40?arch={architecture}&distro=fedora-40{epoch}"
            f"&upstream={source}"
        )
    assert "left out" not in statement["predicate"].get("comment", "")


def _run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
