"""Images out of docker and podman into the store, and back.

What an engine exports is taken for what it was asked for and for nothing else: names are those
that the user gave, and an image counts only if it is the one that the engine said it would be.
What goes in is an archive of docker's with plain layers, made while it is sent; of layers whose
whole chain the engine has only the names are in it, where the engine takes that.

Source: moby, image/tarexport (what loading reads).
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from layerstore.digest import hex_of
from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats import strict_json
from layerstore.formats.reference import full_name, may_be_id, parse_reference, parse_tag_name
from layerstore.formats.tar_writer import TAR_END, member_header, padding
from layerstore.formats.tree import Entry, Kind
from layerstore.image.exchange.adopting import adopt_image
from layerstore.image.exchange.exchange import READ_BYTES
from layerstore.image.exchange.finding import find_image
from layerstore.image.exchange.originals import Originals
from layerstore.image.images import load_parts
from layerstore.image.layouts.archive_file import ArchiveFile
from layerstore.image.layouts.loading import loading_of
from layerstore.image.trees.export_layer import verified_tar
from layerstore.peers.engine import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from layerstore.digest import DiffId, Digest, ImageId
    from layerstore.formats import oci
    from layerstore.image.images import ImageParts
    from layerstore.peers.engine import Engine, EngineStream
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store

_MAX_EXAMINED = 500
"""Images of an engine that are asked for their layers, to know what need not be sent."""


class Taken(NamedTuple):
    """An image that came from an engine.

    Attributes:
        names: All that it got.
        was_here: The store had it already; only names were given.
    """

    image: ImageRecord
    names: tuple[str, ...]
    was_here: bool


class Given(NamedTuple):
    """An image that went to an engine.

    Attributes:
        names: Complete names under which it is there.
        sent_bytes: Of its layers; 0 if it was there.
    """

    image_id: ImageId
    names: tuple[str, ...]
    sent_bytes: int


class SentImage(NamedTuple):
    """An image of an archive that is sent: ``omitted`` layers are named in it, but not there."""

    parts: ImageParts
    names: tuple[str, ...]
    omitted: int = 0


def take_images(
    store: Store,
    engine: Engine,
    names: Sequence[str],
    serves: Callable[[oci.Platform], bool],
    progress: Progress,
) -> Iterator[Taken]:
    """Bring images of an engine into the store; each is durable when it is yielded.

    An image that the store has is not sent: it gets its name.

    Raises:
        NotFoundError: The engine has no image of a name; nothing was taken then.
        EngineError: It failed, or is no engine.
        IntegrityError: What it sent is not what it said, or not what its digests say.
    """
    wanted: dict[Digest, tuple[str, ...]] = {}
    asked: dict[Digest, str] = {}
    for name in names:
        found = engine.find(name)
        if found is None:
            raise NotFoundError(
                f"{engine.name} has no image {name}", hint="layerstore images --of lists them"
            )
        own = _names_of(name)
        wanted[found.image_id] = (*wanted.get(found.image_id, ()), *own)
        if own:  # as it was found: podman takes a short name for another than we do
            asked.setdefault(found.image_id, name)
    missing = []
    for image_id, own in wanted.items():
        record = store.catalog.image(image_id)
        if record is None:
            missing.append(image_id)
            continue
        for name in own:
            store.tag(name, record.image_id)
        yield Taken(record, own, was_here=True)
    for image_id in missing:
        # By name: some engines have ids that archives do not know.
        text = asked.get(image_id, hex_of(image_id))
        yield _take(store, engine, image_id, text, wanted[image_id], serves, progress)


def _names_of(text: str) -> tuple[str, ...]:
    """Return the name that an image gets which was asked for so; none for an id."""
    if may_be_id(text) or parse_reference(text).digest is not None:
        return ()
    return (parse_tag_name(text),)


def _take(
    store: Store,
    engine: Engine,
    image_id: Digest,
    asked: str,
    names: tuple[str, ...],
    serves: Callable[[oci.Platform], bool],
    progress: Progress,
) -> Taken:
    with (
        store.begin(f"load from {engine.name}") as session,
        exported(engine, (asked,), lambda: session.temporary("archive.tar"), progress) as files,
    ):
        loading = loading_of(files, engine.name)
        for listed in loading.images:
            found = find_image(loading.source, listed.reference, serves)
            digests = {found.manifest.config.digest}
            digests |= {document.digest for document in found.documents}
            if image_id not in digests:
                continue
            adopted = adopt_image(
                session,
                loading.source,
                found,
                names=list(names),
                originals=Originals.AUTO,
                progress=progress,
            )
            return Taken(adopted.image, names, was_here=False)
    raise IntegrityError(
        f"{engine.name} was asked for {image_id} and sent another image",
        hint="look at what it lists: layerstore images --of",
    )


@contextlib.contextmanager
def exported(
    engine: Engine, names: Sequence[str], scratch: Callable[[], str], progress: Progress
) -> Iterator[ArchiveFile]:
    """Give what an engine exports, whole, open for the block.

    Args:
        engine: Which one.
        names: Of images, or their ids.
        scratch: Returns the name that a scratch file has for a moment.
        progress: Hears the bytes that the engine sends.

    Raises:
        NotFoundError: It has no such image.
        EngineError: It failed.
        FormatError: What it sends is no archive.
    """
    with engine.export(names) as stream:
        progress.start("reading archive", None)
        counted = _Counted(stream, progress)
        with ArchiveFile(cast("BinaryIO", counted), scratch) as files:
            counted.drain()
            progress.finish()
            yield files


class _Counted(io.RawIOBase):
    """A stream whose bytes are told to a progress; it has no descriptor."""

    def __init__(self, stream: EngineStream, progress: Progress) -> None:
        super().__init__()
        self._stream = stream
        self._progress = progress

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, none at the end."""
        piece = self._stream.read(size if size > 0 else READ_BYTES)
        self._progress.advance(len(piece))
        return piece

    def drain(self) -> None:
        """Read on to the end: an archive that was cut off behind its last member is none."""
        while self.read():
            pass


# -- into an engine


def give_images(
    store: Store, engine: Engine, images: Sequence[tuple[ImageRecord, Sequence[str]]],
    progress: Progress,
) -> list[Given]:  # fmt: skip
    """Give images to an engine, those and the layers that it lacks.

    Args:
        store: Where they are.
        engine: Where they go.
        images: Each with the familiar names that it shall have there.
        progress: Hears the bytes that are sent.

    Raises:
        EngineError: It refused, or has not what it was given afterwards.
        IntegrityError: Stored bytes are damaged.
    """
    known = _known_chains(engine) if engine.keeps_whole_chains() else frozenset()
    given = []
    for record, names in images:
        parts = load_parts(store, record)
        complete = tuple(full_name(name) for name in names)
        if _has(engine, record, complete):
            given.append(Given(record.image_id, complete, 0))
            continue
        omitted = _length_known(parts.layers, known)
        try:
            sent = _send(store, engine, SentImage(parts, complete, omitted), progress)
        except EngineError:
            if not omitted:
                raise
            # Some chain went in the meantime, or it reads every file after all.
            sent = _send(store, engine, SentImage(parts, complete), progress)
        found = engine.find(complete[0] if complete else record.image_id)
        if found is None or found.layers != record.layers:
            raise EngineError(f"{engine.name} took {record.image_id} and has it not")
        given.append(Given(record.image_id, complete, sent))
    return given


def _has(engine: Engine, record: ImageRecord, names: Iterable[str]) -> bool:
    """Whether an engine has an image already, and under all these names."""
    for name in (record.image_id, *names):
        found = engine.find(name)
        if found is None or found.image_id != record.image_id:
            return False
    return True


def _known_chains(engine: Engine) -> frozenset[tuple[DiffId, ...]]:
    """Return the chains of layers that an engine has: of every image, and of what is below."""
    chains: set[tuple[DiffId, ...]] = set()
    for image in engine.images()[:_MAX_EXAMINED]:
        details = engine.find(image.image_id)
        layers = details.layers if details is not None else ()
        chains.update(layers[: number + 1] for number in range(len(layers)))
    return frozenset(chains)


def _length_known(layers: tuple[DiffId, ...], known: frozenset[tuple[DiffId, ...]]) -> int:
    """Return how many of the lowest layers are known as a chain."""
    return next((length for length in range(len(layers), 0, -1) if layers[:length] in known), 0)


def _send(store: Store, engine: Engine, image: SentImage, progress: Progress) -> int:
    """Send one image; return the bytes of layers."""
    layers = image.parts.layers[image.omitted :]
    size = sum(store.layer(diff_id).tar_size for diff_id in layers)
    progress.start(f"sending {hex_of(image.parts.image_id)[:12]}", size)
    engine.load(_told(docker_archive(store, [image]), progress))
    progress.finish()
    return size


def _told(pieces: Iterable[bytes], progress: Progress) -> Iterator[bytes]:
    for piece in pieces:
        progress.advance(len(piece))
        yield piece


def docker_archive(store: Store, images: Sequence[SentImage]) -> Iterator[bytes]:
    """Yield an archive of docker's with images and their plain layers, each layer once.

    Raises:
        IntegrityError: Stored bytes are damaged: what was yielded must not be used.
    """
    written: set[DiffId] = set()
    listed = []
    for image in images:
        parts = image.parts
        yield from archive_member(
            f"{hex_of(parts.image_id)}.json", [parts.config], len(parts.config)
        )
        for diff_id in parts.layers[image.omitted :]:
            if diff_id not in written:
                written.add(diff_id)
                size = store.layer(diff_id).tar_size
                yield from archive_member(_layer_file(diff_id), verified_tar(store, diff_id), size)
        listed.append(
            {
                "Config": f"{hex_of(parts.image_id)}.json",
                "RepoTags": list(image.names),
                "Layers": [_layer_file(diff_id) for diff_id in parts.layers],
            }
        )
    manifest = strict_json.encode(listed)
    yield from archive_member("manifest.json", [manifest], len(manifest))
    yield TAR_END


def _layer_file(diff_id: DiffId) -> str:
    return f"{hex_of(diff_id)}.tar"


def archive_member(name: str, pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield a file of an archive: its header, its bytes, its padding."""
    yield member_header(Entry(name.encode(), Kind.FILE, 0o644, size=size))
    yield from pieces
    yield padding(size)
