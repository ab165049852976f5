"""Names of images: how they are written, and which image they mean.

A name is ``[host[:port]/]path[:tag]`` as docker writes it; the store keeps it
with its tag and without the ``docker.io/library/`` that docker implies. On the
fast path.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from layerstore.errors import InputError
from layerstore.store.failures import DanglingReferenceError, ImageNotFoundError

if TYPE_CHECKING:
    from layerstore.store.catalog import Catalog
    from layerstore.store.catalog_rows import ImageRecord

DEFAULT_TAG = "latest"
NAME_MAX_CHARS = 255
PREFIX_MIN_HEX = 4

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?)"
# Source: the distribution project's reference grammar ("name", "tag").
_REPOSITORY = re.compile(rf"(?:{_HOST}/)?{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_HEX_ID = re.compile(rf"(?:sha256:)?[0-9a-f]{{{PREFIX_MIN_HEX},64}}")
_IMPLIED = ("docker.io/library/", "index.docker.io/library/", "docker.io/")


class ReferenceSyntaxError(InputError):
    """What was given cannot be the name of an image."""


class AmbiguousIdError(InputError):
    """More than one image has an id that begins like this."""


def normalize_name(text: str) -> str:
    """Return ``text`` as the store keeps it: with its tag, without docker's implied prefix.

    Raises:
        ReferenceSyntaxError: Not a name; the message says what names look like.
    """
    repository, colon, tag = text.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = text, DEFAULT_TAG
    for prefix in _IMPLIED:
        if repository.startswith(prefix):
            repository = repository[len(prefix) :]
            break
    fits = len(repository) <= NAME_MAX_CHARS
    if not (fits and _REPOSITORY.fullmatch(repository) and _TAG.fullmatch(tag)):
        raise ReferenceSyntaxError(
            f"{text[:300]!r} is not the name of an image",
            hint="write NAME or NAME:TAG: lower-case letters, digits, and . _ - / between them",
        )
    return f"{repository}:{tag}"


def resolve(catalog: Catalog, reference: str) -> ImageRecord:
    """Return the image that ``reference`` means: a name, or an id or the beginning of one.

    A full id wins, then a name, then the beginning of an id, as docker decides.

    Raises:
        ImageNotFoundError: Nothing is called that.
        AmbiguousIdError: Several ids begin like that.
        ReferenceSyntaxError: It cannot be a name.
    """
    if "@" in reference:
        reference = reference.partition("@")[2]
    is_hex = _HEX_ID.fullmatch(reference) is not None
    if is_hex and len(reference.removeprefix("sha256:")) == 64:
        return _by_prefix(catalog, reference)
    if reference.startswith("sha256:") and is_hex:
        return _by_prefix(catalog, reference)
    image_id = catalog.tag(normalize_name(reference))
    if image_id is not None:
        image = catalog.image(image_id)
        if image is None:
            raise DanglingReferenceError(
                f"the name {reference!r} points at image {image_id}, which the store lacks",
                hint="run 'layerstore check' to see what happened",
            )
        return image
    if is_hex:
        return _by_prefix(catalog, reference)
    raise _unknown(reference)


def _by_prefix(catalog: Catalog, reference: str) -> ImageRecord:
    prefix = "sha256:" + reference.removeprefix("sha256:")
    found = catalog.image_ids(prefix)
    if len(found) > 1:
        raise AmbiguousIdError(
            f"several images have an id that begins with {reference!r}",
            hint="give more digits of the id; 'layerstore images' lists them",
        )
    image = catalog.image(found[0]) if found else None
    if image is None:
        raise _unknown(reference)
    return image


def _unknown(reference: str) -> ImageNotFoundError:
    return ImageNotFoundError(
        f"no image {reference!r} in the store",
        hint="'layerstore images' lists what there is",
    )
