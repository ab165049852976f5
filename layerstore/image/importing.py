"""Root file systems from outside become images of one layer.

Accepts a tar, compressed or not, or a directory of the host. The image is durable
and visible when the import returns, and absent when it raises or dies: content
that was already stored is garbage until gc.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from layerstore.errors import InputError, NotFoundError
from layerstore.formats.oci_config import ContainerConfig, History, ImageConfig
from layerstore.image.images import create_image, host_platform
from layerstore.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.records import LayerRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.putting import SessionStats
    from layerstore.store.writing.session import WriteSession


class ImportSpec(NamedTuple):
    """What the new image is to be called and to say of itself.

    Attributes:
        names: Familiar names; none leaves the image to the next gc.
        config: What its containers start with.
        message: For the history.
        created: RFC 3339.
        platform: Architecture and variant in OCI's words; None for this machine's.
    """

    names: tuple[str, ...]
    config: ContainerConfig
    message: str
    created: str
    platform: tuple[str, str] | None = None


class ImportedImage(NamedTuple):
    """A new image and what it cost the store."""

    image: ImageRecord
    stats: SessionStats


def import_tar(
    store: Store, stream: BinaryIO, source: str, spec: ImportSpec, *, progress: Progress
) -> ImportedImage:
    """Make an image from a tar; ``source`` is what the history calls it: no host path.

    Raises:
        FormatError: Not a tar, or one that readers would understand differently.
        UnsafeContentError: The tar would harm a host.
    """
    from layerstore.image.layers.ingest_tar import ingest_tar  # 15 ms that directories do not pay

    with store.begin(f"import {source}") as session:
        layer = ingest_tar(session, stream, progress=progress, rootfs=True)
        return _finish(session, layer, source, spec)


def import_directory(
    store: Store,
    root: Path,
    spec: ImportSpec,
    *,
    progress: Progress,
    on_skip: Callable[[bytes, str], None] | None = None,
    reread: bool = False,
    now_ns: Callable[[], int] = time.time_ns,
) -> ImportedImage:
    """Make an image from a directory of the host, which must hold still meanwhile.

    Args:
        store: Where to.
        root: The directory; what is mounted inside of it stays out.
        spec: What to call the image.
        progress: Hears the bytes of content.
        on_skip: Hears what no image can hold, such as sockets, and why.
        reread: Read every file, even if nothing changed since the directory was imported
            last.
        now_ns: Tells the time; another one in tests.

    Raises:
        NotFoundError: No such directory.
        InputError: Not a directory, or one that holds the store itself.
    """
    from layerstore.image.layers.remembered import Fingerprint, RememberedScans
    from layerstore.image.layers.scan import Scanner

    _refuse_odd_roots(store, root)
    with store.begin(f"import {root}") as session:
        scans = RememberedScans(session, os.stat(root), now_ns=now_ns)
        known = None if reread else scans.recall(lambda: _fingerprint_of(root))
        if known is not None:
            layer, skipped = known[0], known[1].skipped
        else:
            from layerstore.image.layers.layer_writer import write_sorted_layer

            fingerprint = Fingerprint()
            small = session.cutting.whole_max_bytes
            scanner = Scanner(root, read_small=small, fingerprint=fingerprint)
            layer = write_sorted_layer(session, store, scanner.items(), progress=progress)
            skipped = tuple(scanner.skipped)
            scans.remember(fingerprint, layer, skipped)
        if on_skip is not None:
            for path, why in skipped:
                on_skip(path, why)
        return _finish(session, layer, root.resolve().name or "/", spec)


def _fingerprint_of(root: Path) -> bytes:
    from layerstore.image.layers.remembered import Fingerprint
    from layerstore.image.layers.scan import Scanner

    fingerprint = Fingerprint()
    Scanner(root, fingerprint=fingerprint).look()
    return fingerprint.digest()


def _refuse_odd_roots(store: Store, root: Path) -> None:
    if not root.exists():
        raise NotFoundError(f"{root} does not exist")
    if not root.is_dir():
        raise InputError(f"{root} is not a directory")
    inside = os.path.realpath(store.root)
    outside = os.path.realpath(root)
    if os.path.commonpath([inside, outside]) == outside:
        raise InputError(
            f"{root} holds the store {store.root}, which would import itself",
            hint="import from elsewhere, or put the store elsewhere with --store",
        )


def _finish(
    session: WriteSession, layer: LayerRecord, source: str, spec: ImportSpec
) -> ImportedImage:
    source = printable(source)  # a file's name need not be text, and a config is
    architecture, variant = spec.platform or host_platform()
    config = ImageConfig(architecture=architecture, variant=variant, config=spec.config)
    step = History(
        created=spec.created,
        created_by=f"layerstore import {source}",
        comment=spec.message or f"Imported from {source}",
    )
    image = create_image(
        session, config, [layer.diff_id], [step], names=spec.names, created=spec.created
    )
    return ImportedImage(image, session.stats)
