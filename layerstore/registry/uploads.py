"""A blob on its way to a registry: at once if it is small, else in pieces that can be resumed.

Source: OCI distribution spec 1.1, "Pushing blobs", "Mounting a blob from another repository".
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from layerstore.digest import Digest
from layerstore.errors import InputError, IntegrityError
from layerstore.net.transport import Request
from layerstore.net.urls import redirected
from layerstore.registry.errors import RegistryAnswerError, UnknownToRegistryError
from layerstore.registry.host import Scope, refused
from layerstore.registry.retrying import pause_before, retried

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from layerstore.net.transport import Answer
    from layerstore.net.urls import HttpUrl
    from layerstore.registry.host import Host

CHUNK_BYTES = 32 << 20
"""Kept in memory, so that it can be sent again; smaller blobs take two requests."""

COMMIT_S = 600.0
"""Registries copy a blob to where it belongs before they answer."""

_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")
_CREATED, _ACCEPTED, _NO_CONTENT = 201, 202, 204
_NOT_SATISFIABLE = 416


class Uploaded(NamedTuple):
    """A blob that lies in a registry."""

    digest: Digest
    size: int


class _Session(NamedTuple):
    """An upload that has begun.

    Attributes:
        url: Where its next bytes go.
        peer: Address of the registry, which named that.
    """

    url: HttpUrl
    peer: str | None


class Uploads:
    """Sends blobs to one repository. For several threads.

    Args:
        host: The registry.
        path: The repository there.
    """

    def __init__(self, host: Host, path: str) -> None:
        self._host = host
        self._path = path
        self._begun: dict[Digest, _Session] = {}

    def mount(self, digest: Digest, source: str) -> bool:
        """Have a blob of another repository of this registry; return whether it is here now.

        Raises:
            RegistryAnswerError: The registry refuses uploads.
        """
        scope = Scope(self._path, "pull,push", source)
        session = self._begin(f"?mount={digest}&from={source}", scope)
        if session is None:
            return True
        self._begun[digest] = session  # it does not know that blob, and takes it instead
        return False

    def upload(self, pieces: Iterable[bytes], expected: Uploaded | None = None) -> Uploaded:
        """Send a blob; when this returns, the registry has it whole.

        Args:
            pieces: Its bytes.
            expected: What it must turn out to be.

        Raises:
            IntegrityError: It is not ``expected``; the registry does not get it.
            RegistryAnswerError: The registry does not take it.
        """
        hasher = hashlib.sha256()
        size = 0
        session = self._begun.pop(expected.digest, None) if expected else None
        chunks = _chunks(pieces, CHUNK_BYTES)
        current = next(chunks, b"")
        while True:
            hasher.update(current)
            size += len(current)
            following = next(chunks, None)
            if following is None:
                break
            session = session or self._started()
            session = self._send(session, current, size - len(current))
            current = following
        found = Uploaded(Digest(f"sha256:{hasher.hexdigest()}"), size)
        if expected is not None and found != expected:
            raise IntegrityError(
                f"blob {expected.digest} of {expected.size} bytes turned out to be {found.digest} "
                f"of {size}"
            )
        if size > len(current):
            assert session is not None
            session = self._send(session, current, size - len(current))
            self._commit_chunks(session, found)
        else:
            self._commit_whole(session, current, found)
        return found

    @property
    def _scope(self) -> Scope:
        return Scope(self._path, "pull,push")

    def _started(self) -> _Session:
        session = self._begin("", self._scope)
        if session is None:
            raise RegistryAnswerError(f"{self._host.name} takes an upload that was not sent")
        return session

    def _begin(self, query: str, scope: Scope) -> _Session | None:
        """Begin an upload; None if the registry has the blob by now."""

        def ask() -> _Session | None:
            url = self._host.url(f"{self._path}/blobs/uploads/{query}")
            request = Request(url, "POST", body=b"")
            with self._host.exchange(request, scope) as answer:
                if answer.status == _CREATED and query:
                    return None
                if answer.status != _ACCEPTED:
                    raise refused(answer, f"an upload to {self._host.name}/{self._path}")
                return _next_session(answer)

        return retried(ask, self._host.pause)

    def _commit_whole(self, session: _Session | None, data: bytes, blob: Uploaded) -> None:
        first = [session] if session is not None else []

        def put() -> None:
            self._put(first.pop() if first else self._started(), data, blob)

        retried(put, self._host.pause)

    def _commit_chunks(self, session: _Session, blob: Uploaded) -> None:
        def put() -> None:
            try:
                self._put(session, b"", blob)
            except RegistryAnswerError as err:
                # An answer may have been lost: the blob is there then, and the upload is over.
                is_lost = err.transient or isinstance(err, UnknownToRegistryError)
                if not is_lost or not self._has(blob):
                    raise

        retried(put, self._host.pause)

    def _has(self, blob: Uploaded) -> bool:
        request = Request(self._host.url(f"{self._path}/blobs/{blob.digest}"), "HEAD")
        with self._host.exchange(request, self._scope) as answer:
            return answer.status == 200

    def _put(self, session: _Session, data: bytes, blob: Uploaded) -> None:
        target = session.url.target
        target += ("&" if "?" in target else "?") + f"digest={blob.digest}"
        request = Request(
            session.url._replace(target=target),
            "PUT",
            headers={"Content-Type": "application/octet-stream"},
            body=data,
            patience_s=COMMIT_S,
            sent_by=session.peer,
        )
        with self._host.exchange(request, self._scope) as answer:
            if answer.status not in (_CREATED, _NO_CONTENT):
                raise refused(answer, f"blob {blob.digest}")
            said = answer.header("Docker-Content-Digest")
            if said and said != blob.digest:
                raise IntegrityError(f"{self._host.name} took blob {blob.digest} for another one")

    def _send(self, session: _Session, chunk: bytes, start: int) -> _Session:
        """Send a chunk that begins at an offset; go on where the registry is when it breaks."""
        failures = 0
        done = 0
        while done < len(chunk):
            try:
                session = self._patch(session, chunk[done:], start + done)
                done = len(chunk)
            except RegistryAnswerError as err:
                failures += 1
                if not err.transient or failures >= err.tries:
                    raise
                self._host.pause(pause_before(failures, err.retry_after_s))
                session, reached = self._where(session)
                if not start <= reached <= start + len(chunk):
                    raise RegistryAnswerError(
                        f"{self._host.name} lost an upload at byte {start + done}"
                    ) from err
                done = reached - start
        return session

    def _patch(self, session: _Session, data: bytes, start: int) -> _Session:
        request = Request(
            session.url,
            "PATCH",
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{start}-{start + len(data) - 1}",
            },
            body=data,
            patience_s=COMMIT_S,
            sent_by=session.peer,
        )
        with self._host.exchange(request, self._scope) as answer:
            if answer.status == _NOT_SATISFIABLE:
                raise RegistryAnswerError(f"{self._host.name} is elsewhere", transient=True)
            if answer.status not in (_ACCEPTED, _NO_CONTENT):
                raise refused(answer, f"an upload to {self._host.name}/{self._path}")
            return _next_session(answer)

    def _where(self, session: _Session) -> tuple[_Session, int]:
        """Return how many bytes of an upload the registry has."""

        def ask() -> tuple[_Session, int]:
            request = Request(session.url, sent_by=session.peer)
            with self._host.exchange(request, self._scope) as answer:
                if answer.status not in (_NO_CONTENT, _ACCEPTED):
                    raise refused(answer, f"an upload to {self._host.name}/{self._path}")
                found = _RANGE.fullmatch(answer.header("Range").strip())
                reached = int(found.group(1)) + 1 if found else 0
                # "0-0" is one byte, and what distribution says of none.
                reached = 0 if reached == 1 else reached
                has_location = bool(answer.header("Location"))
                return _next_session(answer) if has_location else session, reached

        return retried(ask, self._host.pause)


def _next_session(answer: Answer) -> _Session:
    """Return where an upload goes on.

    Raises:
        RegistryAnswerError: To where nothing is sent.
    """
    location = answer.header("Location")
    if not location:
        raise RegistryAnswerError(f"{answer.url.authority} does not say where an upload goes on")
    try:
        url = redirected(answer.url, location)
    except InputError as err:
        raise RegistryAnswerError(f"an upload goes on nowhere: {err.message}") from err
    if answer.url.scheme == "https" and url.scheme == "http":
        raise RegistryAnswerError(f"an upload goes on at {url.shown}, without TLS")
    return _Session(url, answer.peer)


def _chunks(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Yield pieces joined to chunks of ``size`` bytes; the last is shorter."""
    waiting: list[bytes] = []
    count = 0
    for piece in pieces:
        rest = piece
        while count + len(rest) >= size:
            taken = size - count
            waiting.append(rest[:taken])
            yield b"".join(waiting)
            rest, waiting, count = rest[taken:], [], 0
        if rest:
            waiting.append(rest)
            count += len(rest)
    if waiting:
        yield b"".join(waiting)
