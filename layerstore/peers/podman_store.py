"""Images of the store as podman's own: an additional image store whose layers are views.

A directory that containers/storage reads beside its own (``additionalimagestores``): JSON files
that list images and layers, and for each layer a directory whose ``diff`` is a read-only view
of all layers up to it. A container's overlay lies over the topmost one alone, so what podman
runs is what the kernel shows of this store, and nothing is copied.

    DIR/layerstore.json                     what was asked for; made by us alone
    DIR/overlay-images/images.json          images, with manifest and config beside it
    DIR/overlay-layers/layers.json          layers
    DIR/overlay/LAYER/{diff,link}, l/LINK   what overlays are made of

The JSON files are replaced as wholes under the locks that podman takes, and never name a
layer whose view is not there: views before layers before images, and back in reverse. A kill
in between leaves views that nothing names; the next :func:`update` goes on. Views keep their
layers from the collector; after a restart of the host ``layerstore mounts --restore`` or an
update shows them again.

Source: containers-storage.conf(5); why: docs/decisions/0181-podman-reads-views.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from fuse_mount import mounts
from fuse_mount.holders import overlays_over
from fuse_mount.records import read_record, view_id_of
from fuse_mount.starting import FUSE
from fuse_mount.states import state_of
from fuse_mount.targets import outside_of_store
from layerstore.digest import hex_of
from layerstore.errors import (
    ConflictError,
    FormatError,
    InputError,
    LayerstoreError,
    NotFoundError,
    UnsupportedError,
)
from layerstore.formats import strict_json
from layerstore.formats._fields import Fields
from layerstore.formats.containers_storage import (
    StorageImage,
    StorageLayer,
    encode_images,
    encode_layers,
    image_files,
    layer_ids,
    link_name,
)
from layerstore.formats.reference import full_name, is_digest_name, parse_tag_name
from layerstore.image.exchange.sending import Policy, find_original
from layerstore.image.images import load_parts, own_manifest
from layerstore.linux import mounts as syscalls
from layerstore.linux.files import read_file, write_all
from layerstore.linux.idmaps import BOTH, USERS, parse_id_map
from layerstore.linux.locks import FileLock
from layerstore.linux.namespaces import in_user_namespace
from layerstore.linux.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from layerstore.digest import DiffId, ImageId
    from layerstore.progress import Progress
    from layerstore.store.store import Store

STATE = "layerstore.json"
VERSION = 1
_LOCK_BYTES = 32
"""Random bytes that tell other processes, in hex, that something changed: their files have 64."""

_MAX_RECORD_BYTES = 64 << 20


class Wanted(NamedTuple):
    """What a directory is to show.

    Attributes:
        names: Names or ids, as the user gave them.
        every: Every image that has a name, now and after each update.
        idmap: Under which ids of the host owners are shown: a user's who has no privileges.
    """

    names: tuple[str, ...] = ()
    every: bool = False
    idmap: tuple[str, ...] = ()


class Shown(NamedTuple):
    """An image that podman sees.

    Attributes:
        names: Complete names; none while it stays only for containers that run.
        layers: Lowest first.
    """

    image_id: ImageId
    names: tuple[str, ...]
    layers: tuple[DiffId, ...]


class Report(NamedTuple):
    """What an update came to.

    Attributes:
        shown: All images that podman sees now.
        missing: Names that were asked for and are no image (any more).
        busy: Images that are not asked for any more but have containers.
        backends: How their views are shown.
    """

    shown: tuple[Shown, ...]
    missing: tuple[str, ...]
    busy: tuple[ImageId, ...]
    backends: tuple[str, ...]


class _State(NamedTuple):
    """What ``layerstore.json`` says."""

    store: str
    wanted: Wanted
    images: tuple[str, ...]
    """Ids of all that podman may have seen since the last update that ended well."""


def read_wanted(directory: str) -> Wanted | None:
    """Return what a directory was asked to show; None if it is none of ours.

    Raises:
        FormatError: Its record is damaged.
    """
    state = _read_state(directory)
    return state.wanted if state is not None else None


def update(
    store: Store,
    directory: str,
    wanted: Wanted,
    *,
    backend: str = mounts.AUTO,
    progress: Progress | None = None,
    tell: Callable[[str, LayerstoreError], object] = lambda _, __: None,
) -> Report:
    """Let podman see images of the store; also follows names that moved, and mends what is stale.

    Success means that podman finds them there at once, without being started anew.

    Args:
        store: Where the images are.
        directory: Made if absent; else empty or made by us.
        wanted: What to show; what was shown before and is not in it goes.
        backend: Of the views: :data:`fuse_mount.mounts.BACKENDS`.
        progress: Told about files that are unpacked for the kernel.
        tell: Given what a view became, if not the kernel's, and the reason.

    Raises:
        InputError: ``directory`` lies in the store, or holds something else.
        ConflictError: It is another store's.
        MountError: A view could not be made; nothing new is listed then.
    """
    directory = _own_directory(store, directory, wanted)
    with FileLock(f"{directory}/{STATE}.lock"):
        before = _read_state(directory)
        shown, missing = _resolve(store, wanted)
        busy = _still_used(store, directory, before, shown)
        everything = (*shown, *busy)
        ids = tuple(image.image_id for image in everything)
        earlier = before.images if before is not None else ()
        state = _State(os.path.realpath(store.root), wanted, tuple(sorted({*ids, *earlier})))
        _write_state(directory, state)
        tree = _Tree(store, directory, wanted.idmap, backend, progress, tell)
        layers = tree.make(everything)
        _list(store, directory, everything, layers)
        tree.remove_others({layer.layer_id for layer in layers})
        _write_state(directory, state._replace(images=ids))
        gone = tuple(image.image_id for image in busy)
        return Report(everything, tuple(missing), gone, tree.backends())


def remove(store: Store, directory: str) -> None:
    """Take everything away again, the directory with it.

    Raises:
        NotFoundError: Podman is shown nothing there.
        ConflictError: Containers run on it; nothing was taken away.
    """
    state = _read_state(directory)
    if state is None:
        raise NotFoundError(f"{directory} is no image store that layerstore made for podman")
    directory = _own_directory(store, directory, state.wanted)
    with FileLock(f"{directory}/{STATE}.lock"):
        ids = [name for name in _names(f"{directory}/overlay") if name != "l"]
        users = _users(directory, ids)
        if users:
            places = ", ".join(sorted(set(users.values())))
            raise ConflictError(
                f"containers run on images in {directory}: {places}",
                hint="end and remove them first: podman ps --all",
            )
        _replace_records(directory, [], [])
        tree = _Tree(store, directory, state.wanted.idmap, mounts.AUTO, None, lambda *_: None)
        tree.remove_others(set())
        for name in ("overlay", "overlay-images", "overlay-layers"):
            remove_tree(f"{directory}/{name}")
        os.unlink(f"{directory}/{STATE}")
        os.unlink(f"{directory}/{STATE}.lock")
    with contextlib.suppress(OSError):  # podman may have put something there, it is not ours
        os.rmdir(directory)


class _Tree:
    """The layers' directories and the views in them."""

    def __init__(
        self,
        store: Store,
        directory: str,
        idmap: tuple[str, ...],
        backend: str,
        progress: Progress | None,
        tell: Callable[[str, LayerstoreError], object],
    ) -> None:
        self._store = store
        self._root = str(store.root)
        self._directory = directory
        self._overlay = f"{directory}/overlay"
        self._idmap = parse_id_map(idmap) if idmap else ()
        self._backend = backend
        self._progress = progress
        self._tell = tell
        self._made: dict[str, str] = {}

    def make(self, images: Iterable[Shown]) -> list[StorageLayer]:
        """Make the view of every layer; return all layers, parents first."""
        layers: dict[str, StorageLayer] = {}
        for image in images:
            ids = layer_ids(image.layers)
            for number, (layer_id, diff_id) in enumerate(zip(ids, image.layers, strict=True)):
                if layer_id in layers:
                    continue
                self._make_view(layer_id, image, image.layers[: number + 1])
                parent = ids[number - 1] if number else ""
                size = self._store.layer(diff_id).tar_size
                layers[layer_id] = StorageLayer(layer_id, parent, diff_id, size, "")
        return list(layers.values())

    def backends(self) -> tuple[str, ...]:
        """Return how the views are shown."""
        return tuple(sorted(set(self._made.values())))

    def remove_others(self, kept: set[str]) -> None:
        """Take away the layers that nothing names any more."""
        for name in _names(self._overlay):
            if name == "l" or name in kept:
                continue
            place = f"{self._overlay}/{name}"
            with contextlib.suppress(NotFoundError):
                mounts.unmount(self._root, view_id_of(os.path.realpath(f"{place}/diff")), lazy=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._overlay}/l/{link_name(name, self._directory)}")
            remove_tree(place)

    def _make_view(self, layer_id: str, image: Shown, layers: tuple[DiffId, ...]) -> None:
        place = f"{self._overlay}/{layer_id}"
        for path in (place, f"{place}/diff"):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o755)
        link = link_name(layer_id, self._directory)
        _replace(f"{place}/link", link.encode())
        with contextlib.suppress(FileExistsError):
            os.symlink(f"../{layer_id}/diff", f"{self._overlay}/l/{link}")
        self._made[layer_id] = self._mounted(f"{place}/diff", image, layers)

    def _mounted(self, target: str, image: Shown, layers: tuple[DiffId, ...]) -> str:
        """Make a view of layers, or find it whole; return its backend."""
        view_id = view_id_of(os.path.realpath(target))
        record = read_record(self._root, view_id)
        if record is not None:
            state, _ = state_of(record)
            if state == mounts.MOUNTED and record.layers == layers:
                return record.backend
            mounts.unmount(self._root, view_id, lazy=True)
        backend = self._mount(target, image, layers, self._backend)
        if backend != FUSE and not _can_lie_below(target, f"{self._overlay}/l"):
            mounts.unmount(self._root, view_id)
            self._tell(FUSE, _stacked_too_high())
            backend = self._mount(target, image, layers, FUSE)
        return backend

    def _mount(self, target: str, image: Shown, layers: tuple[DiffId, ...], backend: str) -> str:
        record = self._store.image(image.image_id)

        def confirm() -> None:
            if self._store.catalog.image_after_writers(image.image_id) is None:
                raise NotFoundError(f"image {image.image_id} was removed meanwhile")

        made = mounts.mount(
            self._root,
            record._replace(layers=layers),
            target,
            name=next(iter(image.names), ""),
            backend=backend,
            idmap=self._idmap,
            confirm=confirm,
            progress=self._progress,
            tell=self._tell,
        )
        return made.backend


def store_around(target: str) -> str | None:
    """Return the directory of the image store that a view is a layer of; None if it is of none."""
    above, overlay, layer = target.rpartition("/overlay/")
    if overlay and layer.endswith("/diff") and os.path.isfile(f"{above}/{STATE}"):
        return above
    return None


def container_over(view: str) -> str:
    """Return where an overlay lies over a view of :func:`store_around`; "" if none is mounted."""
    directory, _, layer = view.rpartition("/overlay/")
    layer_id = layer.removesuffix("/diff")
    return _users(directory, [layer_id]).get(layer_id, "")


def _stacked_too_high() -> LayerstoreError:
    return LayerstoreError("this kernel lays no overlay over a view of its own")


def _can_lie_below(view: str, beside: str) -> bool:
    """Whether the overlay of a container can lie over a view: kernels bound the stack, at two."""
    try:
        os.close(syscalls.create_overlay(syscalls.Overlay((view, beside))))
    except syscalls.MountCallError as err:
        return err.code != errno.EINVAL
    return True


def _resolve(store: Store, wanted: Wanted) -> tuple[list[Shown], list[str]]:
    """Return the images that are wanted, and what of it is no image."""
    tags = {name: of for name, of in store.tags().items() if not is_digest_name(name)}
    names: dict[ImageId, list[str]] = {}
    missing: list[str] = []
    if wanted.every:
        for name, image_id in tags.items():
            names.setdefault(image_id, []).append(name)
    for text in wanted.names:
        try:
            record = store.resolve(text)
        except NotFoundError:
            missing.append(text)
            continue
        known = names.setdefault(record.image_id, [])
        mine = [name for name, image_id in tags.items() if image_id == record.image_id]
        # An id stands for all its names, a name for itself.
        asked = [name for name in mine if full_name(name) == _full(text)]
        known += asked or mine
    shown = [
        Shown(image_id, tuple(sorted({full_name(name) for name in known})), record.layers)
        for image_id, known in names.items()
        for record in (store.image(image_id),)
    ]
    return shown, missing


def _full(text: str) -> str:
    try:
        return full_name(parse_tag_name(text))
    except InputError:
        return ""


def _still_used(
    store: Store, directory: str, before: _State | None, shown: Sequence[Shown]
) -> list[Shown]:
    """Return images that go, but that containers run on: they stay, without names."""
    staying = {image.image_id for image in shown}
    found = []
    for image_id in before.images if before is not None else ():
        record = store.catalog.image(image_id)
        if record is None or record.image_id in staying:
            continue
        if _users(directory, layer_ids(record.layers)[-1:]):
            found.append(Shown(record.image_id, (), record.layers))
    return found


def _users(directory: str, ids: Sequence[str]) -> dict[str, str]:
    """Return which of these layers overlays lie over, and where one of them is mounted."""
    marks = {f"{directory}/overlay/{layer_id}/diff": layer_id for layer_id in ids}
    marks |= {link_name(layer_id, directory): layer_id for layer_id in ids}
    return {marks[mark]: place for mark, place in overlays_over(marks).items()}


def _list(
    store: Store, directory: str, shown: Sequence[Shown], layers: Sequence[StorageLayer]
) -> None:
    """Tell podman of images; those that it knew and that are not among them are gone."""
    images = [_storage_image(store, image) for image in shown]
    base = f"{directory}/overlay-images"
    for image in images:
        place = f"{base}/{hex_of(image.image_id)}"
        with contextlib.suppress(FileExistsError):
            os.mkdir(place, 0o755)
        for name, data in image_files(image).items():
            _replace(f"{place}/{name}", data)
    _replace_records(directory, images, layers)
    kept = {hex_of(image.image_id) for image in images}
    for name in _names(base):
        if name not in kept and os.path.isdir(f"{base}/{name}"):
            remove_tree(f"{base}/{name}")


def _storage_image(store: Store, image: Shown) -> StorageImage:
    record = store.image(image.image_id)
    parts = load_parts(store, record)
    # Under the digest that it came under podman knows it as what a registry calls that.
    original = find_original(store, parts, Policy(takes_indexes=False))
    if original is not None:
        manifest = original.documents[-1].raw
    else:
        manifest = own_manifest(store, parts.config, parts.layers, parts.annotations)
    layer = next(reversed(layer_ids(image.layers)), "")
    return StorageImage(image.image_id, image.names, layer, record.created, manifest, parts.config)


def _replace_records(
    directory: str, images: Sequence[StorageImage], layers: Sequence[StorageLayer]
) -> None:
    """Replace what lists layers and images, so that no image is listed without its layers.

    While layers go an image may be listed whose layers are not: both locks are held, and
    podman takes them before it reads.
    """
    with _locked(f"{directory}/overlay-images/images.lock") as images_lock:
        with _locked(f"{directory}/overlay-layers/layers.lock") as layers_lock:
            _replace(f"{directory}/overlay-layers/layers.json", encode_layers(layers))
            _replace(f"{directory}/overlay-images/images.json", encode_images(images))
            _touch(layers_lock)
        _touch(images_lock)


@contextlib.contextmanager
def _locked(path: str) -> Iterator[int]:
    """Hold a lock as containers/storage does: POSIX, over the whole file."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _touch(lock: int) -> None:
    """Let processes that have read the records read them again: their mark is another one."""
    os.pwrite(lock, os.urandom(_LOCK_BYTES).hex().encode(), 0)


def _replace(path: str, data: bytes) -> None:
    """Write a file whole or not at all, readable for podman of other users; see ``DIR``'s mode.

    Not forced to disk: after a power cut no view is mounted, and updating writes it again.
    """
    with contextlib.suppress(OSError):
        if read_file(path, max_bytes=_MAX_RECORD_BYTES) == data:
            return
    temporary = f"{path}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, 0o644)
    try:
        write_all(descriptor, data)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)


def _own_directory(store: Store, directory: str, wanted: Wanted) -> str:
    """Return the directory, resolved and made if need be.

    Raises:
        InputError: It lies in the store, holds what is not ours, or is somebody else's.
        ConflictError: Another store shows its images there.
        UnsupportedError: Its file system cannot let one user alone read it.
    """
    resolved = outside_of_store(str(store.root), directory)
    _require_nobody_elses(resolved)
    state = _read_state(resolved)
    if state is None and _names(resolved):
        raise InputError(
            f"{directory} is not empty, and nothing that layerstore made for podman",
            hint="name a directory that does not exist yet",
        )
    if state is not None and state.store != os.path.realpath(store.root):
        raise ConflictError(
            f"{directory} shows images of another store, {state.store}",
            hint=f"name that with --store {state.store}, or another directory",
        )
    _make_directories(resolved, wanted)
    return resolved


def _make_directories(directory: str, wanted: Wanted) -> None:
    if not os.path.isdir(directory):
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        # Programs of images that set ids cannot be told from the host's own: not for everyone.
        os.mkdir(directory, 0o700)
    reader = _root_of(wanted.idmap)
    if reader != os.geteuid():
        _let_read(directory, reader)
    for name in ("overlay", "overlay/l", "overlay-images", "overlay-layers"):
        with contextlib.suppress(FileExistsError):
            os.mkdir(f"{directory}/{name}", 0o755)


def _require_nobody_elses(directory: str) -> None:
    """Refuse a directory that others could replace by a link, along which root would go.

    Raises:
        InputError: It, or one above it, is theirs.
    """
    if os.geteuid() != 0 or in_user_namespace():
        return
    path = directory
    while True:
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(path)
            is_writable = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
            if status.st_uid != 0 or is_writable:
                raise InputError(
                    f"{path} can be replaced by others than root while {directory} is filled",
                    hint="name a directory whose parents are all root's, such as one in /srv",
                )
        if path == "/":
            return
        path = os.path.dirname(path)


def _let_read(directory: str, uid: int) -> None:
    """Let one more user enter and list a directory, but change nothing in it: it stays root's.

    Raises:
        UnsupportedError: The file system has no access control lists.

    Source: acl(5); linux/posix_acl_xattr.h.
    """
    entries = ((1, 7, -1), (2, 5, uid), (4, 0, -1), (0x10, 5, -1), (0x20, 0, -1))
    packed = [struct.pack("<HHI", tag, rights, who & 0xFFFFFFFF) for tag, rights, who in entries]
    try:
        os.setxattr(directory, "system.posix_acl_access", struct.pack("<I", 2) + b"".join(packed))
    except OSError as err:
        raise UnsupportedError(
            f"{directory} cannot be opened to user {uid} alone: {err.strerror}",
            hint="name a directory on a file system with access control lists, such as ext4",
        ) from err


def _root_of(idmap: Sequence[str]) -> int:
    """Return the user of the host that root of the images is shown as."""
    for mapping in parse_id_map(idmap) if idmap else ():
        if mapping.kind in (USERS, BOTH) and mapping.container == 0:
            return mapping.host
    return os.geteuid()


def _read_state(directory: str) -> _State | None:
    try:
        raw = read_file(f"{directory}/{STATE}", max_bytes=_MAX_RECORD_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    where = f"{directory}/{STATE}"
    fields = Fields(strict_json.decode(raw, where), where)
    if fields.integer("version") != VERSION:
        raise FormatError(f"{where} has another version than {VERSION}")
    wanted = Wanted(
        fields.texts("names") or (), fields.boolean("every"), fields.texts("idmap") or ()
    )
    return _State(fields.required_text("store"), wanted, fields.texts("images") or ())


def _write_state(directory: str, state: _State) -> None:
    value = {"version": VERSION, **state._asdict(), **state.wanted._asdict()}
    del value["wanted"]
    _replace(f"{directory}/{STATE}", strict_json.encode(value))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
