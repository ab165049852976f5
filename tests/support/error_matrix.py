"""Stores and oracles for the tests of what goes wrong for users."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.support.build import needs_runc
from tests.support.cli import Cli, Result

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def needs_root(function: Callable[..., None]) -> Callable[..., None]:
    root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
    return pytest.mark.root(root(function))


def needs_fuse(function: Callable[..., None]) -> Callable[..., None]:
    fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="there is no /dev/fuse")
    return needs_root(pytest.mark.fuse(fuse(function)))


def runs(function: Callable[..., None]) -> Callable[..., None]:
    for mark in needs_runc:
        function = mark(function)
    return function


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "store")


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "rootfs", 300_000)


@pytest.fixture
def web(cli: Cli, rootfs: Path) -> Cli:
    """A store with the image web:1."""
    cli.ok("import", rootfs, "-t", "web:1")
    return cli


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    return folder


def make_tree(root: Path, size: int) -> Path:
    (root / "etc").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "etc" / "motd").write_text("hello\n")
    (root / "bin" / "program").write_bytes(os.urandom(size))
    return root


def assert_sound(cli: Cli, *names: str) -> None:
    """The store is whole, holds exactly these names, and leaves nothing of its own about."""
    assert cli.ok("check", "--read-data").out.startswith("ok, all bytes read")
    held = [name for image in cli.ok("images", "--json").json() for name in image["names"]]
    assert sorted(held) == sorted(names)
    cli.ok("gc")
    assert os.listdir(cli.store / "tmp") == []
    assert [name for name in os.listdir(cli.store / "locks") if name.startswith("lease-")] == []


def assert_told(err: str, message: str, hint: str) -> None:
    """One message, one hint, nothing else of ours."""
    assert "Traceback" not in err
    assert err.count("layerstore: error: ") == 1, err
    told = err[err.index("layerstore: error: ") :]
    assert message in told, err
    assert f"hint: {hint}" in told, err


def build(cli: Cli, context: Path, text: str, *options: str, **env: str) -> Result:
    (context / "Dockerfile").write_text(text)
    return cli("build", "--pull=never", "-t", "new:1", *options, context, env=env)
