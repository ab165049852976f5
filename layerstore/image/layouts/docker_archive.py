"""Images out of what ``docker save`` and ``podman save`` write.

``manifest.json`` lists images, each with a config and the files of its layers, compressed or
not. Archives of docker before 1.10 have no such file but a directory for each layer, with the
config of its time in ``json``, and ``repositories`` that names the topmost ones: their configs
are made as docker made them when it loaded such an archive. There are no manifests in either:
they are made up here, and are nobody's original.

Source: moby, image/spec/v1.2.md ("Combined Image JSON + Filesystem Changeset Format") and
v1.md; image/tarexport/load.go for what loading makes of the older one.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import DiffId, Digest, sha256_digest
from layerstore.errors import FormatError, LimitExceededError, NotFoundError
from layerstore.formats import oci, strict_json
from layerstore.formats._fields import Fields
from layerstore.formats.decompress import compression_of
from layerstore.formats.oci_config import MAX_LAYERS, decode_config
from layerstore.image.exchange.exchange import Document
from layerstore.image.layouts.layout_reader import read_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.image.layouts.archive_file import ArchiveFile, Slice

MANIFEST_FILE = b"manifest.json"
REPOSITORIES_FILE = b"repositories"
IMAGES_MAX = 1_000
"""Images of one archive."""

DOCUMENTS_MAX_BYTES = 64 << 20
"""Of an archive's configs, and of an image of version 1 and its parents: in memory together."""

_TYPES = {
    "none": oci.LAYER_TAR_TYPE,
    "gzip": oci.LAYER_GZIP_TYPE,
    "zstd": oci.LAYER_ZSTD_TYPE,
}
_Chain = list[tuple[str, dict[str, object]]]
"""Ids of images of version 1 with their configs."""

_OF_V1_ALONE = ("id", "parent", "parent_id", "layer_id", "throwaway", "Size")


class ListedImage(NamedTuple):
    """An image of an archive.

    Attributes:
        config: As it lies there, or as it was made.
        layers: Members' names, lowest first.
        names: What it is to be called.
    """

    config: bytes
    layers: tuple[bytes, ...]
    names: tuple[str, ...]


class DockerArchive:
    """An open archive, a source of :mod:`~layerstore.image.exchange.exchange`.

    A reference is the image's number in :attr:`images`.

    Raises:
        FormatError: It lists no images, or in words that mean several things.
        LimitExceededError: More images than an archive has.
    """

    is_remote = False
    has_originals = False

    def __init__(self, files: ArchiveFile, name: str) -> None:
        self.name = name
        self._files = files
        self._blobs: dict[Digest, bytes | tuple[bytes]] = {}
        self.images = tuple(listed_images(files))

    def document(self, reference: str) -> Document:
        """Return a manifest of an image, made up."""
        image = self.images[int(reference)]
        config = oci.describe(image.config, oci.CONFIG_TYPE)
        self._blobs[config.digest] = (image.config,)
        diff_ids = decode_config(image.config).diff_ids
        if len(diff_ids) != len(image.layers):
            raise FormatError(
                f"{self.name} lists {len(image.layers)} layers, its config {len(diff_ids)}"
            )
        layers = [self._describe(*pair) for pair in zip(image.layers, diff_ids, strict=True)]
        manifest = oci.Manifest(config=config, layers=tuple(layers))
        return Document(oci.encode_manifest(manifest), oci.MANIFEST_TYPE)

    def _describe(self, name: bytes, diff_id: DiffId) -> oci.Descriptor:
        """Return what names a layer's file: where it is compressed, only reading it tells."""
        size = self._files.size(name)
        if not size:
            raise FormatError(f"{self.name}: the layer {os.fsdecode(name)!r} is empty")
        compression = compression_of(self._files.open(name).read(64))
        digest = Digest(diff_id) if compression == "none" else self._files.digest(name)
        if compression not in _TYPES:
            raise FormatError(f"{self.name}: a layer is compressed by {compression}")
        self._blobs[digest] = name
        return oci.Descriptor(media_type=_TYPES[compression], digest=digest, size=size)

    def open_blob(self, descriptor: oci.Descriptor) -> Slice | _Bytes:
        """Return a config or a layer of an image that was asked for."""
        found = self._blobs.get(descriptor.digest)
        if found is None:
            raise NotFoundError(f"{self.name} has no blob {descriptor.digest}")
        return self._files.open(found) if isinstance(found, bytes) else _Bytes(found[0])


class _Bytes:
    """A blob at hand."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def read(self, size: int, /) -> bytes:
        piece, self._raw = self._raw[:size], self._raw[size:]
        return piece

    def close(self) -> None:
        pass


def listed_images(files: ArchiveFile) -> Iterator[ListedImage]:
    """Yield the images that an archive lists.

    Raises:
        FormatError: None, or in words that mean several things.
        LimitExceededError: More, or larger configs, than an archive has.
    """
    size = 0
    for image in _listed(files):
        size += len(image.config)
        _refuse_large(size)
        yield image


def _listed(files: ArchiveFile) -> Iterator[ListedImage]:
    if MANIFEST_FILE in files:
        yield from _of_manifest(files)
    elif REPOSITORIES_FILE in files:
        yield from _of_repositories(files)
    else:
        raise FormatError(
            "the archive has neither index.json nor manifest.json nor repositories",
            hint="'layerstore import' takes a root file system",
        )


def _of_manifest(files: ArchiveFile) -> Iterator[ListedImage]:
    listed = _json(files, MANIFEST_FILE)
    if not isinstance(listed, list):
        raise FormatError("manifest.json is no list of images")
    if len(listed) > IMAGES_MAX:
        raise LimitExceededError(f"manifest.json lists {len(listed)} images, over {IMAGES_MAX}")
    for number, value in enumerate(listed):
        fields = Fields(value, f"manifest.json[{number}]")
        config = fields.required_text("Config")
        layers = fields.texts("Layers") or ()
        if len(layers) > MAX_LAYERS:
            raise LimitExceededError(f"image has {len(layers)} layers, more than {MAX_LAYERS}")
        yield ListedImage(
            _document(files, os.fsencode(config)),
            tuple(os.fsencode(layer) for layer in layers),
            fields.texts("RepoTags") or (),
        )


def _document(files: ArchiveFile, name: bytes) -> bytes:
    with contextlib.closing(files.open(name)) as file:
        raw = read_all(file, strict_json.MAX_DOCUMENT_BYTES)
    if raw is None:
        raise LimitExceededError(f"{os.fsdecode(name)!r} is larger than 4 MiB")
    return raw


def _refuse_large(size: int) -> None:
    if size > DOCUMENTS_MAX_BYTES:
        raise LimitExceededError(
            f"the configs of the archive have more than {DOCUMENTS_MAX_BYTES} bytes together"
        )


def _json(files: ArchiveFile, name: bytes) -> object:
    return strict_json.decode(_document(files, name), os.fsdecode(name))


# -- docker before 1.10


def _of_repositories(files: ArchiveFile) -> Iterator[ListedImage]:
    repositories = _json(files, REPOSITORIES_FILE)
    if not isinstance(repositories, dict):
        raise FormatError("repositories is no object")
    names: dict[str, list[str]] = {}
    for repository, tags in repositories.items():
        if not isinstance(tags, dict):
            raise FormatError(f"repositories has no tags of {repository[:100]!r}")
        for tag, image in tags.items():
            if not isinstance(image, str) or not image.isalnum():
                raise FormatError(f"repositories has no id for {repository[:100]!r}")
            names.setdefault(image, []).append(f"{repository}:{tag}")
    if len(names) > IMAGES_MAX:
        raise LimitExceededError(f"repositories names {len(names)} images, over {IMAGES_MAX}")
    size = 0
    for image, own in names.items():
        chain, read = _chain(files, image)
        size += read
        _refuse_large(size)
        yield _image_of_v1(files, chain, tuple(own))


def _image_of_v1(files: ArchiveFile, chain: _Chain, names: tuple[str, ...]) -> ListedImage:
    """Return an image as docker makes it when it loads one of version 1."""
    layers = [f"{each}/layer.tar".encode() for each, _ in chain]
    diff_ids = [_plain_digest(files, layer) for layer in layers]
    top = chain[-1][1]
    config = {key: value for key, value in top.items() if key not in _OF_V1_ALONE}
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    config["history"] = [_step_of_v1(values) for _, values in chain]
    return ListedImage(strict_json.encode(config), tuple(layers), names)


def _chain(files: ArchiveFile, image: str) -> tuple[_Chain, int]:
    """Return an image of version 1 and its parents, the lowest first, and the bytes read for it."""
    found: _Chain = []
    parent: object = image
    size = 0
    while parent:
        if not isinstance(parent, str) or not parent.isalnum():
            raise FormatError(f"the parent of an image is {str(parent)[:100]!r}, which is no id")
        if len(found) == MAX_LAYERS:
            raise LimitExceededError(f"image has more than {MAX_LAYERS} layers")
        name = f"{parent}/json".encode()
        size += files.size(name)
        _refuse_large(size)
        values = _json(files, name)
        if not isinstance(values, dict):
            raise FormatError(f"{parent}/json is no object")
        found.append((parent, values))
        parent = values.get("parent")
    return found[::-1], size


def _plain_digest(files: ArchiveFile, name: bytes) -> Digest:
    if compression_of(files.open(name).read(64)) != "none":
        raise FormatError(f"{os.fsdecode(name)!r} is compressed, which version 1 does not know")
    return files.digest(name)


def _step_of_v1(values: dict[str, object]) -> dict[str, object]:
    command = values.get("container_config")
    run = command.get("Cmd") if isinstance(command, dict) else None
    step = {
        "created": values.get("created"),
        "author": values.get("author"),
        "comment": values.get("comment"),
        "created_by": " ".join(map(str, run)) if isinstance(run, list) else None,
    }
    return {key: value for key, value in step.items() if value}


def config_digest(image: ListedImage) -> Digest:
    """Return the id of an image of an archive."""
    return sha256_digest(image.config)
