"""Pushed here, run by podman and docker, pushed by them, and pulled again."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.docker_daemon import docker_daemon, needs_docker
from tests.support.podman import Podman, needs_podman
from tests.support.registry_peers import SECRET, USER, docker_registry, needs_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.registry_peers import Server

pytestmark = [
    *needs_registry,
    pytest.mark.skipif(not Path("/bin/busybox").exists(), reason="busybox-static is not installed"),
]

SAYS = "pushed by layerstore"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as made:
        Cli(made.home / "none").ok(
            "login", "-u", USER, "--password-stdin", made.name,
            stdin=SECRET.encode(), **made.environment,
        )  # fmt: skip
        yield made


@pytest.fixture(scope="module")
def image(server: Server, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of an image in the registry that says something when it runs."""
    place = tmp_path_factory.mktemp("image")
    cli = Cli(place / "store")
    name = f"{server.name}/app"
    (place / "root/bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", place / "root/bin/busybox")
    cli.ok("import", place / "root", "-t", f"{name}:base")
    (place / "said").write_text(SAYS)
    (place / "Dockerfile").write_text(
        f'FROM {name}:base\nCOPY said /said\nCMD ["/bin/busybox", "cat", "/said"]\n'
    )
    cli.ok("build", "-q", "-t", f"{name}:1", "-f", place / "Dockerfile", place)
    cli.ok("push", "-q", f"{name}:1", **server.environment)
    return json.loads(cli.ok("inspect", f"{name}:1").out)[0]["Id"]


def pulled_id(server: Server, tag: str, place: Path) -> str:
    cli = Cli(place)
    name = f"{server.name}/app:{tag}"
    cli.ok("pull", "-q", name, **server.environment)
    cli.ok("check")
    return json.loads(cli.ok("inspect", name).out)[0]["Id"]


@pytest.mark.parametrize("_", [pytest.param(None, marks=needs_podman)])
def test_podman(_: None, server: Server, image: str, tmp_path: Path) -> None:
    certificates = tmp_path / "certs"
    certificates.mkdir()
    shutil.copy(server.ca, certificates / "ca.crt")
    trust = f"--cert-dir={certificates}"
    login = f"--authfile={server.home}/.docker/config.json"
    name = f"{server.name}/app"
    podman = Podman(tmp_path / "podman")
    try:
        podman("pull", "-q", trust, login, f"{name}:1")
        found = podman("image", "inspect", "--format", "{{.Id}}", f"{name}:1").strip()
        assert f"sha256:{found}" == image
        assert podman("run", "--name", "said", f"{name}:1").strip() == SAYS
        podman("push", "-q", trust, login, f"{name}:1", f"docker://{name}:by-podman")
    finally:
        podman.run("rm", "-f", "said")
        podman.run("rmi", "-af")
    assert pulled_id(server, "by-podman", tmp_path / "store") == image


@pytest.mark.parametrize("_", [pytest.param(None, marks=needs_docker)])
def test_docker(_: None, server: Server, image: str, tmp_path: Path) -> None:
    name = f"{server.name}/app"
    with docker_daemon(tmp_path / "docker") as client:

        def docker(*words: str) -> str:
            command = [client[0], "--config", f"{server.home}/.docker", *client[1:], *words]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"docker {words}: {done.stderr}"
            return done.stdout

        docker("pull", "-q", f"{name}:1")
        assert docker("image", "inspect", "--format", "{{.Id}}", f"{name}:1").strip() == image
        assert docker("run", "--rm", "--network=none", f"{name}:1").strip() == SAYS
        docker("tag", f"{name}:1", f"{name}:by-docker")
        docker("push", "-q", f"{name}:by-docker")
    assert pulled_id(server, "by-docker", tmp_path / "store") == image
