"""The comparison of read paths: speeds, bars, what is kept, and the program that reads."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.bench.harness import CommandError
from tests.bench.paths import jobs, report
from tests.bench.paths.__main__ import enough_passes, rounds_of
from tests.bench.paths.jobs import COLUMNS, Column, Prober
from tests.bench.paths.layers import installed_layers
from tests.bench.paths.report import CPU, WALL, Results, Sample

VIEW = report.DEFAULT_VIEW


def _samples(
    contender: str, *walls: float, column: str = "stat", state: str = "warm"
) -> list[Sample]:
    return [
        Sample(contender, column, state, number, wall, 2 * wall)
        for number, wall in enumerate(walls)
    ]


def test_speeds_compare_what_ran_in_the_same_round() -> None:
    results = Results(_samples("overlay2", 1.0, 10.0, 2.0) + _samples(VIEW, 0.5, 5.0))
    assert results.speeds(VIEW, "stat", "warm", WALL, "overlay2") == [2.0, 2.0]
    assert results.speeds(VIEW, "stat", "warm", CPU, "overlay2") == [2.0, 2.0]
    assert results.seconds("overlay2", "stat", "warm", CPU) == 4.0
    assert results.rounds("warm") == 3
    assert results.rounds("cold") == 0


def test_bars_hold_warm_columns_and_cold_loads_to_what_is_promised() -> None:
    samples = []
    for column, state, ours in (
        ("stat", "warm", 1.24),
        ("small", "warm", 1.06),
        ("python", "warm", 1.04),
        ("python", "cold", 1.29),
        ("small", "cold", 9.0),
    ):
        samples += _samples("overlay2", 1.0, column=column, state=state)
        samples += _samples(VIEW, ours, column=column, state=state)
    bars = report.bars_of(Results(samples), VIEW, WALL)
    assert [(bar.column, bar.state, bar.met) for bar in bars] == [
        ("stat", "warm", True),
        ("small", "warm", False),
        ("python", "warm", True),
        ("python", "cold", True),
    ]
    assert "NOT MET" in str(bars[1])
    assert "0.94 of overlay2's speed, wanted 0.95" in str(bars[1])


def test_a_bar_without_its_reference_is_not_met() -> None:
    (bar,) = report.bars_of(Results(_samples(VIEW, 1.0)), VIEW, WALL)
    assert not bar.met
    assert "not measured" in str(bar)


def test_a_table_has_the_references_seconds_and_everybody_elses_speed() -> None:
    results = Results(_samples("overlay2", 1.0, 1.0) + _samples(VIEW, 0.5, 0.25))
    lines = report.table(results, "warm", WALL, "overlay2").splitlines()
    assert lines[1].split() == ["overlay2", "1.0000", "s"]
    assert lines[2].split() == ["kernel", "view", "3.00", "±0.50"]


def test_the_spread_is_half_of_the_interquartile_range() -> None:
    assert report.spread([1.0]) == 0.0
    assert report.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == 1.0


def test_what_is_kept_gives_the_samples_again() -> None:
    samples = _samples("overlay2", 1.0, 2.0) + _samples(VIEW, 0.5, 4.0)
    samples += _samples(VIEW, 3.0, column="python", state="cold")
    result = report.result_of_samples(samples)
    assert report.samples_of(result) == samples
    assert [(promise.wanted, promise.measured, promise.met) for promise in result.promises] == [
        ("at least 0.80", "1.25", True),
        ("at least 0.95", "not measured", None),
        ("at least 0.77", "not measured", None),
    ]


def _tree(root: Path) -> Path:
    tree = root / "tree"
    for name in ("etc", "proc", "usr/lib"):
        (tree / name).mkdir(parents=True)
    (tree / "etc/a").write_bytes(b"a" * 10)
    (tree / "proc/never").write_bytes(b"x")
    (tree / "usr/empty").touch()
    (tree / "usr/link").symlink_to("nowhere")
    os.mkfifo(tree / "usr/pipe")
    (tree / "usr/lib/large").write_bytes(os.urandom(jobs.LARGE_BYTES + 5))
    return tree


@pytest.fixture
def prober(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prober:
    """The prober for a small tree, compiled by the host where the tree has no compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("the host has no gcc")

    def compile_here(_tree: Path, program: Path) -> None:
        source = Path(jobs.__file__).with_name("prober.c")
        command = ["gcc", "-std=gnu99", "-Wall", "-Werror", "-o", str(program), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 and "stdio.h: No such file" in done.stderr:
            pytest.skip("the host's gcc has no headers")
        assert done.returncode == 0, done.stderr

    monkeypatch.setattr(jobs, "_compile", compile_here)
    (tmp_path / "work").mkdir()
    return Prober(tmp_path / "work", _tree(tmp_path))


def test_every_column_says_what_it_met(prober: Prober, tmp_path: Path) -> None:
    size = jobs.LARGE_BYTES + 5
    wanted = {
        "readdir": (5, 0),  # four in usr, one in usr/lib; the root and etc are docker's, too
        "stat": (7, 10 + size),
        "small": (1, 10),
        "sequential": (1, size),
        "random": (20_000, 20_000 * 4096),
    }
    for column in COLUMNS:
        if not column.is_load:
            cost = prober.run(column, str(tmp_path / "tree"), passes=2)
            assert (cost.things, cost.read_bytes) == wanted[column.name], column.name
            assert cost.wall_seconds > 0


def test_all_rounds_are_for_whom_a_promise_hangs_on() -> None:
    stat, python = Column("stat", "stat", 5), Column("python", "run", 1, ("python3",))
    for judged in ("overlay2", VIEW, f"{VIEW} --rw"):
        assert rounds_of(judged, stat, "warm", 5) == 5
        assert rounds_of(judged, python, "cold", 5) == 5
        assert rounds_of(judged, stat, "cold", 5) == 2
    assert rounds_of("plain", python, "warm", 5) == 3
    assert rounds_of("fuse view", python, "cold", 1) == 1


@pytest.mark.parametrize(("seconds", "passes"), [(0.001, 5), (0.08, 4), (0.2, 2), (4.0, 1)])
def test_who_is_slow_repeats_a_warm_job_less(seconds: float, passes: int) -> None:
    column = Column("stat", "stat", 5)
    assert enough_passes(column, jobs.Cost(seconds, seconds, 1, 1)) == passes


def test_what_is_missing_in_a_place_is_an_error(prober: Prober, tmp_path: Path) -> None:
    (tmp_path / "tree/usr/empty").unlink()
    with pytest.raises(CommandError, match="cannot stat usr/empty: No such file"):
        prober.run(COLUMNS[1], str(tmp_path / "tree"), passes=1)


def test_the_time_of_servers_is_read_from_all_their_threads() -> None:
    before = jobs._on_cpu_seconds(os.getpid())
    with ThreadPoolExecutor(1) as pool:
        pool.submit(sum, range(1_000_000)).result()
        assert jobs._on_cpu_seconds(os.getpid()) > before


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="chroot needs root")
def test_a_program_that_fails_is_an_error(prober: Prober, tmp_path: Path) -> None:
    column = Column("load", "run", 1, ("/usr/none",))
    with pytest.raises(CommandError, match="cannot run /usr/none"):
        prober.run(column, str(tmp_path / "tree"), passes=1)


_STATUS = """\
Package: base
Priority: required
Pre-Depends: libbase (>= 1), this | that
Description: a package
 Package: not one

Package: libbase
Priority: optional

Package: added
Priority: optional
Depends: libbase

Package: last
Priority: optional
"""


def test_layers_are_what_installations_leave(tmp_path: Path) -> None:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(_STATUS)
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    for name, package in (("a", "base"), ("b", "libbase"), ("c", "added"), ("d", "last")):
        (tmp_path / "usr/lib" / name).touch()
        (info / f"{package}.list").write_text(f"/.\n/lib\n/lib/{name}\n")
    for path in ("opt/app", "usr/src/project"):
        (tmp_path / path).mkdir(parents=True)
    layers = installed_layers(tmp_path)
    assert [[path for path in layer if path.startswith("usr/lib/")] for layer in layers] == [
        ["usr/lib/a", "usr/lib/b"],
        ["usr/lib/c"],
        ["usr/lib/d"],
        [],
        [],
        [],
    ]
    assert "lib" in layers[0]
    assert "var/lib/dpkg/status" in layers[1]
    assert "var/lib/dpkg/info/last.list" in layers[2]
    assert layers[4] == ["opt", "opt/app"]
    assert layers[5] == ["usr", "usr/src", "usr/src/project"]
    found = {os.path.relpath(path, tmp_path) for path in tmp_path.rglob("*")}
    assert set().union(*layers) == found
