"""Indexes of several images: what a stored one lists, and making one of images of the store.

Which images a tag's index has is the store's to know (:mod:`layerstore.store.names.indexes`); here
is what the document says. One that came from elsewhere lists manifests that its images came under.
One that was made here lists for each image the manifest that it came or was pushed under, else
the one that names its uncompressed layers, of which only the digest is used: a sender makes that
image's manifest anew (:mod:`layerstore.image.exchange.sending`).

Source: OCI image spec, image-index.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import ConflictError, FormatError, IntegrityError
from layerstore.formats import oci
from layerstore.formats.oci_config import decode_config
from layerstore.formats.reference import (
    is_digest_name,
    is_id,
    is_index_name,
    lookup_form,
    parse_stored_name,
)
from layerstore.image.exchange.exchange import Document
from layerstore.image.images import load_config, load_parts, own_manifest, platform_of
from layerstore.store.names.indexes import name_index, named_index

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from layerstore.digest import Digest, ImageId
    from layerstore.image.exchange.finding import FoundIndex
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store


class StoredIndex(NamedTuple):
    """An index that a name of the store means.

    Attributes:
        name: Familiar, with its tag.
        document: Byte for byte.
        listing: The same, decoded.
        entries: What lists an image, in order, those of indexes below included.
        first: The image that the name means where one is asked for.
        images: By the digest of the manifest that lists it.
    """

    name: str
    document: Document
    listing: oci.Index
    entries: tuple[oci.Descriptor, ...]
    first: ImageRecord
    images: Mapping[Digest, ImageRecord]


def find_index(store: Store, reference: str) -> StoredIndex | None:
    """Return the index that a name means, or a repository and the index's digest; else None.

    Raises:
        IntegrityError: It is damaged, or lists an image that the store lacks.
        ReferenceSyntaxError: Neither a name nor an id.
    """
    form = lookup_form(reference)
    if is_id(form):
        return None
    form = parse_stored_name(form)
    if not is_digest_name(form):
        return _index_of(store, form)
    repository, _, digest = form.partition("@")
    for name in store.tags():
        if is_index_name(name) and name.startswith(f"{repository}:") and name.endswith(digest):
            found = _index_of(store, name.partition("@")[0])
            if found is not None and found.document.digest == digest:
                return found
    return None


def _index_of(store: Store, name: str) -> StoredIndex | None:
    named = named_index(store, name)
    if named is None:
        return None
    document = Document(store.get_blob(named.digest), named.media_type)
    index = oci.decode_index(document.raw, media_type=named.media_type)
    entries = tuple(_entries(index, store.get_blob))
    for entry in entries:
        if entry.digest not in named.images:
            raise IntegrityError(
                f"the index that {name} means lists {entry.digest}, which is no image of the store",
                hint="pull or build it again",
            )
    images = {entry.digest: store.image(named.images[entry.digest]) for entry in entries}
    return StoredIndex(name, document, index, entries, store.image(named.first), images)


def _entries(
    index: oci.Index,
    read: Callable[[Digest], bytes],
    seen: set[Digest] | None = None,
    depth: int = 1,
) -> Iterator[oci.Descriptor]:
    """Yield what lists an image, each once: not what is attested of one, nor what is none."""
    seen = set() if seen is None else seen
    for entry in index.manifests:
        if entry.digest in seen:
            continue
        seen.add(entry.digest)
        if oci.is_attestation(entry):
            continue
        if entry.media_type in oci.INDEX_TYPES:
            if depth == oci.INDEX_DEPTH:
                raise FormatError(f"indexes are nested more than {oci.INDEX_DEPTH} deep")
            below = oci.decode_index(read(entry.digest), media_type=entry.media_type)
            yield from _entries(below, read, seen, depth + 1)
        elif entry.media_type in oci.MANIFEST_TYPES:
            yield entry


def keep_found(
    store: Store,
    names: Sequence[str],
    found: FoundIndex,
    images: Mapping[Digest, ImageId],
    first: ImageId,
) -> None:
    """Let names mean an index whose images were adopted; see :func:`keep_index`."""
    top = found.images[0].documents[-1]
    keep_index(store, names, top, images, first, found.below)


def keep_index(
    store: Store,
    names: Sequence[str],
    document: Document,
    images: Mapping[Digest, ImageId],
    first: ImageId,
    below: Sequence[Document] = (),
) -> None:
    """Let names mean an index that came from elsewhere, durably; its images are in the store.

    Args:
        store: Keeps the images meanwhile.
        names: Familiar, with a tag each.
        document: The index.
        images: By the digest of their manifests.
        first: The one that the names mean where one is asked for.
        below: Indexes that the index lists.

    Raises:
        FormatError: It is malformed, or lists other images.
    """
    index = oci.decode_index(document.raw, media_type=document.media_type)
    known = {each.digest: each for each in below}

    def read(digest: Digest) -> bytes:
        if digest not in known:
            raise FormatError(f"the index {document.digest} came without {digest} that it lists")
        return known[digest].raw

    listed = {entry.digest for entry in _entries(index, read)}
    if listed != images.keys() or first not in images.values():
        raise FormatError(f"the index {document.digest} lists other images than came with it")
    nested = [(each.raw, each.media_type) for each in below if each.media_type in oci.INDEX_TYPES]
    name_index(
        store, names, document.raw, document.media_type, first=first, images=images, below=nested
    )


def make_index(
    store: Store,
    names: Sequence[str],
    images: Sequence[ImageRecord],
    serves: Callable[[oci.Platform], bool],
    *,
    like: StoredIndex | None = None,
) -> Document:
    """Let names mean an index of stored images, durably.

    Args:
        store: Keeps the images meanwhile.
        names: Familiar, with a tag each.
        images: In the order of the index, after those of ``like``.
        serves: Which image the names mean where one is asked for: the first that will do.
        like: What the index has beside.

    Returns:
        The index.

    Raises:
        ConflictError: Two of the images are for one platform.
    """
    pairs = [(entry, like.images[entry.digest]) for entry in like.entries] if like else []
    pairs += [(_entry(store, image), image) for image in images]
    _refuse_equal(entry for entry, _ in pairs)
    index = oci.Index(
        manifests=tuple(entry for entry, _ in pairs),
        annotations=dict(like.listing.annotations if like else {}),
    )
    document = Document(oci.encode_index(index), oci.INDEX_TYPE)
    fits = (image for entry, image in pairs if entry.platform and serves(entry.platform))
    name_index(
        store, names, document.raw, document.media_type,
        first=next(fits, pairs[0][1]).image_id,
        images={entry.digest: image.image_id for entry, image in pairs},
    )  # fmt: skip
    return document


def _entry(store: Store, image: ImageRecord) -> oci.Descriptor:
    from layerstore.image.exchange.sending import Policy, manifest_of  # builds seldom make indexes

    parts = load_parts(store, image)
    found = manifest_of(store, parts, Policy())
    if found is not None:
        return found[0].descriptor
    raw = own_manifest(store, parts.config, parts.layers, parts.annotations)
    platform = platform_of(decode_config(parts.config))
    return Document(raw, oci.MANIFEST_TYPE, platform).descriptor


def _refuse_equal(entries: Iterable[oci.Descriptor]) -> None:
    seen: set[str] = set()
    for entry in entries:
        shown = str(entry.platform or "a platform that is not said")
        if shown in seen:
            raise ConflictError(
                f"two images of the index are for {shown}",
                hint="name one image for each platform",
            )
        seen.add(shown)


def name_again(store: Store, index: StoredIndex, name: str) -> None:
    """Let one more name mean a stored index, durably."""
    images = {digest: image.image_id for digest, image in index.images.items()}
    first, document = index.first.image_id, index.document
    name_index(store, [name], document.raw, document.media_type, first=first, images=images)


def image_for(store: Store, reference: str, serves: Callable[[oci.Platform], bool]) -> ImageRecord:
    """Return the image that a name means for a platform: of an index the first that will do.

    Raises:
        ImageNotFoundError: Nothing is called that.
    """
    record = store.resolve(reference)
    if serves(platform_of(load_config(store, record.image_id))):
        return record
    index = find_index(store, reference)
    for image in index.images.values() if index else ():
        if serves(platform_of(load_config(store, image.image_id))):
            return image
    return record
