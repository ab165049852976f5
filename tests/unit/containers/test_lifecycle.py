"""Containers' records and ends, without any container that runs."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from layerstore.containers import lifecycle
from layerstore.containers.image_config import image_defaults
from layerstore.containers.records import directory_of, id_of_name, new_id, take_name
from layerstore.containers.states import EXITED, RESTARTING, State
from layerstore.errors import FormatError
from layerstore.linux.files import make_private_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_a_name_does_not_take_another_that_ends_like_a_temporary_file(tmp_path: Path) -> None:
    store = str(tmp_path)
    make_private_dir(f"{store}/containers")
    ids = {name: new_id() for name in ("x.tmp", "x", "y")}
    for name, container_id in ids.items():
        make_private_dir(directory_of(store, container_id))
        take_name(store, name, container_id)
    assert {name: id_of_name(store, name) for name in ids} == ids


def test_one_that_waits_to_be_restarted_is_killed_at_once(
    monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    def state_of(*_: object) -> State:
        return State(RESTARTING, monitor=sleeper.pid) if sleeper.poll() is None else State(EXITED)

    for name in ("note_stop", "settle", "send_signal"):
        monkeypatch.setattr(lifecycle, name, lambda *_, **__: None)
    monkeypatch.setattr(lifecycle, "state_of", state_of)
    lifecycle.kill_for_good("", None)  # type: ignore[arg-type] -- whichever
    assert sleeper.returncode != 0


def test_a_timeout_of_ages_is_waited_for_in_parts() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        lifecycle._wait_for_process(process.pid, 1e12)
        assert process.wait(60) == 0


@pytest.mark.parametrize("value", ["1e400", "[]", '"x"'])
def test_a_stop_timeout_that_is_none(value: str) -> None:
    with pytest.raises(FormatError, match="config cannot be used"):
        image_defaults(b'{"config": {"StopTimeout": %s}}' % value.encode())
