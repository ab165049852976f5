"""A systemd of a test's own: process 1 of its namespaces, over the files of this host.

What it writes lies in memory and goes with it; only what is given is shared with the host.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.running import wait_until

_MANAGER = "/lib/systemd/systemd"
_GROUPS = Path("/sys/fs/cgroup")

_BOOT = """
mount -t tmpfs tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
root="$place/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$place/upper,workdir=$place/work" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
for name in null zero full random urandom tty fuse; do
    test -e "/dev/$name" || continue
    touch "$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
for path; do
    mkdir -p "$root$path"
    mount --rbind "$path" "$root$path"
done
rm -rf "$root/etc/systemd/system"
mkdir "$root/etc/systemd/system"
cp "$units"/* "$root/etc/systemd/system/"
hostname test
cd "$root"
mkdir before
# Not chroot: who enters a container's mount namespace below one would come to the host's root.
pivot_root . before
umount -l /before
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    "$manager" --system --unit=test.target --log-target=null --show-status=false
"""

_TARGET = "[Unit]\nDescription=A test\nRequires=basic.target\nAfter=basic.target\n"


class System:
    """A host that has booted, with units of the test's.

    Args:
        base: A directory of the test's, which is shared with it.
        units: Texts of units by their names.
    """

    def __init__(self, base: Path, units: dict[str, str]) -> None:
        if not os.path.exists(_MANAGER):
            pytest.skip("systemd is not installed")
        hierarchy = _GROUPS if (_GROUPS / "cgroup.procs").exists() else _GROUPS / "unified"
        if not (hierarchy / "cgroup.procs").exists():
            pytest.skip("this host has no control groups of version 2")
        self._group = hierarchy / f"layerstore-test-{os.urandom(4).hex()}"
        self._group.mkdir()
        place, described = base / "system", base / "units"
        place.mkdir()
        described.mkdir()
        for name, text in {"test.target": _TARGET, **units}.items():
            (described / name).write_text(text)
        checkout = Path(__file__).parents[2]
        shared = sorted({str(base), str(checkout), sys.prefix, sys.base_prefix})
        words = ["unshare", "--cgroup", "--pid", "--mount", "--uts", "--ipc", "--fork"]
        words += ["--kill-child", "--propagation", "slave", "sh", "-ec", _BOOT, "sh", *shared]
        environment = {
            **os.environ, "place": str(place), "units": str(described), "manager": _MANAGER,
        }  # fmt: skip
        self._log = base / "boot.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=self._enter_group,
            )
        try:
            wait_until(self._has_booted, "the boot")
        except BaseException:
            self.end()
            raise

    def _enter_group(self) -> None:
        (self._group / "cgroup.procs").write_text(str(os.getpid()))

    def _has_booted(self) -> bool:
        if self._process.poll() is not None:
            pytest.skip(f"systemd does not boot here: {self._log.read_text()[-500:]}")
        state = self("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")

    @property
    def _pid(self) -> int:
        """Of its process 1, as we see it."""
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(path.read_text().split()[0])

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command there."""
        try:
            enter = [
                "nsenter",
                "--target",
                str(self._pid),
                "-m",
                "-p",
                "-i",
                "-u",
                "-C",
                "-r",
                "-w",
            ]
        except (OSError, IndexError):
            return subprocess.CompletedProcess(words, 1, "", "it has not begun")
        return subprocess.run(
            [*enter, *map(str, words)], capture_output=True, text=True, check=False, timeout=60
        )

    def ok(self, *words: str | Path) -> str:
        """Run a command there that succeeds; return what it prints."""
        done = self(*words)
        assert done.returncode == 0, (done, self("systemctl", "status", "--no-pager").stdout)
        return done.stdout

    def property(self, unit: str, name: str) -> str:
        """Return what systemd says of a unit."""
        return self.ok("systemctl", "show", "--property", name, "--value", unit).strip()

    def end(self) -> None:
        """End it and everything in it."""
        with contextlib.suppress(OSError, IndexError):
            os.kill(self._pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait(60)
        wait_until(self._remove_group, "its processes' end")

    def _remove_group(self) -> bool:
        for directory, _, _ in os.walk(self._group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        return not self._group.exists()


def need() -> None:
    """Skip a test where a tool is not installed."""
    for tool in ("unshare", "nsenter", "systemctl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
