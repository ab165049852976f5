"""Finding the pack of an image, and damaging it."""

from __future__ import annotations

from pathlib import Path

from layerstore.store.store import Store


def pack_of(root: Path, name: str) -> Path:
    """Return the pack that holds the tree of an image's lowest layer."""
    with Store.open(root) as store:
        record = store.layer(store.resolve(name).layers[0])
        place = store.catalog.locate(record.tree[0][1])
        assert place is not None
        return Path(store.paths.pack(place.pack_id))


def flip(path: Path, offset: int) -> None:
    """Change one bit of a byte; a negative offset counts from the end."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)
