"""The demonstration takes its views away, however it ends; see Dockerfile-examples/demo.py.

One small image takes the place of those that it builds out of Debian's packages.

Capabilities: root (overlay mounts on the host), runc (busybox as an image).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.store.store import Store
from tests.support.build import add_base, needs_runc
from tests.support.cli import Cli
from tests.support.running import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = needs_runc

DEMO = Path(__file__).parents[2] / "Dockerfile-examples" / "demo.py"
COPIES = 3

# As it is run, but for what it builds, and with the command that this interpreter has.
PROGRAM = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)  # whoever runs the tests may ignore them
source, command, store, copies, *words = sys.argv[1:]
head, start, tail = open(source).read().partition('if __name__ == "__main__":')
head += f'''
LAYERSTORE = Path({command!r})
EXAMPLES = (Example("box", tuple({words!r})),)
build_everything = lambda: None
'''
sys.argv = [source, "--store", store, "--copies", copies]
exec(compile(head + start + tail, source, "exec"), {"__name__": "__main__", "__file__": source})
"""


class Demo:
    """The demonstration over a store of its own, with temporary files of its own."""

    def __init__(self, directory: Path) -> None:
        self.cli = Cli(directory / "store")
        self.scratch = directory / "scratch"
        self.scratch.mkdir()
        self._command = directory / "layerstore"
        self._command.write_text(f'#!/bin/sh\nexec {sys.executable} -m layerstore "$@"\n')
        self._command.chmod(0o755)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Run it with a command for every view."""
        given = [DEMO, self._command, self.cli.store, str(COPIES), *words]
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *given],
            env=self.cli.interrupted_environment({"TMPDIR": str(self.scratch)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def views(self) -> list[str]:
        return self.cli.ok("mounts", "--quiet").lines

    def left(self) -> list[str]:
        """Return what it should have taken away."""
        return [*self.views(), *map(str, self.scratch.iterdir())]

    def inside(self) -> list[int]:
        """Return the processes whose root is a view of ours."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{pid}/root").startswith(f"{self.scratch}/"):
                    found.append(int(pid))
        return found


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    with Store.open(tmp_path / "store", create=True) as store:
        add_base(store)
    demo = Demo(tmp_path)
    yield demo
    for pid in demo.inside():
        os.kill(pid, signal.SIGKILL)
    demo.cli("umount", "--all", "--lazy")


def _finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def test_it_shows_and_takes_away(demo: Demo) -> None:
    code, said = _finish(demo.begin("/bin/echo", "in a view"))
    assert code == 0, said
    assert "box: /bin/echo 'in a view' -> in a view\n" in said
    assert f"{COPIES} files written, each seen in its own view and in no other" in said
    assert f"{COPIES} views unmounted" in said
    assert demo.left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(demo: Demo, number: signal.Signals) -> None:
    process = demo.begin("/bin/sleep", "1000")
    wait_until(demo.inside, "its command in a view")
    assert len(demo.views()) == COPIES
    process.send_signal(number)
    code, said = _finish(process)
    assert (code, "Traceback" in said) == (128 + number, False), said
    assert demo.left() == []
    assert demo.inside() == []


def test_a_command_that_fails_leaves_nothing(demo: Demo) -> None:
    code, said = _finish(demo.begin("/bin/sh", "-c", "echo no such luck; exit 3"))
    assert (code, "Traceback" in said) == (1, False), said
    assert "failed with exit status 3: no such luck" in said
    assert demo.left() == []


def test_what_a_killed_one_left_the_next_takes_away(demo: Demo) -> None:
    process = demo.begin("/bin/sleep", "1000")
    wait_until(demo.inside, "its command in a view")
    # A run beside it leaves alone what is in use.
    code, said = _finish(demo.begin("/bin/true"))
    assert code == 0, said
    assert len(demo.views()) == COPIES
    (orphan,) = demo.inside()
    process.kill()
    os.kill(orphan, signal.SIGKILL)  # nobody waits for it any more
    _finish(process)
    assert len(demo.views()) == COPIES
    code, said = _finish(demo.begin("/bin/true"))
    assert code == 0, said
    assert "a killed run left " in said
    assert demo.left() == []
