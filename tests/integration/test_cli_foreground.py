"""mount --foreground: a view as long as its command, and mounts --restore: views that come back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.views import (
    BACKENDS,
    SERVED,
    is_mounted,
    kill_servers,
    needs_libfuse,
    needs_root,
    server_pids,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = needs_root


def wait_for(ask: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not ask():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Shop:
    """A store with an image, a directory to show it at, and a command that shows it."""

    def __init__(self, base: Path) -> None:
        root = base / "rootfs"
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "motd").write_text("hello\n")
        self.cli = Cli(base / "store")
        self.cli.ok("import", root, "-t", "web:1")
        self.view = base / "view"
        self.view.mkdir()
        self.motd = self.view / "etc" / "motd"
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = self.cli.command("mount", "--foreground", *words, "web:1", self.view)
        process = subprocess.Popen(
            command, env=self.cli.interrupted_environment(), stderr=subprocess.PIPE, text=True
        )
        self.processes.append(process)
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"shown at {self.view} by ")
        return process

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()
        self.cli("umount", "--all", "--lazy")

    def records(self) -> list[Path]:
        return list((self.cli.store / "views").glob("*.json"))

    def kill_servers(self) -> None:
        kill_servers(self.cli.store)

    def state(self) -> str:
        (view,) = self.cli.ok("mounts", "--json").json()  # type: ignore[misc]
        return str(view["state"])


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.close()


class TestForeground:
    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_signal_ends_command_and_view(self, shop: Shop, backend: str) -> None:
        process = shop.start("--backend", backend)
        assert shop.motd.read_text() == "hello\n"
        process.send_signal(signal.SIGTERM if backend == "kernel" else signal.SIGINT)
        assert process.wait(60) == 0
        assert not is_mounted(shop.view)
        wait_for(lambda: shop.records() == [] and not server_pids(shop.cli.store))

    def test_a_busy_view_is_told_and_the_second_signal_detaches_it(self, shop: Shop) -> None:
        process = shop.start()
        assert process.stderr is not None
        holder = subprocess.Popen(["sleep", "600"], cwd=shop.view)
        try:
            process.send_signal(signal.SIGINT)
            told = process.stderr.readline()
            holding = f"used by process {holder.pid} (sleep: its working directory)"
            assert f"{holding}; once more detaches it" in told
            assert shop.state() == "mounted"
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert not is_mounted(shop.view)
        finally:
            holder.kill()
            holder.wait()

    def test_it_ends_when_somebody_else_unmounts(self, shop: Shop) -> None:
        process = shop.start()
        shop.cli.ok("umount", shop.view)
        assert process.wait(60) == 0

    @needs_libfuse
    def test_a_view_that_breaks_is_an_error_and_cleaned_up(self, shop: Shop) -> None:
        process = shop.start("--backend", "fusepy")
        shop.kill_servers()
        assert process.wait(60) == 15
        assert process.stderr is not None
        assert "broke: its FUSE server is gone" in process.stderr.read()
        assert not is_mounted(shop.view)
        assert shop.records() == []

    def test_what_is_logged_is_shown(self, shop: Shop) -> None:
        process = shop.start("--backend", "fuse")
        assert process.stderr is not None
        (pid,) = server_pids(shop.cli.store)
        os.kill(pid, signal.SIGKILL)
        lines = iter(process.stderr.readline, "")
        assert any("starting another" in line for line in lines)
        assert shop.motd.read_text() == "hello\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0

    def test_not_with_print(self, shop: Shop) -> None:
        message = shop.cli.fails(2, "mount", "--print", "--foreground", "web:1", shop.view)
        assert "either --print or --foreground" in message


class TestRestore:
    @pytest.mark.parametrize("backend", SERVED)
    @pytest.mark.parametrize("rw", [False, True])
    def test_a_view_whose_server_is_gone_comes_back(
        self, shop: Shop, backend: str, rw: bool
    ) -> None:
        shop.cli.ok("mount", "--backend", backend, *(["--rw"] if rw else []), "web:1", shop.view)
        if rw:
            (shop.view / "written").write_text("before")
            shop.view.chmod(0o711)
        shop.kill_servers()
        assert shop.state() == "stale"
        told = shop.cli.ok("mounts", "--restore")
        assert f"shown again: web:1 at {shop.view}" in told.err
        assert shop.state() == "mounted"
        assert shop.motd.read_text() == "hello\n"
        if rw:
            assert (shop.view / "written").read_text() == "before"
            assert shop.view.stat().st_mode & 0o777 == 0o711
        assert shop.cli.ok("mounts", "--restore").err == ""
        shop.cli.ok("umount", shop.view)
        wait_for(lambda: shop.records() == [])

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_a_writable_view_comes_back_after_a_restart_of_the_host(
        self, shop: Shop, backend: str
    ) -> None:
        shop.cli.ok("mount", "--backend", backend, "--rw", "web:1", shop.view)
        (shop.view / "written").write_text("before")
        self.restart(shop)
        assert shop.state() == "stale"
        shop.cli.ok("mounts", "--restore")
        assert (shop.view / "written").read_text() == "before"
        assert shop.motd.read_text() == "hello\n"

    def restart(self, shop: Shop) -> None:
        """Leave what a restart would leave: records of another boot, and no mount or server."""
        (path,) = [path for path in shop.records() if not path.name.startswith("lower-")]
        record = json.loads(path.read_text())
        shop.cli.ok("umount", "--keep-upper", shop.view)
        path.write_text(json.dumps({**record, "boot_id": "another"}))

    def test_one_that_was_unmounted_by_hand_stays_so(self, shop: Shop) -> None:
        shop.cli.ok("mount", "web:1", shop.view)
        subprocess.run(["umount", shop.view], check=True)
        assert shop.cli.ok("mounts", "--restore").err == ""
        assert not is_mounted(shop.view)

    def test_one_that_cannot_come_back_stays_stale_with_its_layer(self, shop: Shop) -> None:
        shop.cli.ok("mount", "--rw", "--backend", "fuse", "web:1", shop.view)
        (shop.view / "written").write_text("before")
        self.restart(shop)
        shop.view.rmdir()
        assert "does not exist" in shop.cli.fails(2, "mounts", "--restore")
        assert shop.state() == "stale"
        shop.view.mkdir()
        shop.cli.ok("mounts", "--restore")
        assert (shop.view / "written").read_text() == "before"
