"""Whole images mounted by the kernel: an EROFS of metadata, and an overlay to shared content.

An instance (see :mod:`fuse_mount.lowers`) has two mounts and no process:

    meta/        the chain's metadata image, EROFS
    root/        overlay, read-only: meta over the store's object tier
    kernel.json  in which boot and mount namespace they were made
    objects      over packs: the list of objects that it needs of the tier

An instance over packs has content where it lies, from mounts of packs
(:mod:`fuse_mount.pack_mounts`), and only what those cannot give from the tier.

Writable views are overlays over meta and the objects too, not over root, where the kernel
allows that with metacopy off; before Linux 6.16 they lie over root. An instance lives as
long as its mounts: nothing can die but the host or their mount namespace.

On the fast path: joining an instance imports nothing of the store.
"""

from __future__ import annotations

import os

from fuse_mount.lazy_lowers import data_layers
from layerstore import light_json as json
from layerstore.errors import MountError, UnsupportedError
from layerstore.light_re import Pattern
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux import mounts
from layerstore.linux.boot import boot_id as boot_id
from layerstore.linux.files import make_private_dir, read_file, replace_private
from layerstore.linux.locks import is_held
from layerstore.linux.namespaces import (
    current_mount_namespace,
    in_user_namespace,
    mount_namespace_id,
    mount_namespace_lives,
)
from layerstore.snapshot.overlay import PLAIN_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.digest import DiffId
    from layerstore.progress import Progress
    from layerstore.store.reading import StoreReader

WRITABLE_OPTIONS = (*PLAIN_OPTIONS, "xino=on")
"""An upper directory that is complete in itself, and one device number for all of a view.

Without xino a view of two file systems has files of another device than its directories
are, which programs take for a mount (tar --one-file-system leaves such files out)."""

_FLAGS = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV
_STATE_MAX_BYTES = 256 * 1024
_PACK_MOUNT = Pattern(r"[0-9a-f]{64}\.[0-9a-f]{16}/[0-9a-f]{12}")


def start(
    store_root: str, directory: str, layers: Sequence[DiffId], progress: Progress | None
) -> None:
    """Make what an instance needs and mount it.

    Raises:
        UnsupportedError: Not permitted here, or the kernel cannot show the image.
        LayerstoreError: Whatever making it meets in the store.
    """
    from layerstore.image.kernel.metadata_files import open_whole
    from layerstore.store.objects.tier import kept_objects
    from layerstore.store.paths import StorePaths

    require_privileges()
    paths = StorePaths(store_root)
    with kept_objects(paths):
        image = open_whole(paths, layers)
        if image is None:
            image = _prepare(store_root, layers, progress)
        try:
            state = _mount_metadata(directory, image, ())
        finally:
            os.close(image)
        _mount_root(store_root, directory, state)


def _prepare(store_root: str, layers: Sequence[DiffId], progress: Progress | None) -> int:
    """Make what lacks; return the open image. Loads what reads stores, as a view seldom must."""
    from layerstore.light_imports import load_msgspec, load_zstandard

    load_msgspec()
    load_zstandard()
    from layerstore.image.kernel.metadata_image import prepare_view
    from layerstore.progress import Silent
    from layerstore.store.reading import StoreReader

    with StoreReader.open(store_root) as store:
        return prepare_view(store, layers, progress or Silent())


def prepare(store: StoreReader, layers: Sequence[DiffId], progress: Progress) -> None:
    """Make what an instance needs and mount nothing: the next one finds it, as after a view.

    Something keeps the layers meanwhile.

    Raises:
        UnsupportedError: Not permitted here, or the kernel cannot show the image.
        LayerstoreError: Whatever making it meets in the store.
    """
    from layerstore.digest import chain_id, hex_of
    from layerstore.image.kernel.metadata_image import prepare_view
    from layerstore.store.names.usage import note_chain_use
    from layerstore.store.objects.tier import kept_objects

    require_privileges()
    with kept_objects(store.paths):
        os.close(prepare_view(store, layers, progress))
        note_chain_use(store.paths, hex_of(chain_id(layers)))


def prepare_beside(store: StoreReader, layers: Sequence[DiffId], staging: str) -> None:
    """Make what an instance needs, as :func:`prepare`, and keep nobody waiting who does, too.

    Something keeps the layers meanwhile. What is there already is looked at and left.

    Args:
        store: The store.
        layers: The chain, lowest first.
        staging: As of :func:`layerstore.store.objects.unpacking.unpack_beside`.

    Raises:
        UnsupportedError: Not permitted here, or the kernel cannot show the image.
        LayerstoreError: Whatever making it meets in the store, or there is no room to spare.
    """
    from layerstore.digest import chain_id, hex_of
    from layerstore.image.kernel.metadata_files import open_whole
    from layerstore.image.kernel.metadata_image import prepare_view_beside
    from layerstore.store.names.usage import note_chain_use
    from layerstore.store.objects.tier import kept_objects

    require_privileges()
    with kept_objects(store.paths):
        whole = open_whole(store.paths, layers)
        if whole is not None:
            os.close(whole)
            return
        prepare_view_beside(store, layers, staging)
        note_chain_use(store.paths, hex_of(chain_id(layers)))


def start_in_place(
    store_root: str, directory: str, layers: Sequence[DiffId], progress: Progress | None
) -> None:
    """Make what an instance over packs needs and mount it; see :func:`start`.

    Raises:
        UnsupportedError: Not permitted here, the kernel cannot show the image, or cannot read
            packs.
        LayerstoreError: Whatever making it meets in the store.
    """
    from fuse_mount import pack_mounts
    from layerstore.image.kernel.metadata_image import prepare_view_in_place
    from layerstore.progress import Silent
    from layerstore.store.objects.pack_trial import pack_problem
    from layerstore.store.objects.tier import kept_objects
    from layerstore.store.store import Store

    require_privileges()
    with (
        Store.open(store_root) as store,
        kept_objects(store.paths),
        pack_mounts.lock(store_root),
    ):
        problem = pack_problem(store.paths.tmp)
        if problem is not None:
            raise UnsupportedError(
                f"the kernel does not read packs in place: {problem}",
                hint="layerstore doctor says what it needs; or mount with --backend kernel",
            )
        view = prepare_view_in_place(store, layers, progress or Silent())
        try:
            _write_state(directory, {**_new_state(complete=False), "packs": []})
            replace_private(f"{directory}/objects", view.unpacked, owner_alone=True)
            user = f"lower-{os.path.basename(directory)}"
            roots = [pack_mounts.acquire(store_root, pack, user) for pack in view.packs]
            base = f"{pack_mounts.packs_directory(store_root)}/"
            packs = tuple(os.path.dirname(root).removeprefix(base) for root in roots)
            state = _mount_metadata(directory, view.image, packs)
        finally:
            view.close()
        _mount_root(store_root, directory, state)


def _mount_metadata(directory: str, image: int, packs: tuple[str, ...]) -> dict[str, object]:
    """Mount the metadata of an instance; return its state, which is noted before."""
    from layerstore.formats.erofs import HEAD_BYTES, has_no_acls
    from layerstore.linux.data_layers import follows_without_metacopy

    complete = follows_without_metacopy(PLAIN_OPTIONS)
    state = {**_new_state(complete=complete), **({"packs": list(packs)} if packs else {})}
    _write_state(directory, state)
    make_private_dir(f"{directory}/meta", durable=False)
    options = ("noacl",) if has_no_acls(os.pread(image, HEAD_BYTES, 0)) else ()
    mounts.mount_erofs(image, f"{directory}/meta", _FLAGS, options=options)
    return state


def _mount_root(store_root: str, directory: str, state: dict[str, object]) -> None:
    mounts.mount_overlay(readable(store_root, directory), f"{directory}/root", _FLAGS)
    device = mounts.identify(f"{directory}/root").device
    _write_state(directory, {**state, "device": device})


def mount_lazy_root(store_root: str, directory: str) -> None:
    """Mount the overlay of an instance whose metadata and server of content are mounted."""
    from layerstore.linux.data_layers import follows_without_metacopy

    state = _new_state(complete=follows_without_metacopy(PLAIN_OPTIONS))
    _write_state(directory, state)
    _mount_root(store_root, directory, state)


def note_mounting(directory: str) -> None:
    """Note that something is about to be mounted at ``root`` in a directory."""
    _write_state(directory, _new_state(complete=False))


def note_mounted(directory: str) -> None:
    """Note what is mounted at ``root`` in a directory, for :func:`is_visible` to know it."""
    device = mounts.identify(f"{directory}/root").device
    _write_state(directory, {**_new_state(complete=False), "device": device})


def let_go(store_root: str, directory: str) -> None:
    """Leave the mounts that a dead instance shares with others."""
    if "packs" in _read_state(directory):
        from fuse_mount import pack_mounts

        pack_mounts.release(store_root, f"lower-{os.path.basename(directory)}")


def readable(store_root: str, directory: str) -> mounts.Overlay:
    """Return the overlay that an instance shows at ``root``, to be made once more.

    Args:
        store_root: The store.
        directory: The instance's.
    """
    from layerstore.linux.data_layers import FOLLOWING

    data = _data(store_root, directory)
    return mounts.Overlay((f"{directory}/meta",), options=FOLLOWING, data=data)


def writable(store_root: str, directory: str, upper: str) -> mounts.Overlay:
    """Return the overlay of a writable view over an instance.

    Args:
        store_root: The store.
        directory: The instance's.
        upper: Has the directories ``upper`` and ``work``.
    """
    above = (f"{upper}/upper", f"{upper}/work")
    if _read_state(directory).get("complete"):
        data = _data(store_root, directory)
        return mounts.Overlay((f"{directory}/meta",), *above, WRITABLE_OPTIONS, data)
    return mounts.Overlay((f"{directory}/root",), *above, WRITABLE_OPTIONS)


def packs_of(directory: str) -> list[str]:
    """Return the mounts of packs that an instance reads: names below ``views/pack-mounts``.

    Raises:
        MountError: Its state is damaged.
    """
    packs = _read_state(directory).get("packs", [])
    if not isinstance(packs, list) or not all(_PACK_MOUNT.fullmatch(str(name)) for name in packs):
        raise MountError(
            f"the state of {directory} names no mounts of packs",
            hint="unmount its views and mount them again",
        )
    return packs


def _data(store_root: str, directory: str) -> tuple[str, ...]:
    """Return where the content of an instance lies: mounts of packs, and the object tier."""
    if is_lazy(directory):
        return data_layers(store_root, directory)
    roots = (f"{store_root}/views/pack-mounts/{name}/root" for name in packs_of(directory))
    return (*roots, f"{store_root}/objects")


def is_lazy(directory: str) -> bool:
    """Whether an instance's content is fetched by a server."""
    return os.path.exists(f"{directory}/lazy")


def is_whole(directory: str) -> bool:
    """Whether an instance's tree is mounted where this process can see it, and has its server."""
    if is_lazy(directory) and not is_held(f"{directory}/alive"):
        return False
    return is_visible(directory)


def is_visible(directory: str) -> bool:
    """Whether an instance's tree is mounted where this process can see it."""
    state = _read_state(directory)
    if state.get("boot_id") != boot_id() or not state.get("device"):
        return False
    try:
        identity = mounts.identify(f"{directory}/root")
    except OSError:
        return False
    # Not the mount's id: what is propagated to another namespace has one of its own there.
    return identity.is_root and identity.device == state["device"]


def is_alive(directory: str) -> bool:
    """Whether an instance of the kernel's is mounted here or may be in a living namespace."""
    state = _read_state(directory)
    if state.get("boot_id") != boot_id():
        return False
    if is_visible(directory):
        return True
    namespace = state.get("namespace")
    if not isinstance(namespace, int) or namespace == current_mount_namespace():
        return False
    number = state.get("namespace_id")
    return mount_namespace_lives(namespace, number if isinstance(number, int) else 0)


def require_privileges() -> None:
    """Refuse who may not mount EROFS.

    Raises:
        UnsupportedError: The caller may not.
    """
    if os.geteuid() != 0 or in_user_namespace():
        raise UnsupportedError(
            "the kernel mounts EROFS for root outside of user namespaces only",
            hint="run it as root, or mount with --backend fuse",
        )


def _new_state(*, complete: bool) -> dict[str, object]:
    return {
        "boot_id": boot_id(),
        "namespace": current_mount_namespace(),
        "namespace_id": mount_namespace_id(),
        "device": 0,
        "complete": complete,
    }


def _write_state(directory: str, state: dict[str, object]) -> None:
    from fuse_mount.lowers import write_private_json

    write_private_json(f"{directory}/kernel.json", state)


def _read_state(directory: str) -> dict[str, object]:
    """Return an instance's state; nothing for those of FUSE, and for what cannot be read."""
    try:
        value = json.loads(read_file(f"{directory}/kernel.json", max_bytes=_STATE_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
