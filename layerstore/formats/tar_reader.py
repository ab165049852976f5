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

from layerstore.errors import FormatError, UnsafeContentError
from layerstore.formats import tar_pax
from layerstore.formats.tar_headers import (
    BLOCK_BYTES,
    GNU_MAGIC,
    ZERO_BLOCK,
    Header,
    parse_header,
)
from layerstore.formats.tar_limits import REGION_COST_BYTES, Limits, MetadataMeter, exceeded
from layerstore.formats.tar_member import KINDS, Extended, Member, fill_member
from layerstore.formats.tar_paths import member_path
from layerstore.formats.tar_sparse import SparseMap, checked_regions, is_sparse, old_map, pax_map
from layerstore.formats.tree import FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

_KNOWN_REFUSED: Final = {
    b"D": "a GNU incremental directory",
    b"M": "the continuation of another volume",
    b"V": "a volume label",
    b"N": "an old GNU long name",
    b"X": "a Solaris extended header",
    b"s": "a socket",
}


class TarReader:
    """Reads members from spans of an uncompressed tar.

    Call :meth:`next_member`, then read exactly ``member.stored`` bytes of content, and
    so on until None; then everything was read, trailing bytes included.

    Args:
        spans: The archive's bytes in order, in pieces of any size.
        limits: What the archive may cost.
        nameless: A file without a name gets the path of the root, for the caller to pass over,
            instead of ending the reading.
    """

    def __init__(
        self, spans: Iterator[bytes], limits: Limits | None = None, *, nameless: bool = False
    ) -> None:
        self._spans = spans
        self._limits = limits or Limits()
        self._nameless = nameless
        self._buffer = b""
        self._at = 0
        self._base = 0
        self._content_left = 0
        self._padding = 0
        self._members = 0
        self._logical_bytes = 0
        self._global_bytes = 0
        self._blamed: Header | Member | None = None
        self._blamed_at = 0
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
        self._blamed = None
        self._blamed_at = self._base + self._at
        try:
            return self._next()
        except (FormatError, UnsafeContentError) as err:
            what = "" if self._is_archive() else "not a tar archive: "
            raise type(err)(f"{what}{err.message} ({self._blame()})") from err

    def _is_archive(self) -> bool:
        """Whether anything was read that a tar archive has; of nothing at all others tell."""
        return self._blamed is not None or self._blamed_at > 0 or self.offset == 0

    def _blame(self) -> str:
        """Return what was being read."""
        name = self._blamed.name if self._blamed is not None else b""
        who = f"member {name[:300]!r}" if name else "header"
        return f"{who} at offset {self._blamed_at}"

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

    def _header_block(self, padding: int) -> bytes:
        """Return the next block after padding, or nothing when the stream ends before it."""
        start = self._at
        taken = self._buffer[start : start + padding + BLOCK_BYTES]
        count = len(taken)
        if count < padding + BLOCK_BYTES:
            return self._split_header_block(padding)
        self._at = start + count
        self.literals += taken
        self.literal_count += count
        return taken[padding:] if padding else taken

    def _split_header_block(self, padding: int) -> bytes:
        """Do the same where the span ends before the block does."""
        if padding:
            self._literal(padding)
        block = self._take(BLOCK_BYTES)
        self.literals += block
        self.literal_count += len(block)
        if block and len(block) < BLOCK_BYTES:
            raise self._truncated("header")
        return block

    # -- members ---------------------------------------------------------------

    def _next(self) -> Member | None:
        padding, self._padding = self._padding, 0
        extended: Extended | None = None
        start = self._base + self._at + padding
        while True:
            self._blamed = None
            self._blamed_at = self._base + self._at + padding
            block = self._header_block(padding)
            padding = 0
            if not block or block == ZERO_BLOCK:
                if extended:
                    raise FormatError("extended header without a member")
                self._end(block)
                return None
            header = self._blamed = parse_header(block)
            self._blamed_at = start
            self._check_size(header.size)
            if header.typeflag in KINDS:
                return self._member(header, extended, block, start)
            if extended is None:
                extended = Extended()
            self._extended_header(header, extended)

    def _check_size(self, size: int) -> None:
        if size < 0:
            raise FormatError(f"negative size {size}")
        limit = self._limits.expanded_bytes
        if size > limit - self._base - self._at:
            raise exceeded("expanded_bytes", self.offset + size, limit, "bytes of archive")

    def _end(self, block: bytes) -> None:
        """Read what follows the last member."""
        if not block:
            if not self._members and not self._global_bytes:
                raise FormatError("empty stream, not a tar archive")
            return
        second = self._header_block(0)
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

    def _extended_header(self, header: Header, extended: Extended) -> None:
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
        whole = self._literal(header.size + -header.size % BLOCK_BYTES)
        body, padding = whole[: header.size], whole[header.size :]
        if flag == b"x":
            extended.records = tar_pax.parse_records(body)
            extended.plain = tar_pax.check_records(extended.records)
        elif flag == b"g":
            self._global_header(body)
        else:
            if not (body.endswith(b"\0") or padding.startswith(b"\0")):
                # GNU tar reads up to the first zero byte, wherever that is.
                raise FormatError("GNU long name that does not end where its size says")
            extended.set_long(flag, body)

    def _global_header(self, body: bytes) -> None:
        self._global_bytes += BLOCK_BYTES + len(body) + -len(body) % BLOCK_BYTES
        if self._global_bytes > self._limits.global_pax_bytes:
            limit = self._limits.global_pax_bytes
            raise exceeded("global_pax_bytes", self._global_bytes, limit, "bytes of global headers")
        tar_pax.check_global(tar_pax.parse_records(body))

    def _member(
        self, header: Header, extended: Extended | None, block: bytes, start: int
    ) -> Member:
        self._members += 1
        if self._members > self._limits.entries:
            raise exceeded("entries", self._members, self._limits.entries, "members")
        member = self._blamed = Member()
        member.offset = start
        fill_member(member, header, extended, self._limits)
        if member.stored != header.size:
            self._check_size(member.stored)
        self._content_left = member.stored
        if member.kind is FILE:
            if header.typeflag == b"S" or (extended is not None and not extended.plain):
                self._sparse(member, header, extended, block)
            nothing = self._nameless and not member.name
            member.path = b"" if nothing else member_path(member.name, is_directory=False)
            self._logical_bytes += member.size
            if self._logical_bytes > self._limits.logical_bytes:
                limit = self._limits.logical_bytes
                raise exceeded("logical_bytes", self._logical_bytes, limit, "bytes of files")
        # The map of sparse format 1.0 was read already; it came in whole blocks.
        self._padding = -member.stored % BLOCK_BYTES
        cost = len(member.path) + len(member.target)
        if member.xattrs or member.regions:
            cost += _extra_cost(member)
        self.metadata.charge(cost)
        return member

    # -- sparse files ----------------------------------------------------------

    def _sparse(
        self, member: Member, header: Header, extended: Extended | None, block: bytes
    ) -> None:
        """Read where the data of a file lies, if it is sparse."""
        records = extended.records if extended is not None else None
        if header.typeflag == b"S":
            if header.magic != GNU_MAGIC or records is not None:
                raise FormatError("old GNU sparse member in another format's archive")
            sparse = old_map(block, partial(self._literal, BLOCK_BYTES), self._limits)
            self._set_sparse(member, sparse)
        elif records is not None and is_sparse(records):
            read_block = partial(self._content_block, member)
            self._set_sparse(member, pax_map(records, read_block, self._limits))

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


def _extra_cost(member: Member) -> int:
    """Return what attributes and a map of a member cost in memory."""
    cost = sum(len(name) + len(value) for name, value in member.xattrs)
    return cost + REGION_COST_BYTES * len(member.regions or ())
