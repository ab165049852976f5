"""One of the examples that `make demo` builds, from apt to a command in a mounted view."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.build import needs_runc
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLE = Path(__file__).parents[2] / "Dockerfile-examples" / "nginx-static"

pytestmark = [*needs_runc, pytest.mark.network]


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    cli = Cli(tmp_path / "store")
    yield cli
    cli("umount", "--all", "--lazy")


def test_nginx_installs_with_apt_and_runs_from_a_view(cli: Cli, tmp_path: Path) -> None:
    cli.ok("import", debian_base_tar(), "-t", "debian:bookworm")
    built = cli("build", "-t", "nginx-static", EXAMPLE, timeout_s=280)
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
    assert page == (EXAMPLE / "site/index.html").read_bytes()
    again = cli.ok("build", "-t", "nginx-static", EXAMPLE)
    assert "3 of 3 steps from the cache" in again.err
