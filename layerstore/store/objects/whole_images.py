"""Metadata images all of whose objects are in the tier, remembered so that none is asked for again.

An image on a distribution leads to more than ten thousand objects, and asking for each takes tens
of milliseconds in front of everything else. So ``objects/whole`` says of what images all objects
were found, and how the directories of the tier were *marked* then. A mark is a
directory's time of modification, set to a moment of the past that is drawn by lot: whatever gives
or takes a name there sets it to now. Nobody has to say that he removes something, be it gc,
repair, or somebody by hand; and what a directory lost that is marked otherwise is asked for again.

Directories are marked before anything is asked for, so that what goes meanwhile takes the mark
away. Who adds objects looks whether the mark is there, names them, and marks the directory anew:
only what somebody removes by hand between these is not seen. Adding makes nothing untrue, so that
several may do all of this side by side, and what the file says needs no lock: it is replaced as a
whole, and true by itself. Whoever uses this is in
:func:`layerstore.store.objects.tier.kept_objects`.

Crash behaviour: a cache, not forced to disk, and believed for as long as the host runs.
Normative: docs/format/store.md, "Objects". On the fast path.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import time

from blake3 import blake3

from layerstore.digest import ID_BYTES
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.boot import boot_id
from layerstore.linux.files import directory as opened
from layerstore.linux.files import (
    make_private_dir,
    read_file,
    remove_if_present,
    replace_private,
)
from layerstore.store.failures import storage_errors

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from layerstore.digest import ObjectId
    from layerstore.store.paths import StorePaths

_MAGIC = b"LSWHOLE\0"
_VERSION = 1
_HEAD = struct.Struct("<8sII40sQQ")
_DIRECTORIES = 256
_MARKS = struct.Struct(f"<{_DIRECTORIES}q")
_IMAGES_MAX = 1024
"""Those used longest ago are forgotten first; so many take 32 KiB."""

_MAX_BYTES = _HEAD.size + _MARKS.size + (_IMAGES_MAX + 1) * ID_BYTES

_ABSENT = -(1 << 63)
"""The mark of a directory that is not there: nothing is in it."""

_NEVER = _ABSENT + 1
"""One that no directory has."""

_OTHER = _ABSENT + 2
"""That of what is no directory, which nobody sets."""

_PAST_NS = 1_000_000_000
_LOT_BYTES = 5
"""Marks lie a second to 18 minutes back: what changes a name later gives a later time, unless the
clock is set back to that very nanosecond."""


class WholeImages:
    """What is remembered, for one who makes a view and then lets go of this.

    Args:
        paths: The store's.

    Raises:
        StorageError: The tier cannot be looked at.
    """

    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths
        self._boot = boot_id().encode()
        self._mark = time.time_ns() - _PAST_NS - int.from_bytes(os.urandom(_LOT_BYTES))
        with storage_errors("look at the objects"), opened(paths.objects) as tier:
            status = os.fstat(tier)
            self._place = status.st_dev, status.st_ino
            self._marks, self._images = self._read()
            self._changed = self._mark_changed(tier)
        self._has_added = False

    def _read(self) -> tuple[list[int], list[bytes]]:
        """Return the marks and the images of the file; no images if it says nothing of this tier.

        In a store that is open to a group its members may write it, as they may the objects.
        """
        nothing = [_NEVER] * _DIRECTORIES, list[bytes]()
        try:
            data = read_file(self._paths.whole_images, max_bytes=_MAX_BYTES)
        except OSError:
            return nothing
        body, checksum = data[:-ID_BYTES], data[-ID_BYTES:]
        begin = _HEAD.size + _MARKS.size
        if len(body) < begin or blake3(body).digest() != checksum or not self._boot:
            return nothing
        head = _HEAD.pack(_MAGIC, _VERSION, 0, self._boot, *self._place)
        if not body.startswith(head) or (len(body) - begin) % ID_BYTES:
            return nothing
        images = [body[at : at + ID_BYTES] for at in range(begin, len(body), ID_BYTES)]
        return list(_MARKS.unpack_from(body, _HEAD.size)), images

    def _mark_changed(self, tier: int) -> set[int]:
        """Mark the directories whose marks are not those that the file says; return their numbers.

        Args:
            tier: The open directory of the object tier.
        """
        changed = set()
        for number in range(_DIRECTORIES):
            name = f"{number:02x}"
            found = _mark_of(name, tier)
            if found == self._marks[number]:
                continue
            changed.add(number)
            if found == _OTHER:
                self._marks[number] = _NEVER
            else:
                self._marks[number] = _ABSENT if found == _ABSENT else self._set_mark(name, tier)
        return changed

    def _set_mark(self, name: str, tier: int) -> int:
        """Mark a directory anew; return its mark, or one that none has if that is not permitted."""
        try:
            os.utime(name, ns=(self._mark, self._mark), dir_fd=tier, follow_symlinks=False)
        except OSError:
            return _NEVER
        return self._mark

    def unsure(self, image_hash: bytes, objects: AbstractSet[ObjectId]) -> AbstractSet[ObjectId]:
        """Return which objects of an image have to be asked for; the others are there.

        Args:
            image_hash: BLAKE3 of the metadata image, which stands for all that it leads to.
            objects: All of these.
        """
        if image_hash not in self._images:
            return objects
        if not self._changed:
            return frozenset()
        changed = self._changed
        return {name for name in objects if name[0] in changed}

    def begin_adding(self, number: int, tier: int) -> bool:
        """Say that objects will get names in a directory, which is made if it is not there.

        Args:
            number: Of the directory: the first byte of the objects' ids.
            tier: The open directory of the object tier.

        Returns:
            Whether nobody else changed it: then :meth:`end_adding` is to be called.

        Raises:
            OSError: It cannot be made, or is something else.
        """
        self._has_added = True
        name = f"{number:02x}"
        found = _mark_of(name, tier)
        if found in (_ABSENT, _OTHER):
            make_private_dir(f"{self._paths.objects}/{name}", durable=False)
        if found == self._marks[number]:
            return True
        self._marks[number] = _NEVER
        return False

    def end_adding(self, number: int, tier: int) -> None:
        """Mark a directory that nobody else had changed when :meth:`begin_adding` was called."""
        self._marks[number] = self._set_mark(f"{number:02x}", tier)

    def remember(self, *image_hashes: bytes) -> None:
        """Note that all objects of images are there.

        Those are that :meth:`unsure` left out; the others were asked for after this was made, and
        found or added.

        Args:
            image_hashes: Of the metadata images; without any, what was known is noted again with
                the marks that it has now.
        """
        # Of others nobody has asked what they lost of directories that somebody changed.
        others = [] if self._changed else self._images
        images = list(dict.fromkeys([*image_hashes, *others]))[:_IMAGES_MAX]
        if not images or not self._boot:
            return
        if not self._has_added and not self._changed and set(image_hashes) <= set(self._images):
            return
        head = _HEAD.pack(_MAGIC, _VERSION, 0, self._boot, *self._place)
        body = b"".join([head, _MARKS.pack(*self._marks), *images])
        with contextlib.suppress(OSError):  # a cache, and what was asked for is done
            replace_private(self._paths.whole_images, body + blake3(body).digest())


def forget(paths: StorePaths) -> None:
    """Remove the file, and what killed writers left of it; nobody may write it meanwhile.

    Raises:
        OSError: It could not be removed.
    """
    own = os.path.basename(paths.whole_images)
    for name in os.listdir(paths.objects):
        if name.startswith(own):
            remove_if_present(f"{paths.objects}/{name}")


def _mark_of(name: str, tier: int) -> int:
    """Return how a directory is marked."""
    try:
        status = os.stat(name, dir_fd=tier, follow_symlinks=False)
    except FileNotFoundError:
        return _ABSENT
    # A link is no directory, whatever it leads to; nothing else is one, either.
    return status.st_mtime_ns if stat.S_ISDIR(status.st_mode) else _OTHER
