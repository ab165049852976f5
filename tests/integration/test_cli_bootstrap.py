"""A real Debian base from packages.

Capabilities: network (a Debian mirror), root and mmdebstrap.
"""

import os
import shutil
import tarfile

import pytest

from tests.support.cli import Cli

pytestmark = [pytest.mark.network, pytest.mark.root]

NO_NETWORK = ("Could not resolve", "Could not connect", "Connection timed out", "Unable to connect")


def test_a_base_that_containers_can_grow_from(tmp_path):
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("needs root and mmdebstrap")
    cli = Cli(tmp_path / "store")
    made = cli("bootstrap", "debian:bookworm", timeout_s=600)
    if any(words in made.err for words in NO_NETWORK):
        pytest.skip(f"no mirror can be reached: {made.err[-300:]}")
    assert made.code == 0, made

    kept = cli.ok("bootstrap", "debian:bookworm")
    assert (kept.out, "exists and is kept" in kept.err) == (made.out, True)

    tar = tmp_path / "base.tar"
    cli.ok("export", "debian:bookworm", "-o", tar)
    with tarfile.open(tar) as archive:
        names = set(archive.getnames())
        policy = archive.extractfile("usr/sbin/policy-rc.d").read()
        sources = archive.extractfile("etc/apt/sources.list").read()
        caches = archive.extractfile("etc/apt/apt.conf.d/50no-caches-in-layers").read()
    assert b'Dir::Cache::pkgcache "";\n' in caches
    assert b" bookworm main" in sources
    assert policy == b"#!/bin/sh\nexit 101\n"
    assert {"usr/bin/apt-get", "usr/bin/dpkg"} <= names
    assert names.isdisjoint({"etc/hostname", "etc/resolv.conf"})
    assert not [
        name for name in names if name.startswith("var/cache/apt/") and name.endswith(".bin")
    ]
