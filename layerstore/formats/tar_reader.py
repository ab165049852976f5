"""A strict reader of tar archives over an untrusted stream that cannot seek.

Reads v7, ustar, GNU and pax archives, member by member. Everything that is not file
content (headers, padding, what follows the end) is kept as *literal* bytes, so that the
caller can store what it takes to write the same archive again. Reading stops with a
typed error that names the member and its offset at the first thing that is malformed,
that two readers could understand differently, or that costs more than the limits allow.

Not thread-safe. Memory: one span of input, one member's headers, and the literals that
the caller has not taken yet.

Format: docs/format/tar.md, "Reading".
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from layerstore.errors import FormatError, LimitExceededError, UnsafeContentError
from layerstore.formats import tar_pax
from layerstore.formats.tar_headers import (
    BLOCK_BYTES,
    GNU_MAGIC,
    NO_MAGIC,
    ZERO_BLOCK,
    Header,
    parse_header,
)
from layerstore.formats.tar_limits import REGION_COST_BYTES, Limits, MetadataMeter, exceeded
from layerstore.formats.tar_paths import check_symlink_target, link_path, member_path
from layerstore.formats.tar_sparse import SparseMap, checked_regions, is_sparse, old_map, pax_map
from layerstore.formats.tree import (
    DEV_MAJOR_MAX,
    DEV_MINOR_MAX,
    ID_MAX,
    MODE_MAX,
    SIZE_MAX,
    Kind,
)
from layerstore.formats.xattrs import without_minimal_acl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.formats.tar_sparse import Regions

_KINDS: Final = {
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
_KNOWN_REFUSED: Final = {
    b"D": "a GNU incremental directory",
    b"M": "the continuation of another volume",
    b"V": "a volume label",
    b"N": "an old GNU long name",
    b"X": "a Solaris extended header",
    b"s": "a socket",
}


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


class _Extended:
    """Headers that came before a member's own header and speak about it."""

    __slots__ = ("longlink", "longname", "plain", "records")

    def __init__(self) -> None:
        self.records: tar_pax.Records | None = None
        self.plain = True
        self.longname: bytes | None = None
        self.longlink: bytes | None = None

    def __bool__(self) -> bool:
        return not (self.records is None and self.longname is None and self.longlink is None)


class TarReader:
    """Reads members from spans of an uncompressed tar.

    Call :meth:`next_member`, then read exactly ``member.stored`` bytes of content, and
    so on until None; then everything was read, trailing bytes included.

    Args:
        spans: The archive's bytes in order, in pieces of any size.
        limits: What the archive may cost.
    """

    def __init__(self, spans: Iterator[bytes], limits: Limits | None = None) -> None:
        self._spans = spans
        self._limits = limits or Limits()
        self._buffer = b""
        self._at = 0
        self._base = 0
        self._content_left = 0
        self._padding = 0
        self._members = 0
        self._logical_bytes = 0
        self._global_bytes = 0
        self._where = (b"", 0)
        self.metadata = MetadataMeter(self._limits)
        self.literals = bytearray()
        self.literal_count = 0

    @property
    def offset(self) -> int:
        """Bytes of the archive read so far."""
        return self._base + self._at

    def take_literals(self) -> bytes:
        """Return and forget the literal bytes read since the last call."""
        taken = bytes(self.literals)
        self.literals.clear()
        return taken

    def next_member(self) -> Member | None:
        """Return the next member, or None at the end of the stream.

        Raises:
            FormatError: Malformed or ambiguous.
            UnsafeContentError: A path or link that leads out of the image.
            LimitExceededError: Larger than a limit.
        """
        assert self._content_left == 0, "the member's content was not read"
        self._where = (b"", self.offset)
        try:
            if self._padding:
                self._literal(self._padding)
            return self._next()
        except (FormatError, UnsafeContentError) as err:
            name, offset = self._where
            who = f"member {name[:300]!r}" if name else "header"
            raise type(err)(f"{err.message} ({who} at offset {offset})") from err

    def read(self, count: int) -> bytes:
        """Return 1 to ``count`` bytes of the current member's content.

        Raises:
            FormatError: The archive ends inside the content.
        """
        count = min(count, self._content_left)
        piece = self._buffer[self._at : self._at + count]
        self._at += len(piece)
        if not piece and count:
            self._refill()
            piece = self._buffer[:count]
            self._at = len(piece)
            if not piece:
                raise self._truncated("content")
        self._content_left -= len(piece)
        return piece

    def read_exactly(self, count: int) -> bytes:
        """Return ``count`` bytes of the current member's content; use it for small files.

        Raises:
            FormatError: The archive ends inside the content.
        """
        piece = self.read(count)
        if len(piece) == count:
            return piece
        pieces = [piece]
        missing = count - len(piece)
        while missing:
            piece = self.read(missing)
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    # -- bytes -----------------------------------------------------------------

    def _refill(self) -> None:
        """Replace the spent buffer by the next span; it stays empty at the end."""
        self._base += len(self._buffer)
        self._at = 0
        self._buffer = b""
        for span in self._spans:
            if span:
                self._buffer = span
                break

    def _take(self, count: int) -> bytes:
        """Return ``count`` bytes, fewer only at the end of the stream."""
        piece = self._buffer[self._at : self._at + count]
        self._at += len(piece)
        if len(piece) == count:
            return piece
        pieces = [piece]
        missing = count - len(piece)
        while missing:
            self._refill()
            if not self._buffer:
                break
            piece = self._buffer[:missing]
            self._at = len(piece)
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def _literal(self, count: int) -> bytes:
        """Return ``count`` literal bytes."""
        taken = self._take(count)
        self.literals += taken
        self.literal_count += len(taken)
        if len(taken) < count:
            raise self._truncated("padding" if count < BLOCK_BYTES else "header")
        return taken

    def _truncated(self, what: str) -> FormatError:
        return FormatError(f"the archive ends inside of a {what}, at byte {self.offset}")

    def _header_block(self) -> bytes:
        """Return the next block, or nothing when the stream ends before it."""
        at = self._at
        block = self._buffer[at : at + BLOCK_BYTES]
        if len(block) == BLOCK_BYTES:
            self._at = at + BLOCK_BYTES
        else:
            block = self._take(BLOCK_BYTES)
        self.literals += block
        self.literal_count += len(block)
        if block and len(block) < BLOCK_BYTES:
            raise self._truncated("header")
        return block

    # -- members ---------------------------------------------------------------

    def _next(self) -> Member | None:
        self._padding = 0
        extended = _Extended()
        start = self.offset
        while True:
            self._where = (b"", self.offset)
            block = self._header_block()
            if not block or block == ZERO_BLOCK:
                if extended:
                    raise FormatError("extended header without a member")
                self._end(block)
                return None
            header = parse_header(block)
            self._where = (header.name, start)
            if header.size < 0 or header.size > self._limits.expanded_bytes - self.offset:
                raise self._bad_size(header.size)
            if header.typeflag not in _KINDS:
                self._extended_header(header, extended)
                continue
            self._members += 1
            if self._members > self._limits.entries:
                raise exceeded("entries", self._members, self._limits.entries, "members")
            return self._member(header, extended, block, start)

    def _bad_size(self, size: int) -> FormatError | LimitExceededError:
        if size < 0:
            return FormatError(f"negative size {size}")
        limit = self._limits.expanded_bytes
        return exceeded("expanded_bytes", self.offset + size, limit, "bytes of archive")

    def _end(self, block: bytes) -> None:
        """Read what follows the last member."""
        if not block:
            if not self._members and not self._global_bytes:
                raise FormatError("empty stream, not a tar archive")
            return
        second = self._header_block()
        if second and second != ZERO_BLOCK:
            raise FormatError("a block of zeros followed by another header")
        limit = self._limits.trailing_bytes
        before = self.literal_count
        while piece := self._take(min(1 << 18, limit + 1)):
            self.literals += piece
            self.literal_count += len(piece)
            if self.literal_count - before > limit:
                count = self.literal_count - before
                raise exceeded("trailing_bytes", count, limit, "bytes after the end")

    def _extended_header(self, header: Header, extended: _Extended) -> None:
        flag = header.typeflag
        if flag not in b"xgLK":
            what = _KNOWN_REFUSED.get(flag, f"a member of unknown type {flag!r}")
            raise FormatError(f"{what} cannot be part of an image")
        is_pax = flag in b"xg"
        limit = self._limits.global_pax_bytes if flag == b"g" else self._limits.pax_bytes
        if header.size > limit:
            name = "global_pax_bytes" if flag == b"g" else "pax_bytes"
            raise exceeded(name, header.size, limit, "bytes of extended header")
        if extended and (is_pax or extended.records is not None):
            raise FormatError("two kinds of extended header for one member")
        body = self._literal(header.size)
        padding = self._literal(-header.size % BLOCK_BYTES) if header.size % BLOCK_BYTES else b""
        if flag == b"x":
            extended.records = tar_pax.parse_records(body)
            extended.plain = extended.records.keys() <= tar_pax.PLAIN_KEYS
            tar_pax.check_records(extended.records)
        elif flag == b"g":
            self._global_header(body)
        else:
            if not (body.endswith(b"\0") or padding.startswith(b"\0")):
                # GNU tar reads up to the first zero byte, wherever that is.
                raise FormatError("GNU long name that does not end where its size says")
            _set_long(extended, flag, body)

    def _global_header(self, body: bytes) -> None:
        self._global_bytes += BLOCK_BYTES + len(body) + -len(body) % BLOCK_BYTES
        if self._global_bytes > self._limits.global_pax_bytes:
            limit = self._limits.global_pax_bytes
            raise exceeded("global_pax_bytes", self._global_bytes, limit, "bytes of global headers")
        tar_pax.check_global(tar_pax.parse_records(body))

    def _member(self, header: Header, extended: _Extended, block: bytes, start: int) -> Member:
        member = Member()
        member.offset = start
        member.kind = _KINDS[header.typeflag]
        member.name = header.name if extended.longname is None else extended.longname
        member.mode = header.mode & MODE_MAX
        member.uid, member.gid = header.uid, header.gid
        member.mtime_ns = header.mtime * _NS
        member.stored = member.size = header.size
        member.regions = None
        member.target = header.linkname if extended.longlink is None else extended.longlink
        member.xattrs = ()
        member.dev_major, member.dev_minor = header.dev_major, header.dev_minor
        if extended.records is not None:
            self._apply_records(member, extended.records, header)
            if not extended.plain:
                xattrs = tar_pax.xattrs_of(extended.records, self._limits)
                member.xattrs = without_minimal_acl(xattrs, member.mode) if xattrs else ()
        self._where = (member.name, start)
        _check_numbers(member, header)
        self._check_kind(member, header, extended)
        self._content_left = member.stored
        if member.kind is Kind.FILE:
            self._check_file(member, header, extended, block)
        # The map of sparse format 1.0 was read already; it came in whole blocks.
        self._padding = -member.stored % BLOCK_BYTES
        self._charge(member)
        return member

    def _charge(self, member: Member) -> None:
        count = len(member.path) + len(member.target)
        if member.xattrs:
            count += sum(len(name) + len(value) for name, value in member.xattrs)
        if member.regions:
            count += REGION_COST_BYTES * len(member.regions)
        self.metadata.charge(count)

    def _apply_records(self, member: Member, records: tar_pax.Records, header: Header) -> None:
        get = records.get
        if (value := get(b"path")) is not None:
            member.name = value
        if (value := get(b"linkpath")) is not None:
            member.target = value
            if member.kind not in (Kind.SYMLINK, Kind.HARDLINK):
                raise FormatError("linkpath on something that is not a link")
        if (value := get(b"size")) is not None:
            self._apply_size(member, tar_pax.pax_integer(value, "size"), header)
        if (value := get(b"mtime")) is not None:
            member.mtime_ns = tar_pax.pax_time_ns(value)
        if (value := get(b"uid")) is not None:
            member.uid = tar_pax.pax_integer(value, "uid")
        if (value := get(b"gid")) is not None:
            member.gid = tar_pax.pax_integer(value, "gid")
        for key in (b"uname", b"gname"):
            if key in records and len(records[key]) > self._limits.owner_name_bytes:
                limit = self._limits.owner_name_bytes
                raise exceeded("owner_name_bytes", len(records[key]), limit, key.decode())

    def _apply_size(self, member: Member, size: int, header: Header) -> None:
        # Readers that do not know the record would find the next header elsewhere; only
        # a size that the field cannot hold may differ from it.
        if size != header.size and (size <= _OCTAL_11_MAX or header.size not in (0, _OCTAL_11_MAX)):
            raise FormatError(f"pax size {size} contradicts the header's {header.size}")
        if size > self._limits.expanded_bytes - self.offset:
            raise self._bad_size(size)
        member.stored = member.size = size

    def _check_kind(self, member: Member, header: Header, extended: _Extended) -> None:
        kind = member.kind
        if kind is Kind.FILE and header.magic == NO_MAGIC and member.name[-1:] == b"/":
            # Version 7 knew no directories; a slash at the end made one.
            if member.size or header.typeflag != b"\0":
                raise FormatError("name of a directory on something that is none")
            member.kind = kind = Kind.DIR
        if extended.longlink is not None and kind not in (Kind.SYMLINK, Kind.HARDLINK):
            raise FormatError("GNU long link name before something that is not a link")
        if kind is Kind.SYMLINK:
            check_symlink_target(member.target)
        elif kind is Kind.HARDLINK:
            member.target = link_path(member.target)
        else:
            member.target = b""
        if kind is Kind.FILE:
            return
        if member.stored:
            raise FormatError(f"size {member.stored} on something that is not a regular file")
        if extended.records and not extended.plain and is_sparse(extended.records):
            raise FormatError("sparse records on something that is not a regular file")
        member.path = member_path(member.name, is_directory=kind is Kind.DIR)
        if kind in (Kind.CHAR, Kind.BLOCK):
            _check_device(member, header)

    def _check_file(
        self, member: Member, header: Header, extended: _Extended, block: bytes
    ) -> None:
        records = extended.records
        if header.typeflag == b"S":
            if header.magic != GNU_MAGIC or records is not None:
                raise FormatError("old GNU sparse member in another format's archive")
            sparse = old_map(block, partial(self._literal, BLOCK_BYTES), self._limits)
            self._set_sparse(member, sparse)
        elif records is not None and not extended.plain and is_sparse(records):
            read_block = partial(self._content_block, member)
            self._set_sparse(member, pax_map(records, read_block, self._limits))
            self._where = (member.name, member.offset)
        member.path = member_path(member.name, is_directory=False)
        self._logical_bytes += member.size
        if self._logical_bytes > self._limits.logical_bytes:
            limit = self._limits.logical_bytes
            raise exceeded("logical_bytes", self._logical_bytes, limit, "bytes of files")

    # -- sparse files ----------------------------------------------------------

    def _content_block(self, member: Member) -> bytes:
        """Return the next block of a content that begins with its map."""
        if member.stored < BLOCK_BYTES:
            raise FormatError("sparse map larger than its member")
        member.stored -= BLOCK_BYTES
        self._content_left -= BLOCK_BYTES
        return self._literal(BLOCK_BYTES)

    def _set_sparse(self, member: Member, sparse: SparseMap) -> None:
        real_size = sparse.real_size
        if sparse.name is not None:
            member.name = sparse.name
        if real_size < 0 or real_size > self._limits.logical_bytes:
            if real_size < 0:
                raise FormatError(f"negative real size {real_size}")
            limit = self._limits.logical_bytes
            raise exceeded("logical_bytes", real_size, limit, "bytes of a sparse file")
        member.regions = checked_regions(sparse.pairs, real_size, member.stored)
        member.size = real_size


def _set_long(extended: _Extended, flag: bytes, body: bytes) -> None:
    name = body.rstrip(b"\0")
    if not name or b"\0" in name:
        raise FormatError("GNU long name that is empty or has a NUL")
    if flag == b"L":
        if extended.longname is not None:
            raise FormatError("two GNU long names for one member")
        extended.longname = name
    else:
        if extended.longlink is not None:
            raise FormatError("two GNU long link names for one member")
        extended.longlink = name


def _check_numbers(member: Member, header: Header) -> None:
    if not 0 <= member.uid <= ID_MAX or not 0 <= member.gid <= ID_MAX:
        raise FormatError(f"owner {member.uid}:{member.gid} is no user and group of Linux")
    if not 0 <= header.mode <= _MODE_FIELD_MAX:
        raise FormatError(f"mode {header.mode} is none of Linux")
    if not -SIZE_MAX <= member.mtime_ns <= SIZE_MAX:
        raise FormatError("modification time out of range")


def _check_device(member: Member, header: Header) -> None:
    if header.magic == NO_MAGIC:
        raise FormatError("device without its numbers")
    if not (0 <= member.dev_major <= DEV_MAJOR_MAX and 0 <= member.dev_minor <= DEV_MINOR_MAX):
        raise FormatError(f"no device {member.dev_major}:{member.dev_minor} on Linux")
    if member.kind is Kind.CHAR and member.dev_major == 0 and member.dev_minor == 0:
        raise UnsafeContentError("character device 0:0, which overlayfs takes for a whiteout")
