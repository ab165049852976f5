"""The hostile corpus: every entry has a case, and every case its verdict within its bounds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.security.corpus.cases import cases_of
from tests.security.corpus.listing import ABSENT, BY_ID, CLASSES, ELSEWHERE, ENTRIES
from tests.security.corpus.runner import compile_ahead

ROOT = Path(__file__).parent.parent.parent


def test_the_list_is_whole() -> None:
    assert len(ENTRIES) == 324
    assert {entry.id[0] for entry in ENTRIES} == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_every_entry_is_tried_or_has_no_way_in(name: str) -> None:
    tried = {case.entry for case in cases_of(name)}
    wanted = {entry.id for entry in ENTRIES if entry.id[0] == name}
    assert tried <= wanted
    elsewhere = {entry for entry in ELSEWHERE if entry[0] == name}
    assert wanted - tried - elsewhere == {entry for entry in ABSENT if entry[0] == name}
    assert not tried & set(ABSENT)


@pytest.mark.parametrize("name", CLASSES)
def test_verdicts_are_those_of_the_list(name: str) -> None:
    """What the list calls R, S or L is so in one of its cases at least."""
    for entry in ENTRIES:
        verdicts = {way.verdict for case in cases_of(name) if case.entry == entry.id
                    for way in case.ways}  # fmt: skip
        if entry.id[0] == name and verdicts and entry.verdict != "B":
            assert entry.verdict in verdicts, f"{entry.id} {entry.title}"


def test_tests_elsewhere_exist() -> None:
    for entry, test in ELSEWHERE.items():
        file, _, function = test.partition("::")
        assert entry in BY_ID
        assert f"def {function}(" in (ROOT / file).read_text()


def _has(what: str) -> bool:
    if what == "root":
        return os.geteuid() == 0
    runtimes = shutil.which("runc") or shutil.which("crun")
    return runtimes is not None and os.path.exists("/dev/fuse")


def _batches() -> list[object]:
    """One test for each class and what its cases need, so that few processes are started."""
    marks = {
        "": (), "root": (pytest.mark.root,),
        "root,runc": (pytest.mark.root, pytest.mark.runc, pytest.mark.fuse),
    }  # fmt: skip
    return [
        pytest.param(name, needs, marks=marks[needs], id=f"{name}-{needs}" if needs else name)
        for name in CLASSES
        for needs in marks
        if any(",".join(case.needs) == needs and not case.long for case in cases_of(name))
    ]


@pytest.fixture(scope="module")
def compiled() -> None:
    compile_ahead()


@pytest.mark.usefixtures("compiled")
@pytest.mark.timeout(1000)
@pytest.mark.parametrize(("name", "needs"), _batches())
def test_corpus(name: str, needs: str) -> None:
    missing = [what for what in needs.split(",") if what and not _has(what)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    # A process of its own: cases are forked from it, and only a single thread may do that.
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.corpus", "--run", name, "--needs", needs],
        cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=900,
    )  # fmt: skip
    results = [json.loads(line) for line in done.stdout.splitlines()]
    faults = [f"{result[0]} {result[1]}: {fault}" for result in results for fault in result[5]]
    assert not faults, "\n".join(faults)
    expected = [case for case in cases_of(name)
                if ",".join(case.needs) == needs and not case.long]  # fmt: skip
    assert len(results) == len(expected) + 1  # and the look at the store afterwards
