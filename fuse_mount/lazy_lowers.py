"""What makes an instance lazy: an image of a remote, whose content comes when it is read.

On the fast path: imports next to nothing.
"""

from __future__ import annotations

import os

from layerstore import light_json as json
from layerstore.light_typing import NamedTuple
from layerstore.linux.files import read_file

_CHAIN_HEX = 32
_FETCHED = "fetched"
_FETCHED_MAX_BYTES = 4096

ALL = "all"
"""Fetch everything ahead."""


class LazySource(NamedTuple):
    """Where the content of a view comes from.

    Attributes:
        remote: What :func:`layerstore.image.transfer.remotes.open_remote` takes.
        image_id: The image there.
        record_trace: File that takes the chunks that are read, in order; "" for none.
        ahead: What is fetched before it is read: ``all``, a trace's path, or "" for nothing.
        environment: Variables that say where the files are by which a registry is reached.
    """

    remote: str
    image_id: str
    record_trace: str = ""
    ahead: str = ""
    environment: tuple[tuple[str, str], ...] = ()

    @property
    def chain(self) -> str:
        """What stands for it where others have the name of a chain of layers."""
        return chain_of(self.remote, self.image_id)

    def spec(self) -> dict[str, object]:
        """Return what a server has to know of it."""
        return dict(self._asdict())

    @property
    def is_shared(self) -> bool:
        """Whether a running instance will do: it neither records nor fetches what was asked."""
        return not self.record_trace and not self.ahead


def chain_of(remote: str, image_id: str) -> str:
    """Return what stands for an image of a remote where others have a chain of layers.

    Never the name of local layers: what a remote says of layers is not what is known here.
    """
    text = f"remote\0{remote}\0{image_id}".encode("utf-8", "surrogateescape")
    import hashlib  # lazily: loading OpenSSL takes 2 ms

    return hashlib.sha256(text).hexdigest()[:_CHAIN_HEX]


def fetched_path(directory: str) -> str:
    """Return where an instance's server says what it has fetched."""
    return f"{directory}/{_FETCHED}"


def fetched(directory: str) -> dict[str, int]:
    """Return what an instance fetched: chunks, their bytes (size), failures; {} if unknown."""
    try:
        value = json.loads(read_file(fetched_path(directory), max_bytes=_FETCHED_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {str(name): number for name, number in value.items() if type(number) is int}


def data_layers(store_root: str, directory: str) -> tuple[str, ...]:
    """Return the data-only layers of a lazy view (see :mod:`fuse_mount.object_layer`)."""
    return (
        f"{store_root}/objects",
        os.path.join(directory, "lazy", "make"),
        os.path.join(directory, "staged"),
        os.path.join(directory, "lazy", "last"),
    )
