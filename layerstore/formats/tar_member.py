"""One member of a tar: what its header and the extended headers before it say together.

Values in, values out; what a member may be is decided here, what comes after what in
:mod:`layerstore.formats.tar_reader`.

Format: docs/format/tar.md, "Reading".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from layerstore.errors import FormatError, UnsafeContentError
from layerstore.formats import tar_pax
from layerstore.formats.tar_headers import NO_MAGIC, Header
from layerstore.formats.tar_limits import Limits, exceeded
from layerstore.formats.tar_paths import check_symlink_target, link_path, member_path
from layerstore.formats.tar_sparse import is_sparse
from layerstore.formats.tree import (
    DEV_MAJOR_MAX,
    DEV_MINOR_MAX,
    DIR,
    FILE,
    HARDLINK,
    ID_MAX,
    MODE_MAX,
    SIZE_MAX,
    SYMLINK,
    Kind,
)
from layerstore.formats.xattrs import without_minimal_acl

if TYPE_CHECKING:
    from layerstore.formats.tar_sparse import Regions

KINDS: Final = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHAR,
    b"4": Kind.BLOCK,
    b"5": Kind.DIR,
    b"6": Kind.FIFO,
}
_OCTAL_11_MAX = 0o77777777777
_MODE_FIELD_MAX = 0xFFFF_FFFF
"""Of mode_t; what it has above the permission bits says nothing and is dropped."""
_NS = 1_000_000_000


class Member:
    """One member of an archive; its content is read from the reader it came from.

    Attributes:
        offset: Where its first header block begins in the archive.
        name: As the archive says it; ``path`` is the same as a path inside the image.
        stored: Bytes of content in the archive, without padding.
        size: Bytes of the regular file; more than ``stored`` when it is sparse.
        regions: Where the stored bytes lie in the file, or None when they are all of it.
        target: A symlink's text or the path of a hard link's file.
    """

    __slots__ = (
        "dev_major",
        "dev_minor",
        "gid",
        "kind",
        "mode",
        "mtime_ns",
        "name",
        "offset",
        "path",
        "regions",
        "size",
        "stored",
        "target",
        "uid",
        "xattrs",
    )

    dev_major: int
    dev_minor: int
    gid: int
    kind: Kind
    mode: int
    mtime_ns: int
    name: bytes
    offset: int
    path: bytes
    regions: Regions | None
    size: int
    stored: int
    target: bytes
    uid: int
    xattrs: tuple[tuple[bytes, bytes], ...]


class Extended:
    """Headers that came before a member's own header and speak about it.

    Attributes:
        records: Of the pax header.
        plain: They neither carry xattrs or sparse maps nor are ever refused by name.
    """

    __slots__ = ("longlink", "longname", "plain", "records")

    def __init__(self) -> None:
        self.records: tar_pax.Records | None = None
        self.plain = True
        self.longname: bytes | None = None
        self.longlink: bytes | None = None

    def __bool__(self) -> bool:
        return not (self.records is None and self.longname is None and self.longlink is None)

    def set_long(self, flag: bytes, body: bytes) -> None:
        """Take a GNU long name ("L") or long link name ("K").

        Raises:
            FormatError: Empty, with a NUL, or the second one.
        """
        name = body.rstrip(b"\0")
        if not name or b"\0" in name:
            raise FormatError("GNU long name that is empty or has a NUL")
        if flag == b"L":
            if self.longname is not None:
                raise FormatError("two GNU long names for one member")
            self.longname = name
        else:
            if self.longlink is not None:
                raise FormatError("two GNU long link names for one member")
            self.longlink = name


def fill_member(member: Member, header: Header, extended: Extended | None, limits: Limits) -> None:
    """Set everything in a new member but its offset, the path of a file, and a map of its data.

    Its name is set first, so that whoever catches an error can tell whose it is.

    Raises:
        FormatError: What the headers say makes no member of an image.
        UnsafeContentError: A path or link that leads out of it.
        LimitExceededError: Larger than a limit.
    """
    member.name = header.name
    member.kind = KINDS[header.typeflag]
    member.mode = header.mode & MODE_MAX
    member.uid, member.gid = header.uid, header.gid
    member.mtime_ns = header.mtime * _NS
    member.stored = member.size = header.size
    member.regions = None
    member.target = header.linkname
    member.xattrs = ()
    member.dev_major, member.dev_minor = header.dev_major, header.dev_minor
    if extended is not None:
        _apply_extended(member, extended, header, limits)
    _check_numbers(member, header)
    _check_kind(member, header, extended)


def _apply_extended(member: Member, extended: Extended, header: Header, limits: Limits) -> None:
    if extended.longname is not None:
        member.name = extended.longname
    if extended.longlink is not None:
        member.target = extended.longlink
        if member.kind not in (SYMLINK, HARDLINK):
            raise FormatError("GNU long link name before something that is not a link")
    if extended.records is not None:
        _apply_records(member, extended.records, header, limits)
        if not extended.plain:
            xattrs = tar_pax.xattrs_of(extended.records, limits)
            member.xattrs = without_minimal_acl(xattrs, member.mode) if xattrs else ()


def _apply_records(
    member: Member, records: tar_pax.Records, header: Header, limits: Limits
) -> None:
    get = records.get
    if (value := get(b"path")) is not None:
        member.name = value
    if (value := get(b"linkpath")) is not None:
        member.target = value
        if member.kind not in (SYMLINK, HARDLINK):
            raise FormatError("linkpath on something that is not a link")
    if (value := get(b"size")) is not None:
        member.stored = member.size = _size_of(tar_pax.pax_integer(value, "size"), header)
    if (value := get(b"mtime")) is not None:
        member.mtime_ns = tar_pax.pax_time_ns(value)
    if (value := get(b"uid")) is not None:
        member.uid = tar_pax.pax_integer(value, "uid")
    if (value := get(b"gid")) is not None:
        member.gid = tar_pax.pax_integer(value, "gid")
    for key in (b"uname", b"gname"):
        if key in records and len(records[key]) > limits.owner_name_bytes:
            limit = limits.owner_name_bytes
            raise exceeded("owner_name_bytes", len(records[key]), limit, key.decode())


def _size_of(size: int, header: Header) -> int:
    """Return the size that a record says."""
    # Readers that do not know the record would find the next header elsewhere; only
    # a size that the field cannot hold may differ from it.
    if size != header.size and (size <= _OCTAL_11_MAX or header.size not in (0, _OCTAL_11_MAX)):
        raise FormatError(f"pax size {size} contradicts the header's {header.size}")
    return size


def _check_numbers(member: Member, header: Header) -> None:
    if not 0 <= member.uid <= ID_MAX or not 0 <= member.gid <= ID_MAX:
        raise FormatError(f"owner {member.uid}:{member.gid} is no user and group of Linux")
    if not 0 <= header.mode <= _MODE_FIELD_MAX:
        raise FormatError(f"mode {header.mode} is none of Linux")
    if not -SIZE_MAX <= member.mtime_ns <= SIZE_MAX:
        raise FormatError("modification time out of range")


def _check_kind(member: Member, header: Header, extended: Extended | None) -> None:
    kind = member.kind
    if kind is FILE and header.magic == NO_MAGIC and member.name[-1:] == b"/":
        # Version 7 knew no directories; a slash at the end made one.
        if member.size or header.typeflag != b"\0":
            raise FormatError("name of a directory on something that is none")
        member.kind = kind = DIR
    if kind is FILE:
        member.target = b""
        return
    if kind is SYMLINK:
        check_symlink_target(member.target)
    elif kind is HARDLINK:
        member.target = link_path(member.target)
    else:
        member.target = b""
    if member.stored:
        raise FormatError(f"size {member.stored} on something that is not a regular file")
    if extended is not None and extended.records and is_sparse(extended.records):
        raise FormatError("sparse records on something that is not a regular file")
    member.path = member_path(member.name, is_directory=kind is DIR)
    if kind in (Kind.CHAR, Kind.BLOCK):
        _check_device(member, header)


def _check_device(member: Member, header: Header) -> None:
    if header.magic == NO_MAGIC:
        raise FormatError("device without its numbers")
    if not (0 <= member.dev_major <= DEV_MAJOR_MAX and 0 <= member.dev_minor <= DEV_MINOR_MAX):
        raise FormatError(f"no device {member.dev_major}:{member.dev_minor} on Linux")
    if member.kind is Kind.CHAR and member.dev_major == 0 and member.dev_minor == 0:
        raise UnsafeContentError("character device 0:0, which overlayfs takes for a whiteout")
