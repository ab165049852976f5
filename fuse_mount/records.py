"""Records of views: ``views/ID.json``, one for each view of an image that a store has.

A record may be damaged, or another store's that was copied with it: what is read is checked
field by field, and nothing outside of this store is ever taken for a view's own.

On the fast path: what runtimes call in loops must not import much.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import NamedTuple

from fuse_mount import lowers
from fuse_mount.lowers import KERNELS
from fuse_mount.starting import FUSE, SERVED
from layerstore.digest import DiffId, parse_digest
from layerstore.errors import FormatError, InputError, MountError
from layerstore.linux.files import read_file
from layerstore.linux.idmaps import parse_id_map
from layerstore.linux.planned import FLAGS

SNAPSHOT = "snapshot-"
"""What records of containerd's snapshots begin with; they are no views (format/snapshots.md)."""

_ID_HEX = 12
_HEX_DIGITS = frozenset("0123456789abcdef")
_RECORD_MAX_BYTES = 1 << 20
_NO_MOUNT = -1
"""The mount id of views that another store made: equal to no mount's."""
_TEXTS = (
    "view_id", "image_id", "image", "target", "mode", "kind", "upper", "lower", "boot_id",
    "backend", "remote",
)  # fmt: skip
_NUMBERS = ("mount_id", "device", "namespace", "namespace_id")
_LISTS = ("layers", "flags", "idmap")
FORBIDDEN = ("nosuid", "nodev")
"""What mounts of images forbid unless asked otherwise: overlays inherit it from no lower."""
_BACKENDS = (*KERNELS, *SERVED)
_YEAR_10000_S = 253_402_300_800


class UnreadableRecordError(MountError):
    """A view's record is damaged, or another's.

    Attributes:
        view_id: Of the view.
    """

    def __init__(self, view_id: str, reason: str) -> None:
        super().__init__(
            f"the record of view {view_id} cannot be read: {reason}",
            hint=f"give it up: layerstore umount {view_id}",
        )
        self.view_id = view_id


class MountRecord(NamedTuple):
    """One view, as its record in the store tells it.

    Attributes:
        view_id: 12 hex digits derived from the target.
        image: What the user called the image, may be "".
        mode: ``ro`` or ``rw``.
        kind: ``bind``, ``overlay``, or ``fuse`` (its own server, for users without privileges).
        upper: Directory that takes the writes of an ``rw`` view, else None.
        lower: Directory of the instance below.
        mount_id: The kernel's id of the mount; 0 while it is being made.
        namespace: Inode number of the mount namespace it was made in.
        created: Seconds since the epoch.
        backend: ``fuse``, ``fusepy``, ``kernel`` or ``kernel-packs``; older records, without, are
            FUSE's.
        namespace_id: What names that namespace for ever, 0 where the kernel does not tell.
        flags: What its mount forbids beside writing, in the words of mount(8).
        idmap: Ranges of ids (:mod:`layerstore.linux.idmaps`) under which owners are shown.
        prepared: Whether somebody else was given the mounts to make.
        remote: Where the content of a lazy view comes from, else ""; such a view has no layers
            of this store's.
    """

    view_id: str
    image_id: str
    image: str
    layers: tuple[DiffId, ...]
    target: str
    mode: str
    kind: str
    upper: str | None
    lower: str
    mount_id: int
    device: int
    boot_id: str
    namespace: int
    created: float
    backend: str = FUSE
    namespace_id: int = 0
    flags: tuple[str, ...] = FORBIDDEN
    idmap: tuple[str, ...] = ()
    prepared: bool = False
    remote: str = ""


def view_id_of(target: str) -> str:
    """Return the id that a view at this (resolved) directory has."""
    return hashlib.sha256(os.fsencode(target)).hexdigest()[:_ID_HEX]


def record_path(store_root: str, view_id: str) -> str:
    """Return where the record of a view lies."""
    return f"{store_root}/views/{view_id}.json"


def view_ids(store_root: str) -> list[str]:
    """Return the ids of all views that have a record, in no particular order."""
    try:
        names = os.listdir(f"{store_root}/views")
    except FileNotFoundError:
        return []
    ids = (name.removesuffix(".json") for name in names if name.endswith(".json"))
    return [view_id for view_id in ids if is_view_id(view_id)]


def has_snapshots(store_root: str) -> bool:
    """Whether containerd has snapshots in a store, whose records lie beside those of views."""
    with contextlib.suppress(FileNotFoundError):
        return any(name.startswith(SNAPSHOT) for name in os.listdir(f"{store_root}/views"))
    return False


def is_view_id(word: str) -> bool:
    """Whether a view may have this id; others have records there as well, by other names."""
    return len(word) == _ID_HEX and set(word) <= _HEX_DIGITS


def write_record(store_root: str, record: MountRecord) -> None:
    """Write a record, whole or not at all."""
    lowers.write_private_json(record_path(store_root, record.view_id), record._asdict())


def read_record(store_root: str, view_id: str) -> MountRecord | None:
    """Return a view's record, or None when there is none (any more).

    Raises:
        UnreadableRecordError: It cannot be read, or is none; the hint says what to do.
    """
    try:
        value = json.loads(read_file(record_path(store_root, view_id), max_bytes=_RECORD_MAX_BYTES))
        return _own_record(store_root, view_id, _record_of(value))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as err:
        raise UnreadableRecordError(view_id, str(err)) from err


def _record_of(value: object) -> MountRecord:
    """Return what a record's JSON says; it may be damaged, or another's.

    Raises:
        ValueError: Names the field that no record has so.
    """
    if not isinstance(value, dict):
        raise ValueError("its fields are not those of a view")
    value = {**MountRecord._field_defaults, **value}  # what older records lack
    if value.keys() != set(MountRecord._fields) or value["backend"] not in _BACKENDS:
        raise ValueError("its fields are not those of a view")
    for name in _TEXTS:
        text = value[name]
        if name == "upper" and text is None:
            continue
        if not isinstance(text, str) or not _is_path_text(text):
            raise ValueError(f"its {name} is no text")
    for name in _NUMBERS:
        if type(value[name]) is not int or not 0 <= value[name] < 1 << 64:
            raise ValueError(f"its {name} is no number that a kernel gives")
    if type(value["created"]) not in (int, float) or not 0 <= value["created"] < _YEAR_10000_S:
        raise ValueError("its time is none")
    if type(value["prepared"]) is not bool:
        raise ValueError("whether it was prepared is neither true nor false")
    texts = {name: _texts(value, name) for name in _LISTS}
    if not set(texts["flags"]) <= FLAGS.keys():
        raise ValueError("its flags are none of a mount")
    try:
        diff_ids = tuple(DiffId(parse_digest(layer)) for layer in texts["layers"])
        parse_id_map(texts["idmap"])
    except (FormatError, InputError) as err:
        raise ValueError(err.message) from err
    return MountRecord(**{**value, **texts, "layers": diff_ids})


def _texts(value: dict[str, object], name: str) -> tuple[str, ...]:
    found = value[name]
    if isinstance(found, tuple):  # a default
        found = list(found)
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError(f"its {name} are no list of texts")
    return tuple(found)


def _is_path_text(text: str) -> bool:
    """Whether the kernel could take it for a path: no NUL, nothing that has no bytes."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _own_record(store_root: str, view_id: str, record: MountRecord) -> MountRecord:
    """Return a record that names nothing outside of this store.

    A copied store brings the records of the store it was copied from. Their views and
    writable layers are that store's: cleaning up here must not unmount or remove them.

    Raises:
        ValueError: It is the record of another view, or names what no view has.
    """
    upper_name = os.path.basename(record.upper) if record.upper is not None else view_id
    if record.view_id != view_id or not upper_name.startswith(view_id):
        raise ValueError("it speaks of another view")
    chain, instance = f"/{record.lower}".split("/")[-2:] if record.lower else ("", "")
    if {chain, instance} & {".", ".."}:
        raise ValueError("it names no instance")
    upper = f"{store_root}/uppers/{upper_name}" if record.upper is not None else None
    lower = f"{lowers.lowers_directory(store_root)}/{chain}/{instance}" if record.lower else ""
    if _same_parent(record.upper, upper) and _same_parent(record.lower, lower):
        return record
    return record._replace(upper=upper, lower=lower, mount_id=_NO_MOUNT)


def _same_parent(one: str | None, other: str | None) -> bool:
    """Whether two paths, whose last parts are equal, lie in one directory however it is named."""
    if one == other:
        return True
    try:
        return os.path.samefile(os.path.dirname(one or ""), os.path.dirname(other or ""))
    except OSError:
        return False
