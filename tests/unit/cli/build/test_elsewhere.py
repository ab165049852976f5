"""Other surroundings for a while, and none of them afterwards."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from layerstore.build.contexts import LayoutContext, StageContext
from layerstore.build.request import BuildRequest
from layerstore.cli.build.elsewhere import elsewhere, told


def umask() -> int:
    value = os.umask(0o022)
    os.umask(value)
    return value


def surroundings() -> tuple[object, ...]:
    variables = {name: os.environ.get(name) for name in ("TZ", "LANG", "LC_ALL")}
    return umask(), Path.cwd(), variables, time.timezone, os.sched_getaffinity(0)


@pytest.mark.parametrize("own", [0o022, 0o077])
def test_everything_is_different_and_then_as_it_was(tmp_path: Path, own: int) -> None:
    before_test = os.umask(own)
    try:
        before = surroundings()
        with elsewhere(BuildRequest(context=tmp_path)):
            inside = surroundings()
        assert surroundings() == before
    finally:
        os.umask(before_test)
    assert [a != b for a, b in zip(before, inside, strict=True)][:4] == [True] * 4
    assert len(inside[4]) == 1
    assert ("one processor" in told()) == (len(before[4]) > 1)


def test_paths_mean_what_they_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = BuildRequest(
        context=Path(),
        dockerfile=Path("d/Dockerfile"),
        named_contexts={
            "a": Path("a"),
            "layout": LayoutContext(Path("l"), "latest", ""),
            "stage": StageContext("s"),
        },
    )
    with elsewhere(request) as changed:
        assert changed.context == tmp_path
        assert changed.dockerfile == tmp_path / "d/Dockerfile"
        assert changed.named_contexts == {
            "a": tmp_path / "a",
            "layout": LayoutContext(tmp_path / "l", "latest", ""),
            "stage": StageContext("s"),
        }
    assert request.context == Path()
