"""``docker load`` as a contender: every tree an image of one layer, in a daemon of its own.

The daemon gets a data root inside the benchmark's directory, an exec root and a socket of its own,
and no network; it is started for one corpus and stopped by its process id. What it keeps is
unpacked, one directory a layer. CPU time is that of the client: the daemon's is nobody's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.harness import CommandError, fresh, run_costed, version_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.bench.harness import Cost

_START_SECONDS = 60
_PACK = ("--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*")
"""Not ``--sparse``: what GNU tar writes for holes, docker save cannot write again."""
_UNPACK = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf")


class DockerDaemon:
    """A dockerd that keeps everything in one directory, until it is stopped.

    Args:
        repo: Its data root, made anew. Socket and log lie in the directory for temporary files,
            for the names of sockets may have 107 bytes only.
    """

    def __init__(self, repo: Path) -> None:
        fresh(repo)
        state = Path(tempfile.mkdtemp(prefix="bench-docker-"))
        socket = f"unix://{state}/docker.sock"
        self._state = state
        self.client = ["docker", "--host", socket]
        command = ["dockerd", "--data-root", str(repo), "--exec-root", str(state / "exec")]
        command += ["--pidfile", str(state / "pid"), "--host", socket, "--bridge=none"]
        command += ["--iptables=false", "--ip6tables=false"]
        with (state / "log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_SECONDS
        asked = [*self.client, "version"]
        while subprocess.run(asked, capture_output=True, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (state / "log").read_text(errors="replace")[-1000:]
                self.stop()
                raise CommandError(f"dockerd did not start:\n{tail}")
            time.sleep(0.1)

    def ask(self, *words: str) -> str:
        """Return what a command of the client prints.

        Raises:
            CommandError: It failed.
        """
        done = subprocess.run([*self.client, *words], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CommandError(f"docker {' '.join(words)}: {done.stderr.strip()[-1000:]}")
        return done.stdout.strip()

    def stop(self) -> None:
        """Stop the daemon and wait until it is gone."""
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._state, ignore_errors=True)


def docker_version() -> str | None:
    """Return the daemon's version; None when daemon or client are not on this machine."""
    if shutil.which("docker") is None or os.geteuid() != 0:
        return None
    return version_of(("dockerd", "--version"))


class DockerLoad:
    """Has what a :class:`tests.bench.contenders.Contender` has."""

    name = "docker load"

    def __init__(self) -> None:
        self._daemon: DockerDaemon | None = None

    def found_version(self) -> str | None:
        """Return the daemon's version; None when it cannot be used here."""
        return docker_version()

    def start(self, repo: Path) -> None:
        """Start a daemon that keeps everything in ``repo``."""
        fresh(_state(repo))
        self._daemon = DockerDaemon(repo)

    def put(self, repo: Path, source: Path, name: str) -> Cost:
        """Load one image."""
        assert self._daemon is not None
        archive = _state(repo) / "image.tar"
        write_archive(archive, source, f"{name}:1")
        load = ["load", "--quiet", "--input", str(archive)]
        cost = run_costed([*self._daemon.client, *load])
        archive.unlink()
        return cost

    def get(self, repo: Path, _source: Path, name: str, target: Path) -> tuple[Cost, Path]:
        """Save the image and unpack its layer."""
        assert self._daemon is not None
        fresh(target)
        archive = target.with_name(f"{target.name}.tar")
        try:
            save = ["save", "--output", str(archive), f"{name}:1"]
            cost = run_costed([*self._daemon.client, *save])
            read = ["tar", "-xOf", str(archive)]
            described = subprocess.run([*read, "manifest.json"], check=True, capture_output=True)
            (layer,) = json.loads(described.stdout)[0]["Layers"]
            with subprocess.Popen([*read, layer], stdout=subprocess.PIPE) as reading:
                unpack = ["tar", "-C", str(target), *_UNPACK, "-"]
                subprocess.run(unpack, stdin=reading.stdout, check=True)
        finally:
            archive.unlink(missing_ok=True)
        return cost, target

    def finish(self, repo: Path) -> None:
        """Stop the daemon and wait until it is gone."""
        if self._daemon is not None:
            self._daemon.stop()
            self._daemon = None
        shutil.rmtree(_state(repo), ignore_errors=True)


def _state(repo: Path) -> Path:
    """Return where our archives are: not part of what the daemon stores."""
    return repo.with_name(f"{repo.name}.docker")


def write_archive(
    target: Path, tree: Path, tag: str, *, layers: Sequence[Iterable[str]] = ((".",),)
) -> None:
    """Write what ``docker save`` would: layers, a config, a manifest.

    Args:
        target: The archive.
        tree: Where the content is.
        tag: Of the image.
        layers: Paths below the tree, of each layer; a directory brings all below it only if it is
            the sole path, as ``.`` is.
    """
    names, diff_ids = [], []
    with tarfile.open(target, "w") as archive:
        for number, paths in enumerate(layers):
            layer = target.with_name(f"layer-{number}.tar")
            _write_layer(layer, tree, list(paths))
            with layer.open("rb") as file:
                diff_ids.append(f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}")
            archive.add(layer, layer.name)
            layer.unlink()
            names.append(layer.name)
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        manifest = [{"Config": "config.json", "RepoTags": [tag], "Layers": names}]
        for name, content in (("config.json", config), ("manifest.json", manifest)):
            place = target.with_name(name)
            place.write_text(json.dumps(content))
            archive.add(place, name)
            place.unlink()


def _write_layer(layer: Path, tree: Path, paths: list[str]) -> None:
    listed = b"".join(os.fsencode(path) + b"\0" for path in paths)
    choice = ["--null", "--verbatim-files-from", "--files-from=-"]
    if len(paths) > 1:
        choice.insert(0, "--no-recursion")
    command = ["tar", "-C", str(tree), *_PACK, "-cf", str(layer), *choice]
    subprocess.run(command, input=listed, check=True)
