"""Mounting by system calls: bind, overlay, EROFS, move, propagation, unmounting, identity.

mount(8) costs milliseconds a call and follows links of its own accord; these are
the plain calls through ctypes. Every failure is a :class:`MountCallError` that
names the call, the paths, and the kernel's own words where it has any. The module
knows nothing of images. On the fast path: imports ctypes and os only.

Overlays are made through fsopen(2) where the kernel takes ``lowerdir+`` (Linux 6.7),
because its options have no length limit and it explains failures; elsewhere through
mount(2), whose options end at one page.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from layerstore.errors import MountError, UnsupportedError
from layerstore.light_typing import NamedTuple, Self

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19

MNT_FORCE = 0x1
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

OPTIONS_MAX_BYTES = 4095
"""mount(2) copies one page of options and silently cuts the rest."""

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_MNT_ID = 0x1000
_STATX_MNT_ID_UNIQUE = 0x4000
_STATX_ATTR_MOUNT_ROOT = 0x2000

# The same numbers on every architecture but alpha.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_SYS_MOUNT_SETATTR = 442

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_OPEN_TREE_CLONE = 1
_MOUNT_ATTR_IDMAP = 0x0010_0000
_MOVE_MOUNT_F_EMPTY_PATH = 4
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

_MOUNT_ATTRS = {MS_RDONLY: 0x1, MS_NOSUID: 0x2, MS_NODEV: 0x4, MS_NOEXEC: 0x8}

_libc = ctypes.CDLL(None, use_errno=True)


class MountCallError(MountError):
    """A mounting system call failed.

    Attributes:
        code: The errno, for callers that know what to do about some.
    """

    def __init__(self, message: str, code: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class MountIdentity(NamedTuple):
    """Which mount a path lies on.

    Attributes:
        mount_id: The kernel's id; never used twice if ``unique``, else reused after unmounting.
        is_root: Whether the path is the very place where that mount is mounted.
        device: ``st_dev`` of the mounted file system.
    """

    mount_id: int
    is_root: bool
    device: int
    unique: bool


class Overlay(NamedTuple):
    """Describes an overlay mount; :func:`mount_overlay` executes it.

    Attributes:
        lowers: Directories, uppermost first (as overlayfs lists them).
        upper: Takes the writes; None for a read-only overlay.
        work: Empty directory on the file system of ``upper``.
        options: Further options, such as ``userxattr``.
        data: Data-only directories below all others, which redirects of files lead into
            (overlayfs.rst, "Data-only lower layers"; Linux 6.5).
    """

    lowers: tuple[str, ...]
    upper: str | None = None
    work: str | None = None
    options: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


def mount(source: str, target: str, fstype: str | None, flags: int = 0, data: str = "") -> None:
    """Mount a file system, or change a mount, through the classic call.

    Raises:
        MountCallError: The kernel refused, or ``data`` is longer than it reads.
    """
    encoded = os.fsencode(data)
    if len(encoded) > OPTIONS_MAX_BYTES:
        raise MountCallError(
            f"mount options for {target} take {len(encoded)} bytes, "
            f"this kernel reads {OPTIONS_MAX_BYTES}",
            errno.E2BIG,
        )
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode() if fstype is not None else None,
        ctypes.c_ulong(flags),
        encoded or None,
    )
    if result != 0:
        raise _failed(f"could not mount {fstype or source} at {target}", ctypes.get_errno())


def unmount(target: str, *, lazy: bool = False, force: bool = False) -> None:
    """Unmount the topmost mount at ``target`` (umount2(2)); never follows a symlink there.

    Args:
        target: The mount point.
        lazy: Detach now, let go of the file system when its last user does.
        force: Abort requests that hang (FUSE, network).

    Raises:
        MountCallError: ``code`` is EBUSY when somebody uses it, EINVAL when it is no mount.
    """
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0) | (MNT_FORCE if force else 0)
    if _libc.umount2(os.fsencode(target), flags) != 0:
        raise _failed(f"could not unmount {target}", ctypes.get_errno())


def bind(source: str, target: str, *, flags: int = 0, recursive: bool = False) -> None:
    """Show ``source`` at ``target`` as well; ``flags`` such as MS_RDONLY hold for the new mount.

    The flags take a second call. What the source's own mount forbids stays forbidden
    in between; if the second call fails, nothing stays mounted.
    """
    mount(source, target, None, MS_BIND | (MS_REC if recursive else 0))
    if not flags:
        return
    try:
        mount("none", target, None, MS_REMOUNT | MS_BIND | flags)
    except MountCallError:
        unmount(target, lazy=True)
        raise


def move(source: str, target: str) -> None:
    """Move a mount to another place; refused by the kernel below shared mounts."""
    mount(source, target, None, MS_MOVE)


def set_propagation(target: str, kind: int, *, recursive: bool = True) -> None:
    """Set how mount events travel: ``kind`` is MS_PRIVATE or MS_SLAVE."""
    mount("none", target, None, kind | (MS_REC if recursive else 0))


def identify(path: str) -> MountIdentity:
    """Return which mount ``path`` lies on, without asking the file system itself.

    Works on a mount whose FUSE server is dead, and follows a symlink at the end.

    Raises:
        OSError: The path cannot be reached.
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        return identify_fd(fd)
    finally:
        os.close(fd)


def identify_fd(fd: int) -> MountIdentity:
    """Return which mount an open descriptor (O_PATH is enough) lies on.

    Source: statx(2); the unique id needs Linux 6.8, the plain one 5.8.
    """
    buffer = ctypes.create_string_buffer(256)
    result = _libc.statx(
        fd,
        b"",
        _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC,
        ctypes.c_uint(_STATX_MNT_ID | _STATX_MNT_ID_UNIQUE),
        buffer,
    )
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    raw = buffer.raw
    # struct statx: stx_mask, stx_attributes, stx_dev_major/minor, stx_mnt_id.
    mask = int.from_bytes(raw[0:4], "little")
    attributes = int.from_bytes(raw[8:16], "little")
    device = os.makedev(
        int.from_bytes(raw[136:140], "little"), int.from_bytes(raw[140:144], "little")
    )
    return MountIdentity(
        mount_id=int.from_bytes(raw[144:152], "little"),
        is_root=bool(attributes & _STATX_ATTR_MOUNT_ROOT),
        device=device,
        unique=bool(mask & _STATX_MNT_ID_UNIQUE),
    )


def mount_overlay(overlay: Overlay, target: str, flags: int = 0) -> None:
    """Mount an overlay at ``target``; any bytes may stand in its paths.

    Args:
        overlay: What to mount.
        target: An existing directory.
        flags: Of MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC. Overlays inherit none of
            them from their lower directories.

    Raises:
        MountCallError: The kernel refused; the message holds its reason.
        UnsupportedError: The options do not fit and the kernel has no other way.
    """
    with _SafePaths() as paths:
        settings = _overlay_settings(overlay, paths)
        detached = _create("overlay", settings, f"could not mount an overlay at {target}", flags)
        if detached is not None:
            try:
                attach(detached, target)
            finally:
                os.close(detached)
            return
        data = ",".join(_classic_words(overlay, paths))
        if len(os.fsencode(data)) > OPTIONS_MAX_BYTES:
            raise UnsupportedError(
                f"an overlay of {len(overlay.lowers)} directories needs "
                f"{len(os.fsencode(data))} bytes of mount options, this kernel reads "
                f"{OPTIONS_MAX_BYTES}",
                hint="use Linux 6.7 or newer, or a store with a shorter path",
            )
        mount("layerstore", target, "overlay", flags, data)


def classic_overlay_options(overlay: Overlay) -> list[str]:
    """Return an overlay's options as mount(2) and mount(8) take them, one word each.

    Right only for paths without backslash, comma and colon.
    """
    with _SafePaths() as paths:
        return _classic_words(overlay, paths)


def _classic_words(overlay: Overlay, paths: _SafePaths) -> list[str]:
    settings = _overlay_settings(overlay, paths)
    lowers = ":".join(value or "" for key, value in settings if key == "lowerdir+")
    data_only = "".join(f"::{value}" for key, value in settings if key == "datadir+")
    keys = [(key, value) for key, value in settings if key not in _BY_CONTEXT_ONLY]
    words = [f"{key}={value}" if value else key for key, value in keys]
    return [f"lowerdir={lowers}{data_only}", *words]


def create_overlay(overlay: Overlay, flags: int = 0) -> int:
    """Make an overlay that is mounted nowhere; return its descriptor, a directory's.

    It ends with the descriptor, unless :func:`attach` mounts it somewhere.

    Raises:
        MountCallError: The kernel refused.
        UnsupportedError: It cannot make mounts that way.
    """
    with _SafePaths() as paths:
        settings = _overlay_settings(overlay, paths)
        detached = _create("overlay", settings, "could not make an overlay", flags)
    if detached is None:
        raise UnsupportedError(
            "this kernel lists an overlay's directories in one line only",
            hint="use Linux 6.7 or newer",
        )
    return detached


def create_clone(path: str, what: str = "") -> int:
    """Clone the mount at ``path``, mounted nowhere; return its descriptor, a directory's.

    :func:`attach` mounts it, in another mount namespace as well.

    Raises:
        MountCallError: The kernel refused; the message begins with ``what``.
    """
    tree: int = _libc.syscall(
        ctypes.c_long(_SYS_OPEN_TREE), ctypes.c_int(_AT_FDCWD), os.fsencode(path),
        ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC),
    )  # fmt: skip
    if tree < 0:
        raise _failed(what or f"could not clone the mount at {path}", ctypes.get_errno())
    return tree


def create_idmapped(path: str, user_namespace: int, flags: int = 0) -> int:
    """Clone the mount at ``path`` with owners mapped into a user namespace, mounted nowhere.

    Returns its descriptor, a directory's; :func:`attach` mounts it.

    Args:
        path: A directory.
        user_namespace: Descriptor of one; the kernel takes its map only.
        flags: As for :func:`mount_overlay`, beside what the mount at ``path`` has.

    Raises:
        UnsupportedError: The file system takes no part in that, or the kernel.
        MountCallError: The kernel refused for another reason.
    """
    what = f"could not map the owners of {path}"
    tree = create_clone(path, what)
    # struct mount_attr: attr_set, attr_clr, propagation, userns_fd.
    wanted = _MOUNT_ATTR_IDMAP | _attributes_of(flags)
    attributes = struct.pack("<4Q", wanted, 0, 0, user_namespace)
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOUNT_SETATTR), ctypes.c_int(tree), b"",
        ctypes.c_uint(_AT_EMPTY_PATH), attributes, ctypes.c_size_t(len(attributes)),
    )  # fmt: skip
    if result != 0:
        code = ctypes.get_errno()
        os.close(tree)
        if code in {errno.EINVAL, errno.ENOSYS}:
            raise UnsupportedError(
                f"{what}: the kernel or the file system there cannot",
                hint="use Linux 5.19 or newer, a store on ext4, xfs, btrfs or tmpfs, and "
                "--backend kernel",
            )
        raise _failed(what, code)
    return tree


def create_tmpfs() -> int:
    """Make a file system in memory that is mounted nowhere; return its root's descriptor.

    Raises:
        MountCallError: The kernel refused.
        UnsupportedError: It cannot make mounts that way.
    """
    detached = _create("tmpfs", [("mode", "0700")], "could not make a tmpfs", 0)
    if detached is None:
        raise UnsupportedError(_NO_FSOPEN, hint="use Linux 5.2 or newer, as root")
    return detached


def mount_erofs(
    image: int,
    target: str,
    flags: int = MS_RDONLY,
    *,
    devices: tuple[int, ...] = (),
    options: tuple[str, ...] = (),
) -> None:
    """Mount the EROFS image in an open file, without a loop device.

    The descriptors are what is mounted: whoever has verified their content mounts just that.

    Args:
        image: The image.
        target: An existing directory.
        flags: As for :func:`mount_overlay`.
        devices: As for :func:`create_erofs`.
        options: As for :func:`create_erofs`.

    Raises:
        UnsupportedError: The kernel has no EROFS, or cannot do what the image asks for.
        MountCallError: It refused for another reason.
    """
    at = f" at {target}"
    detached = create_erofs(image, flags, devices=devices, options=options, at=at)
    try:
        attach(detached, target)
    finally:
        os.close(detached)


def create_erofs(
    image: int,
    flags: int = MS_RDONLY,
    *,
    devices: tuple[int, ...] = (),
    options: tuple[str, ...] = (),
    at: str = "",
) -> int:
    """Make a mount of an EROFS image that is nowhere yet; return its descriptor, a directory's.

    Args:
        image: The image, an open file.
        flags: As for :func:`mount_overlay`.
        devices: Open files that hold content of the image, in the order of its device table.
        options: Further options without a value, such as ``noacl``.
        at: For messages: where it is to be mounted.

    Raises:
        UnsupportedError: The kernel has no EROFS, or cannot do what the image asks for.
        MountCallError: It refused for another reason.
    """
    what = f"could not mount an EROFS image{at}"
    settings: list[tuple[str, str | None]] = [("source", f"/proc/self/fd/{image}")]
    settings += [("device", f"/proc/self/fd/{device}") for device in devices]
    settings += [(option, None) for option in options]
    try:
        detached = _create("erofs", settings, what, flags)
    except MountCallError as err:
        reason, hint = _EROFS_REFUSALS.get(err.code, ("", None))
        if devices and err.code in _DEVICE_REFUSALS:
            reason, hint = _NO_PACKS
        if not reason:
            raise
        raise UnsupportedError(f"{what}: {reason}", hint=hint) from err
    if detached is None:
        raise UnsupportedError(f"{what}: {_NO_FSOPEN}", hint="use Linux 6.12, as root")
    return detached


def attach(detached: int, target: str) -> None:
    """Mount what :func:`create_overlay` made at an existing directory.

    Raises:
        MountCallError: The kernel refused.
    """
    result = _libc.syscall(
        ctypes.c_long(_SYS_MOVE_MOUNT),
        ctypes.c_int(detached),
        b"",
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(target),
        ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH),
    )
    if result != 0:
        raise _failed(f"could not mount at {target}", ctypes.get_errno())


def _attributes_of(flags: int) -> int:
    """Return flags of mount(2) as those of fsmount(2) and mount_setattr(2)."""
    return sum(attribute for flag, attribute in _MOUNT_ATTRS.items() if flags & flag)


_BY_CONTEXT_ONLY = {"source", "lowerdir+", "datadir+"}
_EROFS_REFUSALS = {
    errno.ENODEV: ("the kernel has no EROFS", "load the kernel module: modprobe erofs"),
    errno.ENOTBLK: (
        (
            "the kernel mounts EROFS from block devices only, or the store lies on a file "
            "system that cannot back it"
        ),
        "use Linux 6.12 or newer, and a store that does not lie on an overlay",
    ),
    errno.EPERM: ("not permitted here", "run as root outside of user namespaces"),
}
_DEVICE_REFUSALS = {errno.EINVAL, errno.EOPNOTSUPP}
_NO_FSOPEN = "fsopen(2) is not permitted, or the kernel lacks it"
_NO_PACKS = (
    "the kernel's EROFS cannot map zstd frames where they lie",
    "use Linux 6.15 or newer with CONFIG_EROFS_FS_ZIP_ZSTD",
)


def _overlay_settings(overlay: Overlay, paths: _SafePaths) -> list[tuple[str, str | None]]:
    """Return the options of an overlay as fsconfig(2) takes them."""
    settings: list[tuple[str, str | None]] = [("source", "layerstore")]
    settings += [("lowerdir+", paths.safe(lower)) for lower in overlay.lowers]
    settings += [("datadir+", paths.safe(place)) for place in overlay.data]
    settings += [
        (key, paths.safe(path))
        for key, path in (("upperdir", overlay.upper), ("workdir", overlay.work))
        if path is not None
    ]
    for word in overlay.options:
        key, _, value = word.partition("=")
        settings.append((key, value or None))
    return settings


class _SafePaths:
    """Names directories without the characters that overlayfs gives a meaning.

    How many times a comma, colon or backslash is unescaped differs between kernel
    versions and between mount(2) and fsconfig(2); a path through an open descriptor
    holds none of them.
    """

    def __init__(self) -> None:
        self._fds: list[int] = []

    def safe(self, path: str) -> str:
        if not any(character in path for character in "\\,:"):
            return path
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._fds.append(fd)
        return f"/proc/self/fd/{fd}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)


def _create(
    fstype: str, settings: list[tuple[str, str | None]], what: str, flags: int
) -> int | None:
    """Make a mount that is nowhere yet; None when this kernel cannot, and nothing has happened.

    Args:
        fstype: The kernel's name of the file system.
        settings: Options in order; None as value for those that take none.
        what: Begins the error's message.
        flags: As for :func:`mount_overlay`.
    """
    context = _libc.syscall(
        ctypes.c_long(_SYS_FSOPEN), fstype.encode(), ctypes.c_uint(_FSOPEN_CLOEXEC)
    )
    if context < 0:
        code = ctypes.get_errno()
        if code in {errno.ENOSYS, errno.EPERM}:
            return None  # no such call, or a seccomp filter that allows mount(2) only
        raise _failed(what, code)
    try:
        for key, value in settings:
            kind = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            if _configure(context, kind, key, value):
                continue
            if key in {"lowerdir+", "datadir+"} and ctypes.get_errno() == errno.EINVAL:
                return None  # before Linux 6.7; mount(2) tells what else may be wrong
            raise _context_failed(context, what)
        if not _configure(context, _FSCONFIG_CMD_CREATE, None, None):
            raise _context_failed(context, what)
        attributes = _attributes_of(flags)
        detached: int = _libc.syscall(
            ctypes.c_long(_SYS_FSMOUNT),
            ctypes.c_int(context),
            ctypes.c_uint(_FSMOUNT_CLOEXEC),
            ctypes.c_uint(attributes),
        )
        if detached < 0:
            raise _context_failed(context, what)
        return detached
    finally:
        os.close(context)


def _configure(context: int, command: int, key: str | None, value: str | None) -> bool:
    result: int = _libc.syscall(
        ctypes.c_long(_SYS_FSCONFIG),
        ctypes.c_int(context),
        ctypes.c_uint(command),
        None if key is None else key.encode(),
        None if value is None else os.fsencode(value),
        ctypes.c_int(0),
    )
    return result == 0


def _context_failed(context: int, what: str) -> MountCallError:
    """Return the error of the last call, with what the kernel wrote about it."""
    code = ctypes.get_errno()
    words = []
    try:
        while message := os.read(context, 4096):
            words.append(os.fsdecode(message).partition(" ")[2].strip())
    except OSError:  # ENODATA: no further message
        pass
    return _failed(f"{what} ({'; '.join(words)})" if words else what, code)


_HINTS = {
    errno.EPERM: "run as root, or inside a user and mount namespace of your own "
    "(unshare --user --map-root-user --mount)",
    errno.ENODEV: "load the file system's kernel module (modprobe overlay, modprobe fuse)",
    errno.ENOSPC: "the kernel's limit on mounts is reached: see /proc/sys/fs/mount-max",
}


def _failed(what: str, code: int) -> MountCallError:
    return MountCallError(f"{what}: {os.strerror(code)}", code, hint=_HINTS.get(code))
