"""Fleets on a running cluster with TLS, and on stores that hold a real Debian."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import re
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.importorskip("distributed")

_START_S = 60


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """Three stores: a Debian; the same and an image of its own; that image alone."""
    place = tmp_path_factory.mktemp("hosts")
    tar = debian_base_tar()
    own = place / "own"
    own.mkdir()
    for number in range(200):
        (own / f"f{number}").write_bytes(os.urandom(3000) * (1 + number % 5))
    for host, sources in {"a": (tar,), "b": (tar, own), "c": (own,)}.items():
        run = Cli(place / host)
        for source in sources:
            name = "debian" if source == tar else "own"
            run.ok("import", source, "-t", name, SOURCE_DATE_EPOCH="1700000000")
    return [place / host for host in "abc"]


def certificates(place: Path) -> dict[str, Path]:
    """Make an authority and one certificate that it signed, for all."""
    now = dt.datetime.now(dt.UTC)
    key, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fleet")])

    def sign(name: x509.Name, public: ec.EllipticCurvePublicKey, ca: bool) -> bytes:
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        )
        signed = builder.sign(key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    private = own.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    contents = {
        "ca": sign(authority, key.public_key(), True),
        "cert": sign(subject, own.public_key(), False),
        "key": private,
    }
    files = {}
    for name, content in contents.items():
        files[name] = place / f"{name}.pem"
        files[name].write_bytes(content)
    return files


@contextlib.contextmanager
def running(log: Path, *words: str) -> Iterator[None]:
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]],
            stdout=out,
            stderr=out,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(_START_S)


def wait_for(log: Path, pattern: str) -> str:
    """Wait until a whole line has a pattern; return what that found."""
    deadline = time.monotonic() + _START_S
    while not (found := re.search(f"({pattern}).*\n", log.read_text(errors="replace"))):
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(0.1)
    return found[1]


def test_real_stores_give_the_same_on_one_machine_and_on_workers(hosts):
    run = Cli(hosts[0])
    here = run.ok("fleet", *hosts, "--json")
    assert run.ok("fleet", *hosts, "--json", "--engine", "dask", "--workers", "3").out == here.out
    fleet = here.json()
    rows = {row["scheme"]: row for row in fleet["schemes"]}
    for store, path in zip(fleet["stores"], hosts, strict=True):
        assert store["name"] == str(path)
    assert rows["chunks"]["separate"] > 1.9 * rows["chunks"]["shared"]
    assert {image["stores"] for image in fleet["shared_images"]} == {2}
    text = run.ok("fleet", *hosts).out
    assert "3 stores with 2 different images, 4 counted on the store of each" in text


def test_workers_of_a_cluster_read_the_stores_they_are_named_for(hosts, tmp_path):
    files = certificates(tmp_path)
    tls = [word for name, path in files.items() for word in (f"--tls-{name}", str(path))]
    dask = [w.replace("--tls-ca", "--tls-ca-file") if w == "--tls-ca" else w for w in tls]
    common = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0", *dask]
    log = tmp_path / "scheduler.log"
    with contextlib.ExitStack() as stack:
        words = ("scheduler", "--protocol", "tls", "--port", "0", *common)
        stack.enter_context(running(log, *words))
        address = wait_for(log, r"tls://127\.0\.0\.1:\d+\b")
        for name in ("one", "two"):
            own = tmp_path / f"{name}.log"
            words = ("worker", address, "--name", name, "--nthreads", "1", "--no-nanny", *common)
            words += ("--local-directory", str(tmp_path / name))
            stack.enter_context(running(own, *words))
            wait_for(own, "Registered to:")
        run = Cli(hosts[0])
        cluster = ("--engine", "dask", "--scheduler", address)
        there = run.ok("fleet", f"one:{hosts[0]}", f"two:{hosts[1]}", *cluster, *tls, "--json")
        here = run.ok("fleet", *hosts[:2], "--json")
        assert there.json()["schemes"] == here.json()["schemes"]
        assert there.json()["shared_chunks"] == here.json()["shared_chunks"]
        told = run.fails(3, "fleet", f"three:{hosts[0]}", *cluster, *tls)
        assert "has no worker three" in told
        told = run.fails(2, "fleet", hosts[0], *cluster)
        assert "--tls-ca FILE --tls-cert FILE --tls-key FILE" in told
        told = run.fails(2, "fleet", hosts[0], *cluster, *tls, "--tls-key", tmp_path / "no.pem")
        assert "the certificates cannot be used" in told
