"""SIGTERM while the library takes or gives back a lock ends a command, and does not hang it."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.cli import Cli

PLACES = [("__enter__", count) for count in (1, 12, 20, 21, 22)] + [
    ("_acquire_restore", 1),
    ("_release_save", 2),
    ("put", 3),
    ("submit", 1),
    ("_adjust_thread_count", 1),
]


@pytest.mark.parametrize(("function", "count"), PLACES)
def test_a_command_ends_wherever_the_signal_finds_it(tmp_path, function, count):
    cli = Cli(tmp_path / "store")
    tree, work = tmp_path / "tree", tmp_path / "work"
    tree.mkdir()
    work.mkdir()
    (tree / "large").write_bytes(os.urandom(3_000_000))
    command = [
        sys.executable, "-m", "tests.support.signalling", function, str(count),
        "savings", "--of", tree, "--work", work, "--all-schemes", "--json",
    ]  # fmt: skip
    done = subprocess.run(
        command, env=cli.interrupted_environment(), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 143), done.stderr
    if done.returncode == 0:  # it has fewer locks than that
        assert json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    assert list(work.iterdir()) == []
