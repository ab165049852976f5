"""Containers' records and ends, without any container that runs."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from layerstore.containers import lifecycle, starting
from layerstore.containers.image_config import image_defaults
from layerstore.containers.records import directory_of, id_of_name, new_id, take_name
from layerstore.containers.states import (
    CREATED,
    EXITED,
    RESTARTING,
    RUNNING,
    State,
    alive_path,
    boot_id,
    write_state,
)
from layerstore.errors import ConflictError, ContainerError, FormatError
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


def test_one_that_was_only_starting_when_it_was_killed_is_killed_again(
    monkeypatch: pytest.MonkeyPatch, sleeper: subprocess.Popen[bytes]
) -> None:
    tries = []

    def send_signal(*_: object, **__: object) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ConflictError("it is not running")
        sleeper.kill()

    def state_of(*_: object) -> State:
        running = State(RUNNING, monitor=sleeper.pid)
        return running if sleeper.poll() is None else State(EXITED)

    for name in ("note_stop", "settle"):
        monkeypatch.setattr(lifecycle, name, lambda *_, **__: None)
    monkeypatch.setattr(lifecycle, "_KILL_AGAIN_S", 0.05)
    monkeypatch.setattr(lifecycle, "send_signal", send_signal)
    monkeypatch.setattr(lifecycle, "state_of", state_of)
    lifecycle.kill_for_good("", None)  # type: ignore[arg-type] -- whichever
    assert len(tries) >= 2
    monkeypatch.setattr(lifecycle, "_KILL_WAIT_S", 0.1)
    monkeypatch.setattr(lifecycle, "state_of", lambda *_: State(RUNNING, monitor=sleeper.pid))
    monkeypatch.setattr(lifecycle, "ends", lambda *_: False)
    container: Any = SimpleNamespace(name="x", container_id="x")
    with pytest.raises(ContainerError, match="was killed and has not ended"):
        lifecycle.kill_for_good("", container)
    monkeypatch.setattr(lifecycle, "ends", lambda *_: True)
    lifecycle.kill_for_good("", container)  # it has: its monitor takes long to clean up


def test_a_monitor_that_cleans_up_is_waited_for_though_no_file_tells_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lifecycle, "settle", lambda *_: None)
    monkeypatch.setattr(lifecycle, "state_of", lambda *_: State(CREATED))
    with subprocess.Popen(["sleep", "0.3"]) as process:
        assert lifecycle.wait_for_end("", None, 60, process.pid)  # type: ignore[arg-type]
        assert process.poll() == 0
        # One that is gone is not waited for.
        assert lifecycle.wait_for_end("", None, None, process.pid)  # type: ignore[arg-type]


def test_a_lock_is_waited_for_while_a_monitor_cleans_up_and_no_longer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(starting, "_LOCK_PATIENCE_S", 0.0)
    store, container_id = str(tmp_path), new_id()
    make_private_dir(f"{store}/containers")
    make_private_dir(directory_of(store, container_id))
    script = 'exec 9>"$1"; flock 9; echo held; read -r line; sleep 0.3'
    words = ["sh", "-c", script, "sh", alive_path(store, container_id)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as monitor:
        assert monitor.stdout is not None
        assert monitor.stdout.readline() == b"held\n"
        state = State(EXITED, monitor=monitor.pid, boot_id=boot_id())
        write_state(store, container_id, state)
        with pytest.raises(ConflictError):
            starting.hold(store, container_id)
        write_state(store, container_id, state._replace(status=RESTARTING))
        with pytest.raises(ConflictError):
            starting.hold(store, container_id, to_its_end=True)
        write_state(store, container_id, state)
        assert monitor.stdin is not None
        monitor.stdin.close()
        starting.hold(store, container_id, to_its_end=True).close()


def test_a_timeout_of_ages_is_waited_for_in_parts() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        lifecycle._wait_for_process(process.pid, 1e12)
        assert process.wait(60) == 0


@pytest.mark.parametrize("value", ["1e400", "[]", '"x"'])
def test_a_stop_timeout_that_is_none(value: str) -> None:
    with pytest.raises(FormatError, match="config cannot be used"):
        image_defaults(b'{"config": {"StopTimeout": %s}}' % value.encode())
