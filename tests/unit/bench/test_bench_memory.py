"""Restored trees lie in memory where that may be, and nothing stays mounted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import memory
from tests.bench.memory import place_in_memory

TOP = Path(__file__).parents[3]


def test_without_enough_memory_it_is_a_directory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with place_in_memory(tmp_path, memory.available_bytes() * 2) as (place, in_memory):
        assert not in_memory
        (place / "file").write_text("on the disk")
        assert place.parent == tmp_path
    assert list(tmp_path.iterdir()) == []
    assert "restored trees lie on the disk" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_it_is_a_file_system_of_its_own_that_ends_with_the_process(tmp_path: Path) -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tests.bench.memory import place_in_memory\n"
        "with place_in_memory(Path(sys.argv[1]), 10**6) as (place, in_memory):\n"
        "    print(in_memory, os.lstat(place).st_dev != os.lstat(sys.argv[1]).st_dev)\n"
        "    (place / 'file').write_text('in memory')\n"
        "    open('/proc/self/mountinfo').read().index(str(place))\n"
        "print(os.listdir(sys.argv[1]), sys.argv[1] in open('/proc/self/mountinfo').read())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=TOP, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.stdout.startswith("False"):
        pytest.skip("mounting is not permitted here")
    assert (done.stdout, done.stderr) == ("True True\n[] False\n", "")
