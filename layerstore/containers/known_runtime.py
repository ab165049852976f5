"""The runtime that knows a container: which it is, how it is called, what it says.

On the fast path: imports little.
"""

from __future__ import annotations

import contextlib
import os

from layerstore import light_json as json
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import read_file
from layerstore.runtime.runtimes import installed_runtimes

if TYPE_CHECKING:
    from layerstore.containers.records import Container
    from layerstore.runtime.runtimes import Runtime

_PATH_MAX_BYTES = 4096


def runtime_file(run_dir: str) -> str:
    """Return the file that has the path of the runtime that knows a container."""
    return f"{run_dir}/runtime"


def runtime_of(container: Container, *, rootless: bool) -> Runtime:
    """Return the runtime that knows a container which runs.

    Raises:
        InputError: The one that was asked for is gone.
        UnsupportedError: None is installed any more.
    """
    chosen = container.settings.runtime
    with contextlib.suppress(OSError):
        path = read_file(runtime_file(container.run_dir), max_bytes=_PATH_MAX_BYTES)
        chosen = os.fsdecode(path) or chosen
    return installed_runtimes(chosen, rootless=rootless)[0]


def runtime_options(run_dir: str, runtime: Runtime, *, rootless: bool) -> list[str]:
    """Return the words that every call of a runtime for a container begins with."""
    words = ["--root", f"{os.path.dirname(run_dir)}/runtime"]
    words += ["--log", f"{run_dir}/runtime.log", "--log-format", "json"]
    if rootless and runtime.name == "crun":
        words.append("--cgroup-manager=disabled")
    return words


def runtime_words(log: bytes) -> str:
    """Return what a runtime's log says of its failure."""
    lines = log.decode("utf-8", "replace").strip().splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry["level"] in ("error", "fatal"):
                return str(entry["msg"])
    return lines[-1] if lines else "the runtime said nothing"
