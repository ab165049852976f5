"""ADD of URLs: names, attributes, checksums, and when nothing is downloaded again."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from layerstore.build.api import build
from layerstore.build.contexts import UrlContext
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.errors import BuildStepError
from layerstore.build.request import BuildRequest
from layerstore.errors import IntegrityError, UnsafeContentError
from layerstore.formats.tree import Kind
from tests.support.build import RecordingUi, builder  # noqa: F401
from tests.support.http_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.build import Builder
    from tests.support.http_server import LocalServer

OCTOBER_NS = 1445412480 * 10**9
OCTOBER = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with serving() as made:
        yield made


def add(builder: Builder, *words: str, **options: object):  # noqa: F811
    return builder.files(builder.build(f"FROM scratch\nADD {' '.join(words)}\n", **options))


def test_a_file_as_buildkit_adds_it(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    url = server.file("/a/name.txt", b"content", Last_Modified=OCTOBER)
    files = add(builder, url, "/d/")
    file = files["d/name.txt"]
    assert (file.kind, file.mode, file.uid, file.gid) == (Kind.FILE, 0o600, 0, 0)
    assert (file.content, file.mtime_ns) == (b"content", OCTOBER_NS)
    assert files["d"].mode == 0o755
    assert add(builder, url, "/other")["other"].content == b"content"
    file = add(builder, "--chmod=0751", "--chown=3:4", url, "/x")["x"]
    assert (file.mode, file.uid, file.gid) == (0o751, 3, 4)
    result = builder.build(f"FROM scratch\nADD {url} /x\n")
    assert builder.history(result) == [(f"ADD {url} /x # buildkit", True)]


def test_names(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    server.file("/q", b"1")
    server.file("/dir/", b"2", Content_Disposition='attachment; filename="../../etc/evil"')
    server.file("/", b"3")
    server.file("/a%2Fb%20c", b"4")
    server.file("/nl%0A", b"5")
    urls = [server.url(path) for path in ("/q?x=/y/z#f", "/dir/..%2F", "/", "/a%2Fb%20c", "/nl%0A")]
    server.routes["/dir/..%2F"] = server.routes["/dir/"]
    files = add(builder, *urls, "/d/")
    assert {name: file.content for name, file in files.items() if name.startswith("d/")} == {
        "d/q": b"1", "d/evil": b"2", "d/__unnamed__": b"3", "d/b c": b"4", "d/nl\n": b"5",
    }  # fmt: skip


def test_hostile_names(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    with pytest.raises(UnsafeContentError, match=r"Dockerfile:2:1.*\.wh\."):
        add(builder, server.file("/.wh.x", b""), "/d/")
    with pytest.raises(SpecError, match="name has 300 bytes"):
        add(builder, server.file("/" + "n" * 300, b""), "/d/")


def test_what_the_server_does_not_change_is_not_downloaded(
    builder: Builder,  # noqa: F811
    server: LocalServer,
) -> None:
    url = server.file("/x", b"one", ETag='"1"')
    dockerfile = f"FROM scratch\nADD {url} /x\n"
    first = builder.build(dockerfile)
    assert len(builder.ui.ran) == 2
    again = builder.build(dockerfile)
    assert again.image_id == first.image_id
    assert builder.ui.ran == []
    assert server.requests[-1][1]["If-None-Match"] == '"1"'
    server.file("/x", b"two", ETag='"2"')
    assert builder.files(builder.build(dockerfile))["x"].content == b"two"
    server.file("/x", b"two", ETag='"3"', Last_Modified=OCTOBER)
    builder.build(dockerfile)
    assert builder.ui.ran == [url]  # fetched, and the same: the copy is cached
    builder.build(dockerfile, no_cache=True)
    assert "If-None-Match" not in server.requests[-1][1]


def test_without_an_etag_content_decides(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    url = server.file("/x", b"one", Last_Modified=OCTOBER)
    dockerfile = f"FROM scratch\nADD {url} /x\n"
    builder.build(dockerfile)
    builder.build(dockerfile)
    assert builder.ui.ran == [url]
    assert [set(headers) & {"If-None-Match"} for _, headers in server.requests] == [set(), set()]


def test_a_checksum_saves_the_question(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    url = server.file("/x", b"one")
    checksum = f"--checksum=sha256:{hashlib.sha256(b'one').hexdigest()}"
    add(builder, checksum, url, "/x")
    server.requests.clear()
    assert add(builder, checksum, url, "/y")["y"].content == b"one"
    assert server.requests == []
    server.file("/x", b"two", ETag='"2"')
    add(builder, url, "/x")
    with pytest.raises(
        IntegrityError, match=r"Dockerfile:2:1: .*/x has the digest sha256:3fc4ccfe"
    ):
        add(builder, f"--checksum=sha256:{'0' * 64}", url, "/x")
    assert add(builder, checksum, url, "/z")["z"].content == b"one"


def test_nothing_wrong_is_remembered(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    url = server.file("/x", b"abc", Content_Length="9", ETag='"1"')
    with pytest.raises(BuildStepError, match=r"Dockerfile:2:1: cannot fetch .*6 bytes before"):
        add(builder, url, "/x", environ={})
    url = server.file("/x", b"abcdefghi", ETag='"1"')
    assert add(builder, url, "/x")["x"].content == b"abcdefghi"
    assert all("If-None-Match" not in headers for _, headers in server.requests)
    assert not list((builder.store.root / "tmp").iterdir())


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("inside/file")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    return gzip.compress(buffer.getvalue())


def test_archives_are_unpacked_when_asked(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    url = server.file("/x.tgz", archive())
    builder.write({"local.tgz": archive()})
    assert set(add(builder, url, "/d/")) == {"", "d", "d/x.tgz"}
    assert "d/inside/file" in add(builder, "--unpack", url, "/d/")
    assert set(add(builder, "--unpack=false", url, "/d/")) == {"", "d", "d/x.tgz"}
    mixed = add(builder, "local.tgz", url, "/d/")
    assert set(mixed) == {"", "d", "d/x.tgz", "d/inside", "d/inside/file"}


def test_one_url_is_fetched_once(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    url = server.file("/x", b"one")
    builder.build(f"FROM scratch AS a\nADD {url} /a\nFROM a\nADD {url} /b\nADD {url} /c\n")
    assert len(server.requests) == 1


def test_secrets_are_for_their_host(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    url = server.file("/x", b"one")
    add(builder, url, "/x", secrets={"HTTP_AUTH_TOKEN_127.0.0.1": b"abc\n"})
    assert server.requests[-1][1]["Authorization"] == "Bearer abc"
    add(builder, url, "/x", secrets={"HTTP_AUTH_HEADER_127.0.0.1": b"Basic abc"})
    assert server.requests[-1][1]["Authorization"] == "Basic abc"
    add(builder, url, "/x", secrets={"HTTP_AUTH_TOKEN_example.com": b"abc"})
    assert "Authorization" not in server.requests[-1][1]
    with pytest.raises(BuildStepError, match="cannot be sent"):
        add(builder, url, "/x", secrets={"HTTP_AUTH_TOKEN_127.0.0.1": b"a\r\nb"})


def test_passwords_are_in_no_history(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    url = server.file("/x", b"one").replace("://", "://me:secret@")
    result = builder.build(f"FROM scratch\nADD {url} /x\n")
    assert "secret" not in str(builder.config(result))
    assert "secret" not in str(builder.ui.ran)
    for path in builder.store.root.rglob("*"):
        if path.is_file():
            assert b"secret" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ADD ftp://example.com/x /x", "ADD cannot fetch ftp://example.com/x"),
        ("ADD file:///etc/passwd /x", "ADD cannot fetch file:///etc/passwd"),
        ("COPY https://example.com/x /x", "COPY cannot fetch https://example.com/x"),
        ("ADD http:// /x", "names no host"),
        ("ADD http://exa%mple.com/x /x", "host is not a name"),
        ("ADD http://example.com:99999/x /x", "Port out of range"),
        (f"ADD --checksum=sha256:{'0' * 64} a /x", "--checksum needs a remote source"),
        (f"ADD --checksum=sha256:{'0' * 64} a http://b/c /x/", "one source only"),
        (f"ADD --checksum={'0' * 40} http://b/c /x", "not the digest of a file"),
        ("ADD --keep-git-dir http://b/c /x", "--keep-git-dir needs a git source"),
    ],
)
def test_what_is_refused(builder: Builder, line: str, message: str) -> None:  # noqa: F811
    with pytest.raises(SpecError, match=r"Dockerfile:2:\d+") as caught:
        builder.build(f"FROM scratch\n{line}\n")
    assert message in caught.value.message


def test_several_are_fetched_at_once(builder: Builder, server: LocalServer) -> None:  # noqa: F811
    """Stages do not wait for each other, and the fetcher is asked by several threads."""
    urls = [server.file(f"/{name}", name.encode() * 1000, ETag=f'"{name}"') for name in "abcdef"]
    stages = [f"FROM scratch AS s{n}\nADD {url} /f\n" for n, url in enumerate(urls)]
    copies = [f"COPY --from=s{n} /f /{n}\n" for n in range(len(urls))]
    context = UrlContext(
        server.file("/spec", "".join([*stages, "FROM scratch\n", *copies]).encode())
    )
    for ran in (18, 0):
        ui = RecordingUi()
        result = build(builder.store, BuildRequest(context=context), ui)
        assert len(ui.ran) == ran
        files = builder.files(result)
        assert [files[str(n)].content[:1] for n in range(6)] == [b"a", b"b", b"c", b"d", b"e", b"f"]


def test_what_is_missing_and_what_changed_is_told_of_its_own_source(
    builder: Builder,  # noqa: F811
    server: LocalServer,
) -> None:
    url = server.file("/f", b"one")
    with pytest.raises(BuildStepError, match="missing does not exist in the build context"):
        builder.build(f"FROM scratch\nADD {url} missing /d/\n")
    builder.write({"local": "1"})
    dockerfile = f"FROM scratch\nADD {url} local /d/\n"
    builder.build(dockerfile)
    server.file("/f", b"two")
    builder.build(dockerfile, explain=True)
    assert f"{url}: /f changed: its content" in builder.ui.because
    builder.write({"local": "2"})
    builder.build(dockerfile, explain=True)
    assert "local changed: its content" in builder.ui.because
