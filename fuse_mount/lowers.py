"""Read-only mounts of whole images, shared by everything that needs the same layers.

One mount serves all views of a chain of layers through one backend: a FUSE mount with
its server process, or mounts of the kernel's own (:mod:`fuse_mount.kernel_lowers`). What
is known about it lies in the store:

    views/lowers/CHAIN/current        symlink: the FUSE instance new users join
    views/lowers/CHAIN/current-fusepy the same for instances served through libfuse 2
    views/lowers/CHAIN/current-*-beneath and for those whose attributes are escaped
    views/lowers/CHAIN/current-kernel the same for instances of the kernel's
    views/lowers/CHAIN/current-kernel-packs and for those that read packs in place
    views/lowers/CHAIN/INSTANCE/      one instance's life
        root/                         where the tree is mounted
        alive                         FUSE: flocked by the server as long as it lives
        spec.json  log                FUSE: what it was told, what it had to say
        kernel.json  meta/            kernel: where it was mounted, and its metadata image
        lazy/ staged/ partial/ ...    lazy: see fuse_mount.lazy_server
        users/NAME                    who needs it; the last to leave unmounts
    views/lower-INSTANCE.json         keeps the garbage collector off its layers

Starting and stopping happen under a file lock per chain, so that two mounts of one
image never start two instances. A server that died (its lock is free) is never
joined again: the next user starts a fresh instance, and the views of the dead one
answer ENOTCONN until they are unmounted. The server removes its files when the last
mount of its tree is gone, wherever that was; :func:`clean_unused` removes those of servers
that were killed, and stops those whose users were.

On the fast path: imports nothing that bare Python lacks but ctypes, json and fcntl.
"""

from __future__ import annotations

import contextlib
import errno
import os

from fuse_mount import kernel_lowers
from fuse_mount.starting import FUSE, FUSEPY, SERVED, start_other_server, start_server
from layerstore import light_json as json
from layerstore.digest import chain_id, hex_of
from layerstore.errors import UnsupportedError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux import mounts
from layerstore.linux.files import make_private_dir, open_private, replace_private
from layerstore.linux.locks import FileLock, is_held
from layerstore.linux.namespaces import in_user_namespace
from layerstore.linux.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fuse_mount.lazy_lowers import LazySource
    from layerstore.digest import DiffId
    from layerstore.progress import Progress

KERNEL = "kernel"
KERNEL_PACKS = "kernel-packs"
KERNELS = (KERNEL, KERNEL_PACKS)
"""Backends without a process: of unpacked files, and of packs mounted in place."""

LAZY_SERVER = "fuse_mount.lazy_server"

_MAKE_ATTEMPTS = 100
"""For each that fails another server of the chain has to end at that very moment."""

_RECORD = "lower-"
"""What records of instances are named by, in ``views/``."""

LOCK_BUCKETS_HEX = 2
"""Chains and targets share 256 lock files each, so that lock files need never be removed."""

_CHAIN_HEX = 32
_CURRENT = {
    FUSE: "current",
    **{backend: f"current-{backend}" for backend in (FUSEPY, *KERNELS)},
}
_BENEATH = {backend: f"current-{backend}-beneath" for backend in SERVED}
HAS_OVERLAY_NAMES = "user.layerstore.has-overlay-names"
"""What the root of a server's mount is asked; as :mod:`layerstore.vfs.view` answers it."""

_LINKS = frozenset({*_CURRENT.values(), *_BENEATH.values()})


class Lower(NamedTuple):
    """One instance.

    Attributes:
        directory: Its directory under ``views/lowers``.
        root: Where the image's tree is mounted.
        escaped: Whether attributes that overlays obey are escaped there.
    """

    directory: str
    root: str
    escaped: bool = False

    @property
    def alive(self) -> str:
        """The file its server holds locked."""
        return f"{self.directory}/alive"


def lowers_directory(store_root: str) -> str:
    """Return where all instances of a store lie."""
    return f"{store_root}/views/lowers"


def chain_name(layers: Sequence[DiffId]) -> str:
    """Return the file name that stands for a chain of layers: 128 bits of its chain ID."""
    return hex_of(chain_id(layers))[:_CHAIN_HEX]


def is_served(directory: str) -> bool:
    """Whether the server of an instance runs."""
    return is_held(f"{directory}/alive")


def is_alive(directory: str) -> bool:
    """Whether the server of an instance runs, or its mounts of the kernel's exist."""
    return is_served(directory) or kernel_lowers.is_alive(directory)


def acquire(
    store_root: str,
    layers: Sequence[DiffId],
    user: str,
    *,
    backend: str = FUSE,
    progress: Progress | None = None,
    source: LazySource | None = None,
    beneath: bool = False,
) -> Lower:
    """Join the running instance of a chain as ``user``, or start one.

    Success means that the tree is mounted and answers.

    Args:
        store_root: An existing store.
        layers: Diff ids, lowest first.
        user: The id of a view, whose record is there; give it to :func:`release`.
        backend: ``fuse``, ``fusepy``, ``kernel`` or ``kernel-packs``; only an instance of the
            same is joined.
        progress: Told about files that are unpacked for the kernel.
        source: For a lazy view: where its layers are, which then are none of this store's.
        beneath: Of servers: whether attributes that overlays obey are to be escaped.

    Raises:
        UnsupportedError: FUSE is missing here, or the kernel cannot; the hint says what to do.
        MountError: The server could not start; the message is its own.
        LayerstoreError: Whatever making an image for the kernel meets in the store.
    """
    chain = chain_name(layers) if source is None else source.chain
    with _chain_lock(store_root, chain):
        lower = None
        if source is None or source.is_shared:
            lower = _running(store_root, chain, backend, beneath=beneath)
        if lower is None and backend in KERNELS:
            return _start_kernel(store_root, chain, layers, user, backend, progress, source)
        if lower is None:
            return _start(store_root, chain, layers, user, backend, source, beneath=beneath)
        _add_user(lower.directory, user)
        return lower


def acquire_beneath(
    store_root: str, layers: Sequence[DiffId], user: str, *, backend: str = FUSE
) -> Lower:
    """Join or start a server whose mount an overlay will lie over; see :func:`acquire`.

    Nearly always that is the one of all views. Only an image that holds attributes which
    overlays obey has another one for overlays, where these are escaped.
    """
    lower = acquire(store_root, layers, user, backend=backend)
    try:
        os.getxattr(lower.root, HAS_OVERLAY_NAMES)
    except OSError:  # as a rule: the kernel knows already that there are no attributes at all
        return lower
    beneath = acquire(store_root, layers, user, backend=backend, beneath=True)
    release(store_root, lower.directory, user)
    return beneath._replace(escaped=True)


def release(store_root: str, directory: str, user: str) -> None:
    """Leave an instance; the last user to leave unmounts it and its server ends.

    Harmless when the instance or the user is gone already.
    """
    chain = os.path.basename(os.path.dirname(directory))
    with _chain_lock(store_root, chain):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory}/users/{user}")
        if not _has_users(directory):
            _stop(directory)


def release_everywhere(store_root: str, chain: str, user: str) -> None:
    """Leave whatever instance of a chain ``user`` joined before it could note which."""
    base = f"{lowers_directory(store_root)}/{chain}"
    for instance in _instances(base):
        if os.path.lexists(f"{base}/{instance}/users/{user}"):
            release(store_root, f"{base}/{instance}", user)


def release_anywhere(store_root: str, user: str) -> None:
    """Leave the instances that ``user`` joined, of whatever layers these are."""
    for chain in _names(lowers_directory(store_root)):
        release_everywhere(store_root, chain, user)


def start_at(
    store_root: str,
    layers: Sequence[DiffId],
    user: str,
    target: str,
    *,
    backend: str = FUSE,
    source: LazySource | None = None,
) -> Lower:
    """Start a server of its own for one target; for callers who may not bind mounts.

    Release it like an acquired one, after unmounting the target.

    Raises:
        UnsupportedError: FUSE is missing here.
        MountError: The server could not start.
    """
    chain = chain_name(layers) if source is None else source.chain
    return _start(store_root, chain, layers, user, backend, source, target=target)


def clean_unused(store_root: str) -> list[str]:
    """Stop and remove instances that are dead or needed by nobody alive; return their directories.

    A killed server's users are not asked: what still shows its tree answers ENOTCONN.
    """
    cleaned = []
    for chain in _names(lowers_directory(store_root)):
        base = f"{lowers_directory(store_root)}/{chain}"
        with _chain_lock(store_root, chain):
            for instance in _instances(base):
                directory = f"{base}/{instance}"
                if _is_needed(store_root, directory):
                    continue
                _stop(directory)
                cleaned.append(directory)
            with contextlib.suppress(OSError):
                os.rmdir(base)
    _remove_lone_records(store_root)
    if os.path.isdir(f"{store_root}/views/pack-mounts"):
        from fuse_mount import pack_mounts

        pack_mounts.clean_unused(store_root)
    return cleaned


def _remove_lone_records(store_root: str) -> None:
    """Remove records of instances that have no directory: they keep layers for nobody."""
    names = [name for name in _names(f"{store_root}/views") if name.startswith(_RECORD)]
    # Asked after that: a directory is made before its record.
    base = lowers_directory(store_root)
    there = {instance for chain in _names(base) for instance in _names(f"{base}/{chain}")}
    for name in names:
        if name.removeprefix(_RECORD).partition(".")[0] not in there:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{store_root}/views/{name}")


def _is_needed(store_root: str, directory: str) -> bool:
    """Whether an instance lives and has users; forgets users that are gone."""
    if not is_alive(directory):
        return False
    for user in _names(f"{directory}/users"):
        # A view's record is older than its membership here.
        if not os.path.exists(f"{store_root}/views/{user}.json"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{directory}/users/{user}")
    return _has_users(directory)


@contextlib.contextmanager
def _chain_lock(store_root: str, chain: str) -> Iterator[None]:
    with FileLock(f"{store_root}/locks/lower-{chain[:LOCK_BUCKETS_HEX]}"):
        yield


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _instances(base: str) -> list[str]:
    return [name for name in _names(base) if name not in _LINKS]


def _running(store_root: str, chain: str, backend: str, *, beneath: bool) -> Lower | None:
    """Return the instance to join: it lives and its tree is mounted for us to see."""
    base = f"{lowers_directory(store_root)}/{chain}"
    try:
        current = (_BENEATH if beneath else _CURRENT)[backend]
        directory = f"{base}/{os.readlink(f'{base}/{current}')}"
    except OSError:
        return None
    lower = Lower(directory, f"{directory}/root")
    if backend in KERNELS:
        return lower if kernel_lowers.is_whole(directory) else None
    if not is_held(lower.alive):
        return None
    try:
        if not mounts.identify(lower.root).is_root:
            return None
        # A server that was killed a moment ago may hold its lock still: this asks it, and
        # fails as soon as the kernel has taken it apart.
        os.statvfs(lower.root)
    except OSError:
        return None
    return lower


def _has_users(directory: str) -> bool:
    try:
        with os.scandir(f"{directory}/users") as users:
            return next(users, None) is not None
    except FileNotFoundError:
        return False


def _add_user(directory: str, user: str) -> None:
    os.close(open_private(f"{directory}/users/{user}", os.O_WRONLY | os.O_CREAT))


def _start(
    store_root: str,
    chain: str,
    layers: Sequence[DiffId],
    user: str,
    backend: str,
    source: LazySource | None,
    *,
    target: str | None = None,
    beneath: bool = False,
) -> Lower:
    lower = _make_instance(store_root, chain, layers, user, backend, source)
    if target is not None:
        lower = lower._replace(root=target)
    spec: dict[str, object] = {
        "store": store_root,
        "layers": list(layers),
        "mountpoint": lower.root,
        "alive": lower.alive,
        "directory": lower.directory,
        **(source.spec() if source is not None else {}),
    }
    if beneath:
        spec["escape"] = "user.overlay." if in_user_namespace() else "trusted.overlay."
    try:
        start_server(lower.directory, spec, backend=backend)
    except BaseException:
        _stop(lower.directory)
        remove_instance(lower.directory)  # the server may not have exited yet, but it has failed
        raise
    if target is None:
        _make_current(lower.directory, (_BENEATH if beneath else _CURRENT)[backend])
    return lower


def _start_kernel(
    store_root: str,
    chain: str,
    layers: Sequence[DiffId],
    user: str,
    backend: str,
    progress: Progress | None,
    source: LazySource | None,
) -> Lower:
    lower = _make_instance(store_root, chain, layers, user, backend, source)
    start = kernel_lowers.start if backend == KERNEL else kernel_lowers.start_in_place
    try:
        if source is not None:
            spec: dict[str, object] = {
                "store": store_root,
                "mountpoint": f"{lower.directory}/lazy",
                "alive": lower.alive,
                "directory": lower.directory,
                **source.spec(),
            }
            start_other_server(lower.directory, spec, LAZY_SERVER)
        else:
            start(store_root, lower.directory, layers, progress)
    except BaseException:
        _stop(lower.directory)
        if source is not None:  # its server may not have exited yet, but it has failed
            remove_instance(lower.directory)
        raise
    _make_current(lower.directory, _CURRENT[backend])
    return lower


def _make_instance(
    store_root: str,
    chain: str,
    layers: Sequence[DiffId],
    user: str,
    backend: str,
    source: LazySource | None,
) -> Lower:
    """Make an instance's directory and its record."""
    instance = os.urandom(6).hex()
    base = f"{lowers_directory(store_root)}/{chain}"
    lower = Lower(f"{base}/{instance}", f"{base}/{instance}/root")
    for path in (f"{store_root}/views", lowers_directory(store_root)):
        make_private_dir(path, durable=False)
    _make_instance_directory(base, lower.directory)
    for path in (lower.root, f"{lower.directory}/users"):
        make_private_dir(path, durable=False)
    # Before anything is mounted: should we be killed, whoever cleans up finds whom it was for.
    _add_user(lower.directory, user)
    value = {"kind": "lower", "image_id": None, "layers": list(layers), "backend": backend}
    if source is not None:
        value["lazy"] = chain
    write_private_json(f"{store_root}/views/{_RECORD}{instance}.json", value)
    return lower


def _make_instance_directory(base: str, directory: str) -> None:
    """Make a directory in a chain's, which a server that ends right now removes if it is empty."""
    for attempts_left in reversed(range(_MAKE_ATTEMPTS)):
        try:
            make_private_dir(base, durable=False)
            make_private_dir(directory, durable=False)
        except FileNotFoundError:
            if not attempts_left:
                raise
        else:
            return


def _make_current(directory: str, name: str) -> None:
    """Let new users of a kind join this instance."""
    base, instance = os.path.split(directory)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{base}/{name}")
    try:
        os.symlink(instance, f"{base}/{name}")
    except OSError as err:
        if err.errno != errno.EPERM:
            raise
        raise UnsupportedError(
            f"the file system of {base} has no symbolic links, which views need",
            hint="put the store on one that has, such as ext4",
        ) from err


def _stop(directory: str) -> None:
    """Unmount an instance; its server removes the files, or we do if it is dead.

    Detaching is right here: nobody works in this hidden directory, and what still
    shows the tree elsewhere keeps it and its server until it is unmounted there. Mounts
    of the kernel's in another mount namespace keep the files, too.
    """
    for place in (f"{directory}/root", f"{directory}/meta", f"{directory}/lazy"):
        with contextlib.suppress(OSError):
            while mounts.identify(place).is_root:
                mounts.unmount(place, lazy=True)
    base, instance = os.path.split(directory)
    views = os.path.dirname(os.path.dirname(base))
    for current in _LINKS:
        with contextlib.suppress(OSError):
            if os.readlink(f"{base}/{current}") == instance:
                os.unlink(f"{base}/{current}")
    if not is_alive(directory):
        kernel_lowers.let_go(os.path.dirname(views), directory)
        remove_instance(directory)


def remove_instance(directory: str) -> None:
    """Remove an instance's record and its files; the mount must be gone.

    The record goes first: killed after that, we leave a directory, which
    :func:`clean_unused` finds. Nobody would look for a record without one.
    """
    base, instance = os.path.split(directory)
    views = os.path.dirname(os.path.dirname(base))
    with contextlib.suppress(OSError):
        os.unlink(f"{views}/{_RECORD}{instance}.json")
    for inside in (f"{directory}/staged", f"{directory}/partial"):
        with contextlib.suppress(OSError):
            remove_tree(inside)
    # Whatever is there: a killed starter may have left a file under its temporary name.
    for inside in (f"{directory}/users", directory):
        for name in _names(inside):
            with contextlib.suppress(OSError):  # directories too: they follow
                os.unlink(f"{inside}/{name}")
    inner = (f"{directory}/{name}" for name in ("users", "root", "meta", "lazy"))
    for path in (*inner, directory, base):
        with contextlib.suppress(OSError):
            os.rmdir(path)


def write_private_json(path: str, value: object) -> None:
    """Write a small record of a mount whole or not at all; after a power cut none is true."""
    replace_private(path, json.dumps(value, sort_keys=True).encode())
