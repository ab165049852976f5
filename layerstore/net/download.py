"""A download over HTTP or HTTPS: whole and as the server has it, or an error.

The body goes to whatever takes it while it is hashed; nothing is published here. Bodies are
bounded, must be as long as they claim, and are asked for unencoded. Of a body that breaks off only
the rest is asked for, if the server says which version it sent: what it then sends must be of that
version and begin where the first part ended. How the server is asked, and
where its redirects may lead: :mod:`layerstore.net.transport`. Imported when something is fetched.

Source: RFC 9110; Go's net/http for what docker's users are used to.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import FormatError, LimitExceededError
from layerstore.net.errors import (
    SLOW_TRIES,
    InsecureRedirectError,
    NetworkError,
    SlowServerError,
)
from layerstore.net.transport import HttpSettings, Request, Transport, printable
from layerstore.net.urls import parse_http_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.net.lifelines import Lifelines
    from layerstore.net.transport import Answer
    from layerstore.net.urls import HttpUrl

ATTEMPTS = 3
"""Without a byte more of the body."""

RESUMES_MAX = 20
"""Times the rest of one body is asked for: a server may cut it off wherever it likes."""

_TRANSIENT = frozenset({429, 502, 503, 504})
_RANGE = re.compile(r"bytes +([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.IGNORECASE)
_OK, _PARTIAL, _NOT_MODIFIED, _NO_SUCH_RANGE = 200, 206, 304, 416


class Body(NamedTuple):
    """What takes the content of a download.

    Attributes:
        begin: Called before the first byte, and again when a broken download starts anew.
        write: Takes the next bytes.
        told: Hears how many bytes there are by now, and how many there will be if that is known.
    """

    begin: Callable[[], None]
    write: Callable[[bytes], None]
    told: Callable[[int, int | None], object] = lambda _done, _total: None


class Wanted(NamedTuple):
    """What is asked for.

    Attributes:
        url: As written.
        etag: Of the version that is there already; empty to download in any case.
        authorization: Value of the header, for the first origin only; instead of what the URL has.
        pinned: The content's digest is known, so that a redirect to HTTP can do no harm.
    """

    url: str
    etag: str = ""
    authorization: str = ""
    pinned: bool = False


class Response(NamedTuple):
    """What a server said.

    Attributes:
        unchanged: The version with the ETag that was sent is current; nothing was written.
        url: Where the last redirect led.
        sha256: Of the body, in hex; empty when unchanged.
        etag: As sent; empty without one.
        last_modified: As sent; empty without one.
        disposition_name: File name of a ``Content-Disposition``.
    """

    unchanged: bool
    url: HttpUrl
    size: int
    sha256: str
    etag: str
    last_modified: str
    disposition_name: str | None


class _Part:
    """What earlier attempts have brought of a body.

    Attributes:
        size: Bytes of it.
        total: Bytes of the whole body, None where nobody has said.
        version: The strong ETag of what it is a part of; empty if the rest cannot be asked for.
        head: What the server said when it began: ETag, Last-Modified, Content-Disposition's name.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.size = 0
        self.total: int | None = None
        self.version = ""
        self.head: tuple[str, str, str | None] = ("", "", None)
        self.hasher = hashlib.sha256()

    def begin(self, answer: Answer) -> None:
        """Take the head of an answer that has the whole body."""
        self.forget()
        etag = answer.header("ETag")
        self.head = (etag, answer.header("Last-Modified"), answer.headers.get_filename())
        # RFC 9110, 13.1.5: weak validators are for no ranges. What is decoded has other offsets.
        if _encoding(answer) == "identity":
            self.total = answer.length
            self.version = etag if etag.startswith('"') else ""

    def headers(self, etag: str) -> dict[str, str]:
        """Return what asks for the rest; of a body of which nothing is there, for all of it."""
        if self.size and self.version:
            return {"Range": f"bytes={self.size}-", "If-Range": self.version}
        return {"If-None-Match": etag} if etag else {}

    def is_continued_by(self, answer: Answer) -> bool:
        """Whether an answer has the rest of the same version, to its end."""
        found = _RANGE.fullmatch(answer.header("Content-Range").strip())
        if found is None:
            return False
        first, last, total = map(int, found.groups())
        return (
            first == self.size
            and last + 1 == total
            and self.total in (None, total)
            and answer.length in (None, total - first)
            and answer.header("ETag") in ("", self.version)
            and _encoding(answer) == "identity"
        )


class Downloader:
    """Downloads files; keeps no connection and no state between them.

    Args:
        settings: How requests are made.
        lifelines: Cut when what is downloaded is not wanted any more.
    """

    def __init__(self, settings: HttpSettings, lifelines: Lifelines | None = None) -> None:
        self._settings = settings
        self._transport = Transport(settings, lifelines)

    def fetch(self, wanted: Wanted, body: Body) -> Response:
        """Download a file; when this returns, ``body`` got all of it, exactly once.

        Raises:
            InputError: The URL, or a proxy's, is wrong.
            NetworkError: It cannot be had, or not whole.
            LimitExceededError: It is larger than ``max_bytes``.
        """
        with contextlib.closing(self._transport):
            return self._fetch(wanted, body)

    def _fetch(self, wanted: Wanted, body: Body) -> Response:
        url = parse_http_url(wanted.url)
        lifelines = self._transport.lifelines
        part = _Part()
        failures = resumes = 0
        while True:
            before = part.size
            try:
                return self._try(url, wanted, body, part)
            except NetworkError as err:
                if lifelines.is_cut:
                    raise lifelines.canceled() from err
                has_more = part.version and part.size > before and resumes < RESUMES_MAX
                is_slow = isinstance(err, SlowServerError)
                has_more = has_more and not is_slow
                failures, resumes = (0, resumes + 1) if has_more else (failures + 1, resumes)
                message = f"cannot fetch {url.shown}: {err.message}"
                if not err.transient or failures >= (SLOW_TRIES if is_slow else ATTEMPTS):
                    raise NetworkError(message, hint=_hint(err)) from err
            except LimitExceededError as err:
                raise LimitExceededError(f"{url.shown}: {err.message}", hint=err.hint) from err
            self._transport.pause(0.5 * 4 ** max(failures - 1, 0))

    def _try(self, url: HttpUrl, wanted: Wanted, body: Body, part: _Part) -> Response:
        request = Request(
            url,
            headers={"Connection": "close", **part.headers(wanted.etag)},
            authorization=wanted.authorization,
            pinned=wanted.pinned,
        )
        with self._transport.follow(request) as answer:
            return self._take(answer, wanted, body, part)

    def _take(self, answer: Answer, wanted: Wanted, body: Body, part: _Part) -> Response:
        if answer.status == _NOT_MODIFIED and wanted.etag and not part.size:
            return Response(
                unchanged=True,
                url=answer.url,
                size=0,
                sha256="",
                etag=answer.header("ETag") or wanted.etag,
                last_modified=answer.header("Last-Modified"),
                disposition_name=answer.headers.get_filename(),
            )
        if answer.status == _OK:
            part.begin(answer)
            body.begin()
        elif not (answer.status == _PARTIAL and part.size and part.is_continued_by(answer)):
            was_part = part.size and answer.status in (_PARTIAL, _NO_SUCH_RANGE)
            if was_part:
                part.forget()  # the next attempt asks for all of it
            raise NetworkError(
                f"{answer.url.shown} says {answer.status} {answer.reason}".rstrip(),
                transient=bool(was_part) or answer.status in _TRANSIENT,
            )
        self._read(answer, body, part)
        etag, last_modified, name = part.head
        return Response(
            unchanged=False,
            url=answer.url,
            size=part.size,
            sha256=part.hasher.hexdigest(),
            etag=etag,
            last_modified=last_modified,
            disposition_name=name,
        )

    def _read(self, answer: Answer, body: Body, part: _Part) -> None:
        limit = self._settings.max_bytes
        total = None if answer.length is None else part.size + answer.length
        if total is not None and total > limit:
            raise _too_large(f"it has {total} bytes", limit)
        if _encoding(answer) != "identity":
            total = None
        for piece in _decoded(answer):
            part.size += len(piece)
            if part.size > limit:
                raise _too_large("it does not end", limit)
            part.hasher.update(piece)
            body.write(piece)
            body.told(part.size, total)


def _encoding(answer: Answer) -> str:
    return (answer.header("Content-Encoding") or "identity").strip().lower()


def _decoded(answer: Answer) -> Iterator[bytes]:
    """Yield the body; servers that compress unasked are understood as Go's client does."""
    encoding = _encoding(answer)
    if encoding == "identity":
        yield from answer.pieces()
        return
    if encoding not in ("gzip", "x-gzip"):
        raise NetworkError(
            f"the server encodes the file as {printable(encoding)!r}, which nobody asked for"
        )
    from layerstore.formats.decompress import decompressed
    from layerstore.formats.tar_limits import Limits

    pieces = answer.pieces()
    try:
        yield from decompressed(lambda _: next(pieces, b""), Limits())
    except FormatError as err:
        raise NetworkError(f"the gzip encoding is damaged: {err.message}") from err


def _hint(err: NetworkError) -> str | None:
    if isinstance(err, InsecureRedirectError):
        return "with --checksum=sha256:... that does no harm"
    return err.hint


def _too_large(what: str, limit: int) -> LimitExceededError:
    return LimitExceededError(f"{what}, more than the limit of {limit} bytes for a remote file")
