"""Places of images in skopeo's words: ``docker://NAME``, ``oci:DIR[:REFERENCE]``.

Source: containers-transports(5).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import InputError

if TYPE_CHECKING:
    import contextlib

    from layerstore.formats.reference import Reference
    from layerstore.image.exchange import ImageDestination, ImageSource
    from layerstore.registry.client import RegistryClient

_HINT = "write docker://NAME (or NAME alone) or oci:DIR[:REFERENCE]"


class Place(NamedTuple):
    """Where an image is or goes.

    Attributes:
        transport: ``docker`` or ``oci``.
        where: A repository's whole name, or a path.
        reference: A tag, a digest or a name there; empty for the only one.
    """

    transport: str
    where: str
    reference: str

    @property
    def text(self) -> str:
        """The place as it is written."""
        if self.transport == "docker":
            mark = "@" if ":" in self.reference else ":"
            return f"docker://{self.where}{mark}{self.reference}"
        return f"oci:{self.where}" + (f":{self.reference}" if self.reference else "")

    @property
    def name(self) -> Reference | None:
        """The name in a registry, None for images elsewhere."""
        return named_reference(self.text) if self.transport == "docker" else None


def parse_place(text: str) -> Place:
    """Return the place that is meant; a name alone is one of a registry.

    Raises:
        InputError: Not a place.
    """
    transport, colon, rest = text.partition(":")
    if colon and transport == "docker" and rest.startswith("//"):
        return _of_registry(rest[2:])
    if colon and transport == "oci":
        path, _, reference = rest.partition(":")
        if not path:
            raise InputError(f"{text!r} names no directory", hint=_HINT)
        return Place("oci", path, reference)
    if transport in ("oci-archive", "docker-archive", "docker-daemon", "containers-storage", "dir"):
        raise InputError(
            f"images are not copied from or to {transport}: yet",
            hint=f"{_HINT}; for others, pull and save, or load and push",
        )
    return _of_registry(text)


def named_reference(text: str) -> Reference:
    """Return the name of an image in a registry, with or without ``docker://``."""
    from layerstore.formats.reference import parse_reference

    return parse_reference(text.removeprefix("docker://"))


def _of_registry(text: str) -> Place:
    from layerstore.formats.reference import DEFAULT_TAG

    name = named_reference(text)
    return Place("docker", f"{name.host}/{name.path}", name.digest or name.tag or DEFAULT_TAG)


def open_source(place: Place, client: RegistryClient, stack: contextlib.ExitStack) -> ImageSource:
    """Return where images come from, open until the stack ends.

    Raises:
        NotFoundError: There is no such directory.
    """
    if place.transport == "oci":
        from layerstore.image.layout_reader import LayoutReader

        return stack.enter_context(LayoutReader(Path(place.where)))
    from layerstore.image.registry_places import RegistrySource

    return RegistrySource(client.repository(named_reference(place.where)))


def open_destination(place: Place, client: RegistryClient, source: Place) -> ImageDestination:
    """Return where images go; blobs that ``source``'s registry has need not be sent.

    Raises:
        InputError: Nothing can be written there.
    """
    if place.transport != "docker":
        raise InputError(f"images are not copied to {place.transport}: yet", hint=_HINT)
    if ":" in place.reference:
        raise InputError(
            f"{place.text} is a digest, which nobody can choose", hint="give the copy a tag"
        )
    from layerstore.image.registry_places import RegistryDestination

    name = named_reference(place.where)
    beside = []
    if source.transport == "docker":
        other = named_reference(source.where)
        beside = [other.path] if other.host == name.host else []
    return RegistryDestination(client.repository(name), beside)
