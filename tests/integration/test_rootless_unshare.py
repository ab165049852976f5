"""What a user mounts in ``layerstore unshare``: it ends with the command, and can be measured.

Capabilities: root to become the user, runc (its container's layer), FUSE, newuidmap.
"""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.integration.test_rootless_containers import User, place, user
from tests.support import rootless
from tests.support.build import needs_runc
from tests.support.running import wait_until

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["place", "user"]

pytestmark = needs_runc

_WRITES = "mkdir -m 700 closed; echo written > closed/file; chown -R 1:1 closed"


@pytest.fixture
def view(user: User) -> Path:
    path = user.place / "view"
    path.mkdir()
    rootless.give(path)
    return path


def inside(view: Path, script: str) -> tuple[str, ...]:
    """Return the words that mount a writable view in a namespace, and run a script in it."""
    program = rootless.interpreter()
    mount = f"{program} -P -m layerstore mount --rw box {view} && cd {view}"
    return ("unshare", "sh", "-ec", f"{mount}\n{script}")


def test_its_views_end_with_it(user: User, view: Path) -> None:
    done = user(*inside(view, f"{_WRITES}; exit 7"))
    assert (done.returncode, done.stderr) == (7, "")
    assert json.loads(user.ok("mounts", "--json")) == []
    user.wait_for_the_end()
    assert list(view.iterdir()) == []
    wait_until(lambda: user.servers() == [], "the end of its server")


def test_its_end_is_that_of_the_command(user: User) -> None:
    assert user("unshare", "sh", "-c", "kill -KILL $$").returncode == 137
    done = user("unshare", "/no/such/command")
    assert (done.returncode, "could not run /no/such/command" in done.stderr) == (2, True)


def test_what_is_in_use_stays_and_is_measured_and_unmounted_from_outside(
    user: User,
    view: Path,
) -> None:
    words = inside(view, f"{_WRITES}\nsleep 1000 >&- 2>&- & echo $!")
    command = user.words(*words)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "is busy" in done.stderr
    (layer,) = json.loads(user.ok("df", "--json"))["ledger"]["writable"]
    assert layer["size"] == len("written\n")
    user.ok("savings")
    refused = user("umount", str(view))
    assert (refused.returncode, "is busy" in refused.stderr) == (15, True)
    subprocess.run(["kill", done.stdout.strip()], check=True)
    wait_until(lambda: user("umount", str(view)).returncode == 0, "it to be free")
    user.wait_for_the_end()
