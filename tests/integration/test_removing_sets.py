"""What rm --dry-run says of any set of images is what rm and gc then free, to the byte.

With all that keeps bytes beside names in play: writable views, cached steps, compressed originals
and a container.

Capabilities: root (overlay mounts), network (mmdebstrap) or ``LAYERSTORE_TEST_BASE``.
"""

from __future__ import annotations

import os
import random
import subprocess

import pytest

from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar
from tests.support.layouts import Layout, tar_of
from tests.support.store import noise

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.network]

FREE = ["app-0:1", "app-1:1", "app-2:1", "loaded:1", "loaded:2", "base:2"]
"""Images that neither a view nor a container has; what they share with those that have is kept."""


def stored_bytes(cli) -> int:
    """Ask du for the sizes of packs and blobs; the catalog and locks are nobody's to foretell."""
    command = ["du", "-s", "-b", "--apparent-size", cli.store / "packs", cli.store / "blobs"]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    directories = [*cli.store.glob("packs/**/"), *cli.store.glob("blobs/**/")]
    sizes = sum(int(line.split()[0]) for line in done.stdout.splitlines())
    return sizes - sum(path.stat().st_size for path in directories)


def unreferenced(cli) -> int:
    rows = cli.ok("df", "--json").json()["rows"]
    return sum(row["size"] for row in rows if row["kind"] == "Unreferenced")


@pytest.fixture
def cli(tmp_path):
    if not os.path.exists("/dev/fuse") or os.geteuid() != 0:
        pytest.skip("needs root and /dev/fuse")
    cli = Cli(tmp_path / "store")
    yield cli
    cli("umount", "--all", "--lazy")


@pytest.fixture
def full(cli, tmp_path):
    """A store in use: images over each other, of which some are shown and one has a container."""
    cli.ok("import", debian_base_tar(), "-t", "base:1")
    context = tmp_path / "context"
    context.mkdir()
    for number in range(3):
        (context / "shared").write_bytes(noise("shared", 200_000))
        (context / f"own-{number}").write_bytes(noise(number, 90_000 + number))
        recipe = f"FROM base:1\nCOPY shared /opt/shared\nCOPY own-{number} /opt/own\n"
        (context / "Dockerfile").write_text(recipe)
        cli.ok("build", "-t", f"app-{number}:1", context)
        cli.ok("build", "-t", f"shown-{number}:1", "--label", f"n={number}", context)
    cli.ok("build", "-t", "base:2", "--label", "second=name", "-", stdin=b"FROM base:1\n")
    layers = [tar_of({"a": noise("a", 80_000)}), tar_of({"b": noise("b", 50_000)})]
    for number in (1, 2):
        made = Layout(tmp_path / f"layout-{number}")
        made.finish((f"docker.io/library/loaded:{number}", made.image(layers[:number], "go")))
        cli.ok("load", "-i", tmp_path / f"layout-{number}")
    for number in range(2):
        (tmp_path / f"view-{number}").mkdir()
        cli.ok("mount", "--rw", f"shown-{number}:1", tmp_path / f"view-{number}")
        (tmp_path / f"view-{number}" / "written").write_bytes(noise("w", 70_000))
    cli.ok("create", "--name", "kept", "shown-2:1", "true")
    return cli


@pytest.mark.parametrize(("seed", "with_cache"), [(1, True), (2, False)])
def test_what_is_said_of_a_set_is_what_is_freed(full, tmp_path, seed, with_cache):
    cli = full
    choice = random.Random(seed)
    left = list(FREE)
    if not with_cache:
        cli.ok("gc", "--all")
    (view := tmp_path / "for-a-while").mkdir()  # what is unpacked for it goes with its image
    cli.ok("mount", "loaded:2", view)
    cli.ok("umount", view)
    evicted = 0
    while left:
        chosen = choice.sample(left, choice.randint(1, len(left)))
        left = [name for name in left if name not in chosen]
        before = stored_bytes(cli)
        dead = unreferenced(cli)
        said = cli.ok("rm", "--dry-run", "--json", *chosen).json()["freed"]
        assert stored_bytes(cli) == before
        parts = [image["added_bytes"] for image in said["images"]]
        assert len(parts) == len(chosen)
        assert sum(parts) == said["attributed_bytes"]
        assert all(image["alone_bytes"] <= image["added_bytes"] for image in said["images"])
        cli.ok("rm", *chosen)
        assert unreferenced(cli) - dead == said["attributed_bytes"]
        report = cli.ok("gc", "--json").json()
        assert report["unpacked_bytes"] == said["unpacked_bytes"]
        evicted += report["unpacked_bytes"]
        assert before - stored_bytes(cli) == said["freed_bytes"]
        assert said["deferred_bytes"] == 0
    assert evicted > 0
    shown = cli.fails(4, "rm", "--dry-run", "shown-0:1")
    assert "mounted" in shown
    assert "container kept" in cli.fails(4, "rm", "--dry-run", "shown-2:1")
    assert cli.ok("check", "--read-data").out.startswith("ok")
