"""Where the result of a build goes: the store, archives, a directory.

The kinds and their meaning are those of ``docker buildx build --output``. Each output is
whole or not there: streams are handed in by the caller, who makes them appear at their end,
layouts and directories appear by a rename.

Source: buildx and BuildKit, ``--output`` (behaviour).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats import oci
from layerstore.image.images import image_record, publish_parts, stored_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import BinaryIO

    from layerstore.build.resources import BuildResources
    from layerstore.formats.oci import Descriptor
    from layerstore.image.blob_files import Compression
    from layerstore.image.images import ImageParts
    from layerstore.store.catalog_rows import ImageRecord


class OutputKind(enum.Enum):
    """What an output is; the values are buildx' words."""

    IMAGE = "image"
    OCI = "oci"
    DOCKER = "docker"
    TAR = "tar"
    LOCAL = "local"
    CACHE_ONLY = "cacheonly"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One place for the result.

    Attributes:
        kind: What it gets.
        stream: Opens what an archive is written to; it appears whole when the block is left.
        directory: Of ``local``, and of layouts that are not archived; None for streams.
        names: Names besides those of the build, for this output alone.
        compression: Of layers in layouts.
    """

    kind: OutputKind
    stream: Callable[[], AbstractContextManager[BinaryIO]] | None = None
    directory: Path | None = None
    names: tuple[str, ...] = ()
    compression: Compression = "gzip"


class Written(NamedTuple):
    """What the outputs came to.

    Attributes:
        image: As the store lists it, or would.
        names: All that it got.
        descriptor: Of what the last output that has one holds: a manifest or an index.
        is_stored: Whether an output was for the store.
    """

    image: ImageRecord
    names: tuple[str, ...]
    descriptor: Descriptor
    is_stored: bool


def write_outputs(
    outputs: Sequence[Output],
    resources: BuildResources,
    parts: ImageParts,
    names: Sequence[str],
    *,
    epoch: int | None,
) -> Written:
    """Write the built image to every output, those of the store last.

    So a failure elsewhere leaves no new image under old names.

    Args:
        outputs: In the order they are written.
        resources: Of the build: its session holds the layers.
        parts: The image.
        names: Familiar names.
        epoch: SOURCE_DATE_EPOCH: no file of a tar or directory has a later time.
    """
    image = image_record(resources.store, parts)
    manifest = stored_manifest(resources.store, parts)
    descriptor = oci.describe(manifest, oci.MANIFEST_TYPE)
    latest_ns = None if epoch is None else epoch * 1_000_000_000
    resources.session.hold_layers(parts.layers)
    ordered = sorted(outputs, key=lambda each: each.kind is OutputKind.IMAGE)
    for output in ordered:
        own_names = list(dict.fromkeys([*names, *output.names]))
        match output.kind:
            case OutputKind.IMAGE:
                publish_parts(resources.session, parts, names=own_names)
                descriptor = oci.describe(manifest, oci.MANIFEST_TYPE)
            case OutputKind.OCI | OutputKind.DOCKER:
                descriptor = _write_layout(output, resources, parts, own_names)
            case OutputKind.TAR:
                _write_tar(output, resources, parts, latest_ns)
            case OutputKind.LOCAL:
                _write_directory(output, resources, parts, latest_ns)
            case OutputKind.CACHE_ONLY:
                pass
    all_names = dict.fromkeys([*names, *(name for output in ordered for name in output.names)])
    return Written(
        image, tuple(all_names), descriptor, any(o.kind is OutputKind.IMAGE for o in outputs)
    )


def _write_layout(
    output: Output, resources: BuildResources, parts: ImageParts, names: Sequence[str]
) -> Descriptor:
    from layerstore.image.layout import NamedImage, save_oci_layout
    from layerstore.image.layout_archive import write_archive, write_docker_file

    if output.kind is OutputKind.DOCKER:
        parts = parts._replace(predicates={})  # as BuildKit: docker load knows no indexes
    images = [NamedImage(name, parts) for name in names] or [NamedImage(None, parts)]
    if output.directory is not None:
        layout = output.directory
    else:
        layout = resources.scratch / "layout"
        resources.discard(layout)
    report = save_oci_layout(resources.store, images, layout, compression=output.compression)
    if output.kind is OutputKind.DOCKER:
        write_docker_file(layout, report, names)
    if output.stream is not None:
        with output.stream() as stream:
            write_archive(str(layout), stream)
        resources.discard(layout)
    return report.descriptors[0]


def _write_tar(
    output: Output, resources: BuildResources, parts: ImageParts, latest_ns: int | None
) -> None:
    from layerstore.image.export_layer import export_rootfs

    assert output.stream is not None
    with output.stream() as stream:
        export_rootfs(resources.store, parts.layers, stream, latest_ns=latest_ns)


def _write_directory(
    output: Output, resources: BuildResources, parts: ImageParts, latest_ns: int | None
) -> None:
    from layerstore.image.checkout import checkout

    assert output.directory is not None
    skipped: list[bytes] = []
    checkout(
        resources.store,
        resources.load(parts.layers),
        output.directory,
        latest_ns=latest_ns,
        on_skip=lambda path, _why: skipped.append(path),
    )
    if skipped:
        resources.ui.message(
            f"{len(skipped)} devices and fifos are not in {output.directory}, "
            f"the first is /{skipped[0].decode('utf-8', 'replace')}"
        )
