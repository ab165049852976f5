"""Commands whose standard streams are closed: words, an exit code, and no file in their place."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path / "store")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content" * 1000)
    cli.ok("import", tree, "-t", "web")
    return cli


def run_without(cli: Cli, stream: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command whose stdin, stdout or stderr is closed."""
    return subprocess.run(
        [
            "sh",
            "-c",
            f'exec "$@" {stream}{"<" if stream == 0 else ">"}&-',
            "sh",
            *cli.command(*words),
        ],
        capture_output=True,
        text=True,
        env=cli.environment(None),
        check=False,
    )


@pytest.mark.parametrize(("words", "code"), [("images --no", 2), ("history absent", 3), ("x", 2)])
def test_nobody_reads_what_is_wrong(cli: Cli, words: str, code: int) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        cli.command(*words.split()), stderr=write, env=cli.environment(None), check=False
    )
    os.close(write)
    assert done.returncode == code


@pytest.mark.parametrize(
    ("stream", "words", "code"),
    [
        (0, ("import", "-", "-t", "x"), 12),
        (0, ("build", "-f", "-", "."), 12),
        (0, ("images",), 0),
        (1, ("images",), 12),
        (1, ("version",), 12),
        (1, ("export", "web"), 12),
        (1, ("tag", "web", "other"), 0),
        (2, ("images",), 0),
        (2, ("rm", "absent"), 3),
    ],
)
def test_a_closed_stream(cli: Cli, stream: int, words: tuple[str, ...], code: int) -> None:
    done = run_without(cli, stream, *words)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    assert "internal" not in done.stderr
    if code == 12:
        assert "stdin or stdout is closed" in done.stderr


def test_nothing_of_a_store_becomes_a_standard_stream() -> None:
    code = (
        "import os, sys\n"
        "from layerstore.cli.descriptors import occupy_closed\n"
        "occupy_closed()\n"
        "file = os.open('/', os.O_RDONLY)\n"
        "assert file > 2, file\n"
        "assert [os.readlink(f'/proc/self/fd/{n}') for n in range(3)] == ['/dev/null'] * 3\n"
        "assert all(os.get_inheritable(n) for n in range(3))\n"
        "os._exit(7)\n"
    )
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    assert subprocess.run(command, env=dict(os.environ), check=False).returncode == 7
