"""Which image a name or an id means. The grammar of names: :mod:`layerstore.formats.reference`.

On the fast path.
"""

from __future__ import annotations

from layerstore.errors import InputError
from layerstore.formats.reference import (
    is_digest_name,
    is_id,
    is_index_name,
    lookup_form,
    may_be_id,
    parse_stored_name,
    split_name,
)
from layerstore.light_typing import TYPE_CHECKING
from layerstore.store.failures import DanglingReferenceError, ImageNotFoundError

if TYPE_CHECKING:
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import ImageRecord


_DIGEST_CHARACTERS = len("sha256:") + 64

_NEAR_MAX = 3
"""Names that are proposed at most."""


class AmbiguousIdError(InputError):
    """More than one image has an id that begins like this."""


def resolve(catalog: Catalog, reference: str) -> ImageRecord:
    """Return the image that ``reference`` means: a name, or an id or the beginning of one.

    A full id wins, then a name, then the beginning of an id, as docker decides.

    Raises:
        ImageNotFoundError: Nothing is called that.
        AmbiguousIdError: Several ids begin like that.
        ReferenceSyntaxError: It cannot be a name.
    """
    form = lookup_form(reference)
    if is_id(form):
        return _by_prefix(catalog, form)
    image_id = catalog.tag(parse_stored_name(form))
    if image_id is not None:
        image = catalog.image(image_id)
        if image is None:
            raise DanglingReferenceError(
                f"the name {form!r} points at image {image_id}, which the store lacks",
                hint="run 'layerstore check' to see what happened",
            )
        return image
    if may_be_id(form):
        return _by_prefix(catalog, form)
    if is_digest_name(form):
        return _in_index(catalog, form) or _by_prefix(catalog, form.partition("@")[2])
    raise _unknown(catalog, form)


def _in_index(catalog: Catalog, form: str) -> ImageRecord | None:
    """Return the image that the index under a tag of this repository has by this digest."""
    repository, _, digest = form.partition("@")
    for name, image_id in catalog.tags().items():
        if is_index_name(name) and name.endswith(digest) and split_name(name)[0] == repository:
            return catalog.image(image_id)
    return None


def _by_prefix(catalog: Catalog, reference: str) -> ImageRecord:
    prefix = "sha256:" + reference.removeprefix("sha256:")
    found = catalog.image_ids(prefix)
    if len(found) > 1:
        raise AmbiguousIdError(
            f"several images have an id that begins with {reference!r}",
            hint="give more digits of the id; 'layerstore images' lists them",
        )
    image = catalog.image(found[0]) if found else _by_document(catalog, prefix)
    if image is None:
        raise _unknown(catalog, reference)
    return image


def _by_document(catalog: Catalog, digest: str) -> ImageRecord | None:
    """Return the image that came under a manifest or index of this digest."""
    if len(digest) != _DIGEST_CHARACTERS:
        return None
    from layerstore.store.names.origins import image_of_document  # lazily: off the fast path

    return image_of_document(catalog, digest)


def _unknown(catalog: Catalog, reference: str) -> ImageNotFoundError:
    near = _near(reference, [name for name in catalog.tags() if "@" not in name])
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    return ImageNotFoundError(
        f"no image {reference!r} in the store",
        hint=f"{meant}'layerstore images' lists what there is",
    )


def _near(reference: str, names: list[str]) -> list[str]:
    """Return names that may have been meant: other tags of the repository, or spelled much alike.

    Who forgets the tag, or has the name but not the host in mind, gets these.
    """
    repository, _, tag = reference.rpartition(":")
    if not repository or "@" in reference:
        return []
    found = sorted(name for name in names if name.rpartition(":")[0] == repository)
    if not found:
        last = f"/{repository}:{tag}"
        found = sorted(name for name in names if name.endswith(last))
    if not found:
        import difflib  # nobody pays for it who names what there is

        found = difflib.get_close_matches(reference, names, n=_NEAR_MAX, cutoff=0.8)
    return found[:_NEAR_MAX]
