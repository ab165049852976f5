"""ssh-agents of a build's own, which hold keys from files: started when a step first needs one.

They run in the sandbox, so they end with it whatever happens. Their sockets lie in a tmpfs
that only the sandbox sees; connections go through a descriptor of that.
"""

from __future__ import annotations

import os
import shutil
import threading
from typing import TYPE_CHECKING

from layerstore.build.run.ssh import connector, require_agent
from layerstore.errors import BuildError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.build.run.sandbox import Sandbox
    from layerstore.build.run.settings import SshSource
    from layerstore.build.run.ssh import Connect

_START = 'cd "$1" && exec ssh-agent -D -a "$2"'
_ADD = 'cd "$1" && SSH_AUTH_SOCK=$2 SSH_ASKPASS_REQUIRE=never && export SSH_AUTH_SOCK && shift 2'
_ADD += ' && export SSH_ASKPASS_REQUIRE && exec ssh-add -q -- "$@"'
"""Relative to the directory: names of sockets may have 107 bytes, and stores may lie deep."""


class Agents:
    """The agents that ``--ssh`` named, by id.

    Args:
        sandbox: Where agents of the build's own run.
        sources: What stands behind each id.
    """

    def __init__(self, sandbox: Sandbox, sources: Mapping[str, SshSource]) -> None:
        self._sandbox = sandbox
        self._sources = sources
        self._lock = threading.Lock()
        self._started: dict[str, Connect] = {}
        self._life: list[int] = []

    def connect_to(self, identity: str) -> Connect | None:
        """Return what connects to an agent, started if it is the build's; None if none was given.

        Raises:
            BuildError: The agent cannot be reached, or does not take the keys.
            UnsupportedError: ssh-agent is not installed.
        """
        source = self._sources.get(identity)
        if source is None:
            return None
        if source.socket:
            require_agent(identity, source.socket)
            return connector(source.socket)
        with self._lock:
            if identity not in self._started:
                self._started[identity] = self._start(identity, source.keys)
            return self._started[identity]

    def close(self) -> None:
        """Let go of the agents, before the sandbox that they end with is closed."""
        for fd in self._life:
            os.close(fd)
        self._life.clear()

    def _start(self, identity: str, keys: tuple[str, ...]) -> Connect:
        if shutil.which("ssh-agent") is None or shutil.which("ssh-add") is None:
            raise UnsupportedError(
                f"--ssh {identity} names key files, for which ssh-agent is needed",
                hint="apt-get install openssh-client; or name the socket of an agent",
            )
        directory = str(self._sandbox.private)
        name = f"agent-{len(self._started)}"
        output, status = self._sandbox.start(["/bin/sh", "-c", _START, "sh", directory, name])
        self._life += [output, status]
        if not os.read(output, 4096):  # it says where it listens once it does
            raise BuildError(f"--ssh {identity}: ssh-agent ended at once")
        self._add(identity, keys, directory, name)
        return connector(f"/proc/self/fd/{self._sandbox.private_fd}/{name}")

    def _add(self, identity: str, keys: tuple[str, ...], directory: str, name: str) -> None:
        said = bytearray()
        words = ["/bin/sh", "-c", _ADD, "sh", directory, name, *keys]
        if self._sandbox.run_command(words, said.extend) != 0:
            lines = said.decode("utf-8", "replace").strip().splitlines()
            raise BuildError(
                f"--ssh {identity}: ssh-add does not take {', '.join(keys)}"
                + (f": {lines[-1].strip()}" if lines else ""),
                hint="keys must have no passphrase and be readable by their owner alone; "
                "or add them to an agent of yours and name that",
            )
