"""The builders that are compared, each with a place of its own for what it stores.

All start from the same base image, see the same proxy for packages, and use the host's network.
Docker gets a daemon for each of its two builders, so that neither's bytes nor CPU time are
counted for the other.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tests.bench.builds.accounting import DaemonGroup
from tests.bench.harness import Cost, disk_bytes, fresh, run_costed, version_of

if TYPE_CHECKING:
    from collections.abc import Sequence

_START_SECONDS = 60


class Builder(Protocol):
    """One way to build images.

    Attributes:
        name: As the tables have it.
    """

    name: str

    def found_version(self) -> str | None:
        """Return its version, None when it cannot be used on this host."""

    def start(self, place: Path, base_tar: Path, base: str) -> None:
        """Begin with an empty store in ``place`` that has the base image alone."""

    def empty(self) -> None:
        """Forget everything that was built, but not the base."""

    def build(self, context: Path, tag: str, proxy: str) -> Cost:
        """Build an image."""

    def export(self, tag: str, target: Path) -> None:
        """Write an image's root file system as a tar."""

    def stored(self) -> int:
        """Return the bytes that its store takes on the disk."""

    def prune(self) -> None:
        """Free what no image that has a name needs."""

    def stop(self) -> None:
        """End whatever was started and remove its store."""


class Layerstore:
    """This builder, as its users start it."""

    name = "layerstore"

    def __init__(self) -> None:
        self._program = str(Path(sys.executable).parent / "layerstore")

    def found_version(self) -> str | None:
        return version_of((self._program, "--version"))

    def start(self, place: Path, base_tar: Path, base: str) -> None:
        self._place = fresh(place)
        self._store, self._fresh = place / "store", place / "base"
        self._call("import", str(base_tar), "-t", base)
        shutil.copytree(self._store, self._fresh)

    def empty(self) -> None:
        shutil.rmtree(self._store)
        shutil.copytree(self._fresh, self._store)

    def build(self, context: Path, tag: str, proxy: str) -> Cost:
        return run_costed(
            [
                self._program, "--store", str(self._store), "build", "--network", "host",
                "--build-arg", f"http_proxy={proxy}", "-t", tag, str(context),
            ]
        )  # fmt: skip

    def export(self, tag: str, target: Path) -> None:
        self._call("export", tag, "-o", str(target))

    def stored(self) -> int:
        return disk_bytes(self._store)[0]

    def prune(self) -> None:
        self._call("gc")

    def stop(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)

    def _call(self, *words: str) -> None:
        _run([self._program, "--store", str(self._store), *words])


class Docker:
    """``docker build``: the classic builder, or BuildKit inside the daemon."""

    def __init__(self, *, buildkit: bool) -> None:
        self.name = "docker BuildKit" if buildkit else "docker classic"
        self._environment = {
            "DOCKER_BUILDKIT": "1" if buildkit else "0",
            "BUILDKIT_PROGRESS": "plain",
        }
        self._client = "/usr/bin/docker" if os.path.exists("/usr/bin/docker") else "docker"

    def found_version(self) -> str | None:
        if shutil.which("dockerd") is None or os.geteuid() != 0:
            return None
        return version_of(("dockerd", "--version"))

    def start(self, place: Path, base_tar: Path, base: str) -> None:
        self._place = fresh(place)
        self._state = Path(tempfile.mkdtemp(prefix="bench-docker-"))
        self._group = DaemonGroup(self._state.name)
        self._host = f"unix://{self._state}/docker.sock"
        command = [
            "dockerd", "--data-root", str(place / "data"), "--exec-root", str(self._state / "exec"),
            "--pidfile", str(self._state / "pid"), "--host", self._host, "--bridge=none",
            "--iptables=false", "--ip6tables=false", "--cgroup-parent", self._group.containers,
        ]  # fmt: skip
        with (self._state / "log").open("wb") as log:
            self._daemon = subprocess.Popen(
                command, stdout=log, stderr=log, preexec_fn=self._group.join
            )
        deadline = time.monotonic() + _START_SECONDS
        while self._ask("version", check=False) is None:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._state / "log").read_text()[-2000:])
            time.sleep(0.1)
        self._ask("import", str(base_tar), base)
        self._base = base

    def empty(self) -> None:
        images = set((self._ask("image", "ls", "--all", "--quiet", "--no-trunc") or "").split())
        kept = self._ask("image", "inspect", "--format", "{{.Id}}", self._base) or ""
        if built := images - {kept.strip()}:
            # What another one brings along is not there any more when its turn comes.
            self._ask("image", "rm", "--force", *built, check=False)
        self._ask("image", "prune", "--force")
        self._ask("builder", "prune", "--all", "--force")

    def build(self, context: Path, tag: str, proxy: str) -> Cost:
        begun = self._group.cpu_seconds()
        cost = run_costed(
            [
                self._client, "--host", self._host, "build", "--network", "host",
                "--build-arg", f"http_proxy={proxy}",
                "-t", tag, str(context),
            ],
            env=self._environment,
        )  # fmt: skip
        return replace(cost, cpu_seconds=cost.cpu_seconds + self._group.cpu_seconds() - begun)

    def export(self, tag: str, target: Path) -> None:
        container = (self._ask("create", "--network", "none", tag, "true") or "").strip()
        self._ask("export", "--output", str(target), container)
        self._ask("rm", container)

    def stored(self) -> int:
        return disk_bytes(self._place / "data")[0]

    def prune(self) -> None:
        self._ask("image", "prune", "--force")
        self._ask("builder", "prune", "--force")

    def stop(self) -> None:
        self._daemon.terminate()
        self._daemon.wait()
        # The daemon leaves these to its next start.
        for left in (self._state / "exec" / "netns" / "default", self._place / "data"):
            _run(["umount", "--quiet", str(left)], check=False)
        self._group.remove()
        shutil.rmtree(self._state, ignore_errors=True)
        shutil.rmtree(self._place, ignore_errors=True)

    def _ask(self, *words: str, check: bool = True) -> str | None:
        command = [self._client, "--host", self._host, *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            if check:
                raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.strip()[-1000:]}")
            return None
        return done.stdout


class Buildah:
    """``buildah bud --layers``, with a storage of its own."""

    def __init__(self, isolation: str = "chroot") -> None:
        self.name = "buildah"
        self._isolation = isolation

    def found_version(self) -> str | None:
        return version_of(("buildah", "--version")) if os.geteuid() == 0 else None

    def start(self, place: Path, base_tar: Path, base: str) -> None:
        self._place = fresh(place)
        self._buildah = [
            "buildah", "--root", str(place / "data"), "--runroot", str(place / "run"),
            "--storage-driver", "overlay",
        ]  # fmt: skip
        # A policy of its own: a host without registries has none.
        (place / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        container = self._ask("from", "scratch").strip()
        self._ask("add", "--quiet", container, str(base_tar), "/")
        self._ask("commit", "--quiet", *self._policy(), "--rm", container, base)
        self._base = self._ask("images", "--quiet", "--no-trunc", base).strip()

    def empty(self) -> None:
        listed = set(self._ask("images", "--all", "--quiet", "--no-trunc").split())
        if built := listed - {self._base}:
            self._ask("rmi", "--force", *built, check=False)

    def build(self, context: Path, tag: str, proxy: str) -> Cost:
        return run_costed(
            [
                *self._buildah, "bud", "--layers", "--isolation", self._isolation, *self._policy(),
                "--network", "host", "--pull-never",
                "--build-arg", f"http_proxy={proxy}",
                "-t", tag, str(context),
            ]
        )  # fmt: skip

    def export(self, tag: str, target: Path) -> None:
        container = self._ask("from", "--pull-never", *self._policy(), tag).strip()
        root = self._ask("mount", container).strip()
        _run(["tar", "-C", root, "--numeric-owner", "-cf", str(target), "."])
        self._ask("umount", container)
        self._ask("rm", container)

    def stored(self) -> int:
        return disk_bytes(self._place / "data")[0]

    def prune(self) -> None:
        self._ask("rmi", "--prune")

    def stop(self) -> None:
        self._ask("rm", "--all", check=False)
        _run(["umount", "--quiet", str(self._place / "data" / "overlay")], check=False)
        shutil.rmtree(self._place, ignore_errors=True)

    def _policy(self) -> list[str]:
        return ["--signature-policy", str(self._place / "policy.json")]

    def _ask(self, *words: str, check: bool = True) -> str:
        return _run([*self._buildah, *words], check=check)


def all_builders() -> list[Builder]:
    """Return every builder, present or not; ours first."""
    return [Layerstore(), Docker(buildkit=False), Docker(buildkit=True), Buildah()]


def _run(command: Sequence[str], *, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()[-1000:]}")
    return done.stdout
