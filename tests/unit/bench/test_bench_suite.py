"""The suite: its table is whole, what it keeps is read again, and the page is what is kept."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.bench.corpora import CORPORA
from tests.bench.harness import CommandError
from tests.bench.result import Figure, Result
from tests.bench.suite import __main__ as suite
from tests.bench.suite import comparing, leftovers, page, running
from tests.bench.suite.benchmarks import BENCHMARKS
from tests.bench.suite.cells import Number, markdown, number_of, ratio_of, spoken
from tests.bench.suite.kept import (
    Kept,
    Kind,
    Run,
    best_of,
    keep,
    read_kept,
    short_version,
    strangers,
)
from tests.bench.suite.leftovers import Place
from tests.bench.suite.page import TEXTS, page_of
from tests.bench.suite.running import Progress, Runner
from tests.bench.suite.table import Bars, Benchmark, Curves, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

TOP = Path(__file__).parents[3]
KEPT = TOP / "docs/performance"
NAMES = [one.name for one in BENCHMARKS]
POPEN = subprocess.Popen


def source_of(module: str) -> str:
    path = TOP / module.replace(".", "/")
    file = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
    return file.read_text()


def some_result() -> Result:
    result = Result({"docker": "Docker version 20.10.24+dfsg1, build 297e128"}, missing=["casync"])
    result.add("cold", "layerstore", "time", "s", [1.0, 2.0, 4.0])
    result.add("cold", "a | b", "time", "s", [2.0, 2.0, 2.0])
    result.add("cold", "layerstore", "disk", "B", [5e6])
    result.promise("cold", "faster", "1.0 times", met=True)
    result.promise("disk", "smaller", "not measured", met=False)
    return result


def some_run(name: str, kind: Kind = "full") -> Run:
    return Run(name, kind, f"python -m {name}", "abc", "2026-11-26T01:02:03Z", 61.0, 0.1, 0.9)


def a_benchmark(name: str, **more: object) -> Benchmark:
    tables = [Table("times", only={"what": ["time"]}, show="both", against="a | b")]
    pictures = [
        Bars("time", "seconds", only={"what": ["time"]}),
        Curves("none", "nothing", "memory", "entries"),
    ]
    return Benchmark(
        **{
            "name": name, "title": name.title(), "question": "Why?", "module": f"tests.{name}",
            "tables": tables, "pictures": pictures, "needs": (), **more,
        }
    )  # fmt: skip


# The table


def test_every_program_that_keeps_what_it_measures_has_a_place_in_the_table() -> None:
    top = TOP / "tests/bench"
    programs = {
        path.parent.name if path.name == "__main__.py" else path.stem
        for path in (*top.glob("*.py"), *top.glob("*/__main__.py"))
        if '__name__ == "__main__"' in path.read_text() and '"--json"' in path.read_text()
    }
    assert programs == {one.module.rpartition(".")[2] for one in BENCHMARKS}


@pytest.mark.parametrize("one", BENCHMARKS, ids=NAMES)
def test_what_the_table_says_of_a_benchmark_can_be_done(one: Benchmark) -> None:
    assert '"--json"' in source_of(one.module)
    for kind in ("full", "quick"):
        words = Runner.words(_runner(kind), one)
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source_of(one.module) + " ".join(map(str, one.inputs)), option
    assert (TEXTS / f"{one.name}.md.in").exists(), "what was done must be said"
    assert one.tables
    assert all(minutes > 0 for minutes in one.minutes)


def _runner(kind: str) -> Runner:
    runner = Runner.__new__(Runner)
    runner._cache, runner._kind = Path("cache"), kind  # type: ignore[assignment]
    return runner


def test_names_are_told_apart_and_no_text_is_left_over() -> None:
    assert len(set(NAMES)) == len(NAMES)
    texts = {path.name.removesuffix(".md.in") for path in TEXTS.iterdir()}
    assert texts == {"head", *NAMES}


def test_a_run_of_everything_and_a_quick_one_take_no_longer_than_promised() -> None:
    everything = suite.chosen_of(suite.parse_arguments([]))
    quick = suite.chosen_of(suite.parse_arguments(["--quick"]))
    assert sum(one.minutes[0] for one in everything) <= 85
    assert sum(one.minutes[1] for one in quick) <= 11
    wanted = {"ingest", "ratio-wheels", "start", "views", "builds-alone", "pull"}
    assert wanted <= {one.name for one in quick}
    assert {one.name for one in suite.chosen_of(suite.parse_arguments(["--all"]))} == set(NAMES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nothing"], "no benchmark 'nothing'"),
        (["--quick", "--only", "scale"], "no quick way"),
    ],
)
def test_what_cannot_be_chosen_is_said(
    words: Sequence[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        suite.parse_arguments(words)
    assert said in capsys.readouterr().err


# Cells


def test_ratios_are_taken_round_by_round() -> None:
    result = some_result()
    ours, other = result.find("cold", "layerstore", "time"), result.find("cold", "a | b", "time")
    assert ours is not None
    assert other is not None
    assert ratio_of(ours, other, "times") == Number(1.0, 0.375)
    assert ratio_of(ours, other, "speed") == Number(1.0, 0.375)


def test_a_table_has_values_spreads_ratios_and_safe_names() -> None:
    table = Table("times", only={"what": ["time"]}, show="both", against="a | b")
    assert markdown(some_result(), table).splitlines() == [
        "| times | cold |",
        "|---|--:|",
        "| layerstore | 2.00 ±0.75 s (1.00) |",
        "| a \\| b | 2.00 s |",
    ]
    assert markdown(some_result(), Table("none", only={"group": ["warm"]})) == ""
    with pytest.raises(ValueError, match="one what is wanted"):
        markdown(some_result(), Table("both"))


@pytest.mark.parametrize(
    ("values", "unit", "text"),
    [
        ([0.0312], "s", "31.2 ms"),
        ([3.0], "s", "3.00 s"),
        ([388_900_000], "B", "389 MB"),
        ([0], "B", "0 B"),
        ([4], "", "4"),
        ([265.7], "", "266"),
        ([1.0, 1.1, 1.3, 1.4], "x", "1.20 ±0.12"),
        ([0.0612], "x", "0.061"),
    ],
)
def test_values_are_said_as_people_read_them(values: list[float], unit: str, text: str) -> None:
    assert spoken(number_of(values), unit) == text


def test_ratios_of_two_machines_are_compared() -> None:
    one = a_benchmark("one")
    here, there = some_result(), some_result()
    there.figures[0] = Figure("cold", "layerstore", "time", "s", (3.0, 3.0, 3.0))
    assert comparing.ratios(one, here) == {("cold", "layerstore", "time"): 1.0}
    said = [
        comparing.report(
            [one], {"one": Kept(some_run("one"), here)}, {"one": Kept(some_run("one"), other)}
        )
        for other in (here, there)
    ]
    assert said[0] == "one: 1 of 1 ratios alike, median of here/there 1.00"
    assert said[1].splitlines() == [
        "one: 0 of 1 ratios alike, median of here/there 0.67",
        "    cold, layerstore, time: 1.00 here, 1.50 there",
    ]
    assert comparing.report([one], {}, {}) == "nothing that both have"


# What is kept


def test_a_kept_result_survives_its_file_and_the_best_is_shown(tmp_path: Path) -> None:
    for kind in ("transcribed", "quick"):
        keep(tmp_path, Kept(some_run("one", kind), some_result()))
    assert best_of(tmp_path, ["one", "two"])["one"].run.kind == "quick"
    path = keep(tmp_path, Kept(some_run("one"), some_result()))
    assert path.name == "one.json"
    kept = best_of(tmp_path, ["one"])["one"]
    assert kept.run == some_run("one")
    assert kept.result.figures == some_result().figures
    assert strangers(tmp_path, ["two"]) == ["one.json", "one.quick.json"]


def test_files_that_are_no_results_are_named(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("{}")
    with pytest.raises(ValueError, match=re.escape(str(tmp_path / "one.json"))):
        read_kept(tmp_path / "one.json")


def test_versions_are_shown_by_their_numbers() -> None:
    assert short_version("Docker version 20.10.24+dfsg1, build 297e128") == "20.10.24+dfsg1"
    assert short_version("mksquashfs version 4.5.1 (2022/03/17)") == "4.5.1"
    assert short_version("casync 2") == "casync 2"


# The page


def test_a_page_says_what_is_known_of_a_run(tmp_path: Path) -> None:
    place = tmp_path / "results"
    keep(place, Kept(some_run("one"), some_result()))
    (place / "old.svg").write_text("left by an earlier table")
    said = page_of(place, [a_benchmark("one"), a_benchmark("absent")])
    assert "Of 2 promises 1 is missed." in said
    assert "| [One](#one) | 1 of 2 | disk: not measured, wanted smaller |" in said
    assert "    python -m one\n" in said
    assert "2026-11-26; commit abc; Linux" in said
    assert "load 0.1 before, 0.9 after; 1.0 minutes." in said
    assert "docker 20.10.24+dfsg1\nNot there, and left out: casync." in said
    assert "![seconds](results/one-time.svg)" in said
    assert [path.name for path in place.glob("*.svg")] == ["one-time.svg"]
    assert "Absent" not in said


def test_the_page_is_made_of_what_is_kept(tmp_path: Path) -> None:
    """docs/performance.md and its pictures are those that the kept results give."""
    place = tmp_path / "performance"
    place.mkdir()
    for path in KEPT.glob("*.json"):
        (place / path.name).write_bytes(path.read_bytes())
    assert page_of(place, BENCHMARKS) == (TOP / "docs/performance.md").read_text()
    for kind in ("*.svg", "*.json"):
        assert {path.name for path in place.glob(kind)} == {path.name for path in KEPT.glob(kind)}
    for path in place.glob("*.svg"):
        assert path.read_bytes() == (KEPT / path.name).read_bytes(), path.name
    assert strangers(KEPT, NAMES) == []


# Running


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for programs that measure nothing, from which they are run."""
    monkeypatch.setattr(running, "TOP", tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{TOP}")
    return tmp_path


GOOD = """\
import sys
from pathlib import Path
from tests.bench.result import Figure, Result
result = Result()
result.add("g", "layerstore", " ".join(sys.argv[1:-2]), "s", [1.5])
result.write(Path(sys.argv[-1]))
"""


def test_a_failing_benchmark_is_told_and_the_next_is_measured(
    programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (programs / "bad.py").write_text("print('what went wrong'); raise SystemExit(3)\n")
    (programs / "good.py").write_text(GOOD)
    runner = Runner(Path("cache"), programs / "results", "quick")
    assert runner.run(a_benchmark("bad", module="bad")) == "failed"
    said = capsys.readouterr().err
    assert f"exit 3; log: {programs}/cache/logs/bad.log" in said
    assert "what went wrong" in said
    good = a_benchmark(
        "good", module="good", words=("{cache}/x",), full=("-n", "9"), quick=("-n", "1")
    )
    assert runner.run(good) == "measured"
    kept = read_kept(programs / "results/good.quick.json")
    assert kept.run.command == "python -m good cache/x -n 1"
    assert kept.result.figures[0].what == "cache/x -n 1"
    (copy,) = (programs / "cache/results").glob("*/good.quick.json")  # no checkout takes it
    assert copy.parent.name == f"{kept.run.at[:10]}-{kept.run.commit or 'unknown'}"
    assert read_kept(copy) == kept


def test_inputs_that_cannot_be_made_and_wrong_documents_fail_one_benchmark_alone(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (programs / "odd.py").write_text("import sys\nopen(sys.argv[-1], 'w').write('{}')\n")
    runner = Runner(Path("cache"), programs / "results", "full")
    assert runner.run(a_benchmark("odd", module="odd", read=lambda found: found["no"])) == "failed"

    def fails(*_: object) -> None:
        raise CommandError("mmdebstrap: exit 25")

    monkeypatch.setattr(running, "make_inputs", fails)
    assert runner.run(a_benchmark("odd", module="odd")) == "failed"
    assert "FAILED: mmdebstrap: exit 25" in capsys.readouterr().err


def test_what_a_benchmark_needs_is_said_and_it_is_left_out(
    programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = Runner(Path("cache"), programs / "results", "full")
    assert runner.run(a_benchmark("one", needs=("no-such-program",))) == "left out"
    assert "needs no-such-program" in capsys.readouterr().err


def test_an_interrupted_run_goes_on_with_what_was_not_measured(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    progress = Progress.begin(path, "full", resume=False)
    progress.note("one", "measured")
    progress.note("two", "failed")
    assert Progress.begin(path, "full", resume=True).done == {"one": "measured"}
    assert Progress.begin(path, "quick", resume=True).done == {}
    assert Progress.begin(path, "full", resume=False).done == {}
    path.write_text("half of a fi")
    assert Progress.begin(path, "full", resume=True).done == {}


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "--resume goes on"),
        (ValueError("x.json: none"), 1, "error: x.json: none"),
    ],
)
def test_however_a_run_ends_it_is_said(
    how: BaseException,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ends(*_: object) -> int:
        raise how

    monkeypatch.setattr(suite, "run_all", ends)
    monkeypatch.setattr(suite.signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["suite"])
    assert suite.main() == status
    assert said in capsys.readouterr().err


def with_interrupts_ignored(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
    """Start a program as a shell in the background starts its jobs."""
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return POPEN(*words, **options)
    finally:
        signal.signal(signal.SIGINT, heard)


def test_an_interrupted_benchmark_is_asked_to_end_and_ends_as_it_likes(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (programs / "slow.py").write_text(
        "import time\n"
        "try:\n    open('begun', 'w').close()\n    time.sleep(600)\n"
        "finally:\n    open('cleaned', 'w').close()\n"
    )
    runner = Runner(Path("cache"), programs / "results", "full")
    pid = os.getpid()
    monkeypatch.setattr(running.subprocess, "Popen", with_interrupts_ignored)

    def interrupt() -> None:
        while not (programs / "begun").exists():
            time.sleep(0.01)
        os.kill(pid, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        runner.run(a_benchmark("slow", module="slow"))
    thread.join()
    assert (programs / "cleaned").exists()


def test_a_benchmark_whose_runner_is_killed_cleans_up(programs: Path) -> None:
    (programs / "slow.py").write_text(
        "import time\n"
        "try:\n    open('begun', 'w').close()\n    time.sleep(600)\n"
        "finally:\n    open('cleaned', 'w').close()\n"
    )
    (programs / "runner.py").write_text(
        "from pathlib import Path\n"
        "from tests.bench.suite import running\n"
        "from tests.bench.suite.table import Benchmark\n"
        f"running.TOP = Path({str(programs)!r})\n"
        "one = Benchmark(name='slow', title='', question='', module='slow', needs=())\n"
        "running.Runner(Path('cache'), running.TOP / 'results', 'full').run(one)\n"
    )
    environment = {**os.environ, "TMPDIR": str(programs)}
    command = [sys.executable, "-m", "runner"]
    with subprocess.Popen(command, cwd=programs, env=environment) as runner:
        wait_for(programs / "begun")
        runner.kill()
    wait_for(programs / "cleaned")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, path
        time.sleep(0.01)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    (tmp_path / "cache").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return Place(tmp_path / "cache")


def test_what_a_benchmark_leaves_is_ended_and_removed(place: Place) -> None:
    others = place.cache / "layerstore-bench-abcdefgh"
    others.mkdir()
    (place.cache / "related").mkdir()
    before = place.beside_inputs()
    assert before == {others}
    environment = {**os.environ, **place.environment()}
    (place.temporary / "file").touch()
    (place.cache / "run-abcd_123" / "store").mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True) as daemon:
        found = place.clear(keep=before)
        assert daemon.wait() == -signal.SIGKILL
    assert found == [f"process {daemon.pid}", f"directory {place.cache}/run-abcd_123"]
    assert not place.temporary.exists()
    assert {path.name for path in place.cache.iterdir()} == {"related", others.name}
    assert place.clear(keep=before) == []


def test_no_input_has_a_name_that_is_taken_for_a_working_directory() -> None:
    others = ["root", "builds", "logs", "registry", "seed-pool", "seed-distribution"]
    assert [name for name in (*CORPORA, *others) if leftovers._TEMPORARY.fullmatch(name)] == []


def test_processes_whose_root_is_ours_are_told_from_those_that_see_our_mounts() -> None:
    ours = b"9 8 0:5 / / rw - overlay overlay rw,upperdir=/tmp/bench-1/data/upper\n"
    sees = b"9 8 0:5 / / rw - ext4 /dev/vda rw\n7 9 0:6 / /tmp/bench-1/merged rw - overlay o rw\n"
    assert leftovers._root_is_below(ours, [b"/tmp/bench-1/"])
    assert not leftovers._root_is_below(sees, [b"/tmp/bench-1/"])
    assert not leftovers._root_is_below(b"", [b"/tmp/bench-1/"])


def test_a_cache_is_one_runs_and_the_next_removes_what_an_interrupted_one_left(
    place: Place,
) -> None:
    (place.cache / "run-before12").mkdir()
    with pytest.raises(KeyboardInterrupt), place.held() as left:  # noqa: PT012
        assert left == []
        with pytest.raises(ValueError, match="in use by another run"), Place(place.cache).held():
            pass
        (place.cache / "run-during12").mkdir()
        raise KeyboardInterrupt
    with place.held() as left:
        assert left == [f"directory {place.cache}/run-during12"]
        (place.cache / "run-manual12").mkdir()
    with place.held() as left:
        assert left == []


def test_documents_in_a_form_of_their_own_are_read_by_the_table(programs: Path) -> None:
    (programs / "own.py").write_text("import sys\nopen(sys.argv[-1], 'w').write('[7]')\n")

    def read(document: list[int]) -> Result:
        result = Result()
        result.add("g", "layerstore", "count", "", document)
        return result

    runner = Runner(Path("cache"), programs / "results", "full")
    assert runner.run(a_benchmark("own", module="own", read=read)) == "measured"
    found = json.loads((programs / "results/own.json").read_text())
    assert found["figures"][0]["values"] == [7]


def test_pages_lie_beside_their_results(tmp_path: Path) -> None:
    keep(tmp_path / "here", Kept(some_run("one"), some_result()))
    assert page.write_page(tmp_path / "here", [a_benchmark("one")]) == tmp_path / "here.md"
