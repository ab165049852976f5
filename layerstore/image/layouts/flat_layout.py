"""Manifests that a layout lists under one name, one for each platform, without an index between.

The image spec has an index for that. Some tools list the manifests themselves in ``index.json``
instead; skopeo and podman take the first of them, whatever it is for. Here they count as the
index that they would be: it is made, and exists in memory only. Decision 332. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import structs

from layerstore.formats import oci

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_MOST: Final = 256
"""Manifests of one name: there are fewer platforms. Each may have to be read."""


_NAMES: Final = (oci.CONTAINERD_NAME, oci.REF_NAME)


class FlatIndex(NamedTuple):
    """An index that was made of manifests.

    Attributes:
        descriptor: With the name that they have.
        raw: The index; the same for the same manifests.
        images: Of what it lists the images, each with its platform.
    """

    descriptor: oci.Descriptor
    raw: bytes
    images: tuple[oci.Descriptor, ...]


def flat_indexes(
    entries: Iterable[oci.Descriptor],
    platform_of: Callable[[oci.Descriptor], oci.Platform | None],
) -> list[FlatIndex]:
    """Return an index for each name under which manifests differ in their platform alone.

    Args:
        entries: Of ``index.json``.
        platform_of: Finds out what a manifest is for whose entry does not say it; None where
            that cannot be known.
    """
    by_name: dict[tuple[str, str], dict[str, oci.Descriptor]] = {}
    for entry in entries:
        name = _name(entry)
        if any(name):
            by_name.setdefault(name, {}).setdefault(entry.digest, entry)
    made = [_index_of(list(some.values()), platform_of) for some in by_name.values()]
    return [each for each in made if each is not None]


def with_indexes(
    entries: Iterable[oci.Descriptor], made: Sequence[FlatIndex]
) -> tuple[oci.Descriptor, ...]:
    """Return the entries with each index once, where the first of its manifests stood."""
    index_of = {_name(each.descriptor): each.descriptor for each in made}
    found: dict[object, oci.Descriptor] = {}
    for number, entry in enumerate(entries):
        index = index_of.get(name := _name(entry))
        found.setdefault(number if index is None else name, index or entry)
    return tuple(found.values())


def _name(entry: oci.Descriptor) -> tuple[str, str]:
    whole, tag = (entry.annotations.get(key, "") for key in _NAMES)
    return whole, tag


def _index_of(
    manifests: Sequence[oci.Descriptor],
    platform_of: Callable[[oci.Descriptor], oci.Platform | None],
) -> FlatIndex | None:
    """Return the index of manifests, or None for those that are several images."""
    if not 1 < len(manifests) <= _MOST:
        return None
    if any(each.media_type not in oci.MANIFEST_TYPES for each in manifests):
        return None
    images: dict[str, oci.Descriptor] = {}
    beside: list[oci.Descriptor] = []
    for each in manifests:
        others = {k: v for k, v in each.annotations.items() if k not in _NAMES}
        if oci.is_attestation(each):
            beside.append(structs.replace(each, annotations=others))
            continue
        platform = each.platform or platform_of(each)
        if platform is None or (known := _key(platform)) in images:
            return None
        images[known] = structs.replace(each, platform=platform, annotations=others)
    if not images:
        return None
    listed = tuple(images.values())
    raw = oci.encode_index(oci.Index(manifests=(*listed, *beside)))
    names = {k: v for k, v in manifests[0].annotations.items() if k in _NAMES}
    named = structs.replace(oci.describe(raw, oci.INDEX_TYPE), annotations=names)
    return FlatIndex(named, raw, listed)


def _key(platform: oci.Platform) -> str:
    return repr((str(platform), platform.os_version, platform.os_features))
