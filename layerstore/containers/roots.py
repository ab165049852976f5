"""A container's root: what is mounted, what is found out about it, and what it sees of the host.

All of it happens in the mount namespace of the container's monitor, before the runtime starts.
Every target resolves inside the root, links followed there (openat2(2)), so that the runtime
has none left to follow; see docs/hostile-input.md.
"""

from __future__ import annotations

import contextlib
import os
import stat

from layerstore.containers.spec import INIT_PATH, DeviceFile
from layerstore.containers.volumes import fill_volume, volume_data
from layerstore.errors import ContainerError, InputError
from layerstore.light_re import Pattern
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import (
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    openat2,
    write_all,
)
from layerstore.runtime.oci_spec import STANDARD_DIRECTORIES, ExtraMount
from layerstore.runtime.stubs import real_targets

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.containers.records import Container
    from layerstore.containers.settings import Device, MountRequest, Settings

_FILE_MAX_BYTES = 1 << 20
_IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_HOST_LINES = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
_MAGIC = Pattern(r"/proc/.+|/dev/(fd|stdin|stdout|stderr)(/.*)?|/sys/.+")
"""Where the kernel's links lead out of a root: no directory to begin in (CVE-2024-21626)."""

_TMPFS = ("noexec", "nosuid", "nodev")
_NO_DEVICES = {"pts", "shm", "mqueue", "fd", "console", "tty", "ptmx", "core"}


def working_directory(root: str, wanted: str) -> str:
    """Return the real path of a container's working directory, which is made if it is missing.

    Raises:
        InputError: Nothing can begin there.
    """
    if not wanted.startswith("/"):
        wanted = f"/{wanted}"
    (path,) = real_targets(root, [wanted])
    if path.startswith(("/proc", "/dev", "/sys")) and _MAGIC.fullmatch(path):
        raise InputError(
            f"the working directory {wanted} leads to {path}, where no container may begin",
            hint="-w /, or another directory of the image",
        )
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _make_directories(fd, [os.fsencode(name) for name in path.split("/") if name], wanted)
    finally:
        os.close(fd)
    return path


def _make_directories(root_fd: int, names: Sequence[bytes], wanted: str) -> None:
    for count in range(1, len(names) + 1):
        path = b"/".join(names[:count])
        try:
            os.close(openat2(root_fd, path, os.O_PATH | os.O_DIRECTORY, resolve=_IN_ROOT))
            continue
        except FileNotFoundError:
            pass
        except OSError as err:
            raise InputError(
                f"the working directory {wanted} is none: {err.strerror}", hint="-w /"
            ) from err
        above = b"/".join(names[: count - 1]) or b"."
        parent = openat2(root_fd, above, os.O_RDONLY | os.O_DIRECTORY, resolve=_IN_ROOT)
        try:
            os.mkdir(names[count - 1], 0o755, dir_fd=parent)
        finally:
            os.close(parent)


def container_mounts(
    store_root: str, container: Container, root: str, owner: int = 0
) -> tuple[ExtraMount, ...]:
    """Return a container's mounts beyond the standard ones, ready for the runtime.

    Fills volumes that are empty with what the image has in their place.

    Args:
        store_root: The store.
        container: Whose.
        root: Where its root is mounted.
        owner: The host's id of the container's root, whose new volumes are.

    Raises:
        InputError: A source is missing, or a target is no place to mount at.
    """
    settings = container.settings
    wanted = [_mount_of(store_root, request) for request in settings.mounts]
    taken = {mount.destination for mount in wanted}
    own = [mount for mount in _etc_files(container) if mount.destination not in taken]
    mounts = sorted([*own, *wanted], key=lambda mount: mount.destination.rstrip("/").count("/"))
    places = real_targets(root, [mount.destination for mount in mounts])
    for place, mount in zip(places, mounts, strict=True):
        if place == "/" or place in STANDARD_DIRECTORIES:
            raise InputError(
                f"the mount's target {mount.destination} leads to {place} in this image, and "
                "nothing can be mounted there",
                hint="choose another target",
            )
    by_target = {request.target: request for request in settings.mounts}
    for place, mount in zip(places, mounts, strict=True):
        request = by_target.get(mount.destination)
        if request is not None and request.kind == "volume" and request.copy:
            fill_volume(mount.source, root, place, owner)
    placed = tuple(
        mount._replace(destination=place) for place, mount in zip(places, mounts, strict=True)
    )
    if settings.init:
        placed += (ExtraMount(INIT_PATH, settings.init, ("bind", "ro", "nosuid", "nodev")),)
    return placed


def _mount_of(store_root: str, request: MountRequest) -> ExtraMount:
    if request.kind == "tmpfs":
        given = {option.partition("=")[0] for option in request.options}
        opposite = {"noexec": "exec", "nosuid": "suid", "nodev": "dev"}
        usual = [word for word in _TMPFS if not given & {word, opposite[word]}]
        return ExtraMount(request.target, "tmpfs", (*usual, *request.options), "tmpfs")
    options = ("rbind", *request.options)
    if not {"shared", "rshared", "slave", "rslave", "private", "rprivate"} & set(options):
        options = (*options, "rprivate")
    if request.kind == "volume":
        return ExtraMount(request.target, volume_data(store_root, request.source), options)
    if not os.path.exists(request.source):
        raise InputError(
            f"there is nothing at {request.source} to be mounted",
            hint="make it, or name another path",
        )
    return ExtraMount(request.target, request.source, options)


def _etc_files(container: Container) -> Iterator[ExtraMount]:
    """Yield the mounts of a container's own hosts, hostname and resolv.conf."""
    settings = container.settings
    for name, content in (
        ("hosts", _hosts(settings)),
        ("hostname", f"{settings.hostname}\n".encode()),
        ("resolv.conf", _resolver(settings)),
    ):
        path = f"{container.run_dir}/{name}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
        try:
            write_all(fd, content)
            os.fchmod(fd, 0o644)
        finally:
            os.close(fd)
        yield ExtraMount(f"/etc/{name}", path, ("bind", "nosuid", "nodev", "noexec"))


def _hosts(settings: Settings) -> bytes:
    lines = _HOST_LINES.encode()
    if settings.network == "host":
        lines = _host_file("/etc/hosts") or lines
    if not lines.endswith(b"\n"):
        lines += b"\n"
    own = [f"{address}\t{name}\n" for name, address in settings.extra_hosts]
    if settings.network != "host":
        own.append(f"127.0.1.1\t{settings.hostname}\n")
    return lines + "".join(own).encode()


def _resolver(settings: Settings) -> bytes:
    if settings.dns:
        return "".join(f"nameserver {address}\n" for address in settings.dns).encode()
    return _host_file("/etc/resolv.conf") if settings.network == "host" else b""


def _host_file(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(_FILE_MAX_BYTES)
    return b""


def device_files(settings: Settings) -> tuple[DeviceFile, ...]:
    """Return the devices that a container gets, as they are on the host now.

    Raises:
        InputError: One is no device file.
    """
    wanted = [_device(device) for device in settings.devices]
    if settings.privileged:
        taken = {device.path for device in wanted}
        wanted += [one for one in _host_devices() if one.path not in taken]
    return tuple(wanted)


def _device(device: Device) -> DeviceFile:
    try:
        status = os.stat(device.source)
    except OSError as err:
        raise InputError(f"--device {device.source}: {err.strerror}") from err
    found = _device_file(device.target, status, device.access)
    if found is None:
        raise InputError(f"--device {device.source} is no device file")
    return found


def _device_file(path: str, status: os.stat_result, access: str) -> DeviceFile | None:
    if stat.S_ISCHR(status.st_mode):
        kind = "c"
    elif stat.S_ISBLK(status.st_mode):
        kind = "b"
    else:
        return None
    major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
    mode = stat.S_IMODE(status.st_mode)
    return DeviceFile(path, kind, major, minor, mode, status.st_uid, status.st_gid, access)


def _host_devices(directory: str = "/dev") -> Iterator[DeviceFile]:
    """Yield the devices of the host, as privileged containers get them."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if directory == "/dev" and entry.name in _NO_DEVICES:
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _host_devices(entry.path)
                continue
            with contextlib.suppress(OSError):
                found = _device_file(entry.path, entry.stat(follow_symlinks=False), "rwm")
                if found is not None:
                    yield found


def require_no_swap_of_root(root: str) -> None:
    """Refuse a root in which ``/proc``, ``/sys`` or ``/dev`` is something else than a directory.

    Raises:
        ContainerError: One is.
    """
    for path in STANDARD_DIRECTORIES:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(os.lstat(f"{root}{path}").st_mode):
                raise ContainerError(
                    f"{path} of the image is not a directory: no command can run in it",
                    hint=f"make {path} a directory in the image",
                )
