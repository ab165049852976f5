"""Running the command line as an ordinary user, who has subordinate ids or none.

As a program, run by root: ``python -m tests.support.rootless PLACE SUBORDINATE DEVICE_MODE
WORD...`` gives itself a mount namespace in which /dev/fuse is open to everyone, as udev makes it
on ordinary hosts, and a small /etc with that user, becomes the user, and then layerstore. So
its pid is layerstore's.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import layerstore
from layerstore.linux import mounts
from tests.support.namespaces import enter_private_mount_namespace

USER = 1000
FIRST_SUBORDINATE = 100_000
NO_INTERPRETER = 77
_CHECKOUT = Path(layerstore.__file__).parents[1]
_IMPORTS = [str(_CHECKOUT), *(path for path in sys.path if path.endswith("-packages"))]


def command(
    place: Path, words: list[str], *, subordinate: bool = True, device_mode: int = 0o666
) -> list[str]:
    """Return the command line that runs layerstore as the user."""
    program = [sys.executable, "-m", "tests.support.rootless"]
    return [*program, str(place), str(int(subordinate)), f"{device_mode:o}", *words]


def run(
    place: Path, words: list[str], *, subordinate: bool = True, device_mode: int = 0o666
) -> subprocess.CompletedProcess[str]:
    """Run layerstore as the user to its end.

    Args:
        place: A directory of the user's, and its home.
    """
    return subprocess.run(
        command(place, words, subordinate=subordinate, device_mode=device_mode),
        capture_output=True,
        text=True,
        check=False,
        cwd=_CHECKOUT,
    )


def give(path: Path) -> None:
    """Make the user the owner of a directory and all below it."""
    for folder, _, names in os.walk(path):
        for name in (".", *names):
            os.chown(os.path.join(folder, name), USER, USER, follow_symlinks=False)


def interpreter() -> str | None:
    """Return a Python that the user may run: that of the tests may lie in somebody's home."""
    own = Path(sys.executable).resolve()
    if all(parent.stat().st_mode & 0o001 for parent in own.parents):
        return str(own)  # not the link in a checkout that the user may not enter
    other = f"/usr/bin/python3.{sys.version_info[1]}"
    return other if os.access(other, os.X_OK) else None


def _main() -> None:
    place, subordinate, device_mode, *words = sys.argv[1:]
    program = interpreter()
    if program is None:
        sys.exit(NO_INTERPRETER)
    enter_private_mount_namespace()
    # A place of ours outside of anything private, which only this namespace sees.
    mounts.mount("tmpfs", "/mnt", "tmpfs", 0, "mode=0755")
    _make_device("/mnt/fuse", int(device_mode, 8))
    mounts.bind("/mnt/fuse", "/dev/fuse")
    imports = _reachable("/mnt/imports")
    _make_etc("/mnt/etc", subordinate=subordinate == "1")
    mounts.bind("/mnt/etc", "/etc")
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    os.chdir(place)
    environment = {"PYTHONPATH": imports, "PATH": "/usr/bin:/bin", "HOME": place}
    for name in ("SOURCE_DATE_EPOCH", "LAYERSTORE_DEBUG"):
        if name in os.environ:
            environment[name] = os.environ[name]
    os.execve(program, [program, "-P", "-m", "layerstore", *words], environment)


def _make_device(path: str, mode: int) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(10, 229))
    os.chmod(path, mode)


def _reachable(place: str) -> str:
    """Bind what is imported to where everybody can read it; return the search path."""
    for number, path in enumerate(_IMPORTS):
        os.makedirs(f"{place}/{number}", mode=0o755)
        mounts.bind(path, f"{place}/{number}")
    return os.pathsep.join(f"{place}/{number}" for number in range(len(_IMPORTS)))


def _make_etc(etc: str, *, subordinate: bool) -> None:
    os.mkdir(etc, 0o755)
    Path(etc, "passwd").write_text(
        f"root:x:0:0:root:/root:/bin/sh\nbuilder:x:{USER}:{USER}::/:/bin/sh\n"
    )
    for name in ("subuid", "subgid"):
        line = f"builder:{FIRST_SUBORDINATE}:65536\n" if subordinate else ""
        Path(etc, name).write_text(line)
    if os.path.exists("/etc/ld.so.cache"):
        shutil.copy("/etc/ld.so.cache", etc)


if __name__ == "__main__":
    _main()
