"""Containers over mounted views, as a runtime starts them: runc, a network of their own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.support.cli import Cli

START_SECONDS = 60.0
_NAMES = (
    "AUDIT_WRITE CHOWN DAC_OVERRIDE FOWNER FSETID KILL MKNOD NET_BIND_SERVICE NET_RAW SETFCAP "
    "SETGID SETPCAP SETUID SYS_CHROOT"
)
CAPABILITIES = [f"CAP_{name}" for name in _NAMES.split()]
"""What docker gives a container."""


class Container:
    """A running container.

    Attributes:
        root: Its root file system, seen from outside.
        log: What its processes printed.
    """

    def __init__(self, name: str, root: Path, log: Path, config: dict) -> None:
        self.name = name
        self.root = root
        self.log = log
        self.config = config

    def run(self, *words: str, user: str = "") -> subprocess.CompletedProcess[str]:
        """Run a command inside and return what came of it."""
        options = ["--user", user] if user else []
        return subprocess.run(
            ["runc", "exec", *options, self.name, *words],
            capture_output=True, text=True, timeout=START_SECONDS, check=False,
        )  # fmt: skip

    def wait_healthy(self) -> None:
        """Wait until the image's own health check is content."""
        kind, *words = self.config["Healthcheck"]["Test"]
        command = words if kind == "CMD" else ["/bin/sh", "-c", *words]
        self.wait_for(*command)

    def wait_for(self, *words: str) -> str:
        """Wait until a command inside succeeds; return what it printed."""
        until = time.monotonic() + START_SECONDS
        while True:
            done = self.run(*words)
            if done.returncode == 0:
                return done.stdout
            assert time.monotonic() < until, f"{done}\n{self.log.read_text()}"
            time.sleep(0.05)

    def output(self) -> str:
        """Wait until the image's command has ended; return what it printed."""
        self._wait_ended("it goes on")
        return self.log.read_text()

    def stop(self) -> None:
        """Send the image's stop signal and wait until the container has ended."""
        signal = self.config.get("StopSignal", "SIGTERM")
        subprocess.run(["runc", "kill", self.name, signal], check=True, timeout=START_SECONDS)
        self._wait_ended(f"{signal} did not end it")

    def _wait_ended(self, otherwise: str) -> None:
        until = time.monotonic() + START_SECONDS
        while self._status() == "running":
            assert time.monotonic() < until, f"{otherwise}: {self.log.read_text()}"
            time.sleep(0.02)

    def _status(self) -> str:
        done = subprocess.run(
            ["runc", "state", self.name], capture_output=True, text=True, check=True
        )
        return str(json.loads(done.stdout)["status"])


class _User(NamedTuple):
    uid: int
    gid: int


@contextlib.contextmanager
def container(cli: Cli, image: str, place: Path, *args: str) -> Iterator[Container]:
    """Run an image's command over a writable view of its own until the block ends.

    Args:
        cli: Of the store that has the image.
        image: Its name.
        place: A directory for the view and the bundle.
        args: Instead of the image's CMD.
    """
    config = _config_of(cli, image)
    root, bundle = place / "root", place / "bundle"
    root.mkdir(parents=True)
    bundle.mkdir()
    cli.ok("mount", "--rw", image, root)
    name = f"layerstore-test-{os.getpid()}-{image}"
    log = bundle / "log"
    try:
        _write_bundle(bundle, root, config, args)
        with log.open("wb") as output:
            subprocess.run(
                ["runc", "run", "--detach", "--bundle", bundle, name],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False,
                timeout=START_SECONDS,
            )  # fmt: skip
        yield Container(name, root, log, config)
    finally:
        subprocess.run(["runc", "delete", "--force", name], capture_output=True, check=False)
        cli.ok("umount", "--lazy", root)


def _config_of(cli: Cli, image: str) -> dict:
    return cli.ok("inspect", image).json()[0]["Config"]


def _write_bundle(bundle: Path, root: Path, config: dict, args: Sequence[str]) -> None:
    subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
    path = bundle / "config.json"
    spec = json.loads(path.read_text())
    user = _user_of(root, config.get("User", ""))
    spec["root"] = {"path": str(root), "readonly": False}
    spec["hostname"] = "example"
    spec["process"] |= {
        "terminal": False,
        "args": [*(config.get("Entrypoint") or ()), *(args or config.get("Cmd") or ())],
        "env": config["Env"],
        "cwd": config.get("WorkingDir") or "/",
        "user": {"uid": user.uid, "gid": user.gid},
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
        "noNewPrivileges": False,
    }
    (bundle / "hosts").write_text("127.0.0.1 localhost\n127.0.0.1 example\n")
    hosts = {"destination": "/etc/hosts", "source": str(bundle / "hosts"), "type": "bind"}
    spec["mounts"].append({**hosts, "options": ["bind", "ro"]})
    path.write_text(json.dumps(spec))


def _user_of(root: Path, text: str) -> _User:
    """Return what USER means in a root file system that the tests made themselves."""
    name, _, group = text.partition(":")
    if not name:
        return _User(0, 0)
    if name.isdigit():
        return _User(int(name), int(group or 0))
    lines = (root / "etc/passwd").read_text().splitlines()
    fields = next(line.split(":") for line in lines if line.startswith(f"{name}:"))
    return _User(int(fields[2]), int(fields[3]))
