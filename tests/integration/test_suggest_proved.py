"""Proposed bases built for real: what was predicted of Debian's and pip's packages comes out.

Capabilities: root, an OCI runtime, network (packages of Debian).
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import random
import zipfile

import pytest

from tests.support.build import needs_runc
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar
from tests.support.http_server import serving

pytestmark = [*needs_runc, pytest.mark.root, pytest.mark.network, pytest.mark.timeout(600)]

DOCKERFILE = """\
FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends {} && \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
"""


def test_a_common_base_saves_what_was_predicted(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    cli = Cli(tmp_path / "store")
    cli.ok("import", debian_base_tar(), "-t", "debian:bookworm")
    specs = []
    for name, packages in {"one": "file bc", "two": "file tree"}.items():
        spec = tmp_path / name
        spec.mkdir()
        (spec / "Dockerfile").write_text(DOCKERFILE.format(packages))
        specs.append(spec)
    result = cli("suggest", "--prove", "--quiet", "--json", *specs, timeout_s=580)
    if "apt-get" in result.err and result.code == 14:
        pytest.skip(f"no packages to be had: {result.err[-300:]}")
    assert result.code == 0, result
    (group,) = result.json()["groups"]
    (base,) = group["bases"]
    assert base["packages"] == ["file"]
    before, after = group["measured"]["before"], group["measured"]["after"]
    assert before["layers"] == group["now"]["layers"]
    saved = before["layers"] - after["layers"]
    assert base["saved"]["layers"] > 7_000_000  # the database of file
    assert abs(saved - base["saved"]["layers"]) < 1_000_000
    assert abs(before["stored"] - after["stored"]) < 1_000_000
    assert not cli.ok("images", "-q", "common-1").out


PIP_DOCKERFILE = """\
FROM debian:bookworm
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && \\
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf,required \\
    python3 -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir {}
"""


def wheel(name, size):
    """A wheel with one module that does not compress."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": b"DATA = " + repr(random.Random(name).randbytes(size)).encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},"
        f"{len(data)}\n"
        for path, data in files.items()
    )
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return packed.getvalue()


def test_a_base_with_packages_of_pip_saves_what_was_predicted(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root")
    cli = Cli(tmp_path / "store")
    cli.ok("import", debian_base_tar(), "-t", "debian:bookworm")
    with serving() as index:
        for name in ("common", "left", "right"):
            file = f"{name}-1.0-py3-none-any.whl"
            index.file(f"/files/{file}", wheel(name, 1_500_000))
            page = f'<a href="/files/{file}">{file}</a>'.encode()
            index.file(f"/simple/{name}/", page, Content_Type="text/html")
        config = tmp_path / "pip.conf"
        config.write_text(f"[global]\nindex-url = {index.url('/simple/')}\n")
        specs = []
        for name in ("left", "right"):
            spec = tmp_path / name
            spec.mkdir()
            (spec / "Dockerfile").write_text(PIP_DOCKERFILE.format(f"common {name}"))
            specs.append(spec)
        secret = f"id=pip.conf,src={config}"
        words = ("suggest", "--prove", "--quiet", "--json", "--secret", secret)
        result = cli(*words, *specs, timeout_s=580)
    if "apt-get" in result.err and result.code == 14:
        pytest.skip(f"no packages to be had: {result.err[-300:]}")
    assert result.code == 0, result
    (group,) = result.json()["groups"]
    (base,) = group["bases"]
    assert base["packages"] == ["python3-venv"]
    (others,) = base["others"]
    assert (others["manager"], others["place"]) == ("pip", "/opt/venv")
    assert [each.partition("==")[0] for each in others["packages"]] == [
        "common",
        "pip",
        "setuptools",
    ]
    before, after = group["measured"]["before"], group["measured"]["after"]
    saved = before["layers"] - after["layers"]
    assert base["saved"]["layers"] > 10_000_000  # pip, its compiled files, and common
    assert abs(saved - base["saved"]["layers"]) < 4_000_000
    assert abs(before["stored"] - after["stored"]) < 4_000_000
