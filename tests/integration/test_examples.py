"""The examples that `make demo` builds: all of them parse, one of them is built and run."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.build.dockerfile.parser import parse_dockerfile
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar
from tests.support.views import needs_fuse, needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = Path(__file__).parents[2] / "Dockerfile-examples"
NAMES = ("c-static", "nginx-static", "node-app", "python-web")


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path / "store")
    yield cli
    cli("umount", "--all", "--lazy")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_parses_and_is_explained(name: str) -> None:
    dockerfile = EXAMPLES / name / "Dockerfile"
    parsed = parse_dockerfile(dockerfile.read_bytes(), str(dockerfile))
    assert parsed.stages
    assert (EXAMPLES / name / "README.md").read_text().startswith(f"# {name}\n")


class TestBuilt:
    pytestmark = (*needs_root, *needs_fuse, pytest.mark.runc, pytest.mark.network)

    def test_nginx_installs_with_apt_and_runs_from_a_view(self, cli: Cli, tmp_path: Path) -> None:
        cli.ok("import", debian_base_tar(), "-t", "debian:bookworm")
        built = cli("build", "-t", "nginx-static", EXAMPLES / "nginx-static", timeout_s=280)
        if "Could not resolve" in built.out + built.err:
            pytest.skip("no Debian mirror can be reached from a build")
        assert built.code == 0, built
        view = tmp_path / "view"
        view.mkdir()
        cli.ok("mount", "--rw", "nginx-static", view)
        said = subprocess.run(
            ["chroot", view, "/usr/sbin/nginx", "-v"], capture_output=True, text=True, check=True
        )
        assert said.stderr.startswith("nginx version: nginx/")
        page = (view / "var/www/html/index.html").read_bytes()
        assert page == (EXAMPLES / "nginx-static/site/index.html").read_bytes()
        again = cli.ok("build", "-t", "nginx-static", EXAMPLES / "nginx-static")
        assert "3 of 3 steps from the cache" in again.err
