"""Volumes that are filled with what an image has, also when somebody was killed or is at work."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.containers import volumes
from layerstore.containers.volumes import fill_volume, make_volume, volume_data

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = {"a": "A", "b": "B", "dir/c": "C"}


@pytest.fixture
def root(tmp_path: Path) -> str:
    root = tmp_path / "root"
    for name, text in CONTENT.items():
        path = root / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "data").chmod(0o750)
    return str(root)


@pytest.fixture
def data(tmp_path: Path) -> str:
    make_volume(str(tmp_path), "v")
    return volume_data(str(tmp_path), "v")


def _content(data: str) -> dict[str, str]:
    found = {}
    for directory, _, files in os.walk(data):
        for name in files:
            path = f"{directory}/{name}"
            with open(path) as file:
                found[os.path.relpath(path, data)] = file.read()
    return found


def test_an_empty_one_gets_what_the_image_has(root: str, data: str) -> None:
    fill_volume(data, root, "/data", 0)
    assert _content(data) == CONTENT
    assert os.stat(data).st_mode & 0o7777 == 0o750
    assert sorted(os.listdir(os.path.dirname(data))) == ["_data", "lock"]


def test_one_that_holds_something_stays(root: str, data: str) -> None:
    with open(f"{data}/own", "w") as file:
        file.write("own")
    fill_volume(data, root, "/data", 0)
    assert _content(data) == {"own": "own"}


class _KilledError(BaseException):
    pass


@pytest.mark.parametrize("moment", ["copy", "first", "second", "third"])
def test_a_kill_at_any_moment_leaves_one_that_is_filled_later(
    root: str, data: str, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    real_rename, renames = os.rename, []

    def rename(source: str, target: str, **fds: int) -> None:
        renames.append(target)
        wanted = {"copy": 1, "first": 2, "second": 3, "third": 4}[moment]
        if len(renames) == wanted:
            raise _KilledError
        real_rename(source, target, **fds)

    with monkeypatch.context() as patch:
        patch.setattr(volumes.os, "rename", rename)
        with pytest.raises(_KilledError):
            fill_volume(data, root, "/data", 0)
    fill_volume(data, root, "/data", 0)
    assert _content(data) == CONTENT
    assert sorted(os.listdir(os.path.dirname(data))) == ["_data", "lock"]


def test_links_that_a_container_makes_meanwhile_are_not_followed(
    root: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = tmp_path / "host"
    (host / "dir").mkdir(parents=True)
    (host / "a").write_text("the host's")
    real_copy = volumes._copy

    def copy(source: str, place: str) -> None:
        real_copy(source, place)
        os.symlink(host / "a", f"{data}/a")
        os.symlink(host / "dir", f"{data}/dir")
        os.makedirs(f"{data}/b/full")

    monkeypatch.setattr(volumes, "_copy", copy)
    fill_volume(data, root, "/data", 0)
    assert (host / "a").read_text() == "the host's"
    assert os.listdir(host / "dir") == []
    assert os.listdir(f"{data}/b") == ["full"]
