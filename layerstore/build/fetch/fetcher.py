"""Remote sources become layers of the store, and are remembered there.

A fetched file or tree is published as a layer before anything uses it, and copied from as a
stage is: its chunks are shared, not read again. What a URL gave last is a row of the build cache:
asked for again with its ETag, it is not downloaded again. A source whose digest the
Dockerfile names is not even asked for. gc treats these rows as steps.

Fetching has a session of its own, which keeps what was fetched until the build ends. Several
threads may fetch at once; they download side by side and take turns in publishing.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, Self, cast

import msgspec

from layerstore.build.errors import BuildCanceledError
from layerstore.build.streams import ReadableStream
from layerstore.errors import InputError, IntegrityError
from layerstore.net.lifelines import Lifelines
from layerstore.net.redaction import redacted
from layerstore.store.failures import LayerNotFoundError, storage_errors
from layerstore.store.records import CacheRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from layerstore.build.fetch.git_process import GitAccess
    from layerstore.build.graph import GitOp, HttpOp
    from layerstore.digest import DiffId
    from layerstore.formats.oci import Platform as OciPlatform
    from layerstore.formats.oci_config import ImageConfig
    from layerstore.image.layers.layer_item import LayerItem
    from layerstore.linux.spool import Spool
    from layerstore.net.download import Response
    from layerstore.net.transport import HttpSettings
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession

    Told = Callable[[int, int | None], object]

_VERSION = "layerstore fetch 1"
_DOWNLOADED_MODE = 0o600
"""Of a file from a URL, as under BuildKit."""

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class FetchSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What fetching may use of the caller's surroundings.

    Attributes:
        environ: The caller's variables: those of proxies.
        secrets: Of the build; ``HTTP_AUTH_TOKEN_host`` and ``HTTP_AUTH_HEADER_host`` are sent
            to that host.
        ssh_agent: Socket of an ssh agent that git sources may use; empty for none.
        http: Overrides how requests are made.
        lifelines: Cut when the build ends early.
    """

    environ: Mapping[str, str] = msgspec.field(default_factory=dict)
    secrets: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    ssh_agent: str = ""
    http: HttpSettings | None = None
    lifelines: Lifelines = msgspec.field(default_factory=partial(Lifelines, BuildCanceledError))


class Readable(Protocol):
    """What an archive is read from."""

    def read(self, size: int, /) -> bytes:
        """Return 1 to ``size`` bytes, none at the end."""


class Fetched(NamedTuple):
    """A remote source in the store.

    Attributes:
        diff_id: Of the layer that holds it.
        cached: It was there already.
        created: Seconds since the epoch when it was fetched.
    """

    diff_id: DiffId
    cached: bool
    created: float
    new_bytes: int = 0
    reused_bytes: int = 0


class _Known(msgspec.Struct, frozen=True):
    """What a row of the build cache says of a URL."""

    etag: str
    sha256: str


class SourceFetcher:
    """See the module; use it in a ``with`` block.

    Attributes:
        commits: What the refs of git sources meant that were asked for.
    """

    def __init__(self, store: Store, settings: FetchSettings) -> None:
        self._store = store
        self._settings = settings
        self._stack = contextlib.ExitStack()
        self._session: WriteSession | None = None
        self._lock = threading.Lock()
        self._spools = 0
        self.commits: dict[GitOp, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def http(self, op: HttpOp, *, fresh: bool = False, told: Told | None = None) -> Fetched:
        """Return the layer that holds nothing but the file of a URL.

        Args:
            op: What to fetch.
            fresh: Ask as if nothing were known.
            told: Hears how many bytes there are, and of how many.

        Raises:
            FetchError: It cannot be had.
            IntegrityError: It is not what ``--checksum`` says.
        """
        by_url = _key("url", op.url, op.name)
        by_digest = _key("digest", op.checksum, op.name) if op.checksum else None
        if by_digest is not None and not fresh and (record := self._known(by_digest)):
            return _cached(record)
        record = None if fresh else self._known(by_url)
        known = _decode(record) if record is not None else None
        if known is not None and op.checksum and known.sha256 != op.checksum:
            known = None
        with _Download(self._spool) as download:
            response = self._download(op, known.etag if known else "", download, told)
            if response.unchanged:
                assert record is not None
                return _cached(record)
            _check(op, response)
            with self._lock:
                return self._publish_file(op, response, download, [by_url, by_digest])

    # -- HTTP

    def _download(self, op: HttpOp, etag: str, download: _Download, told: Told | None) -> Response:
        from layerstore.build.fetch.errors import FetchError
        from layerstore.net.download import Body, Downloader, Wanted
        from layerstore.net.errors import NetworkError
        from layerstore.net.proxies import proxy_environment
        from layerstore.net.transport import HttpSettings

        settings = self._settings.http or HttpSettings(
            proxies=proxy_environment(self._settings.environ)
        )
        wanted = Wanted(
            op.url,
            etag=etag,
            authorization=_authorization(op.url, self._settings.secrets),
            pinned=bool(op.checksum),
        )
        client = Downloader(settings, self._settings.lifelines)
        try:
            body = Body(download.begin, download.write, told or (lambda _done, _total: None))
            return client.fetch(wanted, body)
        except NetworkError as err:
            raise FetchError(err.message, hint=err.hint) from err

    def _publish_file(
        self, op: HttpOp, response: Response, download: _Download, keys: list[str | None]
    ) -> Fetched:
        from layerstore.formats.tree import Entry, Kind
        from layerstore.image.layers.layer_item import LayerItem
        from layerstore.image.layers.layer_writer import write_layer
        from layerstore.net.urls import file_name

        name = os.fsencode(op.name) or file_name(response.url.path, response.disposition_name)
        entry = Entry(
            path=name,
            kind=Kind.FILE,
            mode=_DOWNLOADED_MODE,
            size=response.size,
            mtime_ns=_time_ns(response.last_modified),
        )
        before = self.session.stats
        layer = write_layer(self.session, self._store, [LayerItem(entry, download.open)])
        value = _encode(_Known(response.etag, response.sha256))
        fetched = Fetched(layer.diff_id, cached=False, created=time.time())
        for key in keys:
            # Without an ETag nobody can ask whether it changed.
            if key is not None and (response.etag or key is not keys[0]):
                self._remember(key, fetched, value)
        return self._with_stats(fetched, before.new_bytes, before.reused_bytes)

    # -- git

    def git(self, op: GitOp, *, fresh: bool = False) -> Fetched:
        """Return the layer that holds the files of a git source.

        Args:
            op: What to fetch.
            fresh: Fetch even what is known. The server is asked what a name means in any case.

        Raises:
            FetchError: It cannot be had.
            IntegrityError: The ref is not the commit that was expected.
        """
        from layerstore.build.fetch.git import GitTree, Repositories, Resolved
        from layerstore.build.fetch.git_url import is_commit

        if is_commit(op.ref) and not fresh:  # means itself: no server and no git are needed
            record = self._known_commit(op, op.ref)
            if record is not None:
                return _cached(record)
        scratch = self._scratch()
        try:
            access = _git_access(op, self._settings)
            access = access._replace(lifelines=self._settings.lifelines)
            repositories = Repositories(scratch, access)
            repository = repositories.open(op.remote)
            resolved: Resolved = repository.resolve(op.ref)
            if resolved.commit and not fresh:
                record = self._known_commit(op, resolved.commit)
                if record is not None:
                    return _cached(record)
            commit = repository.fetch(resolved, op.ref)
            _check_commit(op, commit)
            self.commits[op] = commit
            if op.keep_git_dir and not op.subdir:
                repository.keep_as_git_dir(commit, resolved, scratch / "home")
            files = GitTree(op, repositories).items(repository, commit)
            with self._lock, contextlib.closing(files) as items:
                return self._publish_tree(_git_key(op, commit), items)
        finally:
            self._discard(scratch)

    def _known_commit(self, op: GitOp, commit: str) -> CacheRecord | None:
        _check_commit(op, commit)
        self.commits[op] = commit
        return self._known(_git_key(op, commit))

    def _publish_tree(self, key: str, items: Iterator[LayerItem]) -> Fetched:
        from layerstore.image.layers.layer_writer import write_sorted_layer

        before = self.session.stats
        layer = write_sorted_layer(self.session, self._store, items)
        fetched = Fetched(layer.diff_id, cached=False, created=time.time())
        self._remember(key, fetched, b"")
        return self._with_stats(fetched, before.new_bytes, before.reused_bytes)

    def _scratch(self) -> Path:
        with self._lock:
            self._spools += 1
            path = Path(self.session.temporary(f"{self._spools}.git"))
        path.mkdir(mode=0o700)
        return path

    def _discard(self, path: Path) -> None:
        from layerstore.linux.removal import remove_tree

        with contextlib.suppress(OSError):  # gc removes it when this build's lease has ended
            remove_tree(str(path))

    # -- archives

    def archive(self, stream: Readable) -> DiffId:
        """Return the layer that holds a tar's files, compressed or not.

        Raises:
            FormatError: It is damaged, or means several things.
            UnsafeContentError: It holds what no layer may hold.
        """
        from layerstore.image.layers.ingest_tar import ingest_tar

        with self._lock:
            return ingest_tar(self.session, cast("BinaryIO", stream), rootfs=True).diff_id

    # -- layouts

    def layout(
        self, path: Path, tag: str, digest: str, serves: Callable[[OciPlatform], bool]
    ) -> ImageConfig:
        """Return the config of an image in an OCI layout; its layers are in the store then.

        Raises:
            NotFoundError: No such layout or image.
            IntegrityError: Something in it is not what its digest says.
        """
        from layerstore.image.exchange.adopting import adopt_layers
        from layerstore.image.exchange.finding import find_image
        from layerstore.image.layouts.layout_reader import LayoutReader

        with LayoutReader(path) as reader, self._lock:
            image = find_image(reader, digest or tag, serves)
            adopt_layers(self.session, reader, image)
            return image.config

    # -- shared

    @property
    def session(self) -> WriteSession:
        """The one session of fetching; hold the lock."""
        if self._session is None:
            self._session = self._stack.enter_context(self._store.begin("fetch"))
        return self._session

    def _spool(self) -> Spool:
        from layerstore.linux.spool import Spool

        return Spool(self._spool_path)

    def _spool_path(self) -> str:
        with self._lock:
            self._spools += 1
            return self.session.temporary(f"{self._spools}.download")

    def _known(self, key: str) -> CacheRecord | None:
        """Return a row whose layer is there, and hold that until the build ends."""
        with self._lock:
            record = self._store.cache_get(key)
            if record is None or record.diff_id is None:
                return None
            try:
                self.session.hold_layers([record.diff_id])
            except LayerNotFoundError:  # gc was faster
                return None
            self.session.note_step_use(key)
            return record

    def _remember(self, key: str, fetched: Fetched, value: bytes) -> None:
        self.session.cache_put(CacheRecord(key, fetched.diff_id, value, fetched.created))

    def _with_stats(self, fetched: Fetched, new_bytes: int, reused_bytes: int) -> Fetched:
        after = self.session.stats
        return fetched._replace(
            new_bytes=after.new_bytes - new_bytes, reused_bytes=after.reused_bytes - reused_bytes
        )


class _Download:
    """Where a body waits until all of it is there: memory, then a file without a name."""

    def __init__(self, make: Callable[[], Spool]) -> None:
        self._make = make
        self._spool: Spool | None = None

    def begin(self) -> None:
        """Forget what an earlier attempt brought."""
        self.close()
        self._spool = self._make()

    def write(self, piece: bytes) -> None:
        """Take the next bytes."""
        assert self._spool is not None
        with storage_errors("keep a download"):
            self._spool.write(piece)

    def open(self) -> BinaryIO:
        """Return the whole as a file."""
        assert self._spool is not None
        return io.BufferedReader(ReadableStream(self._spool.reader()))

    def close(self) -> None:
        """Let go of it."""
        if self._spool is not None:
            self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _cached(record: CacheRecord) -> Fetched:
    assert record.diff_id is not None
    return Fetched(record.diff_id, cached=True, created=record.created)


def _key(*parts: object) -> str:
    """Return a row's key; URLs may hold passwords, so they are in it as a digest only."""
    return "fetch:" + hashlib.sha256(_encode([_VERSION, *parts])).hexdigest()


def _decode(record: CacheRecord) -> _Known | None:
    try:
        return msgspec.msgpack.decode(record.value, type=_Known)
    except msgspec.MsgspecError:  # the store is not trusted; asking anew is always right
        return None


def _check(op: HttpOp, response: Response) -> None:
    if op.checksum and response.sha256 != op.checksum:
        raise IntegrityError(
            f"{redacted(op.url)} has the digest sha256:{response.sha256}, "
            f"expected sha256:{op.checksum}"
        )


def _authorization(url: str, secrets: Mapping[str, bytes]) -> str:
    """Return the header that a build's secrets have for a URL's host, as BuildKit names them."""
    from layerstore.net.urls import parse_http_url

    host = parse_http_url(url).host
    header = secrets.get(f"HTTP_AUTH_HEADER_{host}")
    token = secrets.get(f"HTTP_AUTH_TOKEN_{host}")
    if header is None and token is None:
        return ""
    return _header_value(header if header is not None else b"Bearer " + (token or b""), host)


def _git_key(op: GitOp, commit: str) -> str:
    return _key("git", op.remote, commit, op.subdir, op.keep_git_dir, op.submodules)


def _check_commit(op: GitOp, commit: str) -> None:
    if not commit.startswith(op.commit):
        raise IntegrityError(
            f"{redacted(op.remote)}: {op.ref or 'the default branch'} is the commit {commit}, "
            f"expected {op.commit}"
        )


def _git_access(op: GitOp, settings: FetchSettings) -> GitAccess:
    """Return what git may use: credentials for the source's own host, as BuildKit names them."""
    from urllib.parse import urlsplit

    from layerstore.build.fetch.git_process import GitAccess

    parts = urlsplit(op.remote)
    if parts.scheme not in ("http", "https"):
        agent = settings.ssh_agent
        if op.own_keys:
            agent = agent or settings.environ.get("SSH_AUTH_SOCK", "")
        return GitAccess(settings.environ, agent=agent, own_keys=op.own_keys)
    host = parts.hostname or ""
    secrets = settings.secrets
    header = secrets.get(f"GIT_AUTH_HEADER.{host}", secrets.get("GIT_AUTH_HEADER"))
    token = secrets.get(f"GIT_AUTH_TOKEN.{host}", secrets.get("GIT_AUTH_TOKEN"))
    value = ""
    if header is not None:
        value = _header_value(header, host)
    elif token is not None:
        import base64

        pair = b"x-access-token:" + token.strip()
        value = "Basic " + base64.b64encode(pair).decode("ascii")
    origin = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return GitAccess(settings.environ, header=value, origin=origin)


def _header_value(value: bytes, host: str) -> str:
    value = value.strip()
    if not value.isascii() or b"\r" in value or b"\n" in value:
        raise InputError(f"the secret for {host} cannot be sent as a header")
    return value.decode("ascii")


def _time_ns(http_date: str) -> int:
    """Return a ``Last-Modified``; the epoch when there is none that can be read, as BuildKit."""
    from email.utils import parsedate_to_datetime

    try:
        return int(parsedate_to_datetime(http_date).timestamp()) * 1_000_000_000
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0
