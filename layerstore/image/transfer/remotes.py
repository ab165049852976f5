"""Remotes by their locations: another store, or an image in a registry."""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from layerstore.store.remotes.remote import StoreRemote

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.digest import Digest
    from layerstore.formats import oci
    from layerstore.formats.reference import Reference
    from layerstore.image.exchange.exchange import ImageSource
    from layerstore.store.remotes.remote import Remote

REGISTRY_PREFIX = "docker://"

_NOTHING: Mapping[str, str] = MappingProxyType({})


def open_remote(
    location: str,
    environ: Mapping[str, str] = _NOTHING,
    serves: Callable[[oci.Platform], bool] = lambda _: True,
    gate: Callable[[Reference, ImageSource, Sequence[Digest]], None] = lambda *_: None,
) -> Remote:
    """Return the remote at a location: the path of a store, or ``docker://`` and an image's name.

    Args:
        location: A name has a tag, or better a digest.
        environ: Says where the files are that tell how to reach a registry.
        serves: Which platform will do, where a name means several images.
        gate: Told the name of a registry's image, where its signatures are looked for, and the
            digests of its manifest and of what led to it; raises if it may not be shown.

    Raises:
        NotFoundError: There is no store, or no image that can be read in parts.
        LayerstoreError: It cannot be used; the message says why.
    """
    if not location.startswith(REGISTRY_PREFIX):
        return StoreRemote(location)
    from layerstore.formats.reference import DEFAULT_TAG, parse_reference
    from layerstore.image.exchange.registry_places import RegistrySource
    from layerstore.image.transfer.remote import RegistryRemote
    from layerstore.registry.surroundings import client_of

    name = parse_reference(location.removeprefix(REGISTRY_PREFIX))
    client = client_of(environ)
    try:
        reference = name.digest or name.tag or DEFAULT_TAG
        repository = client.repository(name)
        permit = partial(gate, name, RegistrySource(repository))
        return RegistryRemote(repository, reference, serves, client.close, permit)
    except BaseException:
        client.close()
        raise
