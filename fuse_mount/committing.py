"""What was written into a view or a container: as a list of paths, and as a new image.

A writable layer is an overlay's upper directory, which says everything by itself
(:data:`layerstore.snapshot.overlay.PLAIN_OPTIONS`); owners in it are the image's, whatever
ids are shown. It is read beside whatever shows it, which stays as it is.

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
from layerstore.image.layers.remembered import Fingerprint
from layerstore.image.layers.scan import Scanner, UpperScan
from layerstore.image.layers.source_file import SourceChangedError
from layerstore.image.trees.stack import load_root
from layerstore.linux.namespaces import in_user_namespace

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuse_mount.records import MountRecord
    from layerstore.digest import DiffId
    from layerstore.formats.oci_config import ContainerConfig, ImageConfig
    from layerstore.image.layers.layer_item import LayerItem
    from layerstore.image.layers.scan import Skipped
    from layerstore.image.trees.path_changes import PathChange
    from layerstore.image.trees.stack import Node
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.records import LayerRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.putting import SessionStats
    from layerstore.store.writing.session import WriteSession

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


class Committed(NamedTuple):
    """A new image, what it cost the store, and what no image can hold."""

    image: ImageRecord
    stats: SessionStats
    skipped: tuple[Skipped, ...]


class ViewInUseError(ConflictError):
    """A view is written to all the time, so that no copy of it is one moment's."""


class Written(NamedTuple):
    """What was written over an image.

    Attributes:
        what: Into what, for messages: ``the view at DIR``.
        image: What the user called the image, may be "".
        upper: The overlay's upper directory; None where nothing was ever written.
        keep: What to do to keep it if the image is gone.
        exclude: Paths that are no part of it: what a runtime made to mount over.
        users: Tells who may be writing.
    """

    what: str
    image_id: ImageId
    image: str
    layers: tuple[DiffId, ...]
    upper: Path | None
    keep: str
    exclude: frozenset[bytes] = frozenset()
    users: Callable[[], str] = str


def changes_in(store: Store, written: Written) -> list[PathChange]:
    """Return what was written, compared with the image, sorted by path.

    Raises:
        SourceChangedError: It is being written to.
    """
    from layerstore.image.trees.path_changes import changes_of_upper

    scanner = _scanner(written)
    if scanner is None:
        return []
    scan = UpperScan(list(scanner.items()), scanner.whiteouts, scanner.opaques, scanner.skipped)
    return changes_of_upper(scan, load_root(store, written.layers))


def commit(store: Store, written: Written, spec: CommitSpec, *, progress: Progress) -> Committed:
    """Make an image: the one below, and what was written as one more layer.

    What was written stays where it is and goes on. The new image is durable and visible when
    this returns, and absent when it raises or dies.

    Raises:
        NotFoundError: The image below was removed.
        ViewInUseError: It was written to whenever it was copied.
        UnsafeContentError: It holds what no layer can carry.
    """
    config = _config_of(store, written)
    config = msgspec.structs.replace(
        config, config=spec.configure(config.config), author=spec.author or config.author
    )
    with store.begin(f"commit {written.what}") as session:
        session.hold_layers(written.layers)
        lower = load_root(store, written.layers)
        layer, skipped = _copy(session, written, lower, progress)
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
            [*written.layers, layer.diff_id] if layer is not None else written.layers,
            [*steps_of(config), step],
            names=spec.names,
            created=spec.created,
        )
        return Committed(image, session.stats, tuple(skipped))


def written_in_view(record: MountRecord) -> Written:
    """Return what was written into a view.

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
    return Written(
        f"the view at {record.target}",
        ImageId(parse_digest(record.image_id)),
        record.image,
        record.layers,
        Path(record.upper, "upper"),
        f"layerstore umount --keep-upper {record.target}",
        users=lambda: describe_holders(record.target),
    )


def _config_of(store: Store, written: Written) -> ImageConfig:
    try:
        return load_config(store, written.image_id)
    except NotFoundError as err:
        raise NotFoundError(
            f"the image of {written.what} was removed: {written.image or written.image_id}",
            hint="bring it back (build, import or load it again), then commit; or keep what was "
            f"written: {written.keep}",
        ) from err


def _scanner(written: Written, fingerprint: Fingerprint | None = None) -> Scanner | None:
    if written.upper is None:
        return None
    prefix = b"user.overlay." if in_user_namespace() else b"trusted.overlay."
    return Scanner(written.upper, overlay=prefix, exclude=written.exclude, fingerprint=fingerprint)


def _copy(
    session: WriteSession, written: Written, lower: Node, progress: Progress
) -> tuple[LayerRecord | None, list[Skipped]]:
    """Publish what was written as one moment's layer; None when nothing was."""
    changed = ""
    for pause_s in _PAUSES_S:
        time.sleep(pause_s)
        began_ns = time.time_ns()
        fingerprint = Fingerprint()
        scanner = _scanner(written, fingerprint)
        if scanner is None:
            return None, []
        try:
            layer = _published(session, written.layers, scanner, lower, progress)
            again = Fingerprint()
            second = _scanner(written, again)
            assert second is not None
            second.look()
        except SourceChangedError as err:
            changed = f": {err.message}"
            continue
        if again.digest() == fingerprint.digest() and again.youngest_ns < began_ns - TICK_NS:
            return layer, scanner.skipped
    users = written.users()
    raise ViewInUseError(
        f"{written.what} is written to all the time{changed}",
        hint="end what writes there, or stop it meanwhile (kill -STOP)"
        + (f": {users}" if users else ""),
    )


def _published(
    session: WriteSession,
    near: tuple[DiffId, ...],
    scanner: Scanner,
    lower: Node,
    progress: Progress,
) -> LayerRecord | None:
    from layerstore.image.layers.layer_writer import write_layer

    items = [item for item in scanner.items() if not _is_root_unchanged(item, lower)]
    if not (items or scanner.whiteouts or scanner.opaques):
        return None
    return write_layer(
        session,
        session.store,
        items,
        whiteouts=scanner.whiteouts,
        opaques=scanner.opaques,
        near=near,
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
