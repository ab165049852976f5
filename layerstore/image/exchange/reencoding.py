"""The exact bytes of a compressed layer from its tar, where a library makes them again.

How a layer was compressed is written nowhere; it is found by trial. Each recipe compresses the
layer's tar and is dropped at the first byte that differs, which most are within the first
100 KiB; one that reaches the end is proven. What zlib, isal and zstd make can be made again, and
with the extra ``layerstore[go]`` what Go's own compress/flate makes (docker push, BuildKit,
containerd); the rest is kept (docs/decisions/0176, 0254). Implements docs/format/origins.md,
"Recipes".
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

from layerstore.errors import FormatError, UnsafeContentError, UnsupportedError
from layerstore.formats.decompress import compression_of, decompressed
from layerstore.formats.gzip_header import header_end
from layerstore.formats.tar_limits import Limits
from layerstore.image.exchange.blob_files import isal_compressor
from layerstore.image.exchange.exchange import READ_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from layerstore.image.exchange.blob_files import Compressor
    from layerstore.image.exchange.exchange import BlobReader

_HEAD_BYTES: Final = 64 << 10
_REMEMBERED_BYTES: Final = 4 << 20
"""Plain bytes that are not decompressed anew for each recipe: most fail long before."""
_BUDGET_BYTES: Final = 64 << 20
"""Plain bytes that failing recipes may compress, beside as many as the layer has: a hostile layer
may be built so that every recipe fails at its end."""
_ZSTD_LEVELS: Final = (3, 1, 2, 4, 5, 6, 7, 8, 9)
"""Higher ones cost half a second each to rule out, and few people compress layers so."""
_ZLIB_LEVELS: Final = (6, 9, 1, 5, 4, 3, 2, 7, 8)
_GO_LEVELS: Final = {0: (6, 5, 7, 4, 8, 3, 2), 2: (9,), 4: (1,)}
"""By the byte of the header in which Go's compress/gzip says which levels it could have been."""
_GO_SYSTEM: Final = 255
_GO_METHOD: Final = 1
"""docs/format/goflate.md describes it; what later versions of Go do would be another."""


def find_recipe(open_blob: Callable[[], BlobReader]) -> Mapping[str, object] | None:
    """Return a recipe that makes exactly the blob's bytes from its content; None for none.

    Args:
        open_blob: Opens the compressed layer from its beginning, as often as it is called;
            it was verified before.
    """
    blob = open_blob()
    try:
        head = _read_exactly(blob, _HEAD_BYTES)
    finally:
        blob.close()
    plain = _Plain(open_blob)
    for parameters in _candidates(head):
        if plain.spent > max(_BUDGET_BYTES, plain.size):
            return None
        if _makes(encode(parameters, plain.pieces()), open_blob()):
            return parameters
    return None


def encode(parameters: Mapping[str, Any], pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield a compressed layer, made of its tar as a recipe says.

    Raises:
        FormatError: The recipe is of a kind that this version does not know.
        UnsupportedError: It needs an extra that cannot be loaded.
        UnsafeContentError: What a stranger's recipe compresses was made to cost too much.
    """
    match parameters.get("codec"):
        case "zlib":
            level, memory = parameters["level"], parameters["memory"]
            coder: Compressor = zlib.compressobj(level, zlib.DEFLATED, -15, memory)
        case "isal":
            coder = isal_compressor(parameters["level"], -15)
        case "goflate" if parameters["method"] == _GO_METHOD:
            coder = _go_compressor(parameters["level"])
        case "zstd":
            return _zstd(parameters, pieces)
        case other:
            raise FormatError(
                f"a layer is to be compressed by {str(other)[:40]!r}, which is unknown here",
                hint="use the newer layerstore that stored it",
            )
    return _gzip_member(coder, bytes.fromhex(parameters["header"]), pieces)


def is_recipe(parameters: Mapping[str, object]) -> bool:
    """Tell whether a recipe that a stranger sent is one of those that are written here.

    What it makes is compared with a digest; this is for what it could cost.
    """
    fields = dict(parameters)
    codec = fields.pop("codec", None)
    limits = _RECIPE_LIMITS.get(codec) if isinstance(codec, str) else None
    if limits is None:
        return False
    header = fields.pop("header", None)
    if (codec == "zstd") is not (header is None) or not _is_header(header):
        return False
    if codec == "zstd":
        fields.setdefault("size", 0)
    return fields.keys() == limits.keys() and all(
        type(value) is type(limits[name][0]) and limits[name][0] <= value <= limits[name][1]
        for name, value in fields.items()
    )


def _is_header(header: object) -> bool:
    if header is None:
        return True
    if not isinstance(header, str) or len(header) > 2 * _HEAD_BYTES:
        return False
    return len(header) % 2 == 0 and set(header) <= set("0123456789abcdef")


_RECIPE_LIMITS: Final[Mapping[str, Mapping[str, tuple[Any, Any]]]] = {
    "zlib": {"level": (0, 9), "memory": (1, 9)},
    "isal": {"level": (0, 3)},
    "goflate": {"level": (1, 9), "method": (_GO_METHOD, _GO_METHOD)},
    "zstd": {"level": (1, 22), "checksum": (False, True), "threads": (0, 1), "size": (0, 1 << 62)},
}
"""The least and the greatest value of each field."""


def _gzip_member(coder: Compressor, header: bytes, pieces: Iterable[bytes]) -> Iterator[bytes]:
    from isal import isal_zlib  # its checksum is five times as fast

    yield header
    checksum = size = 0
    for piece in pieces:
        checksum = isal_zlib.crc32(piece, checksum)
        size += len(piece)
        if made := coder.compress(piece):
            yield made
    yield coder.flush()
    yield checksum.to_bytes(4, "little") + (size & 0xFFFF_FFFF).to_bytes(4, "little")


def _go_compressor(level: int) -> Compressor:
    try:
        from layerstore.formats.goflate.encoder import Deflate
    except (ImportError, OSError) as err:  # OSError: its library cannot be loaded
        raise UnsupportedError(
            "the original of a layer that Go compressed is made again by numba, which cannot be "
            f"loaded: {err}",
            hint="pip install 'layerstore[go]'",
        ) from err
    return Deflate(level)


def _zstd(parameters: Mapping[str, Any], pieces: Iterable[bytes]) -> Iterator[bytes]:
    import zstandard

    size = parameters.get("size", -1)
    coder = zstandard.ZstdCompressor(
        parameters["level"],
        write_checksum=parameters["checksum"],
        write_content_size=size >= 0,
        threads=parameters["threads"],
    ).compressobj(size=size)
    for piece in pieces:
        if made := coder.compress(piece):
            yield made
    yield coder.flush()


# -- trial


def _candidates(head: bytes) -> Iterator[Mapping[str, object]]:
    """Yield recipes that could have made a blob that begins like this, the cheapest first."""
    match compression_of(head):
        case "gzip":
            end = header_end(head)
            if end is not None and end <= len(head):
                yield from _gzip_candidates(head[:end], len(head))
        case "zstd":
            yield from _zstd_candidates(head)


def _gzip_candidates(header: bytes, known: int) -> Iterator[Mapping[str, object]]:
    text = header.hex()
    for level in (3, 0, 1, 2):
        yield {"codec": "isal", "level": level, "header": text}
    for memory in (8, 9):
        for level in _ZLIB_LEVELS:
            yield {"codec": "zlib", "level": level, "memory": memory, "header": text}
    # Last, though it is the likeliest: a compiler is a lot to load, in vain for what Python's gzip
    # made, which has the same header, and for a few kilobytes.
    if known == _HEAD_BYTES and header[9] == _GO_SYSTEM and _has_go():
        for level in _GO_LEVELS.get(header[8], ()):
            yield {"codec": "goflate", "level": level, "method": _GO_METHOD, "header": text}


def _has_go() -> bool:
    try:
        import layerstore.formats.goflate.encoder  # noqa: F401
    except (ImportError, OSError):
        return False
    return True


def _zstd_candidates(head: bytes) -> Iterator[Mapping[str, object]]:
    import zstandard

    try:
        frame = zstandard.get_frame_parameters(head)
    except zstandard.ZstdError:
        return
    known = frame.content_size not in (
        zstandard.CONTENTSIZE_UNKNOWN,
        zstandard.CONTENTSIZE_ERROR,
    )
    size = {"size": frame.content_size} if known else {}
    for level in _ZSTD_LEVELS:
        made = zstandard.ZstdCompressionParameters.from_level(
            level, source_size=frame.content_size if known else 0
        )
        # A frame of one segment has no window of its own: every level could have made it.
        if not known and 1 << made.window_log != frame.window_size:
            continue
        # A worker of its own cuts the content in another way: zstd(1) has one, libraries do not.
        for threads in (0, 1):
            checksum = frame.has_checksum
            yield {
                "codec": "zstd", "level": level, "checksum": checksum, "threads": threads, **size
            }  # fmt: skip


class _Plain:
    """A compressed layer's content, over and over again; counts what recipes were given of it."""

    def __init__(self, open_blob: Callable[[], BlobReader]) -> None:
        self._open = open_blob
        self._first: list[bytes] = []
        self._first_bytes = 0
        self._is_short = False
        self.size = 0
        self.spent = 0

    def pieces(self) -> Iterator[bytes]:
        """Yield the content from its beginning."""
        at = 0
        for piece in self._first:
            at += len(piece)
            self.spent += len(piece)
            yield piece
        if not self._is_short:
            yield from self._rest(at)

    def _rest(self, known: int) -> Iterator[bytes]:
        blob = self._open()
        try:
            at = 0
            for piece in decompressed(blob.read, Limits()):
                at += len(piece)
                if at <= known:
                    continue
                if self._first_bytes < _REMEMBERED_BYTES:
                    self._first.append(piece)
                    self._first_bytes += len(piece)
                self.spent += len(piece)
                self.size = max(self.size, at)
                yield piece
            self._is_short = at <= self._first_bytes
        finally:
            blob.close()


def _makes(pieces: Iterator[bytes], blob: BlobReader) -> bool:
    """Return whether pieces together are exactly a blob; stops at the first that is not."""
    import zstandard

    try:
        for piece in pieces:
            if _read_exactly(blob, len(piece)) != piece:
                return False
        return not blob.read(1)
    except zstandard.ZstdError:  # the frame said another size than all frames together have
        return False
    except UnsafeContentError:  # of its making, not of what is in it
        return False
    finally:
        blob.close()


def _read_exactly(blob: BlobReader, count: int) -> bytes:
    """Return ``count`` bytes, fewer only at the end."""
    pieces = []
    while count:
        piece = blob.read(min(count, READ_BYTES))
        if not piece:
            break
        pieces.append(piece)
        count -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
