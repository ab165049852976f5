"""Which Dockerfile is built, and which ``.dockerignore`` goes with it.

The Dockerfile is what the request says: a text, a URL, or a file; a relative name is one of the
host where the context is a directory, and one of the context where it is not. Without any it is
``Dockerfile`` in the context, or podman's ``Containerfile``, or ``dockerfile``, or a native spec.

Source: BuildKit, frontend/dockerui, and buildx (behaviour); buildah for the last name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from layerstore.build.contexts import (
    DOCKERIGNORE,
    MAX_SPEC_BYTES,
    HostFiles,
    StreamContext,
    checked_size,
    fetched_file,
)
from layerstore.build.ignore import IgnoreRules
from layerstore.errors import InputError
from layerstore.net.redaction import redacted

if TYPE_CHECKING:
    from layerstore.build.contexts import MainContext
    from layerstore.build.fetch.lazy import LazyFetcher
    from layerstore.build.request import BuildRequest
    from layerstore.store.store import Store

DOCKERFILE = "Dockerfile"
_SMALL = "dockerfile"
_PODMANS = "Containerfile"
_NATIVE = "layerstore.toml"
SPEC_NAMES = (DOCKERFILE, _PODMANS, _SMALL, _NATIVE)
"""What a context is built by, if nobody says: the first of them that is there."""

NATIVE_SUFFIX = ".toml"
"""Of the names of native specs."""


class SpecFile(NamedTuple):
    """A Dockerfile.

    Attributes:
        filename: What messages call it.
        ignore: What the context leaves out.
        read: Files of the host that were read for this.
        absent: Files of the host that would have been.
    """

    text: bytes
    filename: str
    ignore: IgnoreRules
    read: list[bytes]
    absent: list[bytes]


class Files(Protocol):
    """Where a Dockerfile may lie."""

    read_paths: list[bytes]
    absent_paths: list[bytes]

    def place_of(self, name: str) -> str:
        """Return what messages call a file."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content, None when it is not there."""

    def is_directory(self, name: str) -> bool:
        """Return whether what has that name is a directory."""


def read_spec(request: BuildRequest, main: MainContext) -> SpecFile:
    """Return the Dockerfile of a request and the rules of its context.

    Raises:
        InputError: There is none, or it cannot be read.
        SpecError: A malformed ``.dockerignore``.
    """
    name = request.dockerfile
    if request.dockerfile_text is not None:
        filename, text = str(name or DOCKERFILE), request.dockerfile_text
        own = request.dockerignore_text
        rules = _rules(main) if own is None else _rules_beside(filename, own)
        return SpecFile(text, filename, rules, main.read_paths, main.absent_paths)
    if main.dockerfile is not None:
        return _alone(request, main.dockerfile)
    if name is None:
        return _found(main, DOCKERFILE, main, SPEC_NAMES[1:])
    is_of_host = isinstance(request.context, Path) or (
        name.is_absolute() and not isinstance(request.context, StreamContext)
    )
    others = (_SMALL,) if name.name == DOCKERFILE else ()
    return _found(HostFiles() if is_of_host else main, str(name), main, others)


def ignore_name(dockerfile: str) -> str:
    """Return what the file is called whose rules go before the context's ``.dockerignore``."""
    return f"{dockerfile}{DOCKERIGNORE}"


def lock_path(spec: Path) -> Path:
    """Return where the lock file of a native spec lies: beside it."""
    return spec.with_suffix(".lock")


def fetched_dockerfile(url: str, store: Store, fetcher: LazyFetcher) -> bytes:
    """Return the Dockerfile behind a URL.

    Raises:
        FetchError: It cannot be had.
        InputError: It is too large.
    """
    with fetched_file(url, DOCKERFILE, store, fetcher)() as stream:
        return checked_size(stream.read(MAX_SPEC_BYTES + 1), redacted(url))


def _alone(request: BuildRequest, text: bytes) -> SpecFile:
    if request.dockerfile is not None:
        raise InputError(
            f"the build context is a Dockerfile itself, so {request.dockerfile} cannot be one",
            hint="leave out -f, or name a context with files",
        )
    return SpecFile(text, DOCKERFILE, IgnoreRules(), [], [])


def _found(files: Files, name: str, main: MainContext, others: tuple[str, ...]) -> SpecFile:
    head, slash, _ = name.rpartition("/")
    for candidate in (name, *(f"{head}{slash}{other}" for other in others)):
        text = files.read(candidate)
        if text is not None:
            data = files.read(ignore_name(candidate))
            place = files.place_of(candidate)
            rules = _rules(main) if data is None else _rules_beside(place, data)
            read, absent = list(files.read_paths), list(files.absent_paths)
            if files is not main:
                read += main.read_paths
                absent += main.absent_paths
            return SpecFile(text, place, rules, read, absent)
    place = files.place_of(name)
    if files.is_directory(name):
        raise InputError(
            f"{place} is a directory, not a Dockerfile",
            hint=f"name the file in it: layerstore build -f {place}/{DOCKERFILE} CONTEXT",
        )
    raise InputError(
        f"there is no Dockerfile {place}", hint="name it: layerstore build -f FILE CONTEXT"
    )


def _rules_beside(dockerfile: str, data: bytes) -> IgnoreRules:
    return IgnoreRules.parse(data, ignore_name(dockerfile))


def _rules(main: MainContext) -> IgnoreRules:
    data = main.read(DOCKERIGNORE)
    return IgnoreRules() if data is None else IgnoreRules.parse(data, main.place_of(DOCKERIGNORE))
