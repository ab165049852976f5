"""The monitor's parts: what it imports, and its log and its JSON as others read them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import layerstore
from layerstore.containers.logs import follow_log, parse_line
from layerstore.containers.monitor import Monitor
from layerstore.containers.monitor_client import Client
from layerstore.containers.monitor_files import to_json
from layerstore.containers.monitor_log import Log
from layerstore.containers.monitor_start import exit_code, start_code
from layerstore.containers.records import directory_of, new_id

TOP = Path(layerstore.__file__).parents[1]


def test_the_monitor_imports_nothing_that_is_written_in_python() -> None:
    program = (
        "import sys; before = set(sys.modules); sys.path.insert(0, sys.argv[1]); "
        "import layerstore.containers.monitor; "
        "new = [sys.modules[name] for name in set(sys.modules) - before]; "
        "print(*(m.__name__ for m in new if str(getattr(m, '__file__', '')).endswith('.py')))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, TOP], capture_output=True, text=True, check=True
    )
    foreign = [name for name in done.stdout.split() if not name.startswith("layerstore")]
    assert foreign == ["__future__"]


def test_json_is_what_json_reads() -> None:
    value = {"text": 'a"\\\n\x00é\U0001f600', "yes": True, "number": -3, "time": 1.5, "none": ""}
    assert json.loads(to_json(value)) == value


def test_log_records_lines_and_beginnings_of_lines(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), 0, 1)
    log.write(b"stdout", b"one\ntw")
    log.write(b"stderr", b"\n")
    log.write(b"stdout", b"o\n")
    log.close()
    lines = [parse_line(line) for line in (tmp_path / "log").read_bytes().splitlines()]
    assert [(line.stream, line.text) for line in lines if line] == [
        ("stdout", b"one\n"), ("stdout", b"tw"), ("stderr", b"\n"), ("stdout", b"o\n"),
    ]  # fmt: skip


def test_logs_are_turned_over_and_the_oldest_goes(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), 1000, 3)
    for number in range(100):
        log.write(b"stdout", b"%03d\n" % number)
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["log", "log.1", "log.2"]
    assert (tmp_path / "log.1").read_bytes().endswith(b"\n")
    newest = b"".join((tmp_path / name).read_bytes() for name in ("log.2", "log.1", "log"))
    assert newest.count(b"\n") > 20
    assert newest.rstrip().endswith(b"099")


def test_a_torn_line_of_a_log_is_passed_over() -> None:
    assert parse_line(b"2026-11-26T18:44:53.123456789Z stdout") is None
    assert parse_line(b"") is None
    assert parse_line(b"garbage stdout F x") is None


def test_statuses() -> None:
    assert exit_code(0) == 0
    assert exit_code(3 << 8) == 3
    assert exit_code(9) == 137
    assert start_code(b'exec: "x": executable file not found in $PATH') == 127
    assert start_code(b"permission denied") == 126
    assert start_code(b"anything else") == 125


def test_following_goes_on_in_a_newer_log_that_is_smaller(tmp_path: Path) -> None:
    container = SimpleNamespace(container_id=new_id())
    directory = Path(directory_of(str(tmp_path), container.container_id))
    directory.mkdir(parents=True)
    log = Log(str(directory / "log"), 0, 1)
    log.write(b"stdout", b"newer\n")
    log.close()
    lines = follow_log(str(tmp_path), container, 10_000)  # type: ignore[arg-type] -- its id alone
    assert [line.text for line in lines] == [b"newer\n"]


def test_a_runtime_that_ended_before_the_monitor_listened_is_seen(tmp_path: Path) -> None:
    """No signal tells of it: SIGCHLD came when nobody had a handler."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{tmp_path}/attach")
    listener.listen(1)
    child = os.fork()
    if child == 0:
        try:
            ended = os.posix_spawn("/bin/false", ["false"], {})
            os.waitid(os.P_PID, ended, os.WEXITED | os.WNOWAIT)  # it is a zombie, not collected
            Monitor(_spec(tmp_path, ended, theirs.detach(), listener.detach())).run()
        finally:
            os._exit(0)
    theirs.close()
    listener.close()
    ours.settimeout(60)
    try:
        assert ours.recv(1000) == b"F\x7dit said nothing"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ours.close()
    assert json.loads((tmp_path / "state").read_text())["status"] == "created"


def _spec(place: Path, runtime: int, client: int, listener: int) -> dict[str, object]:
    """Return what a monitor is told about an attached start of a runtime with no streams."""
    paths = ("pid_file", "runtime_log", "state", "stopped", "runtime_state", "runtime_file")
    none = dict.fromkeys(("stdin", "stdout", "stderr", "console"), -1)
    return {
        **{name: f"{place}/{name}" for name in paths},
        "started": {"pid": runtime, **none}, "inherited": [], "client": client, "attached": True,
        "listener": listener, "log": "", "log_max_bytes": 0, "log_files": 1, "others": [],
        "restart": ("no", 0), "durable": False, "boot_id": "", "container": "x", "cgroup": "",
        "tty": False, "interactive": False, "stop_signal": 15,
    }  # fmt: skip


def test_a_client_that_was_gone_when_it_was_told_the_end_does_not_clean_up() -> None:
    """The monitor leaves that to whom it could tell, and asks once everything is sent."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        client = Client(ours)
        client.send(b"1output")
        assert client.flush()
        theirs.close()
        client.send(b"X0")
        assert (client.queue, client.queued) == ([], 0)
        assert not client.flush()


def test_a_stop_that_came_while_the_runtime_worked_is_heeded(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, subprocess.Popen(["sleep", "1000"]) as container:
        runtime = 1
        monitor = Monitor(_spec(tmp_path, runtime, theirs.detach(), listener.detach()))
        try:
            (tmp_path / "pid_file").write_text(str(container.pid))
            monitor._runtime_pid, monitor._ended = runtime, {runtime: 0}
            monitor._on_term()
            assert monitor._wait_for_start() is None
            assert container.wait(60) == -signal.SIGTERM
            assert ours.recv(10) == b"S"
        finally:
            container.kill()
            assert monitor._first is not None
            monitor._first.sock.close()
            monitor._listener.close()
            os.close(monitor._wake)
            os.close(monitor._waker)
