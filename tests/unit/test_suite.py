"""What the suite does to itself so that it takes no longer than it must."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from tests.support.cli import Cli

if TYPE_CHECKING:
    from pathlib import Path


def test_what_commands_of_tests_compile_is_kept(tmp_path: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"],
        env=Cli(tmp_path).environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert asked.stdout == "False\n"
    assert not sys.dont_write_bytecode
