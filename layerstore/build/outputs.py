"""Where the result of a build goes: the store, archives, a directory.

The kinds and their meaning are those of ``docker buildx build --output``. Each output is
whole or not there: streams are handed in by the caller, who makes them appear at their end,
layouts and directories appear by a rename.

Source: buildx and BuildKit, ``--output`` (behaviour).
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.build.platforms import native_platform, normalized
from layerstore.formats import oci
from layerstore.formats.oci_config import decode_config
from layerstore.image.exchange.indexes import make_index
from layerstore.image.images import image_record, publish_parts, stored_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import BinaryIO

    from layerstore.build.resources import BuildResources
    from layerstore.formats.oci import Descriptor
    from layerstore.image.exchange.blob_files import Compression
    from layerstore.image.images import ImageParts
    from layerstore.store.catalog.rows import ImageRecord


class OutputKind(enum.Enum):
    """What an output is; the values are buildx' words."""

    IMAGE = "image"
    OCI = "oci"
    DOCKER = "docker"
    TAR = "tar"
    LOCAL = "local"
    CACHE_ONLY = "cacheonly"


class Output(msgspec.Struct, frozen=True, kw_only=True):
    """One place for the result.

    Attributes:
        kind: What it gets.
        stream: Opens what an archive is written to; it appears whole when the block is left.
        directory: Of ``local``, and of layouts that are not archived; None for streams.
        names: Names besides those of the build, for this output alone.
        compression: Of layers in layouts.
        splits: Files lie in a folder for their platform; None for when there are several of them.
        prefix: What the names of files with attestations begin with.
        pushes: Whoever asked sends the image to its registries afterwards, under its names.
    """

    kind: OutputKind
    stream: Callable[[], AbstractContextManager[BinaryIO]] | None = None
    directory: Path | None = None
    names: tuple[str, ...] = ()
    compression: Compression = "gzip"
    splits: bool | None = None
    prefix: str = ""
    pushes: bool = False


class BuiltImage(NamedTuple):
    """An image on its way to the outputs.

    Attributes:
        names: Familiar names.
        folder: Where its files lie beside those for other platforms; empty if there are none.
    """

    parts: ImageParts
    names: tuple[str, ...]
    folder: str = ""


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
    built: Sequence[BuiltImage],
    *,
    epoch: int | None,
) -> list[Written]:
    """Write built images to every output, those of the store last.

    So a failure elsewhere leaves no new image under old names.

    Args:
        outputs: In the order they are written.
        resources: Of the build: its session holds the layers.
        built: The images. Where they are several, outputs are such that they have room.
        epoch: SOURCE_DATE_EPOCH: no file of a tar or directory has a later time.

    Returns:
        For each image what it came to.
    """
    store = resources.store
    stored = [oci.describe(stored_manifest(store, m.parts), oci.MANIFEST_TYPE) for m in built]
    descriptors = stored
    latest_ns = None if epoch is None else epoch * 1_000_000_000
    resources.session.hold_layers(sorted({layer for each in built for layer in each.parts.layers}))
    ordered = sorted(outputs, key=lambda each: each.kind is OutputKind.IMAGE)
    for output in ordered:
        match output.kind:
            case OutputKind.IMAGE:
                descriptors = _publish(output, resources, built, stored)
            case OutputKind.OCI | OutputKind.DOCKER:
                descriptors = _write_layout(output, resources, built)
            case OutputKind.TAR:
                _write_tar(output, resources, built, latest_ns)
            case OutputKind.LOCAL:
                _write_directory(output, resources, built, latest_ns)
            case OutputKind.CACHE_ONLY:
                pass
    further = [name for output in ordered for name in output.names]
    is_stored = any(output.kind is OutputKind.IMAGE for output in outputs)
    return [
        Written(
            image_record(store, each.parts),
            tuple(dict.fromkeys([*each.names, *further])),
            descriptor,
            is_stored,
        )
        for each, descriptor in zip(built, descriptors, strict=True)
    ]


def _names_in(output: Output, image: BuiltImage) -> list[str]:
    return list(dict.fromkeys([*image.names, *output.names]))


def _publish(
    output: Output,
    resources: BuildResources,
    built: Sequence[BuiltImage],
    stored: Sequence[Descriptor],
) -> list[Descriptor]:
    """Store images, those of one name as an index; return what names each."""
    session = resources.session
    groups = _groups(output, built)
    records = []
    for number, each in enumerate(built):
        names = [name for name, numbers in groups.items() if numbers == [number] and name]
        records.append(publish_parts(session, each.parts, names=names))
    descriptors = list(stored)
    shared: dict[tuple[int, ...], list[str]] = {}
    for name, numbers in groups.items():
        if name is not None and len(numbers) > 1:
            shared.setdefault(tuple(numbers), []).append(name)
    for members, names in shared.items():
        images = [records[number] for number in members]
        made = make_index(resources.store, names, images, _is_native).descriptor
        for number in members:
            descriptors[number] = made
    return descriptors


def _is_native(platform: oci.Platform) -> bool:
    found = normalized(platform.os, platform.architecture, platform.variant)
    return found.serves(native_platform())


def _groups(output: Output, built: Sequence[BuiltImage]) -> dict[str | None, list[int]]:
    """Return the numbers of the images that a name is for; None for those without names."""
    groups: dict[str | None, list[int]] = {}
    for number, each in enumerate(built):
        names: Sequence[str | None] = _names_in(output, each) or (None,)
        for name in names:
            groups.setdefault(name, []).append(number)
    return groups


def _write_layout(
    output: Output, resources: BuildResources, built: Sequence[BuiltImage]
) -> list[Descriptor]:
    """Write images into a layout, those of one name as one index; return what names each."""
    from layerstore.image.exchange.sending import Policy
    from layerstore.image.layouts.layout import NamedImage, save_oci_layout
    from layerstore.image.layouts.layout_archive import save_archive, write_docker_file

    named = _groups(output, built)
    every = [each.parts for each in built]
    for_docker = output.kind is OutputKind.DOCKER
    if for_docker:  # as BuildKit: docker load knows no indexes
        every = [parts._replace(predicates={}) for parts in every]
    images = [
        NamedImage(name, every[numbers[0]], tuple(every[number] for number in numbers[1:]))
        for name, numbers in named.items()
    ]
    compression = output.compression
    if output.stream is not None:
        policy = Policy(compression, compression)
        with output.stream() as stream:
            report = save_archive(resources.store, images, stream, policy, for_docker=for_docker)
    else:
        assert output.directory is not None
        place = output.directory
        report = save_oci_layout(resources.store, images, place, compression=compression)
        if for_docker:
            write_docker_file(place, report, [name for name in named if name is not None])
    groups = list(named.values())
    return [
        next(d for d, numbers in zip(report.descriptors, groups, strict=True) if number in numbers)
        for number in range(len(built))
    ]


def _placed(output: Output, built: Sequence[BuiltImage]) -> Sequence[BuiltImage]:
    """Return the images with a folder each if the output asks for one of a platform alone."""
    if not output.splits or built[0].folder:
        return built
    config = decode_config(built[0].parts.config)
    platform = normalized(config.os, config.architecture, config.variant)
    return [built[0]._replace(folder=folder_of(platform))]


def folder_of(platform: object) -> str:
    """Return the folder of a platform's files: ``linux_arm64``."""
    return str(platform).replace("/", "_")


def _write_tar(
    output: Output, resources: BuildResources, built: Sequence[BuiltImage], latest_ns: int | None
) -> None:
    from layerstore.build.plain_files import files_of
    from layerstore.image.trees.export_layer import export_rootfs

    assert output.stream is not None
    layers = files_of(resources, _placed(output, built), prefix=output.prefix)
    with output.stream() as stream:
        export_rootfs(resources.store, layers, stream, latest_ns=latest_ns)


def _write_directory(
    output: Output, resources: BuildResources, built: Sequence[BuiltImage], latest_ns: int | None
) -> None:
    from layerstore.build.plain_files import files_of
    from layerstore.image.checkout import checkout

    assert output.directory is not None
    skipped: list[bytes] = []
    checkout(
        resources.store,
        resources.load(files_of(resources, _placed(output, built), prefix=output.prefix)),
        output.directory,
        latest_ns=latest_ns,
        on_skip=lambda path, _why: skipped.append(path),
    )
    if skipped:
        resources.ui.message(
            f"{len(skipped)} devices and fifos are not in {output.directory}, "
            f"the first is /{skipped[0].decode('utf-8', 'replace')}"
        )
