"""The seed case: applications are what their mix says, and figures become rows as stated."""

from __future__ import annotations

import random
from itertools import islice, pairwise
from typing import TYPE_CHECKING

import pytest
import zstandard

from tests.bench.seed.__main__ import merged
from tests.bench.seed.applications import (
    MAIN,
    MIXES,
    RECORDS,
    Disguise,
    applications,
    write,
)
from tests.bench.seed.arithmetic import (
    COPIES,
    copy_memory,
    disk_series,
    measured_apps,
    memory_series,
    per_application,
    spread,
    start_rows,
)
from tests.bench.seed.disk import Shares, checkpoints
from tests.bench.seed.pool import Package, load_pool
from tests.bench.seed.report import memory_ratio, report

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 600_000


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Package]:
    """Thirty libraries of text and binary files, in two versions each."""
    place = tmp_path_factory.mktemp("pool")
    rng = random.Random(5)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(500)]
    for number in range(30):
        for version in ("1.0", "1.1"):
            package = place / f"library{number}-{version}"
            (package / "inner").mkdir(parents=True)
            for file in range(4):
                text = " ".join(rng.choices(words, k=1200))
                (package / "inner" / f"m{file}.py").write_text(f"{number} {text}\n")
            (package / "data.bin").write_bytes(b"\0" + rng.randbytes(9_000))
    return load_pool(place)


def _some(mix: str, pool: list[Package], count: int, seed: int = 1) -> list[dict[str, bytes]]:
    return list(islice(applications(mix, pool, size=SIZE, seed=seed), count))


@pytest.mark.parametrize("mix", MIXES)
def test_the_same_seed_gives_the_same_applications_of_exactly_the_size(
    mix: str, pool: list[Package]
) -> None:
    made = _some(mix, pool, 4)
    assert made == _some(mix, pool, 4)
    assert made != _some(mix, pool, 4, seed=2)
    assert [sum(map(len, files.values())) for files in made] == [SIZE] * 4
    assert all(f"{mix}-{number}".encode() in files[MAIN] for number, files in enumerate(made))


def test_distinct_applications_share_no_file_and_nothing_that_helps_a_compressor(
    pool: list[Package],
) -> None:
    one, other = _some("distinct", pool, 2)
    assert not set(one.values()) & set(other.values())
    joined = b"".join(other.values())
    alone = len(zstandard.compress(joined, 3))
    known = zstandard.ZstdCompressionDict(b"".join(one.values()))
    against = len(zstandard.ZstdCompressor(level=3, dict_data=known).compress(joined))
    assert against > 0.97 * alone


def test_disguised_content_is_as_compressible_as_the_original(pool: list[Package]) -> None:
    disguise = Disguise(random.Random(1))
    for package in pool[:5]:
        for path, size in package.files:
            content = package.read(path)
            disguised = disguise.of(content)
            assert disguised != content
            assert len(disguised) == size
            packed = len(zstandard.compress(content, 3))
            assert len(zstandard.compress(disguised, 3)) == pytest.approx(packed, rel=0.02)


def test_typical_applications_share_libraries_alone_and_these_are_the_pools(
    pool: list[Package],
) -> None:
    made = _some("typical", pool, 6)
    real = {package.read(path) for package in pool for path, _ in package.files}
    for files in made:
        libraries = {path: one for path, one in files.items() if path.startswith("lib/")}
        assert set(libraries.values()) <= real
        assert not real & {one for path, one in files.items() if path not in libraries}
        size = sum(map(len, libraries.values()))
        assert 0.4 * SIZE < size <= SIZE / 2
        projects = {path.split("/")[1].rpartition("-")[0] for path in libraries}
        assert len(projects) == len({path.split("/")[1] for path in libraries}), "one version each"
    seen = set(made[0].values())
    own = [one for path, one in made[1].items() if path.startswith("own/")]
    assert not seen & set(own)


def test_versions_edit_few_files_and_a_library_every_twentieth_time(pool: list[Package]) -> None:
    made = _some("versions", pool, 42)
    for number, (old, new) in enumerate(pairwise(made), 1):
        changed = {path for path in new if old.get(path) != new[path]}
        assert old.keys() == new.keys()
        sources = changed - {MAIN, RECORDS}
        libraries = {path for path in sources if path.startswith("lib/")}
        assert len(sources - libraries) == max(1, sum("/src/" in path for path in new) // 50)
        assert bool(libraries) == (number % 20 == 0)
    shares = Shares()
    for files in made:
        shares.add(files)
    assert shares.total == 42 * SIZE
    assert shares.distinct < 0.5 * shares.total


def test_an_application_is_written_as_it_is(pool: list[Package], tmp_path: Path) -> None:
    (files,) = _some("typical", pool, 1)
    write(files, tmp_path)
    found = {
        str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()
    }
    assert found == files
    compile(files[MAIN], MAIN, "exec")


def test_the_disk_is_looked_at_in_ever_longer_steps() -> None:
    assert checkpoints(1) == [1]
    assert checkpoints(30) == [1, 2, 5, 10, 20, 30]
    assert checkpoints(1000)[-4:] == [100, 200, 500, 1000]


def _curve(*points: tuple[int, int]) -> dict[str, object]:
    return {
        "apps": points[-1][0],
        "base_cpu_seconds": 2.0,
        "load": [1.0, 2.0],
        "curve": [{"apps": n, "disk": size, "cpu_seconds": n / 2} for n, size in points],
    }


def _memory(running: int, total: int) -> dict[str, int]:
    return {
        "running": running, "total": total, "anonymous": total // 2, "files": total // 4,
        "kernel": total // 4, "attendants_total": total // 8, "attendants_anonymous": 0,
    }  # fmt: skip


def _costs(*milliseconds: float) -> list[dict[str, float]]:
    return [{"wall_seconds": ms / 1e3, "cpu_seconds": ms / 2e3} for ms in milliseconds]


def _figures() -> dict[str, object]:
    return {
        "mix": "typical",
        "disk": {
            "shares": [
                {"apps": 4, "app_bytes": 60, "distinct_bytes": 45, "library_bytes": 30},
            ],
            "engines": {
                "layerstore": _curve((0, 300), (1, 303), (2, 306), (4, 312)),
                "docker": _curve((0, 800), (1, 817), (2, 834)),
            },
        },
        "copies": {"bytes": [800, 820], "memory": {"curve": [_memory(0, 0), _memory(2, 120)]}},
        "memory": {
            "running": 4,
            "engines": {
                "layerstore": {"curve": [_memory(0, 1), _memory(4, 120)]},
                "docker": {"curve": [_memory(0, 9), _memory(4, 180)]},
            },
        },
        "start": {
            "running": 4,
            "environment": {"load_average": [1.5, 1, 1]},
            "engines": {
                task: {
                    who: [{"wall_seconds": ms / 1e3, "cpu_seconds": ms / 2e3} for ms in costs]
                    for who, costs in (
                        ("layerstore", (10, 20, 30, 40)),
                        ("docker", (50, 60, 70, 80)),
                    )
                }
                for task in ("nth", "true")
            },
        },
    }


def test_what_was_not_measured_is_continued_by_the_slope_and_copies_are_multiplied() -> None:
    series = disk_series(_figures())
    assert series["layerstore"] == [(0, 300), (1, 303), (2, 306), (4, 312)]
    assert series["docker"] == [(0, 800), (1, 817), (2, 834), (4, 868)]
    assert series[COPIES] == [(0, 0), (1, 810), (2, 1620), (4, 3240)]
    assert [per_application(_figures(), name) for name in series] == [3, 17, 810]
    assert [measured_apps(_figures(), name) for name in series] == [4, 2, 2]


def test_memory_of_copies_is_that_of_one_times_as_many_as_run() -> None:
    assert copy_memory(_figures()) == 60
    assert memory_series(_figures()) == {
        COPIES: [(4, 240)],
        "layerstore": [(4, 120)],
        "docker": [(4, 180)],
    }
    assert memory_ratio(_figures(), "docker") == 1.5


def test_starts_are_told_by_quarters_with_medians() -> None:
    rows = {(who, what): (wall, cpu) for who, what, wall, cpu in start_rows(_figures())}
    wall, cpu = rows["layerstore", "run --rm true"]
    assert (wall.median, wall.low, wall.high, cpu.median) == pytest.approx((25, 17.5, 32.5, 12.5))
    assert rows["docker", "run --detach, first quarter"][0].median == pytest.approx(50)
    assert rows["docker", "run --detach, last quarter"][0].median == pytest.approx(80)
    assert spread([3.0]) == (3.0, 3.0, 3.0)


def test_the_report_has_all_that_was_measured() -> None:
    text = report(_figures())
    assert "25.0% are in files that an earlier one has" in text
    assert "memory, 4 run" in text
    assert "docker run --rm true" in text
    assert "catalog" not in text
    cost = {"cpu_seconds": 1.25, "rss_bytes": 50_000_000}
    more = report({**_figures(), "commands": {
        "apps": 4, "costs": {"df": cost}, "bytes": {"catalog.sqlite": 1_500_000},
    }})  # fmt: skip
    assert more.startswith(text)
    assert more.endswith("layerstore df    1.25       50\ncatalog.sqlite 1.50 MB")


def test_a_later_run_replaces_its_own_phase_and_engine_alone() -> None:
    old = _figures()
    new = merged(old, "disk", {"shares": [], "engines": {"docker": _curve((0, 1), (9, 2))}})
    assert new["disk"]["engines"]["layerstore"] == old["disk"]["engines"]["layerstore"]
    assert new["disk"]["engines"]["docker"]["apps"] == 9
    assert new["disk"]["shares"] == old["disk"]["shares"], "of the run with most applications"
    assert new["memory"] == old["memory"]
