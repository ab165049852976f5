"""The unit that ``generate systemd`` prints, under a systemd that runs.

Capabilities: root, runc, systemd, control groups of version 2.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from layerstore.store.store import Store
from tests.support import systemd
from tests.support.build import add_base, needs_runc
from tests.support.cli import Cli
from tests.support.running import wait_until
from tests.support.views import needs_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [*needs_root, *needs_runc]

_SCRIPT = "trap 'exit 0' TERM; echo begun >> /start; while :; do sleep 0.1; done"


class Host:
    """A system that has a container and its unit."""

    def __init__(self, base: Path) -> None:
        self.cli = Cli(base / "store")
        with Store.open(base / "store", create=True) as store:
            add_base(store)
        self.cli.ok("create", "--name", "web", "--network", "none", "box", "sh", "-c", _SCRIPT)
        unit = self.cli.ok("generate", "systemd", "--restart-policy", "on-failure", "web").out
        self.system = systemd.System(base, {"web.service": unit})

    def layerstore(self, *words: str) -> str:
        return self.system.ok(*self.cli.command("--store", self.cli.store, *words))

    def status(self) -> str:
        return self.layerstore("ps", "-a", "--format", "{{.Status}}").strip()

    def is_attended(self) -> bool:
        """Whether it runs, and its monitor too, which the unit's end must not leave behind."""
        status = self.status()
        return status.startswith("Up") and "monitor" not in status

    def starts(self) -> int:
        return self.layerstore("exec", "web", "sh", "-c", "cat /start*").count("begun")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    systemd.need()
    host = Host(tmp_path)
    yield host
    host.system.end()


def test_a_container_is_started_restarted_and_stopped_by_its_unit(host: Host) -> None:
    system = host.system
    assert host.status() == "Created"
    system.ok("systemctl", "start", "web")
    wait_until(host.is_attended, "the container")
    assert system.property("web", "ActiveState") == "active"
    assert "start --attach web" in system.ok("systemctl", "status", "--no-pager", "web")
    wait_until(lambda: host.starts() == 1, "its command")

    # The container dies: the unit fails, and starts it again.
    system.ok("sh", "-c", "kill -9 $(cat /run/layerstore/*/*/pid)")
    wait_until(lambda: system.property("web", "NRestarts") == "1", "its restart")
    wait_until(host.is_attended, "the container")
    wait_until(lambda: host.starts() == 2, "its command")

    # Who attends it dies: that is a failure, too, and nothing is left running beside the unit.
    main = int(system.property("web", "MainPID"))
    system.ok("kill", "-s", str(int(signal.SIGKILL)), str(main))
    wait_until(lambda: system.property("web", "NRestarts") == "2", "its restart")
    wait_until(host.is_attended, "the container")
    assert int(system.property("web", "MainPID")) != main
    wait_until(lambda: host.starts() == 3, "its command")  # before, it hears no signal

    system.ok("systemctl", "restart", "web")
    wait_until(host.is_attended, "the container")
    wait_until(lambda: host.starts() == 4, "its command")

    system.ok("systemctl", "stop", "web")
    assert system.property("web", "ActiveState") == "inactive"
    assert host.status().startswith("Exited (0)")
    assert system.property("web", "Result") == "success"
    lowers = host.cli.store / "views" / "lowers"
    wait_until(lambda: os.listdir(lowers) in ([], ["meta"]), "the end of what showed the image")
