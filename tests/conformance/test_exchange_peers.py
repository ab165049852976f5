"""Images go back and forth between us and skopeo, podman, umoci and docker: digests are equal.

Every archive is written by one and read by the other, both ways; what came under a manifest
leaves under it. Capabilities: peers, root.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.docker_daemon import docker_daemon, needs_docker
from tests.support.podman import Podman, needs_podman
from tests.support.store import noise, text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    Ask = Callable[..., bytes]

pytestmark = [pytest.mark.peers, pytest.mark.root]

if os.geteuid() != 0:
    pytest.skip("needs root: the tree has owners and devices", allow_module_level=True)

FORMATS = ("docker-archive", "oci-archive", "oci-dir")
TRANSPORTS = {"docker-archive": "docker-archive", "oci-archive": "oci-archive", "oci-dir": "oci"}


def run(*command: object, stdin: bytes | None = None, env: dict[str, str] | None = None) -> bytes:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, check=False, input=stdin, env=env)
    assert done.returncode == 0, (words, done.stderr.decode())
    return done.stdout


def require(tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"not installed: {tool}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """A store with an image of two layers, and one of the lower of them; nobody writes to it."""
    base = tmp_path_factory.mktemp("made")
    tree = base / "tree"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin" / "sh").write_bytes(text(2, 200_000))
    (tree / "bin" / "sh").chmod(0o4755)
    (tree / "bin" / "hard").hardlink_to(tree / "bin" / "sh")
    (tree / "bin" / "soft").symlink_to("sh")
    os.chown(tree / "bin", 7, 8)
    os.setxattr(tree / "bin" / "sh", "user.note", b"kept")
    (base / "context").mkdir()
    (base / "context" / "text").write_bytes(text(1, 600_000))
    (base / "context" / "noise").write_bytes(noise(1, 300_000))
    (base / "context" / "Dockerfile").write_text('FROM odd:1\nCOPY . /srv\nCMD ["sh"]\n')
    cli = Cli(base / "store")
    cli.ok("import", base / "tree", "-t", "odd:1")
    cli.ok("build", "-t", "web:1", base / "context")
    return cli


@pytest.fixture
def fresh(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "fresh")


def piped(cli: Cli, *words: str) -> bytes:
    """What a command of ours writes to stdout, an archive."""
    return run(*cli.command(*words), env=cli.environment())


def told(cli: Cli, name: str) -> dict:
    return cli.ok("inspect", name).json()[0]


def save(cli: Cli, place: Path, kind: str, *options: str, name: str = "web:1") -> Path:
    cli.ok("save", name, "-o", place, "--format", kind, *options)
    return place


def manifest_digest(transport: str) -> str:
    """The digest of the manifest that skopeo finds at a place, byte for byte."""
    raw = run("skopeo", "inspect", "--raw", transport)
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def leaves_as(cli: Cli, place: Path, name: str = "web:1") -> str:
    """The digest of the manifest under which an image leaves by default."""
    cli.ok("save", name, "-o", place)
    (entry,) = json.loads((place / "index.json").read_bytes())["manifests"]
    return entry["digest"]


# -- skopeo


@pytest.mark.parametrize("kind", FORMATS)
def test_skopeo_reads_what_we_save(made: Cli, tmp_path: Path, kind: str) -> None:
    require("skopeo")
    place = save(made, tmp_path / "saved", kind)
    reference = f"{TRANSPORTS[kind]}:{place}"
    run("skopeo", "copy", reference, f"dir:{tmp_path}/copy")  # verifies every blob and diff ID
    raw = run("skopeo", "inspect", "--config", "--raw", reference)
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == told(made, "web:1")["Id"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--dest-compress-format", "zstd", "--dest-compress-level", "3"),
        ("--dest-oci-accept-uncompressed-layers",),
    ],
    ids=["gzip", "zstd", "plain"],
)
def test_what_skopeo_writes_leaves_as_it_came(
    made: Cli, fresh: Cli, tmp_path: Path, options: Sequence[str]
) -> None:
    require("skopeo")
    # Not from a docker-archive: making that an OCI image writes its config anew.
    place = save(made, tmp_path / "saved", "oci-dir", "--compression", "none")
    run("skopeo", "copy", *options, f"oci:{place}:1", f"oci:{tmp_path}/oci:web:1")
    came = manifest_digest(f"oci:{tmp_path}/oci:web:1")
    fresh.ok("load", "-i", tmp_path / "oci")
    assert told(fresh, "web:1")["Id"] == told(made, "web:1")["Id"]
    assert leaves_as(fresh, tmp_path / "again") == came
    assert fresh.ok("check", "--read-data").code == 0


def test_archives_of_skopeo(made: Cli, fresh: Cli, tmp_path: Path) -> None:
    require("skopeo")
    place = save(made, tmp_path / "saved", "docker-archive")
    for kind in ("docker-archive", "oci-archive"):
        run("skopeo", "copy", f"docker-archive:{place}", f"{kind}:{tmp_path}/{kind}:web:1")
        assert fresh.ok("load", "-i", tmp_path / kind).lines == ["Loaded image: web:1"]
        assert told(fresh, "web:1")["RootFS"] == told(made, "web:1")["RootFS"]


# -- umoci


def test_umoci_and_we_share_a_layout(made: Cli, fresh: Cli, tmp_path: Path) -> None:
    require("umoci")
    require("skopeo")
    saved = save(made, tmp_path / "saved", "oci-dir")
    place = tmp_path / "layout"  # umoci copies annotations, and so our name
    run("skopeo", "copy", f"oci:{saved}:1", f"oci:{place}:docker.io/library/web:1")
    run(
        "umoci",
        "config",
        "--image",
        f"{place}:docker.io/library/web:1",
        "--tag",
        "2",
        "--config.cmd",
        "other",
    )
    lines = fresh.ok("load", "-i", place).lines
    assert lines[0] == "Loaded image: web:1"
    (ours,) = [line for line in lines if line.startswith("Loaded image ID: ")]
    changed = told(fresh, ours.rpartition(" ")[2])
    assert changed["Config"]["Cmd"] == ["other"]
    assert changed["RootFS"] == told(made, "web:1")["RootFS"]
    assert leaves_as(fresh, tmp_path / "again", changed["Id"]) == changed["Origins"][0]


# -- podman


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Ask]:
    """Podman's command line, over a storage of its own."""
    own = Podman(tmp_path / "podman")

    def ask(*words: object, stdin: bytes | None = None) -> bytes:
        return run(*own.command, *words, stdin=stdin, env=own.environment())

    yield ask
    own.close()


class TestPodman:
    pytestmark = needs_podman

    @pytest.mark.parametrize("kind", FORMATS)
    def test_podman_loads_what_we_save(
        self, made: Cli, podman: Ask, tmp_path: Path, kind: str
    ) -> None:
        place = save(made, tmp_path / "saved", kind)
        (line,) = podman("load", "-i", place).decode().splitlines()
        name = line.removeprefix("Loaded image: ")
        # It calls what is in a directory by the directory.
        assert kind == "oci-dir" or name == "docker.io/library/web:1"
        (found,) = json.loads(podman("image", "inspect", name))
        assert f"sha256:{found['Id']}" == told(made, "web:1")["Id"]
        assert found["RootFS"]["Layers"] == told(made, "web:1")["RootFS"]["Layers"]

    @pytest.mark.parametrize("kind", FORMATS)
    def test_we_load_what_podman_saves(
        self, made: Cli, fresh: Cli, podman: Ask, tmp_path: Path, kind: str
    ) -> None:
        podman("load", "-i", save(made, tmp_path / "saved", "docker-archive"))
        place = tmp_path / "podmans"
        podman("save", "--format", kind, "-o", place, "docker.io/library/web:1")
        fresh.ok("load", "-i", place)
        assert told(fresh, "web:1")["Id"] == told(made, "web:1")["Id"]
        if kind != "docker-archive":  # which has no manifest
            came = manifest_digest(f"{TRANSPORTS[kind]}:{place}")
            assert leaves_as(fresh, tmp_path / "again") == came

    def test_through_pipes(self, made: Cli, fresh: Cli, podman: Ask) -> None:
        podman("load", stdin=piped(made, "save", "web:1", "odd:1"))
        raw = podman("save", "-m", "docker.io/library/web:1", "docker.io/library/odd:1")
        assert sorted(fresh.ok("load", stdin=raw).lines) == [
            "Loaded image: odd:1",
            "Loaded image: web:1",
        ]
        for name in ("web:1", "odd:1"):
            assert told(fresh, name)["Id"] == told(made, name)["Id"]


# -- docker


class TestDocker:
    pytestmark = needs_docker

    def test_docker_and_we_read_each_other(self, made: Cli, fresh: Cli, tmp_path: Path) -> None:
        with docker_daemon(tmp_path / "docker") as docker:
            place = save(made, tmp_path / "saved.tar", "docker-archive")
            assert b"Loaded image: web:1" in run(*docker, "load", "-i", place)
            stream = piped(made, "save", "odd:1")
            assert b"Loaded image: odd:1" in run(*docker, "load", stdin=stream)
            for name in ("web:1", "odd:1"):
                (found,) = json.loads(run(*docker, "image", "inspect", name))
                assert found["Id"] == told(made, name)["Id"]
                assert found["RootFS"] == told(made, name)["RootFS"]
            zipped = save(made, tmp_path / "gz.tar", "docker-archive", "--compression", "gzip")
            run(*docker, "rmi", "web:1")
            run(*docker, "load", "-i", zipped)
            raw = run(*docker, "save", "web:1", "odd:1")
        lines = sorted(fresh.ok("load", stdin=raw).lines)
        assert lines == ["Loaded image: odd:1", "Loaded image: web:1"]
        for name in ("web:1", "odd:1"):
            assert told(fresh, name)["Id"] == told(made, name)["Id"]
