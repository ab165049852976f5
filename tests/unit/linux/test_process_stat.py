"""What /proc says of a process, and what the host calls its users."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

from layerstore.linux.process_stat import PARENT, START_TIME, STATE, start_time, stat_fields
from layerstore.linux.users import user_name

if TYPE_CHECKING:
    from pathlib import Path

_NOBODY_AT_ALL = 3_999_999_999


def test_a_name_with_spaces_and_brackets_shifts_nothing(tmp_path: Path) -> None:
    program = tmp_path / "x) Z 1 (y"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:
        try:
            fields = stat_fields(process.pid)
            assert fields[STATE] in (b"S", b"R", b"D")
            assert int(fields[PARENT]) == os.getpid()
            assert start_time(process.pid) == int(fields[START_TIME]) >= start_time(os.getpid()) > 0
        finally:
            process.kill()


def test_who_is_gone_has_no_beginning() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert start_time(process.pid) == 0


def test_a_user_without_a_name_is_a_number() -> None:
    assert user_name(0) == "root"
    assert user_name(_NOBODY_AT_ALL) == str(_NOBODY_AT_ALL)
