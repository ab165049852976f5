"""Everybody who can show the root file system, and how each is mounted.

A contender is prepared once, opened once for all warm rounds and, where a server of its
own keeps things that dropping the kernel's caches does not reach, opened anew before each cold
job. Everything happens in the benchmark's mount namespace and ends with it, but servers and
loop devices, which ``close`` and ``finish`` end. Nobody here is required: who is not installed says
so by ``version`` being None.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from fuse_mount.mounts import AUTO, BACKENDS
from layerstore.linux import mounts
from tests.bench.docker_load import DockerDaemon, docker_version, write_archive
from tests.bench.harness import CommandError, fresh, version_of
from tests.bench.paths.layers import installed_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

STORE = "store"
IMAGE = "paths:1"
_MOUNT_SECONDS = 10


class Contender(ABC):
    """A way to show a directory tree.

    Life cycle: ``prepare``, then ``open`` and ``close`` any number of times, then ``finish``.

    Attributes:
        name: Unique.
        has_server: Whether a process of its own answers: it is started anew before a cold job.
        note: What was found out while opening it and a reader should know.
    """

    has_server = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.note = ""

    @abstractmethod
    def version(self) -> str | None:
        """Return the version, or None where it cannot be used."""

    @abstractmethod
    def prepare(self, tree: Path, work: Path) -> None:
        """Make what it mounts of ``tree`` below the new directory ``work``."""

    @abstractmethod
    def open(self) -> str:
        """Show the tree; return where."""

    def close(self) -> None:
        """Take the view away again."""
        return

    def finish(self) -> None:
        """End what ``prepare`` started."""
        return

    def servers(self) -> tuple[int, ...]:
        """Return the processes that answer reads."""
        return ()


class Plain(Contender):
    """The tree itself: a directory of the host's file system."""

    def version(self) -> str:
        return "the host's file system"

    def prepare(self, tree: Path, work: Path) -> None:
        self._tree = str(tree)

    def open(self) -> str:
        return self._tree


class Docker(Contender):
    """A container of docker that sleeps: its root is the overlay that dockerd mounted for it.

    Where a container cannot be started here, the overlay that docker describes is mounted with
    the options that dockerd gives.

    Args:
        name: Unique.
        layers: Gives the paths of each layer of the image; one layer by default.
    """

    def __init__(
        self, name: str, layers: Callable[[Path], Sequence[Iterable[str]]] = lambda _: ((".",),)
    ) -> None:
        super().__init__(name)
        self._layers = layers
        self._daemon: DockerDaemon | None = None
        self._container = ""

    def version(self) -> str | None:
        return docker_version()

    def prepare(self, tree: Path, work: Path) -> None:
        daemon = self._daemon = DockerDaemon(work / "docker")
        archive = work / "image.tar"
        write_archive(archive, tree, IMAGE, layers=self._layers(tree))
        daemon.ask("load", "--quiet", "--input", str(archive))
        archive.unlink()
        driver = daemon.ask("info", "--format", "{{.Driver}}")
        if driver != "overlay2":
            raise CommandError(f"dockerd chose the driver {driver}, wanted overlay2")
        sleep = ("--network", "none", IMAGE, "/bin/sleep", "infinity")
        self._container = daemon.ask("create", *sleep)
        try:
            daemon.ask("start", self._container)
            self._started = True
        except CommandError:
            self._started = False

    def open(self) -> str:
        merged = self._described("MergedDir")
        if not self._started:
            Path(merged).mkdir(exist_ok=True)
            overlay = mounts.Overlay(
                tuple(self._described("LowerDir").split(":")),
                self._described("UpperDir"),
                self._described("WorkDir"),
                ("index=off",),
            )
            mounts.mount_overlay(overlay, merged)
        found = mount_options(merged)
        how = "a sleeping container's" if self._started else "mounted as docker would"
        lowers = self._described("LowerDir").count(":") + 1
        self.note = f"{how} overlay of {lowers} lower directories, {found}"
        return merged

    def close(self) -> None:
        if not self._started:
            mounts.unmount(self._described("MergedDir"))

    def finish(self) -> None:
        if self._daemon is None:
            return
        try:
            if self._container:
                self._daemon.ask("rm", "--force", self._container)
        finally:
            self._daemon.stop()

    def _described(self, what: str) -> str:
        assert self._daemon is not None
        template = f"{{{{.GraphDriver.Data.{what}}}}}"
        return self._daemon.ask("inspect", "--format", template, self._container)


class View(Contender):
    """A view of ours. All share one store, which :func:`make_store` fills."""

    def __init__(self, name: str, store: Path, backend: str, *, rw: bool = False) -> None:
        super().__init__(name)
        self._store = store
        self._backend = backend
        self._rw = rw
        self.has_server = backend.startswith("fuse")

    def version(self) -> str:
        return "this layerstore"

    def prepare(self, tree: Path, work: Path) -> None:
        self._target = work / "view"
        self._target.mkdir()
        if not self.has_server:  # whatever is unpacked for it, now
            self.open()
            self.close()

    def open(self) -> str:
        words = ["mount", "--backend", self._backend, *(["--rw"] if self._rw else [])]
        layerstore(self._store, *words, IMAGE, str(self._target))
        self.note = mount_options(str(self._target))
        return str(self._target)

    def close(self) -> None:
        layerstore(self._store, "umount", str(self._target))

    def servers(self) -> tuple[int, ...]:
        return _servers_of(self._store) if self.has_server else ()


class FuseServer(Contender):
    """Another project's FUSE server, kept in the foreground so that it is ours to end."""

    has_server = True

    def __init__(self, name: str, program: str, version: str) -> None:
        super().__init__(name)
        self._program = program
        self._version = (program, version)

    def version(self) -> str | None:
        return _version_line(*self._version)

    def prepare(self, tree: Path, work: Path) -> None:
        self._target = work / "view"
        for name in ("view", "upper", "work"):
            (work / name).mkdir()
        self._arguments = self._made(tree, work)

    def _made(self, tree: Path, work: Path) -> list[str]:
        """Make what is mounted; return the arguments before the mount point."""
        options = f"lowerdir={tree},upperdir={work}/upper,workdir={work}/work"
        return ["-f", "-o", options]

    def open(self) -> str:
        device = os.lstat(self._target).st_dev
        command = [self._program, *self._arguments, str(self._target)]
        self._server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _MOUNT_SECONDS
        while os.lstat(self._target).st_dev == device:
            if self._server.poll() is not None or time.monotonic() > deadline:
                self._server.kill()
                raise CommandError(f"{' '.join(command)} did not mount")
            time.sleep(0.01)
        return str(self._target)

    def close(self) -> None:
        mounts.unmount(str(self._target))
        self._server.wait(timeout=_MOUNT_SECONDS)

    def servers(self) -> tuple[int, ...]:
        return (self._server.pid,)


class Squashfuse(FuseServer):
    """squashfuse over the same image as the kernel's squashfs."""

    def version(self) -> str | None:
        return super().version() if shutil.which("mksquashfs") else None

    def _made(self, tree: Path, _work: Path) -> list[str]:
        return ["-f", str(squashfs_image(tree))]


class LoopImage(Contender):
    """An image file in a format of the kernel's, through a loop device that goes with its mount."""

    def __init__(self, name: str, fstype: str, maker: Sequence[str]) -> None:
        super().__init__(name)
        self._fstype = fstype
        self._maker = maker

    def version(self) -> str | None:
        known = self._fstype in Path("/proc/filesystems").read_text().split()
        return version_of(self._maker) if known else None

    def prepare(self, tree: Path, work: Path) -> None:
        self._target = work / "view"
        self._target.mkdir()
        make = squashfs_image if self._fstype == "squashfs" else erofs_image
        self._image = make(tree)

    def open(self) -> str:
        options = ["-t", self._fstype, "-o", "ro,loop", str(self._image), str(self._target)]
        run("mount", *options)
        return str(self._target)

    def close(self) -> None:
        run("umount", str(self._target))


def make_store(work: Path, tree: Path) -> Path:
    """Import the tree into a new store below ``work``; return the store."""
    store = work / STORE
    shutil.rmtree(store, ignore_errors=True)
    layerstore(store, "import", str(tree), "-t", IMAGE)
    return store


def contenders(store: Path) -> list[Contender]:
    """Return all of them; the plain directory and docker's overlays come first."""
    return [
        Plain("plain"),
        Docker("overlay2"),
        Docker("overlay2 of 6 layers", installed_layers),
        *_views(store),
        FuseServer("fuse-overlayfs", "fuse-overlayfs", "--version"),
        Squashfuse("squashfuse", _squashfuse_program(), "--help"),
        LoopImage("squashfs zstd", "squashfs", ("mksquashfs", "-version")),
        LoopImage("erofs lz4hc", "erofs", ("mkfs.erofs", "-V")),
    ]


def _views(store: Path) -> list[Contender]:
    """Return views through every backend there is; writable ones where the kernel does it all."""
    found: list[Contender] = []
    for backend in BACKENDS:
        if backend == AUTO:
            continue
        found.append(View(f"{backend} view", store, backend))
        if not backend.startswith("fuse"):
            found.append(View(f"{backend} view --rw", store, backend, rw=True))
    return found


def _squashfuse_program() -> str:
    """Return the faster of the two servers that the project makes, where it is installed."""
    return "squashfuse_ll" if shutil.which("squashfuse_ll") else "squashfuse"


def squashfs_image(tree: Path) -> Path:
    """Return the SquashFS image that contenders share, with zstd at mksquashfs' own settings."""
    options = ("-comp", "zstd", "-no-progress", "-quiet", "-noappend")
    return _kept_image(tree, "squashfs", lambda part: run("mksquashfs", str(tree), part, *options))


def erofs_image(tree: Path) -> Path:
    """Return an EROFS image of a tree with LZ4HC, what Debian 12's tool has of compression."""
    options = ("-zlz4hc,9", "-C65536", "--preserve-mtime", "--quiet")
    return _kept_image(tree, "erofs", lambda part: run("mkfs.erofs", *options, part, str(tree)))


def _kept_image(tree: Path, suffix: str, make: Callable[[str], None]) -> Path:
    """Return the image of a tree that lies beside it, made if it is not there yet."""
    image = tree.with_name(f"{tree.name}.{suffix}")
    if not image.exists():
        part = image.with_name(f"{image.name}.part")
        make(str(part))
        part.rename(image)
    return image


def _version_line(program: str, option: str) -> str | None:
    """Return the line in which a program tells its version, not that of its libraries."""
    if shutil.which(program) is None:
        return None
    done = subprocess.run([program, option], capture_output=True, text=True, check=False)
    project = program.removesuffix("_ll")
    lines = (done.stdout + done.stderr).splitlines()
    told = [line for line in lines if line.startswith(project) and re.search(r"\d", line)]
    return told[0] if told else "unknown version"


def mount_options(target: str) -> str:
    """Return how the kernel describes what is mounted at a directory, without paths."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        fields, _, described = line.partition(" - ")
        if fields.split()[4] == target:
            fstype, _, options = described.split(" ", 2)
            kept = [word for word in options.split(",") if "/" not in word]
            return f"{fstype} {','.join(kept)}"
    return "a plain directory"


def layerstore(store: Path, *words: str) -> None:
    """Run a command of ours."""
    run(sys.executable, "-m", "layerstore", "--store", str(store), *words)


def run(*command: str) -> None:
    """Run a command to its end; what it said is told only if it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout[-1000:]}")


def _servers_of(store: Path) -> tuple[int, ...]:
    """Return the FUSE servers of a store: processes of this package that name it."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes()
        except OSError:
            continue
        if b"fuse_mount." in words and os.fsencode(store) in words:
            found.append(int(name))
    return tuple(found)


def new_place(work: Path, contender: Contender) -> Path:
    """Return a new directory for what a contender makes."""
    return fresh(work / contender.name.replace(" ", "-").replace("/", "-"))
