"""Class H of the hostile corpus: registries that want what is not theirs, or lie.

The names and addresses are made up: what counts is which address a name led to.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import ssl
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import sha256_digest
from layerstore.errors import IntegrityError, LayerstoreError, LimitExceededError, RegistryError
from layerstore.formats.reference import parse_reference
from layerstore.net.errors import SLOW_TRIES
from layerstore.registry.credentials import Credentials
from layerstore.registry.errors import RegistryAnswerError, SlowRegistryError, UnsafeRealmError
from layerstore.registry.hosts import HostRules, Registries
from tests.support.http_server import certificate
from tests.support.registry_stub import (
    SECRET,
    USER,
    StubRegistry,
    World,
    altered,
    cut_at,
    says,
    slow,
    slowly,
    stub_registry,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from layerstore.registry.repository import Repository

BLOB = os.urandom(100_000)
DIGEST = sha256_digest(BLOB)
PUBLIC = "8.8.4.4"
ME = Credentials(USER, SECRET)


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    cert, key = certificate(tmp_path_factory.mktemp("tls"))
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(cert, key)
    return made


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def safe(world: World, context: ssl.SSLContext) -> Iterator[StubRegistry]:
    """A registry of the internet, with TLS and tokens."""
    with stub_registry("bearer", context) as made:
        made.put_manifest("a/b", b"{}", "v1")
        made.put_blob("a/b", BLOB)
        world.put("registry.example", made, PUBLIC)
        made.realm = "https://registry.example/token"
        yield made


@pytest.fixture
def bait(world: World, context: ssl.SSLContext) -> Iterator[StubRegistry]:
    """A server that would like to see credentials; it takes whatever comes."""
    with stub_registry("", context) as made:
        made.put_blob("a/b", BLOB)
        world.put("bait.example", made, "9.9.9.9")
        yield made


@pytest.fixture
def pulled() -> Iterator[Callable[..., Repository]]:
    """What a client of ours sees of the registry."""
    with contextlib.ExitStack() as stack:

        def make(world: World, **settings) -> Repository:
            client = stack.enter_context(
                world.client(ME, settings.pop("registries", None), **settings)
            )
            return client.repository(parse_reference("registry.example/a/b"))

        yield make


def whole(repository: Repository) -> bytes:
    with repository.open_blob(DIGEST, len(BLOB)) as stream:
        pieces = []
        while piece := stream.read():
            pieces.append(piece)
        return b"".join(pieces)


def secrets_at(server: StubRegistry) -> list[str]:
    return [seen.authorization for seen in server.requests if seen.authorization]


def test_it_works_when_nobody_lies(pulled, world: World, safe: StubRegistry) -> None:
    assert pulled(world).manifest("v1").raw == b"{}"


@pytest.mark.parametrize(
    ("realm", "why"),
    [
        ("http://registry.example/token", "without TLS"),
        ("https://bait.example/token", "not known to belong to it"),
        ("https://127.0.0.1/token", "not known to belong"),
        ("https://[::1]/token", "not known to belong"),
        ("https://169.254.169.254/latest/meta-data", "not known to belong"),
        ("https://0x7f000001/token", "not known to belong"),
        ("https://[::ffff:127.0.0.1]/token", "not known to belong"),
        ("https://registry.example:8443/token", "not known to belong"),
        ("https://me:secret@registry.example/token", "credentials of its own"),
        ("https://@registry.example/token", "credentials of its own"),
        ("https://registry.example/token#bait", "has a fragment"),
        ("https://registry.example\\@bait.example/token", "cannot be asked|credentials of its"),
        ("https://registry.example/" + "x" * 5000, "has 5025 characters"),
        ("file:///etc/passwd", "only http and https"),
        ("", "how to get in"),
    ],
)
def test_realms_where_nothing_of_ours_may_go(
    pulled, world: World, safe: StubRegistry, bait: StubRegistry, realm: str, why: str
) -> None:
    safe.realm = realm
    with pytest.raises(RegistryError, match=why):
        pulled(world).manifest("v1")
    assert secrets_at(safe) == []
    assert bait.requests == []


@pytest.mark.parametrize("size", [20_000, 1 << 20])
def test_realms_without_end(pulled, world: World, safe: StubRegistry, size: int) -> None:
    safe.realm = "https://registry.example/" + "x" * size
    with pytest.raises(RegistryError):
        pulled(world).manifest("v1")
    assert secrets_at(safe) == []


def test_a_realm_with_line_breaks(pulled, world: World, safe: StubRegistry) -> None:
    safe.break_("manifests", says(
        401, WWW_Authenticate='Bearer realm="https://registry.example/token\\\r\n X: y"'
    ))  # fmt: skip
    with pytest.raises(RegistryError):
        pulled(world).manifest("v1")
    assert secrets_at(safe) == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "::1", "169.254.169.254", "::ffff:127.0.0.1", "10.0.0.1", "192.168.1.1",
     "fe80::1", "0.0.0.0"],
)  # fmt: skip
def test_a_name_that_leads_inward(
    pulled, world: World, safe: StubRegistry, bait: StubRegistry, address: str
) -> None:
    """By private DNS, or bound again between two look-ups: the address that answers counts."""
    world.put("bait.example", bait, address)
    safe.realm = "https://bait.example/token"
    rules = {"registry.example": HostRules(realms=("bait.example",))}
    with pytest.raises(RegistryAnswerError, match="a service of this host or network segment"):
        pulled(world, registries=Registries(rules=rules)).manifest("v1")
    assert bait.requests == []


def test_a_token_server_that_is_known_to_belong_to_it(
    pulled, world: World, safe: StubRegistry, bait: StubRegistry
) -> None:
    bait.tokens = safe.tokens
    safe.realm = "https://bait.example/token"
    rules = {"registry.example": HostRules(realms=("bait.example",))}
    assert pulled(world, registries=Registries(rules=rules)).manifest("v1").raw == b"{}"


def test_another_port_of_a_known_token_server(pulled, world: World, safe: StubRegistry) -> None:
    safe.realm = "https://auth.example:8443/token"
    rules = {"registry.example": HostRules(realms=("auth.example:443",))}
    with pytest.raises(RegistryError, match=r"auth.example:8443, which is not known to belong"):
        pulled(world, registries=Registries(rules=rules)).manifest("v1")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_token_servers_do_not_redirect(
    pulled, world: World, safe: StubRegistry, bait: StubRegistry, status: int
) -> None:
    for where in ("http://169.254.169.254/latest", "https://bait.example/token"):
        safe.break_("token", says(status, Location=where))
        with pytest.raises(UnsafeRealmError, match="redirects, which is never followed"):
            pulled(world).manifest("v1")
    assert bait.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"<html>", b"[]", b"{}", b'{"token": 5}', b'{"token": ""}', b'{"token": "a b"}',
        b'{"token": "a\\r\\nX: y"}', b'{"token": "a", "token": "b"}', b"\xff\xfe{}",
        b'{"token": "' + b"x" * (1 << 20) + b'"}', b" " * (2 << 20), b"[" * 100_000,
    ],
    ids=repr,
)  # fmt: skip
def test_answers_that_hold_no_token(pulled, world: World, safe: StubRegistry, body: bytes) -> None:
    safe.break_("token", says(200, body))
    with pytest.raises((RegistryError, LimitExceededError)):
        pulled(world).manifest("v1")


def test_from_https_to_http(pulled, world: World, safe: StubRegistry) -> None:
    with stub_registry() as plain:
        plain.put_blob("a/b", BLOB)
        safe.break_("blobs", says(307, Location=f"http://{plain.name}/v2/a/b/blobs/{DIGEST}"))
        with pytest.raises(RegistryAnswerError, match="from HTTPS to") as caught:
            whole(pulled(world))
        assert caught.value.hint is None  # that of ADD names an option that pulls do not have
        assert plain.requests == []


@pytest.mark.parametrize(
    "change", [lambda b: b[:-1], lambda b: b + b"x"], ids=["shorter", "longer"]
)
def test_lengths_that_are_lies(pulled, world: World, safe: StubRegistry, change) -> None:
    safe.break_("blobs", altered(change), times=9)
    with pytest.raises((IntegrityError, RegistryError)):
        whole(pulled(world))
    safe.faults.clear()
    # Unannounced, and so as long as it comes.
    safe.break_("blobs", lambda stub: _unannounced(stub, change(BLOB)), times=9)
    with pytest.raises((IntegrityError, RegistryError)):
        whole(pulled(world))


def _unannounced(stub, body: bytes) -> None:
    stub.send_response(200)
    stub.send_header("Connection", "close")
    stub.end_headers()
    stub.wfile.write(body)
    stub.close_connection = True


def test_encodings_that_nobody_asked_for(pulled, world: World, safe: StubRegistry) -> None:
    safe.break_("blobs", altered(gzip.compress, Content_Encoding="gzip"), times=2)
    with pytest.raises(RegistryAnswerError, match="encodes it, unasked"):
        whole(pulled(world))
    safe.break_("manifests", altered(gzip.compress, Content_Encoding="gzip"), times=2)
    with pytest.raises(RegistryAnswerError, match="encodes a manifest"):
        pulled(world).manifest("v1")


@pytest.mark.parametrize(
    "said",
    ["bytes 0-99999/100000", "bytes 50001-99999/100000", "bytes 50000-99998/100000",
     "bytes 50000-99999/99999", "items 50000-99999/100000", "", "bytes 50000-99999"],
)  # fmt: skip
def test_ranges_that_are_others(pulled, world: World, safe: StubRegistry, said: str) -> None:
    safe.break_("blobs", says(206, BLOB[50_000:], Content_Range=said))
    repository = pulled(world)
    with (
        pytest.raises(RegistryAnswerError, match="another range"),
        repository.open_blob(DIGEST, len(BLOB), 50_000) as stream,
    ):
        stream.read()


def test_a_range_that_nobody_asked_for(pulled, world: World, safe: StubRegistry) -> None:
    safe.break_("blobs", says(206, BLOB, Content_Range=f"bytes 0-{len(BLOB) - 1}/{len(BLOB)}"))
    with pytest.raises(RegistryAnswerError, match="another range"):
        whole(pulled(world))


def test_digests_in_headers(pulled, world: World, safe: StubRegistry) -> None:
    other = "sha256:" + "0" * 64
    safe.break_("manifests", altered(bytes, Docker_Content_Digest=other), times=2)
    with pytest.raises(IntegrityError):
        pulled(world).manifest("v1")
    safe.break_("manifests", altered(bytes, Docker_Content_Digest="../../etc"), times=2)
    with pytest.raises(RegistryAnswerError, match="a digest that is none"):
        pulled(world).manifest("v1")
    safe.break_("blobs", altered(bytes, Docker_Content_Digest=other), times=2)
    with pytest.raises(IntegrityError, match="another one"):
        whole(pulled(world))


def test_a_manifest_that_is_not_what_its_digest_says(
    pulled, world: World, safe: StubRegistry
) -> None:
    digest = sha256_digest(b"{}")
    safe.break_("manifests", says(200, b"{ }"))
    with pytest.raises(IntegrityError):
        pulled(world).manifest(digest)


def test_certificates(context: ssl.SSLContext) -> None:
    with (
        stub_registry("basic", context) as server,
        World().client(ME, Registries(tls_verify=True)) as client,
    ):
        repository = client.repository(parse_reference(f"{server.name}/a/b"))
        with pytest.raises(RegistryAnswerError, match="is not trusted"):
            repository.manifest("v1")
        assert server.requests == []


@pytest.mark.parametrize(
    "link", ["https://bait.example/v2/a/b/tags/list?last=v1", "http://registry.example/v2/x",
             "//bait.example/x", "file:///etc/passwd"]
)  # fmt: skip
def test_pages_elsewhere(
    pulled, world: World, safe: StubRegistry, bait: StubRegistry, link: str
) -> None:
    safe.break_("tags", says(200, b'{"tags": ["v1"]}', Link=f'<{link}>; rel="next"'), times=5)
    safe.anonymous = True
    safe.auth = ""
    with pytest.raises(RegistryAnswerError, match="go on"):
        pulled(world).tags()
    assert bait.requests == []


# -- safe: it works, and nothing of ours is seen elsewhere


def test_blobs_elsewhere(pulled, world: World, safe: StubRegistry, bait: StubRegistry) -> None:
    repository = pulled(world)
    repository.manifest("v1")
    for status in (301, 302, 307, 308):
        where = f"https://bait.example/v2/a/b/blobs/{DIGEST}"
        safe.break_("blobs", says(status, Location=where))
        assert whole(repository) == BLOB
    assert len(bait.requests) == 4
    assert secrets_at(bait) == []
    assert secrets_at(safe) != []


def test_a_host_elsewhere_that_asks_for_a_password(
    pulled, world: World, safe: StubRegistry, bait: StubRegistry
) -> None:
    where = f"https://bait.example/v2/a/b/blobs/{DIGEST}"
    for challenge in ('Basic realm="x"', 'Bearer realm="https://bait.example/token"'):
        safe.break_("blobs", says(307, Location=where))
        bait.break_("blobs", says(401, WWW_Authenticate=challenge), times=9)
        with pytest.raises(RegistryAnswerError, match="says 401"):
            whole(pulled(world))
    assert secrets_at(bait) == []


def test_uploads_elsewhere(pulled, world: World, safe: StubRegistry, bait: StubRegistry) -> None:
    bait.uploads["5"] = b""
    repository = pulled(world)
    repository.manifest("v1")
    safe.break_(
        "uploads", says(202, Location="https://bait.example/v2/a/b/blobs/uploads/5?x=1"), "POST"
    )
    assert repository.put_blob([BLOB]).digest == DIGEST
    assert [seen.method for seen in bait.requests] == ["PUT"]
    assert secrets_at(bait) == []


def test_uploads_inward_or_without_tls(
    pulled, world: World, safe: StubRegistry, bait: StubRegistry
) -> None:
    world.put("bait.example", bait, "127.0.0.1")
    for where in ("https://bait.example/v2/a/b/blobs/uploads/5", "http://registry.example/x"):
        safe.break_("uploads", says(202, Location=where), "POST")
        with pytest.raises(RegistryAnswerError, match=r"a service of this host|without TLS"):
            pulled(world).put_blob([BLOB])
    assert bait.requests == []


def test_a_mount_that_the_registry_does_not_know(pulled, world: World, safe: StubRegistry) -> None:
    repository = pulled(world)
    assert not repository.mount_blob(sha256_digest(b"new"), "other")
    assert repository.put_blob([b"new"]).size == 3


def test_ranges_that_are_ignored(pulled, world: World, safe: StubRegistry) -> None:
    safe.auth = ""
    safe.break_("blobs", cut_at(50_000))
    safe.break_("blobs", lambda stub: stub.answer(200, BLOB))
    assert whole(pulled(world)) == BLOB
    assert [seen.headers.get("Range") for seen in safe.requests][-1] is not None


def test_blobs_from_this_host(pulled, world: World, safe: StubRegistry, bait: StubRegistry) -> None:
    world.put("bait.example", bait, "169.254.169.254")
    safe.break_("blobs", says(307, Location=f"https://bait.example/v2/a/b/blobs/{DIGEST}"))
    with pytest.raises(RegistryAnswerError, match="a service of this host"):
        whole(pulled(world))
    assert bait.requests == []


# -- limits


def test_redirects_in_a_circle(pulled, world: World, safe: StubRegistry) -> None:
    where = f"/v2/a/b/blobs/{DIGEST}"
    safe.break_("blobs", says(307, Location=where), times=50)
    with pytest.raises(RegistryAnswerError, match="redirects more than 10 times"):
        whole(pulled(world))


def test_pages_without_end(pulled, world: World, safe: StubRegistry) -> None:
    safe.auth = ""
    pages = iter(range(10**9))
    safe.break_("tags", lambda stub: stub.answer(
        200, b'{"tags": []}', {"Link": f'</v2/a/b/tags/list?last={next(pages)}>; rel="next"'}
    ), times=10**9)  # fmt: skip
    with pytest.raises(LayerstoreError, match="do not end within 1000 pages"):
        pulled(world).tags()
    safe.faults.clear()
    safe.break_("tags", says(
        200, b'{"tags": []}', Link='</v2/a/b/tags/list?n=1000>; rel="next"'
    ), times=9)  # fmt: skip
    with pytest.raises(RegistryAnswerError, match="go on at"):
        pulled(world).tags()


def test_answers_whose_end_cannot_be_told(pulled, world: World, safe: StubRegistry) -> None:
    safe.break_("manifests", lambda stub: _unannounced(stub, b"{"), times=9)
    with pytest.raises(RegistryAnswerError, match="end cannot be told"):
        pulled(world).manifest("v1")


def test_bodies_without_end(pulled, world: World, safe: StubRegistry) -> None:
    def endless(stub) -> None:
        stub.send_response(200)
        stub.send_header("Transfer-Encoding", "chunked")
        stub.end_headers()
        for _ in range(100):
            stub.wfile.write(b"100000\r\n" + b" " * (1 << 20) + b"\r\n")

    safe.break_("manifests", endless)
    with pytest.raises(LimitExceededError, match="more than the limit of 4194304"):
        pulled(world).manifest("v1")


def test_a_byte_now_and_then(pulled, world: World, safe: StubRegistry) -> None:
    safe.break_("blobs", slow(0.02), times=99)
    safe.auth = ""
    blob = sha256_digest(b"x")
    with (
        pulled(world, window_s=0.1).open_blob(blob, 1_000_000) as stream,
        pytest.raises(SlowRegistryError, match="too slow") as caught,
    ):
        list(iter(stream.read, b""))
    assert f"blob {blob} of registry.example: " in caught.value.message
    assert "registries.toml" in (caught.value.hint or "")
    asked = [seen for seen in safe.requests if seen.method == "GET" and "blobs" in seen.path]
    assert len(asked) == SLOW_TRIES
    assert asked[1].headers["Range"]  # it went on where it was


def test_heads_that_come_byte_by_byte(pulled, world: World, safe: StubRegistry) -> None:
    def drip(stub) -> None:
        with contextlib.suppress(OSError):
            stub.wfile.write(b"HTTP/1.1 200 OK\r\n")
            for _ in range(500):
                stub.wfile.write(b"X: y\r\n")
                time.sleep(0.01)

    safe.auth = ""
    safe.break_("manifests", drip, times=99)
    with pytest.raises(SlowRegistryError, match="headers have no end"):
        pulled(world, window_s=0.1).manifest("v1")
    assert len(world.pauses) == SLOW_TRIES - 1


def test_a_blob_that_once_came_slowly_is_whole(pulled, world: World, safe: StubRegistry) -> None:
    safe.break_("blobs", slowly(BLOB[:50], 0.02))
    safe.auth = ""
    assert whole(pulled(world, window_s=0.1)) == BLOB


def test_retry_after_a_lifetime(pulled, world: World, safe: StubRegistry) -> None:
    safe.break_("manifests", says(429, Retry_After="1000000000"))
    with pytest.raises(RegistryAnswerError, match="longer than the limit"):
        pulled(world).manifest("v1")
    assert world.pauses == []


def test_secrets_are_in_no_text(pulled, world: World, safe: StubRegistry) -> None:
    assert SECRET not in repr(ME)
    assert SECRET not in str([ME, {"x": ME}])
    safe.break_("manifests", says(500, b'{"errors":[{"code":"X","message":"boom"}]}'), times=9)
    with pytest.raises(RegistryAnswerError) as caught:
        pulled(world).manifest("v1")
    assert "boom" in caught.value.message
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in repr(error)
        assert "token-" not in repr(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("realm", ["https://bait.example/token", "https://registry.example/none"])
def test_a_challenge_that_cannot_be_answered_is_forgotten(
    pulled, world: World, safe: StubRegistry, realm: str
) -> None:
    """A view that fetches for days meets portals and broken proxies; it outlives them."""
    right = safe.realm
    repository = pulled(world)
    assert repository.manifest("v1").raw == b"{}"
    safe.tokens.clear()
    safe.realm = realm
    with pytest.raises(RegistryError):
        whole(repository)
    safe.realm = right
    assert whole(repository) == BLOB
