"""Views of images on this host: mount, list, unmount.

A view is a read-only bind of a shared mount, by FUSE or by the kernel's own file systems
(:mod:`fuse_mount.lowers`), or an overlay over it whose upper directory takes the writes.
Each has a record (:mod:`fuse_mount.records`) whose ID is derived from the target: finding the view
of a directory reads one file, however many views there are. The record is written before
the mount is made and removed after everything else is undone, so a crash at any point
leaves a record that :func:`unmount` or :mod:`fuse_mount.recovering` completes; while it exists
its layers are not collected.

Mounts on the host are always nosuid and nodev: a container runtime that uses a view
as a root file system makes its own mount inside its own namespace.

On the fast path: what runtimes call in loops must not import much.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from fuse_mount import lowers
from fuse_mount.ending import Endings
from fuse_mount.kernel_lowers import boot_id
from fuse_mount.lazy_lowers import LazySource
from fuse_mount.lowers import KERNEL, KERNEL_PACKS
from fuse_mount.plan import plan_of
from fuse_mount.records import (
    FORBIDDEN,
    SNAPSHOT,
    MountRecord,
    UnreadableRecordError,
    is_view_id,
    read_record,
    record_path,
    view_id_of,
    view_ids,
    write_record,
)
from fuse_mount.starting import FUSE, FUSEPY, SERVED
from fuse_mount.states import (
    ELSEWHERE as ELSEWHERE,
)
from fuse_mount.states import (
    MOUNTED as MOUNTED,
)
from fuse_mount.states import (
    PREPARED as PREPARED,
)
from fuse_mount.states import (
    STALE as STALE,
)
from fuse_mount.states import (
    state_of,
)
from fuse_mount.targets import checked_target, outside_of_store
from fuse_mount.undoing import note_use, undo
from fuse_mount.uppers import make_upper
from layerstore.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    LayerstoreError,
    MountError,
    NotFoundError,
    StorageError,
    UnsupportedError,
)
from layerstore.linux import mounts as syscalls
from layerstore.linux.files import make_private_dir
from layerstore.linux.locks import FileLock
from layerstore.linux.namespaces import (
    current_mount_namespace,
    in_user_namespace,
    mount_namespace_id,
)
from layerstore.linux.planned import execute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fuse_mount.plan import ViewPlan
    from layerstore.linux.idmaps import IdMap
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord

AUTO = "auto"
BACKENDS = (AUTO, KERNEL, KERNEL_PACKS, FUSE, FUSEPY)


_FALL_BACK = (UnsupportedError, StorageError, IntegrityError)
"""Why FUSE is tried in the kernel's stead: it cannot, or not all files can be unpacked. With
FUSE damage stops the files it is in and no others. Where only room is lacking, packs are tried
in between."""


class ListedMount(NamedTuple):
    """A record with what is true of it now: a state of :mod:`fuse_mount.states`."""

    record: MountRecord
    state: str
    reason: str


def mount(
    store_root: str,
    image: ImageRecord | LazySource,
    target: str,
    *,
    rw: bool = False,
    name: str = "",
    backend: str = FUSE,
    flags: tuple[str, ...] = FORBIDDEN,
    idmap: IdMap = (),
    confirm: Callable[[], object] | None = None,
    progress: Progress | None = None,
    tell: Callable[[str, LayerstoreError], object] = lambda _, __: None,
) -> MountRecord:
    """Show an image at a directory.

    Success means that the view answers. It stays until it is unmounted or the host
    restarts, whatever becomes of the caller.

    Args:
        store_root: An existing store.
        image: What to show: an image of this store, or of a remote as a lazy view.
        target: An existing directory; a relative one and symlinks are resolved.
        rw: Whether the view gets its own writable upper directory, which
            :func:`unmount` removes.
        name: What the user called the image, for listings.
        backend: ``fuse``; ``fusepy``, through libfuse 2; ``kernel``, from unpacked files;
            ``kernel-packs``, from packs mounted in place; or ``auto``: the first of the kernel's
            that can show this image here, from packs where there is no room to unpack it, else
            ``fuse``. The record says which it became.
        flags: What the mount forbids beside writing (:data:`layerstore.linux.planned.FLAGS`).
        idmap: Under which ids of the host to show the owners of files; an upper directory
            has them on disk as the image has.
        confirm: Called when the record keeps the collector off the image, before anything
            is mounted; raises if the image went in the meantime.
        progress: Told about files that are unpacked for the kernel.
        tell: Given what ``auto`` became for root, if not ``kernel``, and the reason.

    Raises:
        InputError: The target is missing or no directory.
        ConflictError: It is a view already.
        UnsupportedError: The host or the caller's privileges do not suffice.
        MountError: The kernel or the FUSE server refused.
    """
    target = checked_target(store_root, target)
    wanted = _wanted(store_root, image, target, name, rw=rw, flags=flags, idmap=idmap)
    callbacks = Callbacks(confirm, progress, tell, _source_of(image))
    return _make_view(store_root, wanted, backend, callbacks)


def prepare(
    store_root: str,
    image: ImageRecord | LazySource,
    target: str,
    *,
    rw: bool = False,
    name: str = "",
    backend: str = FUSE,
    flags: tuple[str, ...] = FORBIDDEN,
    idmap: IdMap = (),
    confirm: Callable[[], object] | None = None,
    progress: Progress | None = None,
    tell: Callable[[str, LayerstoreError], object] = lambda _, __: None,
) -> ViewPlan:
    """Make whatever a view needs, and return its mounts for the caller to execute.

    Success means that executing them in this mount namespace, or one made from it after,
    shows the image. What they lead to - the shared lower, unpacked files, the upper
    directory - stays until :func:`unmount` is called for the plan's ``view_id`` or target,
    or the host restarts, whatever becomes of the caller; :func:`prepared` ties it to a
    block. Undo the mounts first: an upper directory is removed.

    Everything else is as for :func:`mount`, but that the target need not exist yet. A view
    has one target, and a target one view. Runtimes that use the view as a root file system
    pass no flags: programs that set ids work then.

    Raises:
        UnsupportedError: As for :func:`mount`; or nothing can be mounted by a caller without
            privileges.
        LayerstoreError: As for :func:`mount`.
    """
    if os.geteuid() != 0:
        raise UnsupportedError(
            "preparing a view for others to mount takes privileges",
            hint="run it as root, or inside a namespace of your own: layerstore unshare",
        )
    target = outside_of_store(store_root, target)
    wanted = _wanted(store_root, image, target, name, rw=rw, flags=flags, idmap=idmap)
    callbacks = Callbacks(confirm, progress, tell, _source_of(image))
    record = _make_view(store_root, wanted._replace(prepared=True), backend, callbacks)
    return plan_of(store_root, record)


@contextlib.contextmanager
def prepared(
    store_root: str,
    image: ImageRecord | LazySource,
    target: str,
    *,
    rw: bool = False,
    backend: str = FUSE,
    flags: tuple[str, ...] = FORBIDDEN,
    idmap: IdMap = (),
) -> Iterator[ViewPlan]:
    """Prepare a view (:func:`prepare`) that is given up at the end of the block."""
    plan = prepare(store_root, image, target, rw=rw, backend=backend, flags=flags, idmap=idmap)
    try:
        yield plan
    finally:
        with contextlib.suppress(NotFoundError):  # given up inside
            unmount(store_root, plan.view_id, lazy=True)


class Callbacks(NamedTuple):
    """Whom making a view asks and tells; see :func:`mount`."""

    confirm: Callable[[], object] | None
    progress: Progress | None
    tell: Callable[[str, LayerstoreError], object]
    source: LazySource | None


def _source_of(image: ImageRecord | LazySource) -> LazySource | None:
    return image if isinstance(image, LazySource) else None


def _wanted(
    store_root: str,
    image: ImageRecord | LazySource,
    target: str,
    name: str,
    *,
    rw: bool,
    flags: tuple[str, ...],
    idmap: IdMap,
) -> MountRecord:
    """Return the record of a view before anything of it is there.

    Raises:
        UnsupportedError: It takes privileges that the caller lacks.
    """
    privileged = os.geteuid() == 0
    if (rw or idmap) and not privileged:
        what = "a writable view" if rw else "a view with other owners"
        raise UnsupportedError(
            f"{what} needs a mount of its own, which takes privileges",
            hint="run it as root, or inside a namespace of your own: layerstore unshare",
        )
    view_id = view_id_of(target)
    return MountRecord(
        view_id=view_id,
        image_id=image.image_id,
        image=name,
        layers=() if isinstance(image, LazySource) else tuple(image.layers),
        target=target,
        mode="rw" if rw else "ro",
        kind="overlay" if rw else "bind" if privileged else "fuse",
        upper=f"{store_root}/uppers/{view_id}-{os.urandom(4).hex()}" if rw else None,
        lower="",
        mount_id=0,
        device=0,
        boot_id=boot_id(),
        namespace=current_mount_namespace(),
        created=time.time(),
        namespace_id=mount_namespace_id(),
        flags=flags,
        idmap=tuple(map(str, idmap)),
        remote=image.remote if isinstance(image, LazySource) else "",
    )


def _make_view(
    store_root: str, record: MountRecord, backend: str, callbacks: Callbacks
) -> MountRecord:
    """Make what a record says, through the backend that can."""
    if backend not in BACKENDS:
        raise InputError(f"no backend {backend!r}", hint=f"there are {', '.join(BACKENDS)}")
    if record.remote and backend == KERNEL_PACKS:
        raise UnsupportedError(
            "packs of another store are not here to be mounted",
            hint="mount it with --backend kernel, which fetches what is read",
        )
    with view_lock(store_root, record.view_id):
        _refuse_second_view(store_root, record.view_id, record.target)
        make_private_dir(f"{store_root}/views", durable=False)
        if backend == AUTO:
            backend = FUSE
            if os.geteuid() == 0 and not in_user_namespace():
                shown = _make_by_kernel(store_root, record, callbacks)
                if shown is not None:
                    return shown
        return _make_or_undo(store_root, record._replace(backend=backend), callbacks)


def _make_by_kernel(
    store_root: str, record: MountRecord, callbacks: Callbacks
) -> MountRecord | None:
    """Show an image by the kernel, from packs where there is no room; None if FUSE must."""
    try:
        return _make_or_undo(store_root, record._replace(backend=KERNEL), callbacks)
    except _FALL_BACK as err:
        from layerstore.store.failures import StoreFullError

        reason = err
        if record.remote or not isinstance(err, StoreFullError):
            callbacks.tell(FUSE, reason)
            return None
    try:
        shown = _make_or_undo(store_root, record._replace(backend=KERNEL_PACKS), callbacks)
    except _FALL_BACK:
        callbacks.tell(FUSE, reason)
        return None
    callbacks.tell(KERNEL_PACKS, reason)
    return shown


def _make_or_undo(store_root: str, record: MountRecord, callbacks: Callbacks) -> MountRecord:
    """Write the record, then make the view; whatever goes wrong takes both away again."""
    write_record(store_root, record)
    try:
        if callbacks.confirm is not None:
            callbacks.confirm()
        return make_shown(store_root, record, callbacks)
    except BaseException:
        undo(store_root, read_record(store_root, record.view_id) or record, lazy=True)
        raise


def unmount(
    store_root: str,
    target_or_id: str,
    *,
    lazy: bool = False,
    keep_upper: bool = False,
    endings: Endings | None = None,
) -> MountRecord:
    """Take a view away, with its writable layer; also completes what a crash left half done.

    On return a server that nobody needs any more has ended, and its files are gone; one that is
    stopped, or waits for a disk, is waited for no longer than :data:`fuse_mount.ending.PATIENCE_S`.

    Args:
        store_root: The store that the view belongs to.
        target_or_id: Its directory or its id.
        lazy: Detach a busy view; processes that use it keep what they have open, and
            lose what they wrote.
        keep_upper: Leave the upper directory; the returned record says where it is.
        endings: Takes the server, for the caller to wait for it together with others.

    Raises:
        NotFoundError: No view of this store is there.
        MountError: It is busy; the message names who uses it.
    """
    if endings is None:
        endings = Endings()
        try:
            return unmount(
                store_root, target_or_id, lazy=lazy, keep_upper=keep_upper, endings=endings
            )
        finally:
            endings.wait()
    view_id = _find_id(store_root, target_or_id)
    with view_lock(store_root, view_id):
        record = read_record(store_root, view_id)
        if record is None:
            raise _no_view(target_or_id)
        state, reason = state_of(record)
        if state == ELSEWHERE:
            raise MountError(
                f"the view at {record.target} was mounted in another mount namespace ({reason})",
                hint=f"unmount it there: nsenter --target PID --mount -- "
                f"layerstore umount {record.target}",
            )
        undo(store_root, record, lazy=lazy, keep_upper=keep_upper, endings=endings)
        return record


def find_view(store_root: str, target_or_id: str) -> MountRecord:
    """Return the record of a view.

    Args:
        store_root: The store that the view belongs to.
        target_or_id: Its directory or its id.

    Raises:
        NotFoundError: No view of this store is there.
        UnreadableRecordError: Its record is damaged.
    """
    record = read_record(store_root, _find_id(store_root, target_or_id))
    if record is None:
        raise _no_view(target_or_id)
    return record


def mounts(
    store_root: str, unreadable: list[UnreadableRecordError] | None = None
) -> list[ListedMount]:
    """Return all views of a store, sorted by target, with the state each is in.

    Args:
        store_root: The store.
        unreadable: Takes the errors of records that cannot be read; without it the first is
            raised.

    Raises:
        UnreadableRecordError: A record cannot be read, and nobody takes its error.
    """
    listed = []
    for view_id in view_ids(store_root):
        try:
            record = read_record(store_root, view_id)
        except UnreadableRecordError as err:
            if unreadable is None:
                raise
            unreadable.append(err)
            continue
        if record is not None:
            state, reason = state_of(record)
            listed.append(ListedMount(record, state, reason))
    return sorted(listed, key=lambda item: item.record.target)


def _refuse_second_view(store_root: str, view_id: str, target: str) -> None:
    record = read_record(store_root, view_id)
    if record is None:
        return
    state, reason = state_of(record)
    what = record.image or record.image_id
    if state == STALE:
        raise ConflictError(
            f"{target} holds a stale view of {what}: {reason}",
            hint=f"clean it up: layerstore umount {target}; or show it again: "
            "layerstore mounts --restore",
        )
    raise ConflictError(
        f"{target} is a view of {what} already",
        hint=f"unmount it first: layerstore umount {target}",
    )


def make_shown(store_root: str, record: MountRecord, callbacks: Callbacks) -> MountRecord:
    """Join or start the shared mount, mount the view on it, and complete the record."""
    if record.backend in SERVED and record.kind == "fuse":
        lower = lowers.start_at(
            store_root,
            record.layers,
            record.view_id,
            record.target,
            backend=record.backend,
            source=callbacks.source,
        )
    elif record.upper is not None and record.backend in SERVED and callbacks.source is None:
        lower = lowers.acquire_beneath(
            store_root, record.layers, record.view_id, backend=record.backend
        )
    else:
        lower = lowers.acquire(
            store_root,
            record.layers,
            record.view_id,
            backend=record.backend,
            progress=callbacks.progress,
            source=callbacks.source,
        )
    record = record._replace(lower=lower.directory)
    write_record(store_root, record)
    note_use(store_root, record)
    if record.upper is not None:
        make_upper(store_root, record.upper, lower)
    if record.prepared:
        return record
    if record.kind != "fuse":
        for each in plan_of(store_root, record).mounts:
            execute(each)
    identity = syscalls.identify(record.target)
    record = record._replace(mount_id=identity.mount_id, device=identity.device)
    write_record(store_root, record)
    return record


def _find_id(store_root: str, target_or_id: str) -> str:
    if "/" not in target_or_id and os.path.exists(record_path(store_root, target_or_id)):
        if is_view_id(target_or_id):
            return target_or_id
        if target_or_id.startswith(SNAPSHOT):
            raise ConflictError(
                f"{target_or_id} is a snapshot of containerd's, which unmounts and removes it",
                hint="ctr -n NAMESPACE snapshots --snapshotter layerstore rm KEY; "
                "layerstore mounts has the key",
            )
    view_id = view_id_of(os.path.realpath(target_or_id))
    if not target_or_id or not os.path.exists(record_path(store_root, view_id)):
        raise _no_view(target_or_id)
    return view_id


def _no_view(target: str) -> NotFoundError:
    return NotFoundError(
        f"no view of this store is mounted at {target}",
        hint="list them: layerstore mounts; another store is named with --store",
    )


@contextlib.contextmanager
def view_lock(store_root: str, view_id: str) -> Iterator[None]:
    """Hold the lock under which one view, and some others, is changed."""
    with FileLock(f"{store_root}/locks/view-{view_id[: lowers.LOCK_BUCKETS_HEX]}"):
        yield
