"""diff, waste and find over a Debian image and a real build on it.

Capabilities: root, an OCI runtime, fuse; network (mmdebstrap) or ``LAYERSTORE_TEST_BASE``.
"""

from __future__ import annotations

import io
import tarfile

import pytest

from tests.support.build import needs_runc
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

pytestmark = [*needs_runc, pytest.mark.network]

DOCKERFILE = """\
FROM base:1
COPY app.bin /srv/app.bin
RUN chmod 700 /srv/app.bin
RUN echo key > /root/.key && echo log > /var/log/made.log
RUN rm -r /root/.key /usr/share/doc
ENV MADE=yes
"""
APP_BYTES = 300_000


def doc_size(tar) -> int:
    """Bytes below usr/share/doc, each inode once: links of a tar have no size."""
    with tarfile.open(tar) as archive:
        return sum(
            member.size
            for member in archive
            if member.isreg() and member.name.lstrip("./").startswith("usr/share/doc/")
        )


def installed(tar) -> set[tuple[str, str]]:
    with tarfile.open(tar) as archive:
        for member in archive:
            if member.name.lstrip("./") == "var/lib/dpkg/status":
                text = io.TextIOWrapper(archive.extractfile(member), "utf-8").read()
    stanzas = [
        dict(line.split(": ", 1) for line in block.splitlines() if line[:1] > " " and ": " in line)
        for block in text.split("\n\n")
        if block.strip()
    ]
    return {(each["Package"], each["Version"]) for each in stanzas}


def test_a_real_image_is_seen_into(tmp_path):
    base = debian_base_tar()
    cli = Cli(tmp_path / "store")
    cli.ok("import", base, "-t", "base:1")
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "app.bin").write_bytes(bytes(range(256)) * (APP_BYTES // 256) + bytes(224))
    app_bytes = (context / "app.bin").stat().st_size
    cli.ok("build", "-q", "-t", "app:1", context)

    diff = cli.ok("diff", "base:1", "app:1", "--json").json()
    kinds = {each["path"]: each["kind"] for each in diff["files"]}
    assert (kinds["/srv/app.bin"], kinds["/var/log/made.log"]) == ("A", "A")
    assert kinds["/usr/share/doc"] == "D"
    assert "/root/.key" not in kinds
    assert diff["packages"] == []
    assert {each["field"] for each in diff["config"]} >= {"Env.MADE"}
    logical = diff["old"]["logical_size"] - diff["new"]["logical_size"]
    assert logical == doc_size(base) - app_bytes - 4

    (image,) = cli.ok("waste", "app:1", "--json").json()["images"]
    found = {(each["rule"], each["step"]["number"]): each for each in image["findings"]}
    assert found["deleted", 1]["size"] == doc_size(base)
    assert found["deleted", 1]["stored"] == 0  # base:1 shows the files
    assert found["attributes", 3]["size"] == app_bytes
    assert found["attributes", 3]["by"]["text"].startswith("COPY app.bin")
    assert "--chown" in found["attributes", 3]["fix"]
    assert found["deleted", 4]["by"]["place"] == "[5/5]"

    (key,) = cli.ok("find", "/root/.key", "--hidden", "--json").json()
    assert (key["step"]["number"], key["hidden_by"]["number"]) == (4, 5)
    packages = cli.ok("find", "--package", "*", "--image", "app:1", "--json").json()["packages"]
    assert {(each["name"], each["version"]) for each in packages} == installed(base)
    assert all(each["step"]["number"] == 1 for each in packages)
