"""Running the system's git for repositories of strangers.

git sees nothing of its surroundings: no configuration but what is given here, no hooks, no
credentials of the user, no prompts, no attributes, and only the protocols http, https, ssh and git,
whatever a server or a repository says. It never has a working tree; it fetches into a repository of
ours and hands out objects. It dies with the builder, and its files are bounded.

Source: git(1), git-config(1), environment variables; BuildKit, util/gitutil (behaviour).
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import threading
from collections import deque
from functools import partial
from typing import IO, TYPE_CHECKING, NamedTuple

from layerstore.build.errors import BuildCanceledError
from layerstore.build.fetch.errors import FetchError
from layerstore.net.lifelines import Lifelines
from layerstore.net.proxies import PROXY_VARIABLES
from layerstore.net.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

MAX_OUTPUT_BYTES = 64 << 20
"""Of a command whose output is read whole; more refs than that no server has."""

MAX_FILE_BYTES = 100 << 30
"""Of a file that git writes: a pack of everything that a layer may hold."""

COMMAND_S = 2 * 3600.0
"""After which a command is given up; http has a floor for its speed besides."""

_TAIL_LINES = 8
_CONFIGURATION = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.bigFileThreshold": "16m",  # larger files are streamed, not held in memory
    "credential.helper": "",
    "fetch.recurseSubmodules": "false",
    "fetch.unpackLimit": "1",
    "gc.auto": "0",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "60",
    "init.defaultBranch": "main",
    "maintenance.auto": "false",
    "pack.threads": "1",
    "protocol.version": "2",
}
_KEPT_VARIABLES = (
    *PROXY_VARIABLES,
    *(name.upper() for name in PROXY_VARIABLES),
    "PATH",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)
_SSH = (
    "ssh -F /dev/null -o BatchMode=yes -o ForwardAgent=no -o ForwardX11=no "
    "-o PermitLocalCommand=no -o ClearAllForwardings=yes -o ConnectTimeout=30 "
    "-o ServerAliveInterval=30 -o StrictHostKeyChecking=yes"
)


class GitAccess(NamedTuple):
    """What git may use to be let in.

    Attributes:
        environ: The caller's variables; proxies and certificates are taken from it.
        agent: Socket of an ssh agent, empty for none.
        own_keys: Whether ssh may use the user's own key files.
        header: An ``Authorization`` header's value for ``origin``; empty for none.
        origin: ``https://host``, to which the header is sent.
        lifelines: Cut when what is fetched is not wanted any more.
    """

    environ: Mapping[str, str]
    agent: str = ""
    own_keys: bool = False
    header: str = ""
    origin: str = ""
    lifelines: Lifelines | None = None


class Git:
    """The system's git, working on one repository.

    Args:
        directory: The repository's, bare; ``home`` beside it is an empty directory.
        home: What git takes for the user's home.
        access: What it may use.

    Raises:
        FetchError: git is not installed.
    """

    def __init__(self, directory: Path, home: Path, access: GitAccess) -> None:
        program = shutil.which("git", path=access.environ.get("PATH"))
        if program is None:
            raise FetchError("git is not installed", hint="install it: apt-get install git")
        self.directory = directory
        self._environment = _environment(home, access)
        self._lifelines = access.lifelines or Lifelines(BuildCanceledError)
        self._prefix = [*_guards(), program, "--git-dir", str(directory)]

    def run(self, *words: str, data: bytes | None = None) -> bytes:
        """Return the output of a command.

        Raises:
            GitFailedError: It failed; the message ends with what git said.
        """
        process = self.start(*words, feed=data is not None)
        listener = _Listener(process)
        watchdog = threading.Timer(COMMAND_S, process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            with self._lifelines.held(partial(_kill, process)):
                output = _exchange(process, data)
                status = process.wait()
        except BaseException:
            stop(process)
            raise
        finally:
            watchdog.cancel()
            listener.join()
        if status:
            raise GitFailedError(words[0], status, listener.lines)
        return output

    def start(
        self, *words: str, feed: bool = False, quiet: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a command; its output is a pipe, and so is its input if it is to be fed."""
        return subprocess.Popen(
            [*self._prefix, *words],
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else subprocess.PIPE,
            env=self._environment,
            cwd=self.directory,
            process_group=0,  # Ctrl-C is for the builder, which stops git
        )


class GitFailedError(FetchError):
    """A git command failed.

    Attributes:
        lines: The last lines it wrote to its standard error.
    """

    def __init__(self, command: str, status: int, lines: Sequence[str]) -> None:
        said = "; ".join(lines) or f"exit status {status}"
        super().__init__(f"git {command}: {said}", hint=_hint(said))
        self.lines = tuple(lines)

    def says(self, *parts: str) -> bool:
        """Return whether git's words hold one of these."""
        return any(part in line for line in self.lines for part in parts)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a command and whatever it started."""
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)


def _exchange(process: subprocess.Popen[bytes], data: bytes | None) -> bytes:
    assert process.stdout is not None
    if data is not None:
        assert process.stdin is not None
        with process.stdin as stdin:
            stdin.write(data)
    with process.stdout as stdout:
        output = stdout.read(MAX_OUTPUT_BYTES + 1)
    if len(output) > MAX_OUTPUT_BYTES:
        raise FetchError(f"git wrote more than {MAX_OUTPUT_BYTES} bytes")
    return output


class _Listener:
    """Reads what git says of its troubles, in a thread, and keeps the end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        self.lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._thread = threading.Thread(target=self._read, args=(process.stderr,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the output."""
        self._thread.join()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(4096):
                text = line.decode("utf-8", "replace").strip()
                text = "".join(char if char.isprintable() else "?" for char in text)
                if text and not text.startswith("hint:"):
                    self.lines.append(redacted(text.removeprefix("fatal: ")))


def _environment(home: Path, access: GitAccess) -> dict[str, str]:
    environ = access.environ
    kept = {name: environ[name] for name in _KEPT_VARIABLES if name in environ}
    configuration = dict(_CONFIGURATION)
    if access.header:
        # In the environment, which only root and we can read, not among the arguments.
        configuration[f"http.{access.origin}/.extraHeader"] = f"Authorization: {access.header}"
    ssh = _SSH
    if not access.own_keys:
        ssh += " -o IdentityFile=none"
    ssh += f" -o IdentityAgent={'SSH_AUTH_SOCK' if access.agent else 'none'}"
    variables = {
        **kept,
        "GIT_ALLOW_PROTOCOL": "http:https:ssh:git",
        "GIT_ASKPASS": "",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(home.parent),
        "GIT_CONFIG_COUNT": str(len(configuration)),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_SSH_COMMAND": ssh,
        "GIT_TERMINAL_PROMPT": "0",
        "HOME": str(home),
        "LC_ALL": "C",
        "SSH_ASKPASS": "",
        "XDG_CONFIG_HOME": str(home),
    }
    if access.agent:
        variables["SSH_AUTH_SOCK"] = access.agent
    for number, (name, value) in enumerate(configuration.items()):
        variables[f"GIT_CONFIG_KEY_{number}"] = name
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return variables


def _guards() -> list[str]:
    """Return what git runs under, where the host has it, so that it ends when we do.

    As root it gets a process namespace: when its first process ends, all of it does.
    """
    words = []
    setpriv, prlimit, unshare = map(shutil.which, ("setpriv", "prlimit", "unshare"))
    if setpriv is not None:
        words += [setpriv, "--pdeathsig", "KILL"]
        if unshare is not None and os.geteuid() == 0:
            words += [unshare, "--pid", "--fork", "--kill-child=KILL"]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if prlimit is not None and (hard == resource.RLIM_INFINITY or hard > MAX_FILE_BYTES):
        words += [prlimit, f"--fsize={MAX_FILE_BYTES}", "--core=0"]
    return words


def _hint(said: str) -> str | None:
    if "could not read Username" in said or "Authentication failed" in said:
        return "--secret id=GIT_AUTH_TOKEN,env=NAME lets git in over HTTPS"
    if "Host key verification failed" in said:
        return "the host's key is not known: ssh-keyscan HOST >> ~/.ssh/known_hosts, and check it"
    if "Permission denied (publickey" in said:
        return "an ssh agent with your key is needed: --ssh default"
    return None
