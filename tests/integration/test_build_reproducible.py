"""The same image wherever it is built: other store, user, umask, time zone, locale, order."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from layerstore.image.layers.layers import load_changeset
from layerstore.store.store import Store
from tests.support.build import needs_runc
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = needs_runc

EPOCH = "1700000000"
NET_BIND_SERVICE = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
"""The attribute of a file that gives the capability 10, as setcap(8) writes it."""
DOCKERFILE = """\
FROM debian:base AS tools
WORKDIR /opt/app
COPY . .
RUN mkdir -p /opt/out && for n in 9 1 5; do echo "$n" > /opt/out/f$n; done \\
 && ln /opt/out/f9 /opt/out/again && ln -s f1 /opt/out/link \\
 && install -m 2755 -o daemon /opt/out/f5 /opt/out/owned \\
 && dpkg-query -W > /opt/out/packages && umask > /opt/out/umask && hostname > /opt/out/host
RUN date -u +%Y > /dev/null && useradd -m -u 1234 someone && passwd -d someone
FROM debian:base
COPY --from=tools --chown=daemon /opt/out /opt/out
COPY --link z /z
COPY --from=tools /opt/app/src/program /usr/local/bin/
ADD a.tar /unpacked
ARG SOURCE_DATE_EPOCH
RUN perl -e 'open(F, ">", "/log.txt"); print F join(",", sort keys %ENV)' \\
 && touch /now && chmod 600 /now
USER 1234
ENV LC_ALL=C
CMD ["/bin/true"]
"""


def make_context(folder: Path, seed: int) -> None:
    """Write the same files in an order of its own, so that directories list differently."""
    names = [f"src/{letter}/{number}.txt" for letter in "qax" for number in range(20)] + ["z"]
    random.Random(seed).shuffle(names)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n")
        path.chmod(0o640)
        os.utime(path, (1_600_000_000 + seed, 1_800_000_000 + seed))
    for path in folder.glob("**/"):
        path.chmod(0o755)
    made = folder / "made"
    made.mkdir()
    (made / "one").write_text("one\n")
    (made / "two").hardlink_to(made / "one")
    for path in (made, made / "one"):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    made.chmod(0o755)
    (made / "one").chmod(0o644)
    subprocess.run(
        ["tar", "--sort=name", "--numeric-owner", "--owner=7", "--group=8", "-cf", "../a.tar", "."],
        cwd=made, check=True,
    )  # fmt: skip
    shutil.rmtree(made)
    (folder / "a.tar").chmod(0o644)
    program = folder / "src" / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    os.setxattr(program, "security.capability", NET_BIND_SERVICE)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    (folder / "Dockerfile").chmod(0o644)


def build_elsewhere(cli: Cli, context: Path, *, umask: int, **variables: str) -> str:
    """Build as another host would, and return the image's id."""
    done = subprocess.run(
        cli.command("build", "-q", "--network=none", context),
        env={
            **cli.environment(None),
            "SOURCE_DATE_EPOCH": EPOCH,
            "PYTHONDONTWRITEBYTECODE": "1",
            **variables,
        },
        umask=umask, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_two_hosts_make_one_image(tmp_path: Path) -> None:
    tar = debian_base_tar()
    built = []
    for number, (umask, variables) in enumerate(
        [
            (0o022, {"TZ": "UTC", "LC_ALL": "C", "PYTHONHASHSEED": "1", "HOME": "/root"}),
            (0o077, {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2",
                     "HOME": "/nonexistent", "USER": "someone", "HOSTNAME": "elsewhere"}),
        ]
    ):  # fmt: skip
        place = tmp_path / ("a" * (number + 1))
        context = place / "context"
        context.mkdir(parents=True)
        make_context(context, number)
        cli = Cli(place / "store")
        cli.ok("import", tar, "-t", "debian:base", SOURCE_DATE_EPOCH=EPOCH)
        built.append((cli, build_elsewhere(cli, context, umask=umask, **variables)))
    (first, first_id), (second, second_id) = built
    if first_id != second_id:
        pytest.fail(difference(first.store, second.store, first_id, second_id))


def difference(first: Path, second: Path, first_id: str, second_id: str) -> str:
    told = []
    with Store.open(first) as one, Store.open(second) as two:
        pairs = zip(one.resolve(first_id).layers, two.resolve(second_id).layers, strict=True)
        for mine, other in pairs:
            a = set(load_changeset(one, mine).entries)
            b = set(load_changeset(two, other).entries)
            told += [f"{entry}" for entry in sorted(a ^ b, key=lambda entry: entry.path)[:10]]
    return "\n".join(told) or "the configs differ"
