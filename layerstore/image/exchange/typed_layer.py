"""A compressed layer's bytes, which must be compressed in the way that its media type says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from layerstore.errors import FormatError
from layerstore.formats import oci
from layerstore.formats.decompress import compression_of

if TYPE_CHECKING:
    from layerstore.image.exchange.exchange import VerifiedBlob

_MAGIC_BYTES: Final = 10


class TypedLayer:
    """A layer's bytes, compressed in the way that its media type says.

    What two readers take for different layers is refused: one may go by the type, the other
    by the first bytes.
    """

    def __init__(self, stream: VerifiedBlob, descriptor: oci.Descriptor) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._is_checked = False

    def read(self, size: int) -> bytes:
        """Return 1 to ``size`` bytes, none at the end.

        Raises:
            FormatError: The first of them are those of another compression.
        """
        piece = self._stream.read(size)
        if not self._is_checked:
            while len(piece) < _MAGIC_BYTES and (more := self._stream.read(size)):
                piece += more
            self._check(compression_of(piece))
            self._is_checked = True
        return piece

    def _check(self, found: str) -> None:
        said = oci.compression_of_type(self._descriptor.media_type)
        if found != said:
            raise FormatError(
                f"the layer {self._descriptor.digest} has the compression {found!r}, its media "
                f"type says {said!r}"
            )
