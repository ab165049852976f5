"""What this host can do, found out by trying: each answer with its reason and remedy.

Versions say little - distributions backport, containers filter system calls, modules
are missing - so every probe does the thing in a child process with namespaces of its
own and looks at what came of it. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import tempfile

from layerstore.errors import LayerstoreError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux import data_layers, mounts, namespaces, planned
from layerstore.linux.idmaps import parse_id_map

if TYPE_CHECKING:
    from collections.abc import Callable

FUSE_LIBRARY = "libfuse.so.2"
FUSERMOUNTS = ("fusermount3", "fusermount")
MOUNT_TABLE = "/etc/mtab"
"""Where fusermount looks up what it may unmount; bare chroots have none."""


_FUSE_OPENS_BY_ITSELF = 1 << 17 | 1 << 24
"""FUSE_NO_OPEN_SUPPORT and FUSE_NO_OPENDIR_SUPPORT of linux/fuse.h."""


class Finding(NamedTuple):
    """One answer.

    Attributes:
        name: What was tried.
        works: Whether it did.
        reason: What happened, for people.
        remedy: What to type or change if it did not work, else "".
        warns: Whether it works, but has something that one should know.
    """

    name: str
    works: bool
    reason: str
    remedy: str = ""
    warns: bool = False


def probe_all(place: str | None = None, erofs_image: bytes = b"") -> list[Finding]:
    """Try everything that views and builds may use; takes some tens of milliseconds.

    Args:
        place: A directory of the file system in question, the store's; None for that of
            temporary files.
        erofs_image: An image to mount, whatever it holds.
    """
    return [
        fuse_device(),
        fuse_protocol(),
        fuse_library(),
        fusermount(),
        overlay(),
        overlay_options_without_limit(),
        erofs_from_file(erofs_image, place),
        data_only_layers(),
        data_only_layers_complete(),
        user_namespaces(),
        overlay_in_user_namespace(),
        data_only_layers_in_user_namespace(),
        idmapped_mounts(place),
        idmapped_layers(place),
    ]


def fuse_device() -> Finding:
    """Whether /dev/fuse can be opened."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return Finding(
            "/dev/fuse",
            False,
            "it does not exist",
            "modprobe fuse; in a container, run it with --device /dev/fuse",
        )
    except OSError as err:
        return Finding(
            "/dev/fuse",
            False,
            f"it cannot be opened: {err.strerror}",
            "give this user access: ls -l /dev/fuse",
        )
    return Finding("/dev/fuse", True, "it can be opened")


def fuse_protocol() -> Finding:
    """Whether this user may mount FUSE by a system call, and the kernel opens files by itself."""
    return _tried(
        "FUSE without a library",
        "Linux 5.4 or newer with FUSE (modprobe fuse); users without privileges take fusermount",
        _try_fuse,
    )


def fuse_library() -> Finding:
    """Whether libfuse 2 can be loaded, which --backend fusepy takes."""
    try:
        ctypes.CDLL(FUSE_LIBRARY)
    except OSError as err:
        remedy = "nothing need be done, unless --backend fusepy is wanted: apt-get install libfuse2"
        return Finding(FUSE_LIBRARY, False, str(err), remedy)
    return Finding(FUSE_LIBRARY, True, "it can be loaded")


def fusermount() -> Finding:
    """Whether the helper that mounts for users without privileges is there."""
    places = ("/usr/bin", "/bin", "/usr/local/bin")
    for path in [f"{place}/{name}" for name in FUSERMOUNTS for place in places]:
        if not os.access(path, os.X_OK):
            continue
        if not os.stat(path).st_mode & 0o4000 and os.geteuid() != 0:
            return Finding(
                "fusermount", False, f"{path} is not set-user-id root", f"chmod u+s {path}"
            )
        if not os.path.exists(MOUNT_TABLE):
            reason = f"it cannot unmount: there is no {MOUNT_TABLE}"
            return Finding("fusermount", False, reason, f"ln -s /proc/self/mounts {MOUNT_TABLE}")
        return Finding("fusermount", True, f"{path} is installed")
    return Finding("fusermount", False, "it is not installed", "apt-get install fuse3")


def overlay() -> Finding:
    """Whether a writable overlay can be mounted, by this user or in a namespace of its own."""
    return _tried("overlay", "modprobe overlay, or a kernel with overlayfs", _try_overlay)


def overlay_options_without_limit() -> Finding:
    """Whether overlays of very many directories can be mounted (fsconfig, lowerdir+)."""
    return _tried("overlay of 200 layers", "Linux 6.7 or newer", _try_many_lowers)


def erofs_from_file(image: bytes, place: str | None = None) -> Finding:
    """Whether an EROFS image is mounted from a file where the store lies, without a loop device."""
    return _tried(
        "EROFS from a file",
        "root, Linux 6.12 or newer with EROFS (modprobe erofs), and a store that lies on no "
        "overlay; until then views are FUSE's",
        lambda directory: _try_erofs(directory, image),
        place,
    )


def data_only_layers() -> Finding:
    """Whether an overlay follows files into data-only layers, as kernel views do."""
    return _tried(
        "overlay with data-only layers",
        "root, Linux 6.7 or newer; until then views are FUSE's",
        lambda _: _try_data_only(data_layers.FOLLOWING),
    )


def data_only_layers_complete() -> Finding:
    """Whether it does so too while upper directories stay complete in themselves."""
    return _tried(
        "data-only layers, metacopy off",
        "nothing need be done: writable views get one overlay more; Linux 6.16 spares it",
        lambda _: _try_data_only(("redirect_dir=nofollow", "metacopy=off", "index=off")),
    )


def overlay_in_user_namespace() -> Finding:
    """Whether an overlay can be mounted in a user namespace, with attributes of users."""
    return _tried(
        "overlay in a user namespace",
        "Linux 5.11 or newer, and user namespaces",
        lambda directory: _try_overlay(directory, in_user_namespace=True),
    )


def data_only_layers_in_user_namespace() -> Finding:
    """Whether data-only layers work there, which kernel views without root need."""
    return _tried(
        "data-only layers in a user namespace",
        "Linux 6.16 or newer; until then views without root are FUSE's",
        lambda _: _try_data_only(("userxattr", "index=off"), in_user_namespace=True),
    )


def idmapped_mounts(place: str | None = None) -> Finding:
    """Whether a tree where the store lies can be shown with other owners, without copying."""
    return _tried(
        "id-mapped mounts",
        "Linux 5.12 or newer, root, and a file system that takes part (ext4, xfs, btrfs)",
        _try_idmapped,
        place,
    )


def idmapped_layers(place: str | None = None) -> Finding:
    """Whether views with other owners can be mounted, writable ones among them."""
    return _tried(
        "overlay over id-mapped layers",
        "Linux 5.19 or newer, root outside of user namespaces, and a store on a file system that "
        "takes part (ext4, xfs, btrfs)",
        _try_idmapped_layers,
        place,
    )


def user_namespaces() -> Finding:
    """Whether a process without privileges may become root in a namespace of its own."""
    return _tried(
        "user namespaces",
        "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, "
        "kernel.apparmor_restrict_unprivileged_userns=0",
        _try_user_namespace,
    )


def _tried(
    name: str, remedy: str, attempt: Callable[[str], None], place: str | None = None
) -> Finding:
    with tempfile.TemporaryDirectory(prefix="layerstore-probe-", dir=place) as directory:
        problem = in_child(lambda: attempt(directory))
    if problem is None:
        return Finding(name, True, "a trial worked")
    return Finding(name, False, problem, remedy)


def in_child(attempt: Callable[[], None]) -> str | None:
    """Run a trial in a child, whose mounts and namespaces end with it; return its problem."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        problem = "the trial crashed"
        try:
            attempt()
            problem = ""
        except LayerstoreError as err:
            problem = err.message
        except OSError as err:
            problem = str(err)
        finally:
            with contextlib.suppress(OSError):
                os.write(writing, problem.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        problem = file.read().decode()
    os.waitpid(pid, 0)
    return problem or None


def enter_namespaces(*, user: bool = False) -> None:
    """Give this process mounts of its own, as root of a user namespace if it is not root."""
    if os.geteuid() == 0 and not user:
        namespaces.unshare(namespaces.CLONE_NEWNS)
    else:
        namespaces.become_root_in_namespace()
    mounts.set_propagation("/", mounts.MS_PRIVATE)


def _make(directory: str, *names: str) -> None:
    for name in names:
        os.mkdir(f"{directory}/{name}")


def _try_overlay(directory: str, *, in_user_namespace: bool = False) -> None:
    enter_namespaces(user=in_user_namespace)
    # On a tmpfs, for the temporary directory may itself lie on an overlay.
    mounts.mount("tmpfs", directory, "tmpfs")
    _make(directory, "lower", "upper", "work", "root")
    options = ("userxattr",) if namespaces.in_user_namespace() else ()
    mounts.mount_overlay(
        mounts.Overlay((f"{directory}/lower",), f"{directory}/upper", f"{directory}/work", options),
        f"{directory}/root",
    )
    _make(directory, "root/written")


def _try_fuse(directory: str) -> None:
    """Mount FUSE and read the kernel's first request: what it offers is in there."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    enter_namespaces()
    if namespaces.in_user_namespace():  # a device of another user namespace is refused
        os.close(device)
        device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions"
    mounts.mount("layerstore", directory, "fuse.layerstore", mounts.MS_RDONLY, options)
    request = os.read(device, 64 * 1024)
    # struct fuse_in_header (40 bytes), then fuse_init_in: major, minor, max_readahead, flags.
    major, minor, _, flags = struct.unpack_from("=IIII", request, 40)
    if (major, minor) < (7, 31) or ~flags & _FUSE_OPENS_BY_ITSELF:
        raise OSError(f"the kernel speaks FUSE {major}.{minor} only")


def _try_many_lowers(directory: str) -> None:
    enter_namespaces()
    mounts.mount("tmpfs", directory, "tmpfs")
    lowers = [f"lower-{number:03}" for number in range(200)]
    _make(directory, "root", *lowers)
    mounts.mount_overlay(
        mounts.Overlay(tuple(f"{directory}/{name}" for name in lowers)), f"{directory}/root"
    )


def _try_erofs(directory: str, image: bytes) -> None:
    enter_namespaces()
    _make(directory, "root")
    with open(f"{directory}/image", "wb") as file:
        file.write(image)
    with open(f"{directory}/image", "rb") as file:
        mounts.mount_erofs(file.fileno(), f"{directory}/root")
    os.listdir(f"{directory}/root")


def _try_data_only(options: tuple[str, ...], *, in_user_namespace: bool = False) -> None:
    enter_namespaces(user=in_user_namespace)
    problem = data_layers.follow_problem(options)
    if problem is not None:
        raise OSError(problem)


def _try_idmapped(directory: str) -> None:
    """Map a clone of the directory into a user namespace of a child's; nothing is mounted."""
    ready, done = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            namespaces.become_root_in_namespace()
            os.write(ready[1], b"1")
            os.close(done[1])
            os.read(done[0], 1)
        finally:
            os._exit(0)
    os.close(ready[1])
    try:
        if not os.read(ready[0], 1):
            raise OSError("no user namespace could be made for the trial")
        users = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        mounts.create_idmapped(directory, users)
    finally:
        os.close(done[1])
        os.waitpid(pid, 0)


def _try_idmapped_layers(directory: str) -> None:
    enter_namespaces()
    _make(directory, "lower", "lower/directory", "above", "above/upper", "above/work", "root")
    upper, work = f"{directory}/above/upper", f"{directory}/above/work"
    overlay = mounts.Overlay((f"{directory}/lower",), upper, work)
    idmap = parse_id_map(["0:100000:65536"])
    planned.execute(planned.describe_overlay(overlay, f"{directory}/root", (), idmap))
    owner = os.stat(f"{directory}/root/directory").st_uid
    if owner != 100_000:
        raise OSError(f"root's files are shown as owned by {owner} instead of 100000")
    _make(directory, "root/directory/written")


def _try_user_namespace(_directory: str) -> None:
    namespaces.become_root_in_namespace()
    if os.geteuid() != 0:
        raise OSError("the user is not root inside the namespace")
