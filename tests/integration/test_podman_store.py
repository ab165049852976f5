"""podman runs images of the store in place, through views that it takes for its layers.

Capabilities: root, podman, runc, overlays over the kernel's views.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts
from layerstore.linux import mounts as syscalls
from layerstore.linux import probe
from layerstore.store.store import Store
from tests.support.build import busybox
from tests.support.cli import Cli
from tests.support.memory import forget, resident_pages
from tests.support.podman import Podman, needs_podman
from tests.support.store import noise
from tests.support.views import undo_all_mounts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = needs_podman

BIG_BYTES = 4 << 20
BASE = "docker.io/library/base:1"
APP = "docker.io/library/app:1"


class Host:
    """``base:1`` of one layer, ``app:1`` of one more, and a podman that may look at them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cli = Cli(path / "store")
        tree = path / "tree"
        for directory in ("bin", "etc", "data", "proc", "dev", "sys", "tmp"):
            (tree / directory).mkdir(parents=True)
        shutil.copy(busybox(), tree / "bin/busybox")
        for name in ("sh", "cat", "sleep", "ls", "id", "true", "stat"):
            (tree / "bin" / name).symlink_to("busybox")
        (tree / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
        (tree / "data/big").write_bytes(noise(11, BIG_BYTES))
        (tree / "data/old").write_text("old\n")
        (tree / "bin/stat").unlink()
        self.cli.ok("import", tree, "-t", "base:1", "-c", 'CMD ["cat", "/data/old"]')
        self.change("base:1", "app:1", "new")
        self.shared = path / "shared"
        self.podman = Podman(path / "podman", self.shared)

    def change(self, image: str, name: str, word: str) -> None:
        """Make one more image over another."""
        view = self.path / f"view-{name}"
        view.mkdir()
        self.cli.ok("mount", "--rw", image, view)
        (view / "data/old").unlink()
        (view / "data/new").write_text(f"{word}\n")
        self.cli.ok("commit", view, name, "-c", 'CMD ["cat", "/data/new"]')
        self.cli.ok("umount", view)
        view.rmdir()

    def share(self, *words: str | Path) -> list[str]:
        return self.cli.ok("podman-store", self.shared, *words).lines

    def views(self) -> list[str]:
        return [item.record.target for item in mounts.mounts(str(self.cli.store))]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.podman.close()
    undo_all_mounts(host.cli.store)


def test_podman_runs_what_the_store_holds_and_copies_nothing(host: Host) -> None:
    host.share("app:1", "base:1")
    assert host.podman.names() == {APP, BASE}
    assert {image["ReadOnly"] for image in host.podman.json("images", "--format", "json")} == {True}
    assert host.podman("run", "app:1") == "new\n"
    assert host.podman("run", "base:1") == "old\n"
    assert "old" not in host.podman("run", "app:1", "ls", "/data")
    host.podman(
        "run", "--name", "kept", "app:1", "sh", "-c", "cat /data/big > /dev/null; echo x > /x"
    )
    assert "A /x" in host.podman("diff", "kept").splitlines()
    assert host.podman.stored_bytes() < 100
    with Store.open(host.cli.store) as store:
        image = store.resolve("app:1")
    (seen,) = host.podman.json("image", "inspect", "app:1")
    assert (seen["Id"], seen["RootFS"]["Layers"]) == (image.image_id[7:], list(image.layers))
    assert host.podman.run("rmi", "app:1").returncode != 0


def test_containers_of_several_images_share_pages(host: Host) -> None:
    host.share("--all")
    roots = []
    for name in ("base:1", "app:1"):
        container = host.podman("run", "--detach", name, "sleep", "600").strip()
        roots.append(host.podman.json("inspect", container)[0]["State"]["Pid"])
    one, other = (f"/proc/{pid}/root/data/big" for pid in roots)
    path = host.path / "other"
    path.symlink_to(other)
    forget(path)
    before = resident_pages(path)
    with open(one, "rb") as file:
        assert len(file.read()) == BIG_BYTES
    after = resident_pages(path)
    assert (before, after) == (0, BIG_BYTES // os.sysconf("SC_PAGE_SIZE"))


def test_podman_knows_an_image_by_the_digest_that_it_came_under(host: Host) -> None:
    saved = host.cli.ok("save", "app:1", "-o", host.path / "layout", "--json").json()
    other = Cli(host.path / "other")
    other.ok("load", "--input", host.path / "layout")
    host.cli = other
    host.share("--all")
    (seen,) = host.podman.json("image", "inspect", APP)
    assert seen["Digest"] in saved["digests"]
    assert host.podman("run", f"docker.io/library/app@{seen['Digest']}") == "new\n"
    host.share("--rm")


def test_podman_builds_and_commits_over_shared_images(host: Host) -> None:
    host.share("app:1")
    (host.path / "Dockerfile").write_text("FROM app:1\nCOPY Dockerfile /\nENV A=1\n")
    host.podman("build", "--tag", "built", "--file", host.path / "Dockerfile", host.path)
    host.podman("run", "--name", "done", "built", "sh", "-c", "echo more > /more")
    host.podman("commit", "done", "kept")
    assert host.podman("run", "kept", "cat", "/more", "/data/new") == "more\nnew\n"
    with Store.open(host.cli.store) as store:
        layers = list(store.resolve("app:1").layers)
    (seen,) = host.podman.json("image", "inspect", "kept")
    assert seen["RootFS"]["Layers"][:2] == layers
    assert len(seen["RootFS"]["Layers"]) == 4
    assert host.podman.stored_bytes() < 1000


def test_what_podman_writes_elsewhere_is_never_wrong_bytes(host: Host) -> None:
    """It has no recipe to write our layers' tars again, and says so instead of writing others."""
    host.share("app:1")
    done = host.podman.run("save", "--output", host.path / "app.tar", "app:1")
    assert done.returncode != 0
    assert "Digest did not match" in done.stderr


def test_names_that_move_are_followed_and_containers_keep_what_they_run_on(host: Host) -> None:
    host.share("app:1")
    with Store.open(host.cli.store) as store:
        first = store.resolve("app:1").image_id
    container = host.podman("run", "--detach", "app:1", "sleep", "600").strip()
    host.change("base:1", "app:1", "newer")
    assert host.podman("run", "app:1") == "new\n"  # until the next update
    told = host.cli.ok("podman-store", host.shared)
    assert "stays without a name: containers run on it" in told.err
    assert host.podman("run", "app:1") == "newer\n"
    assert host.podman("exec", container, "cat", "/data/new") == "new\n"
    assert first[7:] in host.podman.ids()
    assert "containers run on images" in host.cli.fails(4, "podman-store", host.shared, "--rm")
    host.podman("rm", "--force", "--time", "0", container)
    host.share()
    assert first[7:] not in {
        image["Id"] for image in host.podman.json("images", "--format", "json")
    }
    assert len(host.views()) == 2  # app:1 and what it is based on


def test_images_that_are_shown_stay_in_the_store(host: Host) -> None:
    host.share("app:1")
    told = host.cli.fails(4, "rm", "app:1")
    assert "is mounted at" in told
    assert f"hint: layerstore podman-store {host.shared} --rm docker.io/library/app:1" in told
    host.cli.ok("gc", "--all")
    assert host.podman("run", "app:1") == "new\n"
    host.share("--rm")
    assert not host.shared.exists()
    assert host.views() == []
    host.cli.ok("rm", "app:1")


def test_a_layer_is_not_taken_from_under_podman(host: Host) -> None:
    host.share("base:1")
    (view,) = host.views()
    assert "podman is shown the view" in host.cli.fails(4, "umount", view)
    assert "podman-store" in host.cli.fails(4, "umount", "--all", "--lazy")
    host.podman("run", "--detach", "--name", "runs", "base:1", "sleep", "600")
    assert "a container of it runs at" in host.cli.fails(4, "umount", "--lazy", view)
    assert host.podman("exec", "runs", "cat", "/data/old") == "old\n"
    host.podman("rm", "--force", "runs")
    host.cli.ok("umount", "--force", view)
    assert host.views() == []


def test_images_are_added_and_taken_away_by_name(host: Host) -> None:
    host.share("base:1")
    host.share("app:1")
    assert host.podman.names() == {APP, BASE}
    host.share("--rm", "base:1")
    assert host.podman.names() == {APP}
    assert "base:2 was not asked for" in host.cli.fails(
        3, "podman-store", host.shared, "--rm", "base:2"
    )
    host.cli.ok("tag", "app:1", "quay.io/team/app:2")
    host.share("--all")
    assert host.podman.names() == {APP, BASE, "quay.io/team/app:2"}
    host.cli.ok("tag", "base:1", "base:3")
    listed = host.cli.ok("podman-store", "--json", host.shared).json()
    assert host.podman.names() == {APP, BASE, "quay.io/team/app:2", "docker.io/library/base:3"}
    assert len(listed["images"]) == 2


def test_what_a_restart_takes_away_comes_back(host: Host) -> None:
    host.share("app:1")
    for target in host.views():
        syscalls.unmount(target, lazy=True)
    assert host.podman.run("run", "app:1").returncode != 0
    host.share()
    assert host.podman("run", "app:1") == "new\n"


@pytest.mark.fuse
@pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse")
def test_a_fuse_view_serves_as_well(host: Host) -> None:
    host.share("app:1", "--backend", "fuse")
    assert host.podman("run", "app:1") == "new\n"
    host.share("--rm")


def test_buildah_and_skopeo_see_the_same(host: Host) -> None:
    if shutil.which("buildah") is None or shutil.which("skopeo") is None:
        pytest.skip("buildah or skopeo is not installed")
    host.share("app:1")
    made = host.podman.run("from", "app:1", program="buildah")
    assert made.returncode == 0, made
    place = host.podman.run("mount", made.stdout.strip(), program="buildah").stdout.strip()
    with open(f"{place}/data/new") as file:
        assert file.read() == "new\n"
    host.podman.run("rm", "--all", program="buildah")
    seen = host.podman.run("inspect", "--config", "containers-storage:app:1", program="skopeo")
    assert seen.returncode == 0, seen


def test_owners_are_shown_under_the_ids_of_a_rootless_user(host: Host) -> None:
    """What ``--for USER`` makes of /etc/passwd and /etc/subuid, by hand."""
    finding = probe.idmapped_layers(str(host.path))
    if not finding.works:
        pytest.skip(f"{finding.name}: {finding.reason}")
    tree = host.path / "owned"
    tree.mkdir()
    (tree / "web").write_text("web")
    os.chown(tree / "web", 33, 34)
    host.cli.ok("import", tree, "-t", "owned:1")
    idmap = ["--idmap", "0:4711:1", "--idmap", "1:100000:65536"]
    host.share("owned:1", *idmap)
    assert host.shared.stat().st_uid == 0
    (shown,) = host.shared.glob("overlay/*/diff")
    assert (shown / "web").stat().st_uid == 100_032
    assert (shown / "web").stat().st_gid == 100_033
    assert shown.stat().st_uid == 4711
    assert "other ids" in host.cli.fails(4, "podman-store", host.shared, "--idmap", "0:4712:65536")
    assert "no user" in host.cli.fails(2, "podman-store", host.shared, "--for", "no-such-user")


def test_the_user_of_a_directory_reads_it_and_changes_nothing(host: Host) -> None:
    """Else a link in the place of ``overlay`` would lead root wherever that user likes."""
    finding = probe.idmapped_layers(str(host.path))
    if not finding.works:
        pytest.skip(f"{finding.name}: {finding.reason}")
    host.share("base:1", "--idmap", "0:4711:1", "--idmap", "1:100000:65536")

    def tries(script: str, uid: int = 4711) -> int:
        words = ["sh", "-c", script]
        done = subprocess.run(
            words, cwd=host.shared, user=uid, group=uid, extra_groups=[], check=False,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return done.returncode

    assert tries("ls . && cat overlay-layers/layers.json > /dev/null && ls overlay/*/diff/bin") == 0
    assert tries("mv overlay elsewhere") != 0
    assert tries("echo {} > layerstore.json") != 0
    assert tries("ls .", uid=4712) != 0


@pytest.mark.parametrize("place", [".", "below"])
def test_a_directory_that_a_user_could_replace_is_refused(host: Host, place: str) -> None:
    theirs = host.path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 4711, 4711)
    error = host.cli.fails(2, "podman-store", theirs / place, "base:1", "--idmap", "0:4711:1")
    assert "replaced by others than root" in error
    assert list(theirs.iterdir()) == []


def test_directories_of_others_are_left_alone(host: Host) -> None:
    assert "was not asked for" not in host.cli.fails(3, "podman-store", host.shared, "--rm")
    assert "name images to show" in host.cli.fails(2, "podman-store", host.shared)
    assert "no image" in host.cli.fails(3, "podman-store", host.shared, "missing:1")
    assert not host.shared.exists()
    host.shared.mkdir()
    (host.shared / "theirs").write_text("theirs")
    assert "is not empty" in host.cli.fails(2, "podman-store", host.shared, "app:1")
    inside = host.cli.store / "shared"
    assert "would hide the store" in host.cli.fails(2, "podman-store", inside, "app:1")
    (host.shared / "theirs").unlink()
    host.share("app:1")
    other = Cli(host.path / "other-store")
    other.ok("import", host.path / "tree/data", "-t", "app:1")
    assert "another store" in other.fails(4, "podman-store", host.shared, "app:1")
    (host.shared / "layerstore.json").write_text('{"version": 1, "names": 7}')
    host.cli.fails(10, "podman-store", host.shared)
    host.cli.fails(10, "podman-store", host.shared, "--rm")


def test_a_killed_update_is_completed_by_the_next(host: Host) -> None:
    source = random.Random(5)
    host.share("base:1")
    for _ in range(8):
        add = [["app:1"], ["--rm", "app:1"], ["--all"]][source.randrange(3)]
        with subprocess.Popen(
            host.cli.command("podman-store", host.shared, *add),
            env=host.cli.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            time.sleep(source.uniform(0.05, 0.4))
            process.send_signal(signal.SIGKILL)
        assert BASE in host.podman.names()  # what was there is there, and can be read
        assert host.podman("run", "base:1") == "old\n"
    host.share("app:1")
    assert host.podman("run", "app:1") == "new\n"
    host.share("--rm")
    assert host.views() == []
