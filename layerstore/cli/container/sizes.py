"""What a container has written, and what it sees in all, as docker's ``ps --size`` counts them."""

from __future__ import annotations

import contextlib
import os
import stat

from layerstore.containers.records import upper_of
from layerstore.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from layerstore.containers.records import Container


class Sizes(NamedTuple):
    """Bytes of regular files, by their lengths.

    Attributes:
        written: In its writable layer; a file with several names counts once.
        seen: These and its image's; 0 where nothing is known of that any more.
    """

    written: int
    seen: int

    def __str__(self) -> str:
        """Return both as docker says them."""
        from layerstore.units import format_size

        return f"{format_size(self.written)} (virtual {format_size(self.seen)})"


def sizes_of(root: str, containers: Iterable[Container]) -> dict[str, Sizes]:
    """Return the sizes of containers by their ids."""
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.paths import StorePaths

    with contextlib.closing(Catalog(StorePaths(root))) as catalog:
        images = {image.image_id: image.size for image in catalog.images()}
    found = {}
    for container in containers:
        written = _written(f"{upper_of(root, container.container_id)}/upper")
        size = images.get(container.image_id)
        found[container.container_id] = Sizes(written, 0 if size is None else size + written)
    return found


def _written(upper: str) -> int:
    total = 0
    counted: set[tuple[int, int]] = set()
    for directory, _, names in os.walk(upper):
        for name in names:
            with contextlib.suppress(OSError):  # a container that runs removes files, too
                status = os.lstat(f"{directory}/{name}")
                key = (status.st_dev, status.st_ino)
                if stat.S_ISREG(status.st_mode) and key not in counted:
                    counted.add(key)
                    total += status.st_size
    return total
