"""URLs of remote files: parsed once, shown without passwords, and what their files are called.

Pure. Strings come from Dockerfiles and servers, so nothing in them is trusted.

Source: RFC 3986; RFC 6266 and BuildKit's HTTP source for file names.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import quote, unquote, unquote_to_bytes, urljoin, urlsplit

from layerstore.errors import InputError
from layerstore.net.redaction import redacted

UNNAMED = b"__unnamed__"
"""What a file is called that neither its URL nor its server names, as under BuildKit."""

PORTS = {"http": 80, "https": 443}
MAX_URL_CHARACTERS = 65_536
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_KEPT_IN_TARGETS = "%/:=&?~+!$,;'@()*[]"
_NAME_MAX_BYTES = 255


class HttpUrl(NamedTuple):
    """A checked ``http`` or ``https`` URL, ready to be asked for.

    Attributes:
        host: Without brackets, lower case, ASCII.
        target: Path and query, as they go into a request line.
        user: ``user:password`` that was written in it, decoded; or empty.
        shown: The URL without those, for messages.
        path: Of the URL, still encoded.
    """

    scheme: str
    host: str
    port: int
    target: str
    user: str
    shown: str
    path: str

    @property
    def origin(self) -> tuple[str, str, int]:
        """What credentials belong to."""
        return self.scheme, self.host, self.port

    @property
    def authority(self) -> str:
        """Host and port as the ``Host`` header has them."""
        place = self.place
        return place.rpartition(":")[0] if self.port == PORTS[self.scheme] else place

    @property
    def place(self) -> str:
        """Host and port, also where the port is the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Return whether a host is this one by its name or address; ``127.0.0.1.example`` is not."""
    if host == "localhost":
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def is_http(text: str) -> bool:
    """Return whether a source is meant as an HTTP or HTTPS URL."""
    return _HTTP.match(text) is not None


def parse_http_url(text: str) -> HttpUrl:
    """Return the parts of a URL; a fragment is dropped, as it never leaves a client.

    Raises:
        InputError: Not an HTTP URL, or one that two clients could read differently.
    """
    if len(text) > MAX_URL_CHARACTERS:
        raise InputError(f"the URL has {len(text)} characters, at most {MAX_URL_CHARACTERS} are")
    # urlsplit drops these without a word, which makes another URL of it.
    if _CONTROL.search(text):
        raise _wrong(text, "it holds control characters")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
        user = unquote(f"{parts.username or ''}:{parts.password or ''}") if parts.username else ""
    except ValueError as err:
        raise _wrong(text, str(err)) from err
    if "\\" in parts.netloc:  # the path's beginning, for browsers
        raise _wrong(text, "its host is not a name")
    scheme = parts.scheme.lower()
    if scheme not in PORTS:
        raise _wrong(text, "only http and https can be fetched")
    target = _encoded(parts.path or "/")
    if parts.query:
        target += "?" + _encoded(parts.query)
    return HttpUrl(
        scheme, _ascii_host(text, host), port or PORTS[scheme], target, user,
        redacted(text), parts.path,
    )  # fmt: skip


def _encoded(part: str) -> str:
    return quote(part, _KEPT_IN_TARGETS, errors="surrogateescape")


def _ascii_host(text: str, host: str) -> str:
    if not host:
        raise _wrong(text, "it names no host")
    if "%" in host or " " in host:
        raise _wrong(text, "its host is not a name")
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError as err:
        raise _wrong(text, "its host is not a name") from err


def redirected(url: HttpUrl, location: str) -> HttpUrl:
    """Return where a redirect leads.

    Raises:
        InputError: To something that is not an HTTP URL.
    """
    base = f"{url.scheme}://{url.authority}{url.target}"
    if _CONTROL.search(location):
        raise _wrong(location, "it holds control characters")
    try:
        return parse_http_url(urljoin(base, location))
    except ValueError as err:
        raise _wrong(location, str(err)) from err


def file_name(url_path: str, disposition_name: str | None = None) -> bytes:
    """Return what a fetched file is called: by its URL's path, else by the server.

    Never empty, ``.`` or ``..``, and without a slash or NUL.

    Raises:
        InputError: The name is longer than a file's can be.
    """
    name = _base(_decoded(url_path))
    if not name and disposition_name:
        name = _base(disposition_name.encode("utf-8", "surrogateescape"))
    name = name or UNNAMED
    if len(name) > _NAME_MAX_BYTES:
        raise InputError(
            f"the remote file's name has {len(name)} bytes, at most {_NAME_MAX_BYTES} are possible",
            hint="fetch it in a RUN, under another name",
        )
    return name


def named_by_url(url_path: str) -> bool:
    """Return whether a URL's path says what its file is called."""
    return bool(_base(_decoded(url_path)))


def _decoded(path: str) -> bytes:
    return unquote_to_bytes(path.encode("utf-8", "surrogateescape"))


def _base(path: bytes) -> bytes:
    name = path.rstrip(b"/").rpartition(b"/")[2]
    return b"" if name in (b".", b"..") or b"\0" in name else name


def _wrong(text: str, why: str) -> InputError:
    shown = redacted(text)[:200]
    return InputError(f"{shown!r} is not a URL to fetch from: {why}")
