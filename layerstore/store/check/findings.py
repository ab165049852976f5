"""What a check can find wrong, as typed values."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from layerstore.digest import DiffId, ImageId


class Problem(enum.StrEnum):
    """Kinds of findings; the words are stable and appear in JSON output."""

    CATALOG_DAMAGED = "catalog-damaged"
    CATALOG_DIFFERS = "catalog-differs"
    PACK_MISSING = "pack-missing"
    PACK_DAMAGED = "pack-damaged"
    BLOCK_DAMAGED = "block-damaged"
    CHUNK_DAMAGED = "chunk-damaged"
    CHUNK_MISSING = "chunk-missing"
    LAYER_DAMAGED = "layer-damaged"
    LAYER_MISSING = "layer-missing"
    BLOB_MISSING = "blob-missing"
    BLOB_DAMAGED = "blob-damaged"
    IMAGE_MISSING = "image-missing"
    NAMES_LOG_DAMAGED = "names-log-damaged"
    NAMES_LOG_DIFFERS = "names-log-differs"
    UNKNOWN_FILE = "unknown-file"
    BASE_DAMAGED = "base-damaged"
    ACCESS_DIFFERS = "access-differs"
    DEAD_BYTES_DAMAGED = "dead-bytes-damaged"
    OBJECT_DAMAGED = "object-damaged"
    UNUSED_OBJECT_DAMAGED = "unused-object-damaged"
    OBJECT_UNKNOWN = "object-unknown"
    MOUNTED_PACK_DAMAGED = "mounted-pack-damaged"
    FORMAT_DIFFERS = "format-differs"
    CUTS_STRANGE = "cuts-strange"


NOTES = frozenset(
    {
        Problem.NAMES_LOG_DIFFERS,
        Problem.NAMES_LOG_DAMAGED,
        Problem.UNKNOWN_FILE,
        Problem.ACCESS_DIFFERS,
        Problem.DEAD_BYTES_DAMAGED,
        Problem.UNUSED_OBJECT_DAMAGED,
        Problem.OBJECT_UNKNOWN,
        Problem.MOUNTED_PACK_DAMAGED,
        Problem.CUTS_STRANGE,
    }
)
"""Findings that harm no image: leftovers of a crash, damage that was healed elsewhere, who sees
damage that another finding is about, or what cannot be looked at because of it."""

_REBUILD = "run 'layerstore check --rebuild-index'"
_AGAIN = "import or build the harmed images again: what is damaged is then stored anew"
_REPAIR = (
    "run 'layerstore repair', with --from and a copy if you have one (another store, a root "
    "file system, an OCI layout); or " + _AGAIN
)
REMEDIES = {
    Problem.CATALOG_DAMAGED: _REBUILD,
    Problem.CATALOG_DIFFERS: _REBUILD,
    Problem.LAYER_MISSING: _AGAIN,
    Problem.IMAGE_MISSING: "give the name to another image, or remove it",
    Problem.NAMES_LOG_DAMAGED: "nothing to do: the catalog has the names; the next change of "
    "a name writes them all anew",
    Problem.NAMES_LOG_DIFFERS: "nothing to do: the next change of a name sets it right",
    Problem.UNKNOWN_FILE: "run 'layerstore gc'",
    Problem.ACCESS_DIFFERS: "set modes and group right: chmod -R go= for a store of one's own, "
    "'layerstore init --shared GROUP' for a shared one",
    Problem.OBJECT_DAMAGED: "unmount these views, run 'layerstore repair', and mount them again: "
    "it is unpacked anew then",
    Problem.UNUSED_OBJECT_DAMAGED: "run 'layerstore repair', which removes it: the next view "
    "unpacks it anew",
    Problem.OBJECT_UNKNOWN: "repair the layer that another finding names, if one does, and "
    "check again",
    Problem.MOUNTED_PACK_DAMAGED: "unmount these views, repair the store, and mount them again: "
    "they read the damaged file as long as they are mounted",
    Problem.FORMAT_DIFFERS: "run 'layerstore upgrade' if one was interrupted, else 'layerstore "
    "repair', which makes config.toml again from what the store holds",
    Problem.CUTS_STRANGE: "nothing is lost, but new content shares less with old; 'layerstore "
    "repair' makes config.toml again where its numbers are no layerstore's, or it is gone",
    Problem.DEAD_BYTES_DAMAGED: "nothing is lost; 'layerstore repair' moves the pack aside",
}


class HarmedFile(NamedTuple):
    """A file whose content lost bytes: its path in a layer, for people."""

    layer: DiffId
    path: str


class Finding(NamedTuple):
    """One thing that is wrong.

    Attributes:
        where: File or table, with offset where there is one.
        digest: Hex or digest of what is harmed: a pack, chunk, layer, blob or image.
        images: Images that can no longer be read whole because of it.
        files: Files of theirs that cannot be read, as far as the layers' trees can.
    """

    problem: Problem
    where: str
    digest: str
    message: str
    images: tuple[ImageId, ...] = ()
    files: tuple[HarmedFile, ...] = ()

    @property
    def is_error(self) -> bool:
        """Whether data or its index is harmed, as opposed to a mere note."""
        return self.problem not in NOTES

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return REMEDIES.get(self.problem, _REPAIR)


class CheckReport(NamedTuple):
    """Everything a check found.

    Attributes:
        read_data: Whether every byte was read and hashed.
        bytes_read: Bytes of pack files that were read and verified.
        seconds: How long it took.
        only: The images that were looked at; empty when the whole store was.
        lost_items: Chunks and layer records that are missing or cannot be read.
        dependent_items: Chunks that are whole, but differences against lost ones.
        harmed_layers: Layers that any finding harms.
    """

    findings: tuple[Finding, ...]
    read_data: bool
    packs: int
    chunks: int
    layers: int
    images: int
    blobs: int
    bytes_read: int
    seconds: float = 0.0
    only: tuple[ImageId, ...] = ()
    lost_items: frozenset[bytes] = frozenset()
    dependent_items: frozenset[bytes] = frozenset()
    harmed_layers: frozenset[DiffId] = frozenset()

    @property
    def ok(self) -> bool:
        """Whether nothing is harmed; notes do not count."""
        return not any(finding.is_error for finding in self.findings)

    @property
    def scope(self) -> str:
        """What was looked at, for people."""
        depth = "all bytes read" if self.read_data else "structure only"
        return f"{depth} of the images named" if self.only else depth
