"""Images of an engine are listed as those of the store, templates and all."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from layerstore.cli import fast
from layerstore.cli.transfer import engines
from layerstore.errors import InputError
from layerstore.peers.engine import EngineImage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGES = [
    EngineImage("sha256:" + "1" * 64, ("web:1", "host:5000/web:2"), 1_700_000_000, 2500),
    EngineImage("sha256:" + "2" * 64, (), 1_700_000_000, 10),
]


class _Engine:
    def images(self) -> list[EngineImage]:
        return IMAGES


@contextlib.contextmanager
def _open(*_words: object) -> Iterator[_Engine]:
    yield _Engine()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "{{.Repository}} {{.Tag}} {{.Size}}"],
         ["web 1 2.5kB", "host:5000/web 2 2.5kB", "<none> <none> 10B"]),
        (["--format", "table {{.ID}}\t{{.Tag}}", "web"], ["IMAGE ID       TAG", "111111111111   1",
         "111111111111   2"]),
        (["-q", "--no-trunc"], ["sha256:" + "1" * 64, "sha256:" + "2" * 64]),
    ],
)  # fmt: skip
def test_what_is_listed(
    words: list[str],
    told: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(engines, "open_engine", _open)
    assert fast.run("images", ["--of", "docker", *words], str(tmp_path)) == 0
    assert capsys.readouterr().out.splitlines() == told


@pytest.mark.parametrize("option", [["--filter", "dangling=true"], ["--digests"], ["--verbose"]])
def test_what_engines_are_not_asked_is_refused(option: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{option[0]} is about images of the store"):
        fast.run("images", ["--of", "podman", *option], str(tmp_path))
