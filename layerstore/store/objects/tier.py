"""What is in the object tier, for who shows an image: asked without what unpacking needs.

On the fast path: imports next to nothing. What objects are, and how they are made:
:mod:`layerstore.store.objects.objects`.
"""

from __future__ import annotations

import contextlib
import os

from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import directory as opened
from layerstore.linux.files import make_private_dir
from layerstore.linux.locks import FileLock
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from layerstore.digest import ObjectId
    from layerstore.store.paths import StorePaths

SIDECAR_MAX_BYTES = 1 << 30
"""Lists of objects are read up to this size: 32 million files."""

_NAME_BYTES = 80
"""Of a directory for each name in it, roughly, and rather more than less."""

_LISTED_PER_ASKED = 4
"""So many names are listed in the time in which one is asked for."""


@contextlib.contextmanager
def kept_objects(paths: StorePaths) -> Iterator[None]:
    """Hold off eviction while a view is being made, until its record and mounts are there.

    Builds that read objects hold it off until they end.

    The tier's directory is there from then on: an overlay of an image without content needs it.

    Raises:
        StorageError: The store cannot be written.
    """
    with storage_errors("lock the objects"):
        make_private_dir(paths.objects, durable=False)
        lock = FileLock(paths.objects_lock, shared=True)
    with lock:
        yield


def missing_objects(paths: StorePaths, wanted: Iterable[ObjectId]) -> set[ObjectId]:
    """Return which of some objects are not there.

    Names are compared directory by directory. A tier of many images holds far more than one of
    them wants: where a directory is much longer than what is wanted of it, that is asked for
    name by name.
    """
    below: dict[int, list[ObjectId]] = {}
    for name in wanted:
        try:
            below[name[0]].append(name)
        except KeyError:
            below[name[0]] = [name]
    missing: set[ObjectId] = set()
    for prefix, names in below.items():
        directory = f"{paths.objects}/{prefix:02x}"
        texts = {name.hex(): name for name in names}
        missing.update(texts[text] for text in _missing_names(directory, texts.keys()))
    return missing


def _missing_names(directory: str, wanted: Iterable[str]) -> Iterable[str]:
    """Return which names a directory does not have; a link is none, whatever it leads to."""
    names = set(wanted)
    try:
        if os.path.islink(directory):
            return names
        listed = os.stat(directory).st_size // _NAME_BYTES
        if listed > _LISTED_PER_ASKED * len(names):
            return _absent(directory, names)
        return names.difference(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return names


def _absent(directory: str, names: Iterable[str]) -> list[str]:
    """Return which names a directory does not have, asked for one by one.

    From the open directory, and without what stat(2) tells, each takes half the time.
    """
    with opened(directory) as place:
        return [
            name
            for name in names
            if not os.access(name, os.F_OK, dir_fd=place, follow_symlinks=False)
        ]
