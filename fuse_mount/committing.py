"""What was written into a view: as a list of paths, and as a new image.

A view's writable layer is an overlay's upper directory, which says everything by itself
(:data:`layerstore.snapshot.overlay.PLAIN_OPTIONS`); owners in it are the image's, whatever
ids the view shows. It is read beside the view, which stays as it is.

The copy is one moment's although nothing is frozen: everything is looked at before it is
read and again afterwards, and unless both looks are the same it counts for nothing. A
kernel sets an inode's change time at every change, to the tick of a clock, so that what
changed less than a tick ago is looked at anew. Who writes through a mapping that the kernel
has noted as written already is not seen: databases are stopped first.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fuse_mount.holders import describe_holders
from fuse_mount.states import ELSEWHERE, state_of
from layerstore.digest import ImageId, parse_digest
from layerstore.errors import ConflictError, InputError, MountError, NotFoundError, UnsupportedError
from layerstore.formats.oci_config import History
from layerstore.image.images import create_image, load_config, steps_of
from layerstore.image.remembered import Fingerprint
from layerstore.image.scan import Scanner, UpperScan
from layerstore.image.source_file import SourceChangedError
from layerstore.image.stack import load_root
from layerstore.linux.namespaces import in_user_namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuse_mount.records import MountRecord
    from layerstore.formats.oci_config import ContainerConfig, ImageConfig
    from layerstore.image.layer_item import LayerItem
    from layerstore.image.path_changes import PathChange
    from layerstore.image.scan import Skipped
    from layerstore.image.stack import Node
    from layerstore.progress import Progress
    from layerstore.store.catalog_rows import ImageRecord
    from layerstore.store.records import LayerRecord
    from layerstore.store.session import SessionStats, WriteSession
    from layerstore.store.store import Store

TICK_NS = 20_000_000
"""Longer than any tick of the clock by which kernels stamp changes: 10 ms at HZ=100."""

_PAUSES_S = (0.0, 0.05, 0.2, 0.5, 1.0)
"""Before each copy of a view that is written to; after the last its user has to end that."""


class CommitSpec(NamedTuple):
    """What the new image is to be called and to say of itself.

    Attributes:
        names: Familiar names; none leaves the image to the next gc.
        message: For the history.
        author: Of the image; "" leaves that of the view's image.
        created: RFC 3339.
        configure: Makes the new config of the one that the view's image has.
    """

    names: tuple[str, ...]
    message: str
    author: str
    created: str
    configure: Callable[[ContainerConfig], ContainerConfig]


class CommittedView(NamedTuple):
    """A new image, what it cost the store, and what of the view no image can hold."""

    image: ImageRecord
    stats: SessionStats
    skipped: tuple[Skipped, ...]


class ViewInUseError(ConflictError):
    """A view is written to all the time, so that no copy of it is one moment's."""


def view_changes(store: Store, record: MountRecord) -> list[PathChange]:
    """Return what was written into a view, compared with its image, sorted by path.

    Raises:
        InputError: The view is read-only.
        SourceChangedError: It is being written to.
    """
    from layerstore.image.path_changes import changes_of_upper

    require_writable(record)
    scanner = _scanner(record)
    scan = UpperScan(list(scanner.items()), scanner.whiteouts, scanner.opaques, scanner.skipped)
    return changes_of_upper(scan, load_root(store, record.layers))


def commit_view(
    store: Store, record: MountRecord, spec: CommitSpec, *, progress: Progress
) -> CommittedView:
    """Make an image of a view: its image, and what was written as one more layer.

    The view stays mounted and goes on with its writable layer. The image is durable and
    visible when this returns, and absent when it raises or dies.

    Raises:
        InputError: The view is read-only.
        NotFoundError: The image that it shows was removed.
        ViewInUseError: It was written to whenever it was copied.
        UnsafeContentError: It holds what no layer can carry.
    """
    require_writable(record)
    config = _config_of(store, record)
    config = msgspec.structs.replace(
        config, config=spec.configure(config.config), author=spec.author or config.author
    )
    with store.begin(f"commit {record.target}") as session:
        session.hold_layers(record.layers)
        lower = load_root(store, record.layers)
        layer, skipped = _copy(session, record, lower, progress)
        step = History(
            created=spec.created,
            created_by="layerstore commit",
            author=spec.author,
            comment=spec.message,
            empty_layer=layer is None,
        )
        image = create_image(
            session,
            config,
            [*record.layers, layer.diff_id] if layer is not None else record.layers,
            [*steps_of(config), step],
            names=spec.names,
            created=spec.created,
        )
        return CommittedView(image, session.stats, tuple(skipped))


def require_writable(record: MountRecord) -> None:
    """Refuse a view that has no writable layer which could be read here.

    Raises:
        InputError: It is read-only.
        UnsupportedError: Its image is not in this store.
        MountError: It belongs to another mount namespace.
    """
    if record.upper is None:
        raise InputError(
            f"the view at {record.target} is read-only: nothing can have been written into it",
            hint="writable views are made by layerstore mount --rw",
        )
    if record.remote:
        raise UnsupportedError(
            f"the view at {record.target} is lazy: the layers of its image are not in this store",
            hint=f"copy them here first, then commit over them: {record.remote}",
        )
    state, reason = state_of(record)
    if state == ELSEWHERE:
        raise MountError(
            f"the view at {record.target} was mounted in another mount namespace ({reason})",
            hint="run it there: nsenter --target PID --mount --user -- layerstore ...",
        )


def _config_of(store: Store, record: MountRecord) -> ImageConfig:
    try:
        return load_config(store, ImageId(parse_digest(record.image_id)))
    except NotFoundError as err:
        raise NotFoundError(
            f"the image of the view at {record.target} was removed: "
            f"{record.image or record.image_id}",
            hint="bring it back (build, import or load it again), then commit; or keep what was "
            f"written: layerstore umount --keep-upper {record.target}",
        ) from err


def _scanner(record: MountRecord, fingerprint: Fingerprint | None = None) -> Scanner:
    assert record.upper is not None
    prefix = b"user.overlay." if in_user_namespace() else b"trusted.overlay."
    return Scanner(Path(record.upper, "upper"), overlay=prefix, fingerprint=fingerprint)


def _copy(
    session: WriteSession, record: MountRecord, lower: Node, progress: Progress
) -> tuple[LayerRecord | None, list[Skipped]]:
    """Publish what was written as one moment's layer; None when nothing was."""
    changed = ""
    for pause_s in _PAUSES_S:
        time.sleep(pause_s)
        began_ns = time.time_ns()
        fingerprint = Fingerprint()
        scanner = _scanner(record, fingerprint)
        try:
            layer = _published(session, record, scanner, lower, progress)
            again = Fingerprint()
            _scanner(record, again).look()
        except SourceChangedError as err:
            changed = f": {err.message}"
            continue
        if again.digest() == fingerprint.digest() and again.youngest_ns < began_ns - TICK_NS:
            return layer, scanner.skipped
    raise ViewInUseError(
        f"the view at {record.target} is written to all the time{changed}",
        hint=f"end what writes there, or stop it meanwhile (kill -STOP): "
        f"{describe_holders(record.target)}",
    )


def _published(
    session: WriteSession,
    record: MountRecord,
    scanner: Scanner,
    lower: Node,
    progress: Progress,
) -> LayerRecord | None:
    from layerstore.image.layer_writer import write_layer

    items = [item for item in scanner.items() if not _is_root_unchanged(item, lower)]
    if not (items or scanner.whiteouts or scanner.opaques):
        return None
    return write_layer(
        session,
        session.store,
        items,
        whiteouts=scanner.whiteouts,
        opaques=scanner.opaques,
        near=record.layers,
        progress=progress,
    )


def _is_root_unchanged(item: LayerItem, lower: Node) -> bool:
    """Whether it is the root as the image has it: an upper has one always, a layer by change.

    Its time tells nothing: it changes with every name in it, and docker leaves it out, too.
    """
    entry, image = item.entry, lower.entry
    return not entry.path and (entry.mode, entry.uid, entry.gid, entry.xattrs) == (
        image.mode, image.uid, image.gid, image.xattrs,
    )  # fmt: skip
