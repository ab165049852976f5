"""docker and podman as places that images are copied from and to, past the store.

An engine exports and loads archives, so a copy out of one lies in a scratch file while it is
read, and one into an engine lies in a scratch directory until it is whole. Engines keep no
manifest of what they load: the image keeps its id there, its manifest's digest it does not.

Source: containers-transports(5), docker-daemon and containers-storage.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from layerstore.digest import hex_of
from layerstore.errors import InputError, IntegrityError, NotFoundError
from layerstore.formats import oci, strict_json
from layerstore.formats.tar_writer import TAR_END
from layerstore.image.exchange.blob_files import BlobFile
from layerstore.image.exchange.exchange import READ_BYTES
from layerstore.image.layouts.loading import loading_of
from layerstore.peers.engine_images import archive_member, exported

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from layerstore.digest import Digest
    from layerstore.image.exchange.exchange import Document, ImageSource
    from layerstore.peers.engine import Engine
    from layerstore.progress import Progress


@contextlib.contextmanager
def engine_source(
    engine: Engine, name: str, scratch: Callable[[], str], progress: Progress
) -> Iterator[tuple[ImageSource, str]]:
    """Give an image of an engine as a source, and what it is called there.

    Args:
        engine: Which one.
        name: A complete name, or an id.
        scratch: Returns the name that a scratch file has for a moment.
        progress: Hears the bytes that the engine sends.

    Raises:
        NotFoundError: It has no such image.
        EngineError: It failed.
        FormatError: What it sends is no archive of images.
    """
    if engine.find(name) is None:
        raise NotFoundError(
            f"{engine.name} has no image {name}", hint="layerstore images --of lists them"
        )
    with exported(engine, [name], scratch, progress) as files:
        loading = loading_of(files, engine.name)
        if len(loading.images) != 1:
            raise InputError(
                f"{engine.name} gave {len(loading.images)} images for {name}",
                hint="ask for one by its tag",
            )
        yield loading.source, loading.images[0].reference


class EngineDestination:
    """An engine that one image is copied to; it has the image when :meth:`finish` returns.

    Args:
        engine: Which one.
        scratch: A directory for the image's blobs until then.
    """

    def __init__(self, engine: Engine, scratch: str) -> None:
        self._engine = engine
        self._scratch = scratch
        self._name = ""
        self._sizes: dict[Digest, int] = {}
        self._manifest: oci.Manifest | None = None

    def has_blob(self, descriptor: oci.Descriptor) -> bool:
        """Return whether the blob came already."""
        return descriptor.digest in self._sizes

    def put_blob(
        self, pieces: Iterable[bytes], media_type: str, expected: oci.Descriptor | None = None
    ) -> oci.Descriptor:
        """Keep a blob for the archive.

        Raises:
            IntegrityError: It is not ``expected``.
        """
        with BlobFile(self._scratch) as blob:
            for piece in pieces:
                blob.write(piece)
            if expected is not None and blob.digest != expected.digest:
                raise IntegrityError(f"blob {expected.digest} came out as {blob.digest}")
            digest = blob.publish()
        self._sizes[digest] = blob.size
        return oci.Descriptor(media_type=media_type, digest=digest, size=blob.size)

    def put_document(self, document: Document, reference: str | None) -> None:
        """Take the manifest of the image, and the complete name that it gets.

        Raises:
            InputError: It is an index: an engine takes one image.
            FormatError: It is no image's manifest.
        """
        if document.media_type in oci.INDEX_TYPES:
            raise InputError(
                f"{self._engine.name} takes one image, not the index of several",
                hint="copy without --all; --platform chooses",
            )
        self._manifest = oci.decode_manifest(document.raw, media_type=document.media_type)
        self._name = reference or ""

    def finish(self, progress: Progress) -> None:
        """Give the image to the engine.

        Raises:
            EngineError: It refused.
        """
        if self._manifest is None:
            raise AssertionError("nothing was copied")
        progress.start(f"loading into {self._engine.name}", sum(self._sizes.values()))
        self._engine.load(self._archive(self._manifest, progress))
        progress.finish()

    def _archive(self, manifest: oci.Manifest, progress: Progress) -> Iterator[bytes]:
        config = f"{hex_of(manifest.config.digest)}.json"
        layers = {each.digest: f"{hex_of(each.digest)}.tar" for each in manifest.layers}
        for digest, name in {manifest.config.digest: config, **layers}.items():
            yield from archive_member(name, self._read(digest, progress), self._sizes[digest])
        listed = {
            "Config": config,
            "RepoTags": [self._name] if self._name else [],
            "Layers": [layers[each.digest] for each in manifest.layers],
        }
        raw = strict_json.encode([listed])
        yield from archive_member("manifest.json", [raw], len(raw))
        yield TAR_END

    def _read(self, digest: Digest, progress: Progress) -> Iterator[bytes]:
        with open(f"{self._scratch}/{hex_of(digest)}", "rb") as file:
            while piece := file.read(READ_BYTES):
                yield piece
                progress.advance(len(piece))
