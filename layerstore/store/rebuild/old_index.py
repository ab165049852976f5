"""What the catalog that a rebuild replaces still knows, as far as it can be believed.

Packs, blobs and names.log say everything, unless they are damaged themselves: then the old rows
may be all that tells where in a pack something lies, or what an image was called. Nothing of
it is taken on trust: items are hashed when they are read, records match their ids.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import IntegrityError, UnsupportedVersionError
from layerstore.store.catalog.catalog import Catalog
from layerstore.store.catalog.known_blocks import known_blocks
from layerstore.store.records import layer_item_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from layerstore.digest import PackId
    from layerstore.formats.pack import Block
    from layerstore.store.paths import StorePaths

_CANNOT_TELL = (IntegrityError, UnsupportedVersionError)


class KnownPack(NamedTuple):
    """What rows say of a pack."""

    blocks: list[Block]
    effort: int


class OldIndex:
    """The catalog in place, which may be missing or damaged. Close it."""

    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths
        self._catalog: Catalog | None = None
        self._records: dict[bytes, bytes] | None = None

    def names(self) -> dict[str, str]:
        """Return names with the images they name; none if it cannot tell."""
        with contextlib.suppress(*_CANNOT_TELL):
            return dict(self._opened().tags())
        return {}

    def pack(self, pack_id: PackId) -> KnownPack | None:
        """Return what is in use in a pack; None if it cannot tell, or gc had replaced the pack."""
        with contextlib.suppress(*_CANNOT_TELL):
            catalog = self._opened()
            row = catalog.pack_row(pack_id)
            if row is not None and row.retired is None:
                return KnownPack(known_blocks(catalog, pack_id), row.effort)
        return None

    def layer_record(self, item_id: bytes) -> bytes | None:
        """Return the encoded layer record with this item id, if a layer has it."""
        if self._records is None:
            self._records = dict(self._layer_records())
        return self._records.get(item_id)

    def _layer_records(self) -> Iterator[tuple[bytes, bytes]]:
        with contextlib.suppress(*_CANNOT_TELL):
            for _, record in self._opened().layers():
                yield layer_item_id(record), record

    def _opened(self) -> Catalog:
        if self._catalog is None:
            self._catalog = Catalog(self._paths)
        return self._catalog

    def close(self) -> None:
        """Let go of the catalog."""
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
