"""A download over HTTP or HTTPS: whole and as the server has it, or an error.

The body goes to whatever takes it while it is hashed; nothing is published here. Bodies are
bounded, must be as long as they claim, and are asked for unencoded. How the server is asked, and
where its redirects may lead: :mod:`layerstore.net.transport`. Imported when something is fetched.

Source: RFC 9110; Go's net/http for what docker's users are used to.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import FormatError, LimitExceededError
from layerstore.net.errors import InsecureRedirectError, NetworkError
from layerstore.net.transport import HttpSettings, Request, Transport, printable
from layerstore.net.urls import parse_http_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.net.lifelines import Lifelines
    from layerstore.net.transport import Answer
    from layerstore.net.urls import HttpUrl

ATTEMPTS = 3
_TRANSIENT = frozenset({429, 502, 503, 504})
_OK, _NOT_MODIFIED = 200, 304


class Body(NamedTuple):
    """What takes the content of a download.

    Attributes:
        begin: Called before the first byte, and again when a broken download starts anew.
        write: Takes the next bytes.
    """

    begin: Callable[[], None]
    write: Callable[[bytes], None]


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
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._try(url, wanted, body)
            except NetworkError as err:
                if lifelines.is_cut:
                    raise lifelines.canceled() from err
                message = f"cannot fetch {url.shown}: {err.message}"
                if not err.transient or attempt == ATTEMPTS:
                    raise NetworkError(message, hint=_hint(err)) from err
            except LimitExceededError as err:
                raise LimitExceededError(f"{url.shown}: {err.message}", hint=err.hint) from err
            self._transport.pause(0.5 * 4 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    def _try(self, url: HttpUrl, wanted: Wanted, body: Body) -> Response:
        request = Request(
            url,
            headers={
                "Connection": "close",
                **({"If-None-Match": wanted.etag} if wanted.etag else {}),
            },
            authorization=wanted.authorization,
            pinned=wanted.pinned,
        )
        with self._transport.follow(request) as answer:
            return self._take(answer, wanted, body)

    def _take(self, answer: Answer, wanted: Wanted, body: Body) -> Response:
        unchanged = answer.status == _NOT_MODIFIED and bool(wanted.etag)
        if not unchanged and answer.status != _OK:
            raise NetworkError(
                f"{answer.url.shown} says {answer.status} {answer.reason}".rstrip(),
                transient=answer.status in _TRANSIENT,
            )
        size, sha256 = 0, ""
        if not unchanged:
            body.begin()
            size, sha256 = self._read(answer, body.write)
        return Response(
            unchanged=unchanged,
            url=answer.url,
            size=size,
            sha256=sha256,
            etag=answer.header("ETag") or (wanted.etag if unchanged else ""),
            last_modified=answer.header("Last-Modified"),
            disposition_name=answer.headers.get_filename(),
        )

    def _read(self, answer: Answer, write: Callable[[bytes], None]) -> tuple[int, str]:
        limit = self._settings.max_bytes
        if answer.length is not None and answer.length > limit:
            raise _too_large(f"it has {answer.length} bytes", limit)
        hasher = hashlib.sha256()
        size = 0
        for piece in _decoded(answer):
            size += len(piece)
            if size > limit:
                raise _too_large("it does not end", limit)
            hasher.update(piece)
            write(piece)
        return size, hasher.hexdigest()


def _decoded(answer: Answer) -> Iterator[bytes]:
    """Yield the body; servers that compress unasked are understood as Go's client does."""
    encoding = (answer.header("Content-Encoding") or "identity").strip().lower()
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
