"""Places of images in skopeo's words: ``docker://NAME``, ``oci:DIR[:REFERENCE]`` and the like.

Source: containers-transports(5).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import InputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.formats.reference import Reference
    from layerstore.image.exchange.exchange import ImageDestination, ImageSource
    from layerstore.peers.engine import Engine
    from layerstore.progress import Progress
    from layerstore.registry.client import RegistryClient

_HINT = (
    "write docker://NAME (or NAME alone), oci:DIR[:REFERENCE], oci-archive:FILE[:REFERENCE], "
    "docker-daemon:NAME, containers-storage:NAME, or, to copy from, docker-archive:FILE"
)
_OF_PATHS = frozenset({"oci", "oci-archive", "docker-archive"})
_OF_ENGINES = {"docker-daemon": "docker", "containers-storage": "podman"}
_OTHERS = frozenset({"dir", "ostree", "sif"})


class Place(NamedTuple):
    """Where an image is or goes.

    Attributes:
        transport: ``docker``, ``oci``, ``oci-archive``, ``docker-archive``, ``docker-daemon`` or
            ``containers-storage``.
        where: A repository's whole name, a path, or an engine.
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
        if self.transport in _OF_ENGINES:
            return f"{self.transport}:{self.reference}"
        named = self.reference and self.transport != "docker-archive"
        return f"{self.transport}:{self.where}" + (f":{self.reference}" if named else "")

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
    if colon and transport in _OF_PATHS:
        path, _, reference = rest.partition(":")
        if not path:
            raise InputError(f"{text!r} names no file or directory", hint=_HINT)
        if transport == "docker-archive":
            if reference:
                raise InputError("of a docker-archive: only the first image is copied, unnamed")
            reference = "0"
        return Place(transport, path, reference)
    if colon and transport in _OF_ENGINES:
        return Place(transport, _OF_ENGINES[transport], _name_in_engine(rest))
    if colon and transport in _OTHERS:
        raise InputError(f"images are not copied from or to {transport}:", hint=_HINT)
    return _of_registry(text)


def named_reference(text: str) -> Reference:
    """Return the name of an image in a registry, with or without ``docker://``."""
    from layerstore.formats.reference import parse_reference

    return parse_reference(text.removeprefix("docker://"))


def _name_in_engine(text: str) -> str:
    from layerstore.formats.reference import full_name, may_be_id, parse_tag_name

    return text if may_be_id(text) else full_name(parse_tag_name(text))


def _of_registry(text: str) -> Place:
    from layerstore.formats.reference import DEFAULT_TAG

    name = named_reference(text)
    return Place("docker", f"{name.host}/{name.path}", name.digest or name.tag or DEFAULT_TAG)


def open_source(
    place: Place, client: RegistryClient, progress: Progress, stack: contextlib.ExitStack
) -> tuple[ImageSource, str]:
    """Return where images come from, open until the stack ends, and the image's name there.

    Raises:
        NotFoundError: There is no such directory, file or image.
        FormatError: It is no layout, or no archive.
        EngineError: The engine cannot be asked.
    """
    if place.transport == "docker":
        from layerstore.image.exchange.registry_places import RegistrySource

        return RegistrySource(client.repository(named_reference(place.where))), place.reference
    from layerstore.image.layouts.layout_reader import LayoutReader

    if place.transport == "oci":
        return stack.enter_context(LayoutReader(Path(place.where))), place.reference
    scratch = _scratch(stack)
    if place.transport in _OF_ENGINES:
        from layerstore.peers.engine_places import engine_source

        engine = _engine(place, stack)
        source = engine_source(engine, place.reference, lambda: f"{scratch}/archive.tar", progress)
        return stack.enter_context(source)
    from layerstore.image.layouts.archive_file import ArchiveFile

    if not os.path.isfile(place.where):
        raise NotFoundError(f"there is no archive {place.where}")
    stream = stack.enter_context(open(place.where, "rb"))  # noqa: SIM115 - the stack's
    files = stack.enter_context(ArchiveFile(stream, lambda: f"{scratch}/archive.tar"))
    if place.transport == "oci-archive":
        return LayoutReader(files, place.where), place.reference
    from layerstore.image.layouts.docker_archive import DockerArchive

    return DockerArchive(files, place.where), place.reference


def _scratch(stack: contextlib.ExitStack) -> str:
    import tempfile

    return stack.enter_context(tempfile.TemporaryDirectory(prefix="layerstore-"))


def _engine(place: Place, stack: contextlib.ExitStack) -> Engine:
    from layerstore.cli.transfer.engines import open_engine

    return stack.enter_context(open_engine(place.where, None))


@contextlib.contextmanager
def destination(
    place: Place, client: RegistryClient, progress: Progress, source: Place
) -> Iterator[ImageDestination]:
    """Give where images go; what was put there counts when the block ends without an error.

    Blobs that ``source``'s registry has need not be sent.

    Raises:
        InputError: Nothing can be written there.
        ConflictError: Something else lies there.
    """
    match place.transport:
        case "docker":
            yield _repository(place, client, source)
        case "oci":
            from layerstore.image.layouts.layout import LayoutDestination, writing

            with writing(Path(place.where)), LayoutDestination(place.where) as layout:
                yield layout
                layout.finish()
        case "oci-archive":
            from layerstore.cli.outfile import output_stream
            from layerstore.image.layouts.layout_archive import ArchiveDestination

            with output_stream(place.where) as out:
                archive = ArchiveDestination(out)
                yield archive
                archive.finish(None)
        case "docker-daemon" | "containers-storage":
            from layerstore.peers.engine_places import EngineDestination

            with contextlib.ExitStack() as stack:
                into = EngineDestination(_engine(place, stack), _scratch(stack))
                yield into
                into.finish(progress)
        case _:
            raise InputError(f"images are not copied to {place.transport}:", hint=_HINT)


def _repository(place: Place, client: RegistryClient, source: Place) -> ImageDestination:
    if ":" in place.reference:
        raise InputError(
            f"{place.text} is a digest, which nobody can choose", hint="give the copy a tag"
        )
    from layerstore.image.exchange.registry_places import RegistryDestination

    name = named_reference(place.where)
    beside = []
    if source.transport == "docker":
        other = named_reference(source.where)
        beside = [other.path] if other.host == name.host else []
    return RegistryDestination(client.repository(name), beside)
