"""Scans that are remembered, so that an unchanged directory is known for the layer it was.

After a directory became a layer, a small file in ``scans/`` notes a fingerprint of what stat(2)
said of everything in it, and the layer. When the same directory comes again with the same
fingerprint, and the layer is whole, nothing is read but directories.

It is a cache: it may be lost or damaged at any time, which is a miss; it is never forced to
disk. It is written so that it cannot be wrong as long as the kernel sets change times:
any write, chmod, chown, link, rename or change of an xattr sets an inode's ctime, which
nobody can set back. What changed within two seconds of the scan's start, or seems to have
changed after it, might change again without its ctime telling: then nothing is remembered.

Format: docs/format/scans.md. Why: docs/decisions/0095-remembered-scans.md.
"""

from __future__ import annotations

import contextlib
import os
import time
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec
from blake3 import blake3

from layerstore.digest import DiffId, Digest, PackId
from layerstore.errors import IntegrityError, NotFoundError
from layerstore.formats.recipe import CANONICAL
from layerstore.formats.sealed import Seal
from layerstore.linux.files import is_shared
from layerstore.store.packs.pack_writer import PACK_TARGET_BYTES
from layerstore.store.references import layer_chunks
from layerstore.store.remembering import read_record, write_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from layerstore.store.records import LayerRecord
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession

VERSION: Final = 1
SETTLED_NS: Final = 2_000_000_000
"""Age of the youngest change: more than any tick of a clock that file systems stamp with."""

_DECODED_ENTRIES_MAX: Final = 200_000
"""Entries of a layer whose tree is decoded to see whether gc left it whole: 250 MB at worst."""

_KEY_BYTES: Final = 16
_FINGERPRINT_CONTEXT: Final = "layerstore 2026-11-26 scan fingerprint v1"
_KEY_CONTEXT: Final = "layerstore 2026-11-26 scan key v1"
SEAL: Final = Seal(
    b"LSSCAN\0" + bytes((VERSION,)), "layerstore 2026-11-26 scan record v1", max_bytes=1 << 16
)
_STAMPING: Final = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "bcachefs", "zfs", "overlay")
)
"""File systems that set ctime by this host's clock at every change, also through mmap: tmpfs
does not do the latter, and servers and FUSE have clocks and ideas of their own."""

_FACTS = attrgetter(
    "st_mode", "st_uid", "st_gid", "st_size", "st_mtime_ns", "st_ctime_ns", "st_ino", "st_dev",
    "st_rdev",
)  # fmt: skip
_ENCODER = msgspec.msgpack.Encoder()


class Fingerprint:
    """A digest over what stat(2) says of everything in a tree, in the order of a scan."""

    def __init__(self) -> None:
        self._hash = blake3(derive_key_context=_FINGERPRINT_CONTEXT)
        self.youngest_ns = 0

    def add(self, paths: Sequence[bytes], statuses: Sequence[os.stat_result]) -> None:
        """Take some names of one directory."""
        rows = list(zip(paths, map(_FACTS, statuses), strict=True))
        self._hash.update(_ENCODER.encode(rows))
        youngest = max((status.st_ctime_ns for status in statuses), default=0)
        self.youngest_ns = max(self.youngest_ns, youngest)

    def digest(self) -> bytes:
        """Return the fingerprint of everything taken."""
        return self._hash.digest()


class ScanRecord(msgspec.Struct, frozen=True, array_like=True):
    """What is remembered of one directory.

    Attributes:
        epoch: The catalog's, when the layer was known to be whole.
        last_pack: The highest number of a pack then.
        skipped: What the scan left out, and why.
        packs: Those that hold what the layer needs; nothing is known of a layer without.
    """

    fingerprint: bytes
    diff_id: str
    epoch: int
    last_pack: int
    skipped: tuple[tuple[bytes, str], ...] = ()
    packs: tuple[bytes, ...] = ()


class _Found(NamedTuple):
    record: ScanRecord
    written_ns: int


_DECODER = msgspec.msgpack.Decoder(ScanRecord)


class RememberedScans:
    """The remembered scans of a store, for one directory.

    Args:
        session: Of the store; what it holds stays.
        root: Status of the directory. Its path does not matter.
        now_ns: Tells the time; another one in tests.
    """

    def __init__(
        self,
        session: WriteSession,
        root: os.stat_result,
        *,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._session = session
        self._store = session.store
        self._device = root.st_dev
        self._began_ns = now_ns()
        # Who reads matters, too: xattrs in trusted.* are seen by root alone.
        key = _ENCODER.encode((VERSION, CANONICAL, root.st_dev, root.st_ino, os.geteuid()))
        name = blake3(key, derive_key_context=_KEY_CONTEXT).hexdigest(_KEY_BYTES)
        self._path = f"{self._store.paths.scans}/{name}"
        # Others who may write there could say that a directory is any layer they like.
        self._is_shared = is_shared(self._store.paths.root)
        self._found = None if self._is_shared else self._read()

    def recall(self, look: Callable[[], bytes]) -> tuple[LayerRecord, ScanRecord] | None:
        """Return the layer that the directory is if it did not change, and hold it.

        Args:
            look: Returns the directory's fingerprint as it is now.
        """
        found = self._found
        if found is None or look() != found.record.fingerprint:
            return None
        diff_id = DiffId(Digest(found.record.diff_id))
        try:
            # First held, then looked at: what is there now stays.
            self._session.hold_layers([diff_id])
            layer = self._store.layer(diff_id)
            if not self._is_whole(layer, found):
                return None
        except (NotFoundError, IntegrityError):
            return None
        return layer, found.record

    def remember(
        self, fingerprint: Fingerprint, layer: LayerRecord, skipped: Sequence[tuple[bytes, str]]
    ) -> None:
        """Note what a directory is, if that is certain; failing to changes nothing.

        Args:
            fingerprint: Of the scan that made the layer, begun after this object.
            layer: Published.
            skipped: What the scan left out.
        """
        if self._is_shared or fingerprint.youngest_ns >= self._began_ns - SETTLED_NS:
            return
        if not stamps_changes(self._device):
            return
        packs = self._session.packs_relied_on()
        self._write(fingerprint.digest(), layer, skipped, packs)

    def _write(
        self,
        fingerprint: bytes,
        layer: LayerRecord,
        skipped: Sequence[tuple[bytes, str]],
        packs: Iterable[bytes],
    ) -> None:
        epoch, last_pack = _state(self._store)
        record = ScanRecord(
            fingerprint, layer.diff_id, epoch, last_pack, tuple(skipped), tuple(sorted(packs))
        )
        sealed = SEAL.closed(_ENCODER.encode(record))
        if sealed is not None:
            write_record(self._path, sealed, staging=self._session.temporary("scan"))

    def _read(self) -> _Found | None:
        try:
            written_ns = os.lstat(self._path).st_mtime_ns
            body = read_record(self._path, SEAL)
            return None if body is None else _Found(_DECODER.decode(body), written_ns)
        except (OSError, msgspec.MsgspecError):
            return None

    def _is_whole(self, layer: LayerRecord, found: _Found) -> bool:
        """Return whether everything that the layer needs is there, as far as can be told.

        Rows of the catalog and stat(2) of all packs, and then every bit of those packs
        that the layer lies in: nobody will read the directory to bring lost ones back
        (docs/decisions/0100).
        """
        epoch, _ = _state(self._store)
        if not self._packs_are_untouched(found):
            return False
        if epoch == found.record.epoch:  # in one epoch no row disappears
            return self._packs_are_whole(layer, found.record.packs)
        if layer.entry_count > _DECODED_ENTRIES_MAX:
            return False
        if not self._session.can_read(layer_chunks(layer, self._store.read_refs)):
            return False
        packs = self._session.packs_relied_on()
        self._write(found.record.fingerprint, layer, found.record.skipped, packs)
        return True

    def _packs_are_whole(self, layer: LayerRecord, packs: Sequence[bytes]) -> bool:
        """Return whether packs match their ids, unless reading the directory is quicker."""
        rows = [self._store.catalog.pack_row(PackId(pack_id)) for pack_id in packs]
        sizes = [row.size for row in rows if row is not None and row.retired is None]
        if not sizes or len(sizes) < len(rows):
            return False
        if sum(sizes) > max(layer.content_size, PACK_TARGET_BYTES):
            return False
        return self._session.are_whole(PackId(pack_id) for pack_id in packs)

    def _packs_are_untouched(self, found: _Found) -> bool:
        """Return whether packs of that time lie there as they did: nobody writes to a pack."""
        for row in self._store.catalog.pack_rows():
            if row.retired is not None or row.pack > found.record.last_pack:
                continue
            try:
                status = os.lstat(self._store.paths.pack(row.pack_id))
            except OSError:
                return False
            if status.st_size != row.size or status.st_ctime_ns > found.written_ns:
                return False
        return True


def _state(store: Store) -> tuple[int, int]:
    """Return the catalog's epoch and its highest number of a pack."""
    row = store.catalog.one(
        "SELECT (SELECT value FROM meta WHERE key = 'epoch'), (SELECT max(pack) FROM packs)"
    )
    assert row is not None
    epoch, last_pack = row
    assert isinstance(epoch, int)
    return epoch, last_pack if isinstance(last_pack, int) else 0


def stamps_changes(device: int) -> bool:
    """Return whether a mounted file system sets a ctime of this host's clock at every change."""
    return _file_system(device) in _STAMPING


def _file_system(device: int) -> str | None:
    """Return the type of the mounted file system with a device number, None if unknown."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8") as table:
        for line in table:
            before, _, after = line.partition(" - ")
            if before.split(" ", 3)[2] == wanted:
                return after.split(" ", 1)[0]
    return None
