"""What is asked of the runtime about a container that runs."""

from __future__ import annotations

import contextlib
import os

from layerstore.containers.known_runtime import runtime_of, runtime_words
from layerstore.containers.states import RUNNING
from layerstore.errors import ConflictError, ContainerError, UnsupportedError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.namespaces import mapped_ids

if TYPE_CHECKING:
    from layerstore.containers.records import Container

_LOG_MAX_BYTES = 64 << 10


def require_running(store_root: str, container: Container) -> None:
    """Refuse a container that does not run.

    Raises:
        ConflictError: It does not.
    """
    from layerstore.containers.lifecycle import settle

    if settle(store_root, container).status != RUNNING:
        raise ConflictError(
            f"container {container.name} is not running",
            hint=f"layerstore start {container.name}",
        )


def require_groups(what: str) -> None:
    """Refuse what needs control groups where containers have none.

    Raises:
        UnsupportedError: This is not the host's root.
    """
    if mapped_ids():
        raise UnsupportedError(
            f"{what} needs control groups, which nobody but root can make here",
            hint="run the container as root",
        )


def call_runtime(container: Container, *words: str, told: bytes = b"") -> None:
    """Have the runtime do something with a container.

    Args:
        container: Which; it runs.
        words: The command, and what comes before the container's id.
        told: The runtime's standard input.

    Raises:
        ContainerError: It could not.
    """
    import subprocess

    runtime = runtime_of(container, rootless=bool(mapped_ids()))
    log = f"{container.run_dir}/call-{os.urandom(6).hex()}.log"
    line = [runtime.path, "--root", f"{os.path.dirname(container.run_dir)}/runtime"]
    line += ["--log", log, "--log-format", "json", *words, container.container_id]
    said = b""
    try:
        done = subprocess.run(line, input=told, capture_output=True, check=False)
        with contextlib.suppress(OSError), open(log, "rb") as file:
            said = file.read(_LOG_MAX_BYTES)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(log)
    if done.returncode:
        raise ContainerError(
            f"{runtime.name} could not {words[0]} container {container.name}: "
            + runtime_words(said or done.stderr)
        )
