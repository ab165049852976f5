"""``docker load`` as a contender: every tree an image of one layer, in a daemon of its own.

The daemon gets a data root, an exec root and a socket inside the benchmark's directory and
no network; it is started for one corpus and stopped by its process id. What it keeps is
unpacked, one directory a layer. CPU time is that of the client: the daemon's is nobody's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

from tests.bench.harness import CommandError, fresh, run_costed, version_of

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.harness import Cost

_START_SECONDS = 60
_PACK = ("--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*")
"""Not ``--sparse``: what GNU tar writes for holes, docker save cannot write again."""
_UNPACK = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf")


class DockerLoad:
    """Has what a :class:`tests.bench.contenders.Contender` has."""

    name = "docker load"

    def __init__(self) -> None:
        self._daemon: subprocess.Popen[bytes] | None = None
        self._docker: list[str] = []

    def found_version(self) -> str | None:
        """Return the daemon's version; None when daemon or client are not on this machine."""
        if shutil.which("docker") is None or os.geteuid() != 0:
            return None
        return version_of(("dockerd", "--version"))

    def start(self, repo: Path) -> None:
        """Start a daemon that keeps everything in ``repo``."""
        fresh(repo)
        state = fresh(_state(repo))
        socket = f"unix://{state}/docker.sock"
        self._docker = ["docker", "--host", socket]
        command = ["dockerd", "--data-root", str(repo), "--exec-root", str(state / "exec")]
        command += ["--pidfile", str(state / "pid"), "--host", socket, "--bridge=none"]
        command += ["--iptables=false", "--ip6tables=false"]
        with (state / "log").open("wb") as log:
            self._daemon = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        asked = [*self._docker, "version"]
        while subprocess.run(asked, capture_output=True, check=False).returncode != 0:
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                self.finish(repo)
                tail = (state / "log").read_text(errors="replace")[-1000:]
                raise CommandError(f"dockerd did not start:\n{tail}")
            time.sleep(0.1)

    def put(self, repo: Path, source: Path, name: str) -> Cost:
        """Load one image."""
        archive = _state(repo) / "image.tar"
        _write_archive(archive, source, f"{name}:1")
        cost = run_costed([*self._docker, "load", "--quiet", "--input", str(archive)])
        archive.unlink()
        return cost

    def get(self, repo: Path, _source: Path, name: str, target: Path) -> tuple[Cost, Path]:
        """Save the image and unpack its layer."""
        fresh(target)
        archive, layers = _state(repo) / "saved.tar", fresh(_state(repo) / "saved")
        cost = run_costed([*self._docker, "save", "--output", str(archive), f"{name}:1"])
        subprocess.run(["tar", "-C", str(layers), "-xf", str(archive)], check=True)
        (layer,) = json.loads((layers / "manifest.json").read_text())[0]["Layers"]
        subprocess.run(["tar", "-C", str(target), *_UNPACK, str(layers / layer)], check=True)
        archive.unlink()
        shutil.rmtree(layers)
        return cost, target

    def finish(self, repo: Path) -> None:
        """Stop the daemon and wait until it is gone."""
        if self._daemon is not None:
            self._daemon.terminate()
            self._daemon.wait()
            self._daemon = None
        shutil.rmtree(_state(repo), ignore_errors=True)


def _state(repo: Path) -> Path:
    """Return where the daemon's socket and our archives are: not part of what it stores."""
    return repo.with_name(f"{repo.name}.docker")


def _write_archive(target: Path, tree: Path, tag: str) -> None:
    """Write what ``docker save`` would: one layer, a config, a manifest."""
    layer = target.with_name("layer.tar")
    subprocess.run(["tar", "-C", str(tree), *_PACK, "-cf", str(layer), "."], check=True)
    with layer.open("rb") as file:
        diff_id = hashlib.file_digest(file, "sha256").hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{diff_id}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]
    for name, content in (("config.json", config), ("manifest.json", manifest)):
        target.with_name(name).write_text(json.dumps(content))
    with tarfile.open(target, "w") as archive:
        for name in ("layer.tar", "config.json", "manifest.json"):
            archive.add(target.with_name(name), name)
            target.with_name(name).unlink()
