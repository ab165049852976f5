"""Archives and layouts of images, of whatever kind, into a store.

What a file is, is found by looking into it: an OCI layout (``index.json``), what docker and
podman save (``manifest.json``), or docker's format of before 1.10 (``repositories``). An
archive that is the first two at once, as docker and layerstore save it, is read as a layout,
for that alone holds the manifests, and named by both.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import FormatError, NotFoundError
from layerstore.formats import oci
from layerstore.formats.reference import (
    ReferenceSyntaxError,
    is_digest_name,
    parse_tag_name,
)
from layerstore.image.exchange.adopting import adopt_image
from layerstore.image.exchange.finding import FoundIndex, find_all, find_image
from layerstore.image.exchange.indexes import keep_found
from layerstore.image.layouts.archive_file import ArchiveFile
from layerstore.image.layouts.docker_archive import (
    MANIFEST_FILE,
    DockerArchive,
    config_digest,
    listed_images,
)
from layerstore.image.layouts.layout import INDEX_FILE
from layerstore.image.layouts.layout_reader import LayoutReader

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from layerstore.digest import Digest, ImageId
    from layerstore.image.exchange.exchange import ImageSource
    from layerstore.image.exchange.finding import FoundImage
    from layerstore.image.exchange.originals import Originals
    from layerstore.progress import Progress
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession


class Loadable(NamedTuple):
    """An image, or an index of several, that a place holds.

    Attributes:
        reference: By which its source knows it.
        names: What it is to be called.
        tag: What a layout calls it that has no whole name; "" for nothing.
        flat: Manifests that the layout lists under this name without an index between.
    """

    reference: str
    names: tuple[str, ...]
    tag: str = ""
    flat: tuple[oci.Descriptor, ...] = ()


class Loading(NamedTuple):
    """What is to be loaded from where.

    Attributes:
        more_names: Of images by the digest of their config, beside those of ``images``.
    """

    source: ImageSource
    images: tuple[Loadable, ...]
    more_names: dict[Digest, tuple[str, ...]]


class Choice(NamedTuple):
    """Which images are taken, and what is remembered of them.

    Attributes:
        serves: Which platform will do where there are several.
        all_platforms: Whether every platform is taken; the name then means the index of all,
            and where one image is asked for, the first that ``serves`` accepts.
    """

    serves: Callable[[oci.Platform], bool]
    all_platforms: bool
    originals: Originals


class Loaded(NamedTuple):
    """An image that was loaded.

    Attributes:
        names: All that it got.
        documents: What it came under.
        kept_bytes: Of compressed originals that are kept for it.
        tag: What a layout calls it that has no whole name; no name was made of that.
        left_out: Platforms that a layout lists under the same name, without an index between.
    """

    image: ImageRecord
    names: tuple[str, ...]
    documents: tuple[Digest, ...]
    kept_bytes: int
    tag: str = ""
    left_out: tuple[str, ...] = ()


def load_file(
    store: Store, stream: BinaryIO, name: str, choice: Choice, progress: Progress
) -> Generator[Loaded]:
    """Load the images of an archive one after the other; each is durable when it is yielded.

    Args:
        store: Where to.
        stream: The archive; need not seek.
        name: What messages call it.
        choice: What is taken.
        progress: Hears the uncompressed bytes of layers.

    Raises:
        FormatError: Not an archive of images, or one that means several things.
        UnsafeContentError: It would harm a host.
        IntegrityError: Something in it is not what its digest says.
        LimitExceededError: It costs more than an archive of images does.
    """
    with store.begin(f"load {name}") as session:
        progress.start("reading archive", None)
        with ArchiveFile(stream, lambda: session.temporary("archive.tar")) as files:
            progress.finish()
            yield from _load(session, loading_of(files, name), choice, progress)


def load_directory(
    store: Store, path: Path, choice: Choice, progress: Progress
) -> Generator[Loaded]:
    """Load the images of an OCI layout directory; as :func:`load_file`.

    Raises:
        NotFoundError: There is no such directory.
    """
    with store.begin(f"load {path}") as session, LayoutReader(path) as layout:
        loading = Loading(layout, tuple(_of_layout(layout)), {})
        yield from _load(session, loading, choice, progress)


def loading_of(files: ArchiveFile, name: str) -> Loading:
    """Return what an open archive holds, whichever kind it is.

    Raises:
        FormatError: Not an archive of images, or one with bad names.
    """
    if INDEX_FILE.encode() not in files:
        archive = DockerArchive(files, name)
        images = [
            Loadable(str(number), _checked(image.names))
            for number, image in enumerate(archive.images)
        ]
        return Loading(archive, tuple(images), {})
    layout = LayoutReader(files, name)
    more: dict[Digest, tuple[str, ...]] = {}
    if MANIFEST_FILE in files:
        more = {config_digest(each): _checked(each.names) for each in listed_images(files)}
    return Loading(layout, tuple(_of_layout(layout)), more)


def _of_layout(layout: LayoutReader) -> Iterator[Loadable]:
    """Yield what a layout lists that may be images, each once with all of its names."""
    names: dict[Digest, list[str]] = {}
    tags: dict[Digest, str] = {}
    for entry in layout.listed():
        if entry.media_type in (*oci.MANIFEST_TYPES, *oci.INDEX_TYPES):
            own = names.setdefault(entry.digest, [])
            name = _name_of(entry)
            if name is None:
                tags.setdefault(entry.digest, entry.annotations.get(oci.REF_NAME, ""))
            elif name not in own:
                own.append(name)
    for digest, found in names.items():
        yield Loadable(digest, tuple(found), tags.get(digest, ""), layout.flat_images(digest))


def _name_of(entry: oci.Descriptor) -> str | None:
    """Return the name that an entry of index.json has; a tag alone is none.

    Raises:
        FormatError: Its whole name is none.
    """
    whole = entry.annotations.get(oci.CONTAINERD_NAME)
    if whole is not None:
        return _checked([whole])[0]
    reference = entry.annotations.get(oci.REF_NAME, "")
    if "/" not in reference and ":" not in reference:
        return None
    # Free text by the spec (annotations.md): what is no name is no reason to refuse the image.
    with contextlib.suppress(ReferenceSyntaxError):
        if not is_digest_name(reference):
            return parse_tag_name(reference)
    return None


def _checked(names: Sequence[str]) -> tuple[str, ...]:
    try:
        return tuple(parse_tag_name(name) for name in names)
    except ReferenceSyntaxError as err:
        raise FormatError(f"an image of the archive has a bad name: {err.message}") from err


def _load(
    session: WriteSession, loading: Loading, choice: Choice, progress: Progress
) -> Generator[Loaded]:
    if not loading.images:
        raise NotFoundError(f"{loading.source.name} holds no images")
    for listed in loading.images:
        found = _found(loading, listed, choice)
        named = _first_served(found, choice)
        own = loading.more_names.get(named.manifest.config.digest, ())
        tags = list(dict.fromkeys([*listed.names, *own]))
        is_index = len(found.images) > 1 and bool(tags)
        images: dict[Digest, ImageId] = {}
        loaded: list[Loaded] = []
        for image in found.images:
            more = loading.more_names.get(image.manifest.config.digest, ())
            names = tags if image is named else [name for name in more if name not in tags]
            adopted = adopt_image(
                session,
                loading.source,
                image,
                names=[] if is_index and image is named else names,
                originals=choice.originals,
                beside=found.beside,
                progress=progress,
            )
            digest = image.documents[0].digest
            images[digest] = adopted.image.image_id
            if is_index and image is not named:
                names = [*names, *(f"{tag}@{digest}" for tag in tags)]
            one = Loaded(
                adopted.image, tuple(names), adopted.documents, adopted.kept_bytes, listed.tag,
                _left_out(listed, found),
            )  # fmt: skip
            if is_index:
                loaded.append(one)  # until the index is there, none has a name
            else:
                yield one
        if is_index:
            keep_found(session.store, tags, found, images, images[named.documents[0].digest])
            for one in loaded:
                yield one._replace(image=session.store.image(one.image.image_id))


def _found(loading: Loading, listed: Loadable, choice: Choice) -> FoundIndex:
    """Return the images that are taken of what is listed."""
    everything = choice.all_platforms
    if not everything:
        image = find_image(loading.source, listed.reference, choice.serves)
        if listed.flat:  # nobody knows the index: the image did not come under it
            return FoundIndex((image._replace(documents=image.documents[:1]),))
        if len(image.documents) == 1:
            return FoundIndex((image,))
        # An index of one image and what is attested of it is taken whole: it can leave so.
        with contextlib.suppress(NotFoundError):
            whole = find_all(loading.source, listed.reference)
            if len(whole.images) == 1:
                return whole
        return FoundIndex((image,))
    return find_all(loading.source, listed.reference)


def _left_out(listed: Loadable, found: FoundIndex) -> tuple[str, ...]:
    """Return the platforms of those manifests of one name that are not taken."""
    taken = {image.documents[0].digest for image in found.images}
    return tuple(str(each.platform) for each in listed.flat if each.digest not in taken)


def _first_served(found: FoundIndex, choice: Choice) -> FoundImage:
    """Return the image that gets the names."""
    for image in found.images:
        config = image.config
        platform = oci.Platform(
            architecture=config.architecture, os=config.os, variant=config.variant
        )
        if choice.serves(platform):
            return image
    return found.images[0]
