"""Where things lie below a store's root.

Pure names, no I/O: the one place that spells them. Paths are ``str`` because
this module is on the fast path. Normative: docs/format/store.md.
"""

from __future__ import annotations

from layerstore.digest import hex_of, parse_digest
from layerstore.errors import FormatError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from layerstore.digest import ObjectId, PackId

PACK_SUFFIX = ".pack"
LEASE_PREFIX = "lease-"
REMOTE_PREFIX = "remote-"
"""Begins the names of records in ``views/`` by which other stores' views keep layers."""
METADATA_SUFFIX = ".erofs"
SIDECAR_SUFFIX = ".objects"
DIRECTORIES = (
    "packs",
    "blobs",
    "blobs/sha256",
    "views",
    "uppers",
    "quarantine",
    "tmp",
    "locks",
)


class StorePaths:
    """Every path of one store, from its root."""

    __slots__ = (
        "blobs",
        "builds",
        "cache_mounts",
        "catalog",
        "catalog_lock",
        "config",
        "gc_lock",
        "locks",
        "lowers",
        "measured",
        "metadata",
        "names_log",
        "next_lock",
        "objects",
        "objects_lock",
        "pack_images",
        "pack_mounts",
        "packs",
        "quarantine",
        "rebuilt",
        "reserve",
        "root",
        "scans",
        "steps_lock",
        "tmp",
        "unpack_lock",
        "uppers",
        "views",
        "whole_images",
    )

    def __init__(self, root: str) -> None:
        self.root = root
        self.config = f"{root}/config.toml"
        self.catalog = f"{root}/catalog.sqlite"
        self.rebuilt = f"{root}/catalog.rebuilt"
        self.names_log = f"{root}/names.log"
        self.packs = f"{root}/packs"
        self.blobs = f"{root}/blobs/sha256"
        self.views = f"{root}/views"
        self.uppers = f"{root}/uppers"
        self.quarantine = f"{root}/quarantine"
        self.reserve = f"{root}/reserve"
        self.builds = f"{root}/builds"
        self.cache_mounts = f"{root}/cache-mounts"
        self.scans = f"{root}/scans"
        self.measured = f"{root}/measured"
        self.tmp = f"{root}/tmp"  # noqa: S108 -- inside the store, mode 0700
        self.locks = f"{root}/locks"
        self.catalog_lock = f"{root}/locks/catalog"
        self.next_lock = f"{root}/locks/next"
        self.gc_lock = f"{root}/locks/gc"
        self.steps_lock = f"{root}/locks/steps"
        self.objects = f"{root}/objects"
        self.whole_images = f"{root}/objects/whole"
        self.objects_lock = f"{root}/locks/objects"
        self.unpack_lock = f"{root}/locks/unpack"
        self.metadata = f"{root}/views/meta"
        self.lowers = f"{root}/views/lowers"
        self.pack_images = f"{root}/views/packs"
        self.pack_mounts = f"{root}/views/pack-mounts"

    def pack_dir(self, pack_id: PackId) -> str:
        """Return the directory that holds a pack: 256 of them, by the id's first byte."""
        return f"{self.packs}/{pack_id[:1].hex()}"

    def pack(self, pack_id: PackId) -> str:
        """Return a pack's path."""
        return f"{self.pack_dir(pack_id)}/{pack_id.hex()}{PACK_SUFFIX}"

    def object(self, object_id: ObjectId) -> str:
        """Return the path of a file of the object tier."""
        name = object_id.hex()
        return f"{self.objects}/{name[:2]}/{name}"

    def metadata_image(self, chain: str) -> str:
        """Return the path of the metadata image of a chain of layers, named by its hex id."""
        return f"{self.metadata}/{chain}{METADATA_SUFFIX}"

    def metadata_sidecar(self, chain: str) -> str:
        """Return the path of what is known of a metadata image."""
        return f"{self.metadata}/{chain}{SIDECAR_SUFFIX}"

    def pack_image(self, name: str) -> str:
        """Return the path of an image of a pack, named by the pack's hex id and a number."""
        return f"{self.pack_images}/{name}{METADATA_SUFFIX}"

    def pack_sidecar(self, name: str) -> str:
        """Return the path of what is known of a pack image."""
        return f"{self.pack_images}/{name}{SIDECAR_SUFFIX}"

    def instance_objects(self, chain: str, instance: str) -> str:
        """Return the path of the list of unpacked files that an instance over packs needs."""
        return f"{self.views}/lowers/{chain}/{instance}/objects"

    def blob(self, digest: str) -> str:
        """Return a manifest's or config's path; refuses what is not a sha256 digest.

        Raises:
            FormatError: ``digest`` is not one, so it must not become a path.
        """
        return f"{self.blobs}/{hex_of(parse_digest(digest))}"

    def lease(self, lease_id: str) -> str:
        """Return the lock file whose flock says that a lease lives.

        Raises:
            FormatError: ``lease_id`` would lead elsewhere; gc unlinks what this returns.
        """
        if "/" in lease_id:
            raise FormatError(f"the catalog names a lease {lease_id[:100]!r}, which is none")
        return f"{self.locks}/{LEASE_PREFIX}{lease_id}"

    def temporary(self, lease_id: str, name: str) -> str:
        """Return a temporary path that gc removes once the lease is dead."""
        return f"{self.tmp}/{LEASE_PREFIX}{lease_id}.{name}"
