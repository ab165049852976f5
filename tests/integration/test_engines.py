"""Images from and to a running docker and podman, by their sockets.

Capabilities: root; dockerd, podman.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from layerstore.store.store import Store
from tests.support.build import busybox
from tests.support.cli import Cli
from tests.support.docker_daemon import docker_daemon, needs_docker
from tests.support.podman import Podman, needs_podman
from tests.support.store import noise

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from layerstore.store.catalog.rows import ImageRecord

ENGINES = [
    pytest.param("docker", marks=needs_docker),
    pytest.param("podman", marks=needs_podman),
]


class Peer:
    """An engine, in the words that both understand."""

    def __init__(self, name: str, address: str, command: Sequence[str | Path]) -> None:
        self.name = name
        self.where = ("--host", address)
        self._command = command

    def client(self, *words: str | Path) -> str:
        """Run a command of its own client, which must succeed."""
        done = subprocess.run(
            [*self._command, *words], capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done
        return done.stdout

    def image_id(self, name: str) -> str:
        return self.client("image", "inspect", "--format", "{{.Id}}", name).strip()[-64:]

    def layers(self, name: str) -> list[str]:
        return json.loads(
            self.client("image", "inspect", "--format", "{{json .RootFS.Layers}}", name)
        )


@contextmanager
def engine(name: str, path: Path) -> Iterator[Peer]:
    if name == "docker":
        with docker_daemon(path / "docker-data") as client:
            yield Peer(name, client[-1], client)
        return
    podman = Podman(path / "podman")
    try:
        with podman.service() as address:
            yield Peer(name, address, podman.command)
    finally:
        podman.close()


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """A store with ``base:1`` and ``app:1``, which is one layer more."""
    cli = Cli(tmp_path / "store")
    tree = tmp_path / "tree"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(busybox(), tree / "bin/busybox")
    (tree / "data").write_bytes(noise(3, 2 << 20))
    cli.ok("import", tree, "-t", "base:1", "-c", 'CMD ["/bin/busybox", "true"]')
    view = tmp_path / "view"
    view.mkdir()
    cli.ok("mount", "--rw", "base:1", view)
    (view / "new").write_text("new\n")
    cli.ok("commit", view, "app:1")
    cli.ok("umount", view)
    return cli


def resolve(cli: Cli, name: str) -> ImageRecord:
    with Store.open(cli.store) as store:
        return store.resolve(name)


@pytest.mark.parametrize("name", ENGINES)
def test_images_go_to_an_engine_and_come_back_with_their_ids(
    cli: Cli, tmp_path: Path, name: str
) -> None:
    app, base = resolve(cli, "app:1"), resolve(cli, "base:1")
    with engine(name, tmp_path) as peer:
        first = cli.ok("save", "--to", name, *peer.where, "base:1")
        assert "docker.io/library/base:1: " in first.out
        (sent,) = cli.ok("save", "--to", name, *peer.where, "app:1", "--json").json()
        assert peer.image_id("app:1") == app.image_id[7:]
        listed = cli.ok("images", "--of", name, *peer.where, "app:1", "--json").json()
        assert [image["image_id"][-64:] for image in listed] == [app.image_id[7:]]
        table = cli.ok("images", "--of", name, *peer.where)
        assert table.lines[0].split()[:3] == ["REPOSITORY", "TAG", "IMAGE"]
        assert {"base", "app"} == {line.split()[0].rpartition("/")[2] for line in table.lines[1:]}
        assert peer.layers("app:1") == list(app.layers)
        # docker takes the image without the layer that it has; podman reads every file.
        size = sent["sent_bytes"]
        assert size < 100_000 if name == "docker" else size > 2 << 20
        (again,) = cli.ok("save", "--to", name, *peer.where, "app:1", "--json").json()
        assert again["sent_bytes"] == 0

        other = Cli(tmp_path / "other")
        result = other.ok("load", "--from", name, *peer.where, "app:1", "docker.io/library/base:1")
        assert result.lines == ["Loaded image: app:1", "Loaded image: base:1"]
        assert resolve(other, "app:1")[:1] == app[:1]
        assert resolve(other, "app:1").layers == app.layers
        assert resolve(other, "base:1").image_id == base.image_id
        other.ok("check", "--read-data")
        named = other.ok("load", "--from", name, *peer.where, "app:1", "--json").json()
        assert [image["was_here"] for image in named["images"]] == [True]
        by_id = Cli(tmp_path / "by-id")
        assert (
            "Loaded image ID"
            in by_id.ok("load", "--from", name, *peer.where, app.image_id[7:19]).out
        )
        assert "has no image missing:1" in other.fails(
            3, "load", "--from", name, *peer.where, "missing:1"
        )


@pytest.mark.parametrize("name", ENGINES)
def test_an_image_of_the_engines_own_is_taken_as_it_is(cli: Cli, tmp_path: Path, name: str) -> None:
    with engine(name, tmp_path) as peer:
        cli.ok("save", "--to", name, *peer.where, "base:1")
        build = tmp_path / "build"
        build.mkdir()
        (build / "Dockerfile").write_text("FROM base:1\nCOPY Dockerfile /\nENV A=1\n")
        peer.client("build", "--tag", "team/own:7", build)
        own = "team/own:7" if name == "docker" else "localhost/team/own:7"
        cli.ok("load", "--from", name, *peer.where, own)
        image = resolve(cli, own)
        assert image.image_id[7:] == peer.image_id("team/own:7")
        assert list(image.layers) == peer.layers("team/own:7")
        assert image.layers[0] == resolve(cli, "base:1").layers[0]


@pytest.mark.parametrize("name", ENGINES)
def test_copies_go_past_the_store(cli: Cli, tmp_path: Path, name: str) -> None:
    app = resolve(cli, "app:1")
    layout = tmp_path / "layout"
    cli.ok("save", "app:1", "--format", "oci-dir", "-o", layout)
    transport = {"docker": "docker-daemon", "podman": "containers-storage"}[name]
    with engine(name, tmp_path) as peer:
        env = {{"docker": "DOCKER_HOST", "podman": "CONTAINER_HOST"}[name]: peer.where[1]}
        nowhere = Cli(tmp_path / "nowhere")
        nowhere.ok("copy", f"oci:{layout}:app:1", f"{transport}:copied:2", **env)
        assert peer.image_id("copied:2") == app.image_id[7:]
        back = tmp_path / "back"
        nowhere.ok("copy", f"{transport}:copied:2", f"oci:{back}:3", **env)
        assert "has no image" in nowhere.fails(3, "copy", f"{transport}:no:1", f"oci:{back}", **env)
        assert not nowhere.store.exists()
    other = Cli(tmp_path / "other")
    other.ok("load", "-i", back)
    assert [image["id"] for image in other.ok("images", "--json").json()] == [app.image_id]


@pytest.mark.parametrize("name", ENGINES)
def test_addresses_come_from_the_environment(cli: Cli, tmp_path: Path, name: str) -> None:
    variable = "DOCKER_HOST" if name == "docker" else "CONTAINER_HOST"
    with engine(name, tmp_path) as peer:
        cli.ok("save", "--to", name, "base:1", **{variable: peer.where[1]})
        assert peer.image_id("base:1") == resolve(cli, "base:1").image_id[7:]


def test_options_that_do_not_go_together_are_refused(cli: Cli, tmp_path: Path) -> None:
    assert "no engine" in cli.fails(2, "save", "--to", "rkt", "base:1")
    assert "excludes" in cli.fails(2, "save", "--to", "docker", "-o", tmp_path / "x", "base:1")
    assert "name the images" in cli.fails(2, "load", "--from", "docker")
    assert "--from docker" in cli.fails(2, "load", "base:1")
    nobody = f"unix://{tmp_path}/nobody.sock"
    told = cli.fails(13, "load", "--from", "docker", "--host", nobody, "base:1")
    assert "No such file" in told
    assert "hint: start it" in told
    assert "no address" in cli.fails(2, "load", "--from", "docker", "--host", "ssh://h", "base:1")
