"""Images of a registry into a store.

A pulled image has two kinds of names: the tag it was asked for by, and repository and digest of
what that meant. Layers that the store has are not fetched, and where the registry says that a
tag still means what the store pulled under it, nothing is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import NotFoundError, UnsafeContentError
from layerstore.image.exchange.adopting import adopt_image, forget_rest
from layerstore.image.exchange.finding import find_all, find_image
from layerstore.image.exchange.gated_source import GatedSource
from layerstore.image.exchange.indexes import keep_found
from layerstore.image.exchange.registry_places import RegistrySource
from layerstore.image.images import load_config, platform_of
from layerstore.registry.errors import UnknownToRegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.digest import Digest, ImageId
    from layerstore.formats import oci
    from layerstore.formats.origins import Encoding
    from layerstore.formats.reference import Reference
    from layerstore.image.exchange.adopting import Adopted
    from layerstore.image.exchange.finding import FoundImage
    from layerstore.image.exchange.originals import Originals
    from layerstore.progress import Progress
    from layerstore.registry.repository import Repository
    from layerstore.store.catalog.rows import ImageRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession


class Pulled(NamedTuple):
    """What was pulled.

    Attributes:
        image: The one of this platform.
        digest: What the name meant: an image's manifest, or an index.
        is_new: False when the store had it under this name.
        new_bytes: Plain bytes that were added to the store.
        reused_bytes: Plain bytes that it had.
        kept_bytes: Of compressed originals that had to be kept.
    """

    image: ImageRecord
    digest: Digest
    is_new: bool
    new_bytes: int = 0
    reused_bytes: int = 0
    kept_bytes: int = 0


class Puller:
    """Pulls images of one repository.

    Args:
        store: Where to.
        repository: Where from.
        serves: Which platform will do, where there are several.
        originals: What is remembered of how images came.
        progress: Hears the bytes of layers.
        permit: Told the digest of what a name means and of the indexes that led to it, the lowest
            first, before anything else is read; raises if that may not come in.
        parcels: Whether parcels are looked for (:mod:`layerstore.image.transfer`).
        note: Told why those that are there were not used.
    """

    def __init__(
        self,
        store: Store,
        repository: Repository,
        serves: Callable[[oci.Platform], bool],
        *,
        originals: Originals,
        progress: Progress,
        permit: Callable[[Sequence[Digest]], None] = lambda _: None,
        parcels: bool = True,
        note: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._store = store
        self._repository = repository
        self._source = RegistrySource(repository)
        self._serves = serves
        self._originals = originals
        self._progress = progress
        self._permit = permit
        self._parcels = parcels
        self._note = note

    def pull(self, name: Reference, *, every: bool = False, takes_name: bool = True) -> Pulled:
        """Bring what a name means into the store; durable and visible when this returns.

        Args:
            name: With a tag, or a digest, which goes before the tag.
            every: All platforms, not only the one that serves.
            takes_name: The image is what the tag means here from now on, too; else it gets the
                name of its manifest's digest alone.

        Raises:
            NotFoundError: There is no such image, or none for this platform.
            RegistryError: The registry does not give it.
            IntegrityError: Something is not what its descriptor says.
            UnsafeContentError: It may not come in, or what is here already might not.
        """
        known = None if every else self._known(name)
        if known is not None and self._may_stay(known.digest):
            return known
        reference = name.digest or name.tag or ""
        with self._store.begin(f"pull {name.name}") as session:
            if every:
                image, top, kept = self._pull_all(session, name, reference)
            else:
                source = GatedSource(self._source, self._permit)
                found = find_image(source, reference, self._serves)
                top = found.documents[-1].digest
                names = _names(name, top)
                if not takes_name:
                    names = [name._replace(digest=found.documents[0].digest).digest_name]
                adopted = adopt_image(
                    session, source, found, names=names,
                    originals=self._originals, received=self._receive(session, found),
                    progress=self._progress,
                )  # fmt: skip
                image, kept = adopted.image, adopted.kept_bytes
            stats = session.stats
        return Pulled(image, top, True, stats.new_bytes, stats.reused_bytes, kept)

    def _pull_all(
        self, session: WriteSession, name: Reference, reference: str
    ) -> tuple[ImageRecord, Digest, int]:
        """Pull every platform; the one that serves gets the name, when all are there.

        Until then nothing names what came, so that all of it stays remembered for a next try.
        """
        # Whoever vouches for all of them vouches for the index: of that one all are pulled,
        # whatever the tag means by then.
        top = self._source.document(reference).digest
        self._permit([top])
        index = find_all(self._source, top)
        if not index.images:
            raise NotFoundError(f"{self._source.name} has no image under {reference}")
        fits = [each for each in index.images if self._serves(platform_of(each.config))]
        chosen = (fits or list(index.images))[0]
        every: list[Adopted] = []
        # An index under a tag names its images; under its digest alone, each by its own.
        names_it = name.digest is None and len(chosen.documents) > 1
        images: dict[Digest, ImageId] = {}
        for found in [*(each for each in index.images if each is not chosen), chosen]:
            names = (
                [] if names_it else [name._replace(digest=found.documents[0].digest).digest_name]
            )
            if found is chosen:
                names += _names(name, top)[1:] if names_it else _names(name, top)
            adopted = adopt_image(
                session, self._source, found, names=names,
                originals=self._originals, beside=index.beside, is_part=True,
                received=self._receive(session, found), progress=self._progress,
            )  # fmt: skip
            every.append(adopted)
            images[found.documents[0].digest] = adopted.image.image_id
        if names_it:
            keep_found(self._store, [name.name], index, images, adopted.image.image_id)
        forget_rest(self._store, every)
        kept = sum(each.kept_bytes for each in every)
        return self._store.image(adopted.image.image_id), top, kept

    def _receive(
        self, session: WriteSession, found: FoundImage
    ) -> Mapping[Digest, Encoding | None]:
        """Bring what is missing of an image by its parcels, if it has some."""
        if not self._parcels:
            return {}
        from layerstore.image.transfer.fetching import layers_by_parcels

        return layers_by_parcels(
            session, self._repository, found, note=self._note, progress=self._progress
        )

    def _may_stay(self, digest: Digest) -> bool:
        """Return whether what is here may come in by its name's digest alone.

        Else it is looked up again: a manifest below that digest may be what was signed.
        """
        try:
            self._permit([digest])
        except UnsafeContentError:
            return False
        return True

    def _known(self, name: Reference) -> Pulled | None:
        """Return the image that the store has under a name, if the registry means it, too."""
        names = self._store.tags()
        digest = name.digest
        if digest is None:
            if name.name not in names:
                return None
            head = self._repository.head_manifest(name.tag or "latest")
            if head is None:
                raise UnknownToRegistryError(f"there is no {name.name} in its registry")
            digest = head.digest
        image_id = names.get(name._replace(digest=digest).digest_name)
        if image_id is None or (name.digest is None and names[name.name] != image_id):
            return None
        image = self._store.image(image_id)
        if not self._serves(platform_of(load_config(self._store, image_id))):
            return None
        return Pulled(image, digest, is_new=False)


def _names(name: Reference, digest: Digest) -> list[str]:
    own = name._replace(digest=digest).digest_name
    return [own] if name.digest is not None else [name.name, own]
