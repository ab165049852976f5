"""The API that docker and podman serve on a socket: what images there are, out and in.

The engine may be anybody's: everything it says is bounded, and nothing of it is believed. The
version is negotiated: the newest that both know. An engine that falls silent is given up.

Source: Docker Engine API v1.41 (``/_ping``, ``/images/json``, ``/images/{name}/json``,
``/images/get``, ``/images/load``); podman-system-service(1) for podman's form of it.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, Self
from urllib.parse import quote

from layerstore.digest import DiffId, Digest, parse_digest
from layerstore.errors import (
    FormatError,
    InputError,
    LimitExceededError,
    NotFoundError,
    RegistryError,
)
from layerstore.formats import strict_json
from layerstore.formats._fields import Fields
from layerstore.net.errors import NetworkError
from layerstore.net.lifelines import Lifelines
from layerstore.net.transport import HttpSettings, Request, Transport
from layerstore.net.urls import parse_http_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from layerstore.net.transport import Answer
    from layerstore.peers.engine_place import EngineTls

API_VERSION = (1, 41)
"""The newest that is spoken here: docker 20.10's, and what podman 4 calls its own."""

SILENCE_S = 600.0
"""How long an engine may say nothing: podman says nothing while it unpacks what it was given."""

MAX_ANSWER_BYTES = 16 << 20
"""Of lists and of what is told while images are taken in."""

_MAX_LINE_BYTES = 1 << 20
_MAX_IMAGES = 20_000
_YEAR_9999_S = 253_402_300_799
_PORTS = {"http": 2375, "https": 2376}
_TLS_HINT = (
    "for TLS set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the directory of the daemon's ca.pem "
    "and your cert.pem and key.pem"
)
_HOST = "engine"
"""Stands in requests where HTTP wants a host; a socket has none."""


class EngineError(RegistryError):
    """Docker or podman refused or failed, or is not what it claims to be."""


class EngineImage(NamedTuple):
    """An image that an engine lists.

    Attributes:
        image_id: As the engine calls it.
        names: Familiar names with tags; none for an untagged one.
        created: Seconds since the epoch.
        size: Bytes, as the engine counts them.
    """

    image_id: str
    names: tuple[str, ...]
    created: int
    size: int


class EngineDetails(NamedTuple):
    """What an engine says of one image."""

    image_id: Digest
    layers: tuple[DiffId, ...]


class Engine:
    """An engine behind an address; use it in a ``with`` block.

    Args:
        address: ``unix:///path`` or ``tcp://host:port``.
        name: What messages call it: ``docker``, ``podman``.
        silence_s: How long it may say nothing.
        tls: How it is spoken to by TLS, at an address of ``tcp://``.

    Raises:
        InputError: The address is none, or the certificates cannot be used.
        EngineError: Nobody answers there, or not as an engine does.
    """

    def __init__(
        self,
        address: str,
        name: str,
        *,
        silence_s: float = SILENCE_S,
        tls: EngineTls | None = None,
    ) -> None:
        self.name = f"{name} at {address}"
        self._path = _socket_path(address)
        self._base = parse_http_url(f"http://{_HOST}/" if self._path else _url(address, tls))
        settings = HttpSettings(
            silence_s=silence_s, window_s=float("inf"), dial=self._dial, max_bytes=MAX_ANSWER_BYTES
        )
        if tls is not None:
            context = tls.context()
            settings = replace(settings, tls=lambda _: context)
        self._transport = Transport(settings, Lifelines())
        self._prefix = ""
        self.is_podman = False
        try:
            self._greet()
        except BaseException:
            self._transport.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    # -- what there is

    def images(self) -> list[EngineImage]:
        """Return all images that it lists.

        Raises:
            EngineError: It failed, or answers something else.
        """
        with self._asked("GET", "/images/json") as answer:
            value = self._json(answer)
        if not isinstance(value, list) or len(value) > _MAX_IMAGES:
            raise self._nonsense("its images are no list")
        return [self._image(item) for item in value]

    def _image(self, value: object) -> EngineImage:
        try:
            fields = Fields(value, "image")
            names = tuple(
                name for name in fields.texts("RepoTags") or () if not name.startswith("<none>")
            )
            return EngineImage(
                fields.required_text("Id"),
                names,
                fields.integer("Created", low=0, high=_YEAR_9999_S),
                fields.integer("Size", low=-1),
            )
        except FormatError as err:
            raise self._nonsense(err.message) from err

    def find(self, name: str) -> EngineDetails | None:
        """Return what it says of an image, None if it has none of that name or id.

        Raises:
            EngineError: It failed, or answers something else.
        """
        target = f"/images/{quote(name, safe='/:@')}/json"
        with self._asked("GET", target, missing=True) as answer:
            if answer.status == 404:
                return None
            value = self._json(answer)
        try:
            fields = Fields(value, "image")
            text = fields.required_text("Id")
            rootfs = Fields(fields.members("RootFS"), "RootFS")
            image_id = parse_digest(text if ":" in text else f"sha256:{text}")
            layers = [DiffId(parse_digest(item)) for item in rootfs.texts("Layers") or ()]
        except FormatError as err:
            raise self._nonsense(err.message) from err
        return EngineDetails(image_id, tuple(layers))

    def keeps_whole_chains(self) -> bool:
        """Return whether it takes images without the files of layers whose chain it has.

        docker does with its own drivers; with containerd's, and podman, every file is read.
        """
        if self.is_podman:
            return False
        with self._asked("GET", "/info") as answer:
            value = self._json(answer)
        status = value.get("DriverStatus") if isinstance(value, dict) else ""
        return status != "" and "io.containerd" not in json.dumps(status)

    # -- out and in

    @contextlib.contextmanager
    def export(self, names: Sequence[str]) -> Iterator[EngineStream]:
        """Give the archive of some images, to be read in the block.

        Raises:
            NotFoundError: It has no such image.
            EngineError: It failed.
        """
        query = "&".join(f"names={quote(name, safe='')}" for name in names)
        with self._asked("GET", f"/images/get?{query}", missing=True) as answer:
            if answer.status == 404:
                raise NotFoundError(f"{self.name}: {self._message(answer)}")
            yield EngineStream(answer, self.name)

    def load(self, archive: Iterable[bytes]) -> None:
        """Give it an archive of images; it has them when this returns, as far as it says.

        Raises:
            EngineError: It refused; the message is its own.
        """
        headers = {"Content-Type": "application/x-tar"}
        target = "/images/load?quiet=1"
        with self._asked("POST", target, headers=headers, body=archive) as answer:
            for message in self._messages(answer):
                failure = message.get("error")
                if failure is not None:
                    raise EngineError(f"{self.name} refused the images: {str(failure)[:1000]}")

    # -- words

    def _greet(self) -> None:
        """Find out which version to speak."""
        with self._asked("GET", "/_ping") as answer:
            offered = _version(answer.header("Api-Version"))
            self.is_podman = bool(answer.header("Libpod-API-Version"))
            answer.whole(_MAX_LINE_BYTES, "the answer to a ping")
        if offered is None:
            raise self._nonsense("it names no version of its API")
        major, minor = min(offered, API_VERSION)
        self._prefix = f"/v{major}.{minor}"

    @contextlib.contextmanager
    def _asked(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Iterable[bytes] | None = None,
        missing: bool = False,
    ) -> Iterator[Answer]:
        """Ask, and hold an answer that is none of a failure; 404 may be one, if ``missing``."""
        url = self._base._replace(target=self._prefix + target, shown=f"{self.name}{target}")
        request = Request(url, method, headers or {}, body=body)
        try:
            with self._transport.exchange(request) as answer:
                if answer.status != 200 and not (missing and answer.status == 404):
                    said = self._message(answer)
                    raise EngineError(
                        f"{self.name} says {answer.status}: {said}",
                        hint=_TLS_HINT if "HTTPS server" in said else None,
                    )
                yield answer
        except NetworkError as err:
            raise self._failed(err) from err

    def _failed(self, err: NetworkError) -> EngineError:
        text = err.message.replace(f" with {_HOST}", "").replace(_HOST, "it")
        hint = None
        if not self._prefix:
            variable = "DOCKER_HOST" if self.name.startswith("docker") else "CONTAINER_HOST"
            hint = f"start it, or name its socket: {variable}=unix:///path"
        if isinstance(err.__cause__, ssl.SSLError):
            return EngineError(f"{self.name}: {text}", hint=_TLS_HINT)
        return EngineError(f"{self.name}: {text}", hint=err.hint or hint)

    def _message(self, answer: Answer) -> str:
        """Return what an answer of a failure says."""
        raw = answer.whole(_MAX_LINE_BYTES, "its message")
        with contextlib.suppress(FormatError, LimitExceededError):
            value = strict_json.decode(raw, "message")
            if isinstance(value, dict):
                return str(value.get("message") or value.get("cause") or "no reason")[:1000]
        return raw[:1000].decode("utf-8", "replace").strip() or answer.reason

    def _json(self, answer: Answer) -> object:
        raw = answer.whole(MAX_ANSWER_BYTES, f"the answer of {self.name}")
        try:
            return strict_json.decode(raw, f"the answer of {self.name}", limit_bytes=len(raw) + 1)
        except (FormatError, LimitExceededError) as err:
            raise self._nonsense(err.message) from err

    def _messages(self, answer: Answer) -> Iterator[dict[str, object]]:
        """Yield the objects of a stream of them, one a line."""
        line = b""
        total = 0
        for piece in answer.pieces():
            total += len(piece)
            line += piece
            if total > MAX_ANSWER_BYTES or len(line) > _MAX_LINE_BYTES:
                raise self._nonsense(f"it tells more than {MAX_ANSWER_BYTES} bytes")
            *lines, line = line.split(b"\n")
            yield from filter(None, map(self._object, lines))
        yield from filter(None, [self._object(line)])

    def _object(self, line: bytes) -> dict[str, object] | None:
        if not line.strip():
            return None
        try:
            value = strict_json.decode(line, "message")
        except (FormatError, LimitExceededError) as err:
            raise self._nonsense(err.message) from err
        return value if isinstance(value, dict) else None

    def _nonsense(self, what: str) -> EngineError:
        return EngineError(f"{self.name} does not answer as an engine does: {what}")

    def _dial(self, host: str, port: int, timeout_s: float) -> tuple[socket.socket, str]:
        if not self._path:
            sock = socket.create_connection((host, port), timeout_s)
            return sock, sock.getpeername()[0]
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(timeout_s)
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        return sock, ""


class EngineStream:
    """An archive that an engine sends, as something to read."""

    def __init__(self, answer: Answer, name: str) -> None:
        self._answer = answer
        self._name = name

    def read(self, size: int = 1 << 20, /) -> bytes:
        """Return the next bytes, none at the end.

        Raises:
            EngineError: The line ended before the archive did.
        """
        try:
            return self._answer.read(size)
        except NetworkError as err:
            raise EngineError(f"{self._name} stopped in the middle: {err.message}") from err


def _version(text: str) -> tuple[int, int] | None:
    major, dot, minor = text.partition(".")
    if not dot or not (major.isdecimal() and minor.isdecimal()) or len(text) > 16:
        return None
    return int(major), int(minor)


def _url(address: str, tls: EngineTls | None) -> str:
    """Return the URL of an address that is no socket, with docker's port if it has none."""
    scheme, rest = "http" if tls is None else "https", address.partition("://")[2].rstrip("/")
    port = "" if re.search(r":[0-9]+$", rest) else f":{_PORTS[scheme]}"
    return f"{scheme}://{rest}{port}"


def _socket_path(address: str) -> str:
    """Return the path of a unix socket, "" for an address of another kind.

    Raises:
        InputError: The address is of a kind that is not spoken here.
    """
    scheme, mark, rest = address.partition("://")
    if scheme == "unix" and rest.startswith("/"):
        return rest
    if mark and scheme in ("tcp", "http") and rest:
        return ""
    raise InputError(
        f"{address!r} is no address of an engine that can be reached from here",
        hint="unix:///path/of/docker.sock, or tcp://host:port; for ssh:// forward the "
        "socket: ssh -L /tmp/docker.sock:/var/run/docker.sock HOST",
    )
