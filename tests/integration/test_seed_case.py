"""The seed case as a program: three small applications on a tiny base, built, run, measured."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.harness import CommandError
from tests.bench.seed.applications import READY, applications
from tests.bench.seed.disk import measure_commands, measure_copies, measure_disk
from tests.bench.seed.engines import Docker, Layerstore
from tests.bench.seed.pool import load_pool
from tests.bench.seed.report import report
from tests.bench.seed.running import measure_copies_memory, measure_memory, measure_starts
from tests.support.build import busybox

pytestmark = [
    pytest.mark.root,
    pytest.mark.runc,
    pytest.mark.skipif(os.geteuid() != 0, reason="control groups and containers need root"),
    pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed"),
]

_PROGRAM = f"""\
#!/bin/sh
find /srv/app -type f -exec cat {{}} + > /tmp/all
printf {READY} > /proc/$$/comm
while :; do sleep 1; done
"""
_APPS, _SIZE = 3, 300_000


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A root of one program, whose ``python3`` is a script that does what applications do."""
    root = tmp_path / "base"
    for name in ("bin", "proc", "tmp", "srv", "dev", "sys", "etc", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox(), root / "bin" / "busybox")
    for applet in ("sh", "cat", "find", "sleep", "true", "printf"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "bin" / "python3").write_text(_PROGRAM)
    (root / "bin" / "python3").chmod(0o755)
    return root


def _pool(place: Path) -> list:
    for number in range(3):
        package = place / f"library{number}-1"
        package.mkdir(parents=True)
        for name in ("a.py", "b.py"):
            (package / name).write_text(f"{name} of {number}\n" * 900)
    return load_pool(place)


def test_every_phase_measures_something_real(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = []
    monkeypatch.setattr("tests.bench.seed.running.drop_caches", lambda: dropped.append(True))
    monkeypatch.setattr(
        "tests.bench.seed.disk.applications", functools.partial(applications, size=_SIZE)
    )
    engines: list[Layerstore | Docker] = [Layerstore(tmp_path / "ours")]
    pool = _pool(tmp_path / "pool")
    for engine in engines:
        engine.begin()
    try:
        disk = measure_disk(engines, base, "typical", pool, _APPS, tmp_path)
    finally:
        for engine in engines:
            engine.end()
    curve = disk["engines"]["layerstore"]["curve"]
    assert [point["apps"] for point in curve] == [0, 1, 2, 3]
    assert 0 < curve[0]["disk"] < curve[-1]["disk"] < curve[0]["disk"] + _APPS * _SIZE
    assert disk["shares"][-1]["app_bytes"] == _APPS * _SIZE

    copies = measure_copies(base, "typical", pool, 2, tmp_path / "copies")
    assert all(size > _SIZE for size in copies["bytes"])
    copies["memory"] = measure_copies_memory(tmp_path / "copies", 2)
    assert copies["memory"]["curve"][-1]["anonymous"] > 0

    memory = measure_memory(engines[0], "typical", _APPS, [1, _APPS])
    assert [point["running"] for point in memory["curve"]] == [0, 1, _APPS]
    assert memory["curve"][-1]["attendants_anonymous"] > 0, "monitors are counted"
    assert memory["curve"][-1]["total"] > memory["curve"][1]["total"]
    assert len(dropped) == 2
    assert memory["stored"]["unpacked"] > 0, "of views, told apart"

    starts = measure_starts(engines, "typical", 2, 2)
    assert all(cost["cpu_seconds"] > 0 for cost in itertools.chain(*starts["nth"].values()))
    commands = measure_commands(engines[0])
    figures = {
        "mix": "typical",
        "disk": disk,
        "copies": copies,
        "memory": {"running": _APPS, "engines": {"layerstore": memory}},
        "start": {"running": 2, "engines": starts, "environment": {"load_average": [0, 0, 0]}},
        "commands": {"apps": _APPS, **commands},
    }
    text = report(json.loads(json.dumps(figures)))
    assert "full copies" in text
    assert "layerstore gc --dry-run" in text
    assert not list((tmp_path / "ours" / "store" / "uppers").iterdir()), "no container stays"


def test_what_a_command_says_is_told_when_it_fails(tmp_path: Path) -> None:
    ours = Layerstore(tmp_path / "ours")
    ours.begin()
    try:
        with pytest.raises(CommandError, match="nothing"):
            ours.once("nothing:1", "true")
    finally:
        ours.group.remove()


def test_the_program_says_what_it_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.seed", "--help"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "--mix {distinct,typical,versions}" in done.stdout
