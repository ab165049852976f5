"""A blob as it comes from a registry; broken connections go on where they broke.

What is joined from several answers is not known to be one blob until all of it was hashed:
callers compare size and digest, as with every source (``layerstore.image.exchange.exchange``).

Source: OCI distribution spec 1.1, "Pulling blobs"; RFC 9110, "Range Requests".
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Self

from layerstore.errors import IntegrityError
from layerstore.net.errors import NetworkError
from layerstore.net.transport import READ_BYTES, Request
from layerstore.registry.errors import RegistryAnswerError
from layerstore.registry.host import Scope, refused
from layerstore.registry.retrying import of_network, pause_before

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.digest import Digest
    from layerstore.net.transport import Answer
    from layerstore.registry.host import Host

PROGRESS_BYTES = 1 << 20
"""A connection that brought so much was worth it: failures are counted anew."""

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")
_OK, _PARTIAL = 200, 206


class BlobStream:
    """See the module; for one thread. Close it.

    Args:
        hosts: Where the blob may be had, in this order.
        path: Of the repository.
        digest: Of the blob.
        size: Of the blob, in bytes.
        offset: Where to begin.
        end: Where to stop; None for the end of the blob.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        path: str,
        digest: Digest,
        size: int,
        offset: int = 0,
        end: int | None = None,
    ) -> None:
        self._hosts = list(hosts)
        self._path = path
        self._digest = digest
        self._size = size
        self._offset = offset
        self._end = size if end is None else end
        self._answer: Answer | None = None
        self._stack = contextlib.ExitStack()
        self._failures = 0
        self._since_failure = 0

    def read(self, size: int = READ_BYTES) -> bytes:
        """Return 1 to ``size`` bytes, none at the end.

        Raises:
            RegistryAnswerError: The registry does not give it, after several tries.
            IntegrityError: The registry gives something else.
        """
        while True:
            if self._is_over:
                return b""
            try:
                answer = self._opened()
                piece = answer.read(min(size, max(1, self._end - self._offset)))
                if not piece and self._offset < self._end and not answer.tells_its_end:
                    raise NetworkError("the connection ended within it", transient=True)
            except NetworkError as err:
                self._failed(of_network(err, f"blob {self._digest} of {self._hosts[0].name}"))
            except RegistryAnswerError as err:
                self._failed(err)
            else:
                return self._took(piece)

    def close(self) -> None:
        """Let go of the connection."""
        self._answer = None
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _took(self, piece: bytes) -> bytes:
        if self._offset + len(piece) > self._end:
            raise IntegrityError(
                f"blob {self._digest} has more than the {self._size} bytes of its descriptor"
            )
        if not piece and self._offset < self._end:  # in chunks, or as long as the connection was
            raise IntegrityError(
                f"blob {self._digest} has {self._offset} bytes, its descriptor says {self._size}"
            )
        self._offset += len(piece)
        self._since_failure += len(piece)
        if self._since_failure >= PROGRESS_BYTES:
            self._failures = 0
        return piece

    def _failed(self, error: RegistryAnswerError) -> None:
        """Get ready for another try, or give up."""
        self.close()
        self._since_failure = 0
        self._failures += 1
        host = self._hosts[0]
        if not error.transient or self._failures >= error.tries:
            if len(self._hosts) == 1:
                raise error
            del self._hosts[0]
            self._failures = 0
            return
        host.pause(pause_before(self._failures, error.retry_after_s))

    def _opened(self) -> Answer:
        """Return the answer that the next bytes come from."""
        if self._answer is not None:
            return self._answer
        host = self._hosts[0]
        path = host.repository_path(self._path)
        headers = {}
        if self._is_part:
            last = "" if self._end == self._size else self._end - 1
            headers = {"Range": f"bytes={self._offset}-{last}"}
        request = Request(host.url(f"{path}/blobs/{self._digest}"), headers=headers)
        answer = self._stack.enter_context(host.exchange(request, Scope(path)))
        self._check(answer)
        skip = self._offset if answer.status == _OK else 0
        while skip:  # the range was ignored
            piece = answer.read(min(READ_BYTES, skip))
            if not piece:
                raise IntegrityError(f"blob {self._digest} is shorter than it was before")
            skip -= len(piece)
        self._answer = answer
        return answer

    @property
    def _is_over(self) -> bool:
        if self._offset != self._end:
            return False
        # A connection that broke after the last byte has nothing more to say.
        return self._end != self._size or (self._answer is None and self._offset > 0)

    @property
    def _is_part(self) -> bool:
        return bool(self._offset) or self._end != self._size

    def _check(self, answer: Answer) -> None:
        what = f"blob {self._digest}"
        if answer.status not in (_OK, _PARTIAL):
            raise refused(answer, what)
        if (answer.header("Content-Encoding") or "identity").strip().lower() != "identity":
            raise RegistryAnswerError(f"{what}: {answer.url.authority} encodes it, unasked")
        left = self._size
        if answer.status == _PARTIAL:
            left = self._end - self._offset
            found = _CONTENT_RANGE.fullmatch(answer.header("Content-Range").strip())
            first, last, total = found.groups() if found else ("", "", "")
            if (
                not self._is_part
                or (first, last) != (str(self._offset), str(self._end - 1))
                or total not in ("*", str(self._size))
            ):
                raise RegistryAnswerError(
                    f"{what}: {answer.url.authority} gives another range than the one asked for"
                )
        if answer.length is not None and answer.length != left:
            raise IntegrityError(
                f"{what}: {answer.url.authority} announces {answer.length} bytes, its descriptor "
                f"says {left}"
            )
        said = answer.header("Docker-Content-Digest")
        if said and said != self._digest:
            raise IntegrityError(f"{what}: {answer.url.authority} says it is another one")
