"""A repository of a registry: its manifests, blobs, tags, and what refers to its manifests.

Source: OCI distribution spec 1.1; docker's registry HTTP API V2 for what older registries do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from layerstore.digest import Digest, parse_digest, sha256_digest
from layerstore.errors import FormatError, InputError, IntegrityError, LimitExceededError
from layerstore.formats import oci, strict_json
from layerstore.formats.reference import is_tag
from layerstore.net.transport import Request
from layerstore.net.urls import redirected
from layerstore.registry.blobs import BlobStream
from layerstore.registry.errors import RegistryAnswerError, UnknownToRegistryError
from layerstore.registry.host import Scope, refused
from layerstore.registry.retrying import retried
from layerstore.registry.uploads import Uploaded, Uploads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from layerstore.net.transport import Answer
    from layerstore.net.urls import HttpUrl
    from layerstore.registry.host import Host

_ACCEPTED_TYPES = (
    oci.MANIFEST_TYPE,
    oci.INDEX_TYPE,
    oci.DOCKER_MANIFEST_TYPE,
    oci.DOCKER_INDEX_TYPE,
)
ACCEPTED = ", ".join(_ACCEPTED_TYPES)

MAX_PAGES = 1000
MAX_TAGS = 100_000
_OK, _CREATED, _NOT_FOUND = 200, 201, 404
_UNTYPED = frozenset({"", "application/json", "application/octet-stream", "text/plain"})
_T = TypeVar("_T")


class RawManifest(NamedTuple):
    """A manifest or an index, byte for byte.

    Attributes:
        raw: At most 4 MiB; its digest is what was asked for.
        media_type: As the registry says, or the document itself if that says nothing.
    """

    raw: bytes
    media_type: str
    digest: Digest


class Repository:
    """See the module. For several threads.

    Args:
        hosts: Mirrors that are asked first, and the registry itself.
        path: Of the repository, as names have it.
        host: The registry's, as names have it; empty if it lies there.
    """

    def __init__(self, hosts: Sequence[Host], path: str, host: str = "") -> None:
        self._hosts = tuple(hosts)
        self._origin = hosts[-1]
        self._path = path
        self._host = host or self._origin.name
        self._uploads = Uploads(self._origin, self._origin.repository_path(path))

    @property
    def name(self) -> str:
        """Host and path, as names have them."""
        return f"{self._host}/{self._path}"

    def without_mirrors(self) -> Repository:
        """Return the repository of the registry itself.

        For who writes there what depends on what is there: mirrors may be late.
        """
        return Repository([self._origin], self._path, self._host)

    # -- manifests

    def manifest(self, reference: str) -> RawManifest:
        """Return the manifest of a tag or digest.

        Raises:
            UnknownToRegistryError: There is none.
            IntegrityError: It is not what its digest, or the registry's word for it, says.
            LimitExceededError: It is larger than 4 MiB.
            RegistryAnswerError: It cannot be had.
        """
        digest = parse_digest(reference) if ":" in reference else None

        def ask(host: Host) -> RawManifest:
            with host.exchange(self._manifest_request(host, reference), self._pull(host)) as answer:
                if answer.status != _OK:
                    raise refused(answer, self._manifest_name(reference))
                return _received(answer, digest, self.name)

        return self._of_any(ask)

    def head_manifest(self, reference: str) -> oci.Descriptor | None:
        """Return what a tag means, without its bytes; None if there is none.

        Raises:
            RegistryAnswerError: The registry cannot be asked.
        """

        def ask(host: Host) -> oci.Descriptor:
            request = self._manifest_request(host, reference)._replace(method="HEAD")
            with host.exchange(request, self._pull(host)) as answer:
                if answer.status != _OK:
                    raise refused(answer, self._manifest_name(reference))
                digest, size = (
                    answer.header("Docker-Content-Digest"),
                    answer.length or _size(answer),
                )
                if not digest or not size:
                    return self.manifest_descriptor(reference)
                return oci.Descriptor(
                    media_type=_media_type(answer), digest=_parsed(digest, answer), size=size
                )

        try:
            return self._of_any(ask)
        except UnknownToRegistryError:
            return None

    def manifest_descriptor(self, reference: str) -> oci.Descriptor:
        """Return what a tag means, by its bytes."""
        found = self.manifest(reference)
        return oci.Descriptor(media_type=found.media_type, digest=found.digest, size=len(found.raw))

    def put_manifest(self, raw: bytes, media_type: str, reference: str | None) -> Digest:
        """Write a manifest whose blobs are there; return its digest.

        A manifest with a subject is found by who asks for what refers to that, also where the
        registry does not keep account of it.

        Args:
            raw: Goes as it is.
            media_type: Of it.
            reference: A tag; None for its digest alone.

        Raises:
            RegistryAnswerError: The registry does not take it.
        """
        host, digest = self._origin, sha256_digest(raw)
        path = host.repository_path(self._path)
        request = Request(
            host.url(f"{path}/manifests/{reference or digest}"),
            "PUT",
            headers={"Content-Type": media_type},
            body=raw,
        )

        def put() -> bool:
            with host.exchange(request, Scope(path, "pull,push")) as answer:
                if answer.status not in (_CREATED, _OK, 202):
                    raise refused(answer, self._manifest_name(reference or digest))
                said = answer.header("Docker-Content-Digest")
                if said and said != digest:
                    raise IntegrityError(f"{host.name} took manifest {digest} for {said[:100]}")
                return bool(answer.header("OCI-Subject"))

        if not retried(put, host.pause) and b'"subject"' in raw:
            from layerstore.registry.referrers import tag_referrer

            tag_referrer(self, raw, media_type)
        return digest

    # -- blobs

    def has_blob(self, digest: Digest, size: int | None = None) -> bool:
        """Return whether the registry itself has a blob of this size in this repository.

        Raises:
            RegistryAnswerError: It cannot be asked.
        """
        host = self._origin
        path = host.repository_path(self._path)

        def ask() -> bool:
            request = Request(host.url(f"{path}/blobs/{digest}"), "HEAD")
            with host.exchange(request, Scope(path, "pull,push")) as answer:
                if answer.status == _NOT_FOUND:
                    return False
                if answer.status != _OK:
                    raise refused(answer, f"blob {digest}")
                announced = _size(answer)
                return size is None or announced is None or announced == size

        return retried(ask, host.pause)

    def open_blob(
        self, digest: Digest, size: int, offset: int = 0, end: int | None = None
    ) -> BlobStream:
        """Return a blob's bytes as they come, not compared with its digest. Close it.

        Args:
            digest: Of the blob.
            size: Of the whole blob.
            offset: Of the first byte to return.
            end: Of the byte after the last one; None for all.
        """
        return BlobStream(self._hosts, self._path, digest, size, offset, end)

    def mount_blob(self, digest: Digest, source: str) -> bool:
        """Have a blob of another repository of the registry; return whether it is here now."""
        return self._uploads.mount(digest, source)

    def put_blob(self, pieces: Iterable[bytes], expected: Uploaded | None = None) -> Uploaded:
        """Send a blob: :meth:`~layerstore.registry.uploads.Uploads.upload`."""
        return self._uploads.upload(pieces, expected)

    # -- lists

    def tags(self) -> list[str]:
        """Return the repository's tags, in the registry's order.

        Raises:
            UnknownToRegistryError: There is no such repository.
            RegistryAnswerError: The registry cannot be asked, or its list does not end.
        """
        return self._of_any(self._tags)

    def _tags(self, host: Host) -> list[str]:
        found: list[str] = []
        path = host.repository_path(self._path)
        for raw in self.pages(host, f"{path}/tags/list?n=1000", f"tags of {self.name}"):
            value = strict_json.decode(raw, "list of tags")
            tags = value.get("tags") if isinstance(value, dict) else None
            if not isinstance(tags, list | None):
                raise RegistryAnswerError(f"{host.name} does not list tags")
            # What is none would be another path of the API, or a name that cannot be stored.
            found += [tag for tag in tags or [] if isinstance(tag, str) and is_tag(tag)]
            if len(found) > MAX_TAGS:
                raise LimitExceededError(f"{self.name} has more than {MAX_TAGS} tags")
        return found

    def pages(self, host: Host, first: str, what: str) -> Iterable[bytes]:
        """Yield the pages of a list, which are all at the host of the first.

        Raises:
            RegistryAnswerError: A page cannot be had, leads elsewhere, or the list does not end.
        """
        path = host.repository_path(self._path)
        url = host.url(first)
        seen = {url.target}
        for _ in range(MAX_PAGES):
            raw, asked, links = retried(partial(_page, host, url, Scope(path), what), host.pause)
            yield raw
            target = _next_link(links)
            if not target:
                return
            try:
                following = redirected(asked, target)
            except InputError as err:
                raise RegistryAnswerError(f"{what} go on nowhere: {err.message}") from err
            if following.origin != url.origin or following.target in seen:
                raise RegistryAnswerError(f"{what} go on at {following.shown}")
            seen.add(following.target)
            url = following
        raise LimitExceededError(f"{what} do not end within {MAX_PAGES} pages")

    # -- shared

    @property
    def origin(self) -> Host:
        """The registry itself."""
        return self._origin

    @property
    def path(self) -> str:
        """Of the repository, as names have it."""
        return self._path

    def _manifest_name(self, reference: str) -> str:
        """Return what users would call a manifest of a tag or a digest."""
        return f"manifest {self.name}{'@' if ':' in reference else ':'}{reference}"

    def _pull(self, host: Host) -> Scope:
        return Scope(host.repository_path(self._path))

    def _manifest_request(self, host: Host, reference: str) -> Request:
        url = host.url(f"{host.repository_path(self._path)}/manifests/{reference}")
        return Request(url, headers={"Accept": ACCEPTED})

    def _of_any(self, ask: Callable[[Host], _T]) -> _T:
        """Return what the first host that can says; errors are the registry's own."""
        for host in self._hosts[:-1]:
            try:
                return retried(lambda host=host: ask(host), host.pause)  # type: ignore[misc]
            except (RegistryAnswerError, IntegrityError):
                continue
        return retried(lambda: ask(self._origin), self._origin.pause)


def _page(host: Host, url: HttpUrl, scope: Scope, what: str) -> tuple[bytes, HttpUrl, list[str]]:
    """Return a page of a list, where it came from, and its links."""
    with host.exchange(Request(url), scope) as answer:
        if answer.status != _OK:
            raise refused(answer, what)
        if not answer.tells_its_end:
            raise RegistryAnswerError(f"{what}: the answer's end cannot be told", transient=True)
        raw = answer.whole(strict_json.MAX_DOCUMENT_BYTES, what)
        return raw, answer.url, answer.headers.get_all("Link") or []


def _received(answer: Answer, digest: Digest | None, name: str) -> RawManifest:
    if (answer.header("Content-Encoding") or "identity").strip().lower() != "identity":
        raise RegistryAnswerError(f"{name}: {answer.url.authority} encodes a manifest, unasked")
    what = f"manifest of {name}"
    if not answer.tells_its_end:
        raise RegistryAnswerError(f"{what}: the answer's end cannot be told", transient=True)
    raw = answer.whole(strict_json.MAX_DOCUMENT_BYTES, what)
    found = sha256_digest(raw)
    if digest is not None:
        oci.verify(raw, oci.Descriptor(media_type=oci.MANIFEST_TYPE, digest=digest, size=len(raw)))
        found = digest
    said = answer.header("Docker-Content-Digest")
    if said:
        oci.verify(
            raw,
            oci.Descriptor(
                media_type=oci.MANIFEST_TYPE, digest=_parsed(said, answer), size=len(raw)
            ),
        )
    media_type = _media_type(answer)
    if media_type in _UNTYPED:
        value = strict_json.decode(raw, what)
        inner = value.get("mediaType") if isinstance(value, dict) else None
        media_type = inner if isinstance(inner, str) else media_type
    return RawManifest(raw, media_type, found)


def _media_type(answer: Answer) -> str:
    return answer.header("Content-Type").partition(";")[0].strip()


def _size(answer: Answer) -> int | None:
    text = answer.header("Content-Length").strip()
    return int(text[:19]) if text.isascii() and text.isdigit() else None


def _parsed(digest: str, answer: Answer) -> Digest:
    try:
        return parse_digest(digest)
    except FormatError as err:
        raise RegistryAnswerError(f"{answer.url.authority} names a digest that is none") from err


def _next_link(headers: list[str]) -> str:
    """Return the target of a ``Link: <...>; rel="next"`` (RFC 8288); empty without one."""
    for header in headers:
        for link in header.split(","):
            target, _, parameters = link.partition(";")
            relation = parameters.replace(" ", "").lower()
            if relation.startswith(('rel="next"', "rel=next")):
                return target.strip().removeprefix("<").removesuffix(">")
    return ""
