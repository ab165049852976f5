"""Proposed bases built for real: what was predicted of Debian packages is what comes out.

Capabilities: root, an OCI runtime, network (packages of Debian).
"""

from __future__ import annotations

import os

import pytest

from tests.support.build import needs_runc
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

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
