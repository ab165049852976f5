"""The root file system that is read: one Debian with what the real loads need, made once.

Debian 12 minbase with Python, node and gcc; numpy and pandas as wheels, compiled to
bytecode; and the C sources of hiredis. It is kept, since making it takes minutes; it appears
under its name when it is complete. Needs root, mmdebstrap and the network that apt and pip are
set up for.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.bench import debian
from tests.bench.corpora import APP_2, pip_app
from tests.bench.harness import say

PACKAGES = ("python3", "nodejs", "gcc", "libc6-dev")
C_PROJECT = "hiredis==3.1.0"
"""A C library of seven files that include the usual system headers, from an sdist."""

SOURCES = "usr/src/project"

_IMPORT = "import numpy, pandas"
_COMPILE = """\
set -e
cd /usr/src/project/vendor/hiredis
objects=
for file in alloc async hiredis net read sds sockcompat; do
  gcc -std=gnu99 -O1 -fPIC -c -o /tmp/$file.o $file.c
  objects="$objects /tmp/$file.o"
done
gcc -shared -o /tmp/libhiredis.so $objects
rm -f $objects /tmp/libhiredis.so
"""

LOADS = {
    "python": ("/usr/bin/python3", "-c", _IMPORT),
    "node": ("/usr/bin/node", "-e", "0"),
    "compile": ("/bin/sh", "-c", _COMPILE),
}
"""Programs that are run with a view as their root, and with a ``/tmp`` in memory."""

ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/tmp",
    "PYTHONPATH": "/opt/app/lib/python3.11/site-packages",
    "OPENBLAS_NUM_THREADS": "1",
}


def make_root(work: Path) -> Path:
    """Return the root file system below ``work``, made if it is not there yet."""
    tree = work / "root"
    if tree.exists():
        return tree
    part = work / "root.part"
    shutil.rmtree(part, ignore_errors=True)
    say("making the root file system: a few minutes, once")
    debian.bootstrap_tree("bookworm", part, include=PACKAGES)
    pip_app(*APP_2)(part)
    _add_sources(part)
    part.rename(tree)
    return tree


def _add_sources(tree: Path) -> None:
    target = tree / SOURCES
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as download:
        command = [sys.executable, "-m", "pip", "--quiet", "download", "--no-deps"]
        command += ["--no-binary=:all:", "--dest", download, C_PROJECT]
        subprocess.run(command, check=True)
        (archive,) = Path(download).glob("*.tar.gz")
        unpack = ["tar", "-C", str(target), "--strip-components=1", "--no-same-owner"]
        subprocess.run([*unpack, "-xf", str(archive)], check=True)
