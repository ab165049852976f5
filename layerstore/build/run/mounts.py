"""The mounts a RUN asks for: bind, cache, tmpfs, secret, ssh, and programs from the Dockerfile.

Everything is mounted by descriptor at a scratch place first and bound into the container
from there, so no path that an image or context controls is resolved by the runtime.
Secrets lie on a tmpfs that exists only inside the sandbox: they never reach a disk.
All functions run in the sandbox's thread.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, Protocol

from layerstore.build.run.caches import cache_name, fill_cache
from layerstore.build.run.ssh import AgentSocket
from layerstore.errors import BuildError
from layerstore.linux import mounts
from layerstore.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, directory, openat2
from layerstore.runtime.oci_spec import ExtraMount

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from layerstore.build.graph import MountSpec
    from layerstore.build.run.ssh import Connect

SECRET_MAX_BYTES = 500 << 10
"""As docker's: a secret is a key or a token, not a data set."""

_SECRETS_SIZE = "mode=0700,size=16m"
_DOCUMENTS_MODE = 0o755
_SAFE = ("nosuid", "nodev")


class MountSources(Protocol):
    """Shows what a step's inputs hold."""

    def show(self, number: int, *, writable: bool) -> AbstractContextManager[Path]:
        """Return input ``number`` as a directory; writes to it vanish."""


class MountSet:
    """The mounts of one step.

    Attributes:
        mounts: For the runtime, each with whether its mount point is a directory.
        env: Variables that hold secrets.
        agent: Where the first ssh agent's socket is; empty if there is none.
        sockets: In front of ssh agents; nobody answers until they are told to serve.

    Args:
        scratch: A directory of this step's own.
        caches: Directories of the step's cache mounts by name, held for it.
        agents: What connects to the ssh agents of the step's mounts, by id.
        stack: Closed after the step; undoes everything.
    """

    def __init__(
        self,
        scratch: Path,
        caches: Mapping[str, Path],
        agents: Mapping[str, Connect],
        stack: contextlib.ExitStack,
    ) -> None:
        self._scratch = scratch
        self._caches = caches
        self._agents = agents
        self._stack = stack
        self._memory: Path | None = None
        self._count = 0
        self.agent = ""
        self.sockets: list[AgentSocket] = []
        self.mounts: list[tuple[ExtraMount, bool]] = []
        self.env: dict[str, str] = {}

    def add(self, spec: MountSpec, secrets: Mapping[str, bytes], sources: MountSources) -> None:
        """Prepare one mount.

        Raises:
            BuildError: A required secret was not given; a source does not exist.
        """
        match spec.type:
            case "tmpfs":
                self._tmpfs(spec)
            case "secret":
                self._secret(spec, secrets.get(spec.id))
            case "ssh":
                self._ssh(spec)
            case "document":
                self._document(spec)
            case "cache":
                self._cache(spec, sources)
            case "bind":
                self._bind(spec, sources)
            case _:
                raise AssertionError(f"mount type {spec.type} was let through")

    def _place(self, *, is_directory: bool) -> Path:
        """Return a new mount point of our own."""
        self._count += 1
        self._scratch.mkdir(mode=0o700, exist_ok=True)
        place = self._scratch / str(self._count)
        if is_directory:
            place.mkdir(mode=0o700)
        else:
            place.touch(mode=0o600)
        return place

    def _take(
        self, spec: MountSpec, source: Path, *, is_directory: bool, flags: tuple[str, ...]
    ) -> None:
        access = "ro" if spec.readonly else "rw"
        mount = ExtraMount(spec.target, str(source), ("bind", access, *flags))
        self.mounts.append((mount, is_directory))

    def _tmpfs(self, spec: MountSpec) -> None:
        options = [*_SAFE, f"mode={spec.mode if spec.mode is not None else 0o1777:o}"]
        if spec.size:
            options.append(f"size={spec.size}")
        self.mounts.append((ExtraMount(spec.target, "tmpfs", tuple(options), "tmpfs"), True))

    def _secret(self, spec: MountSpec, value: bytes | None) -> None:
        if value is None:
            if spec.required:
                raise BuildError(
                    f"the step needs the secret {spec.id!r}, which was not given",
                    hint=f"add --secret id={spec.id},src=FILE",
                )
            return
        if spec.env:
            self.env[spec.env] = value.decode("utf-8", "surrogateescape")
        if not spec.target:
            return
        place = self._secret_file(value, spec)
        mount = ExtraMount(spec.target, str(place), ("bind", "ro", *_SAFE, "noexec"))
        self.mounts.append((mount, False))

    def _secret_file(self, value: bytes, spec: MountSpec) -> Path:
        self._count += 1
        path = self._in_memory() / str(self._count)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(value)
            os.fchown(fd, spec.uid, spec.gid)
            os.fchmod(fd, spec.mode if spec.mode is not None else 0o400)
        return path

    def _in_memory(self) -> Path:
        """Return a directory on a tmpfs of the step's own, which only the sandbox sees."""
        if self._memory is None:
            place = self._place(is_directory=True)
            mounts.mount(
                "tmpfs", str(place), "tmpfs",
                mounts.MS_NOSUID | mounts.MS_NODEV | mounts.MS_NOEXEC, _SECRETS_SIZE,
            )  # fmt: skip
            self._stack.callback(_unmount, place)
            self._memory = place
        return self._memory

    def _ssh(self, spec: MountSpec) -> None:
        connect = self._agents.get(spec.id)
        if connect is None:
            if spec.required:
                raise BuildError(
                    f"the step needs the ssh agent {spec.id!r}, which was not given",
                    hint=f"add --ssh {spec.id}, or --ssh {spec.id}=SOCKET-OR-KEY",
                )
            return
        self._count += 1
        path = self._in_memory() / str(self._count)
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            agent = AgentSocket(directory, path.name, connect)
        finally:
            os.close(directory)
        self._stack.callback(agent.close)
        os.chown(path, spec.uid, spec.gid)
        path.chmod(spec.mode if spec.mode is not None else 0o600)
        self.sockets.append(agent)
        self.agent = self.agent or spec.target
        mount = ExtraMount(spec.target, str(path), ("bind", "ro", *_SAFE, "noexec"))
        self.mounts.append((mount, False))

    def _document(self, spec: MountSpec) -> None:
        place = self._place(is_directory=True)
        place.chmod(_DOCUMENTS_MODE)
        path = place / os.path.basename(spec.source)
        path.write_text(spec.content, encoding="utf-8", errors="surrogateescape")
        path.chmod(0o755)
        self._take(spec, place, is_directory=True, flags=_SAFE)

    def _cache(self, spec: MountSpec, sources: MountSources) -> None:
        data = self._caches[cache_name(spec)]
        if spec.input is not None:
            with sources.show(spec.input, writable=False) as shown, _opened(shown, spec) as fd:
                if not stat.S_ISDIR(os.fstat(fd).st_mode):
                    raise BuildError(f"a cache mount cannot begin with {spec.source}: it is a file")
                fill_cache(data, fd)
        elif spec.source:
            with _opened(data, spec) as fd:
                self._bound(spec, fd, flags=())
            return
        self._take(spec, data, is_directory=True, flags=())

    def _bind(self, spec: MountSpec, sources: MountSources) -> None:
        assert spec.input is not None
        shown = self._stack.enter_context(sources.show(spec.input, writable=not spec.readonly))
        with _opened(shown, spec) as fd:
            self._bound(spec, fd, flags=_SAFE)

    def _bound(self, spec: MountSpec, fd: int, *, flags: tuple[str, ...]) -> None:
        """Take what a descriptor is of, whatever has its name by then."""
        is_directory = stat.S_ISDIR(os.fstat(fd).st_mode)
        place = self._place(is_directory=is_directory)
        mounts.bind(f"/proc/self/fd/{fd}", str(place))
        self._stack.callback(_unmount, place)
        self._take(spec, place, is_directory=is_directory, flags=flags)


@contextlib.contextmanager
def _opened(shown: Path, spec: MountSpec) -> Iterator[int]:
    """Hold a descriptor of what a mount takes from its input, found without leaving that."""
    with directory(str(shown)) as root_fd:
        try:
            fd = openat2(
                root_fd, os.fsencode(spec.source.lstrip("/")) or b".", os.O_PATH,
                resolve=RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
            )  # fmt: skip
        except OSError as err:
            where = "its source" if spec.type == "bind" or spec.input is not None else "the cache"
            raise BuildError(f"cannot mount {spec.source}: {err.strerror} in {where}") from err
    try:
        yield fd
    finally:
        os.close(fd)


def _unmount(place: Path) -> None:
    with contextlib.suppress(mounts.MountCallError):
        mounts.unmount(str(place), lazy=True)
