"""Manifests, blobs and tags of a registry that is honest but not always there."""

from __future__ import annotations

import hashlib
import json
import os
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import Digest, sha256_digest
from layerstore.errors import IntegrityError, LimitExceededError, NotFoundError
from layerstore.formats.reference import parse_reference
from layerstore.registry import uploads
from layerstore.registry.credentials import Credentials
from layerstore.registry.errors import (
    RateLimitedError,
    RegistryAnswerError,
    UnauthorizedError,
    UnknownToRegistryError,
)
from layerstore.registry.hosts import HostRules, Registries
from layerstore.registry.referrers import referrers, referrers_tag
from layerstore.registry.uploads import Uploaded
from tests.support.registry_stub import (
    MANIFEST,
    SECRET,
    USER,
    Stub,
    StubRegistry,
    World,
    cut_at,
    says,
    stub_registry,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.registry.client import RegistryClient
    from layerstore.registry.repository import Repository

BLOB = os.urandom(3_000_000)
DIGEST = sha256_digest(BLOB)


@pytest.fixture
def stub() -> Iterator[StubRegistry]:
    with stub_registry() as made:
        yield made


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def client(world: World) -> Iterator[RegistryClient]:
    with world.client() as made:
        yield made


def of(client: RegistryClient, stub: StubRegistry, path: str = "a/b") -> Repository:
    return client.repository(parse_reference(f"{stub.name}/{path}"))


def whole(repository: Repository, digest: Digest = DIGEST, size: int = len(BLOB)) -> bytes:
    with repository.open_blob(digest, size) as stream:
        pieces = []
        while piece := stream.read(1 << 16):
            pieces.append(piece)
        return b"".join(pieces)


@pytest.mark.parametrize(
    ("offset", "end"), [(0, 10), (5, 2_000_000), (2_999_999, 3_000_000), (7, None), (0, None)]
)
def test_a_part_of_a_blob(
    stub: StubRegistry, client: RegistryClient, offset: int, end: int | None
) -> None:
    stub.repository("a/b").blobs[DIGEST] = BLOB
    with of(client, stub).open_blob(DIGEST, len(BLOB), offset, end) as stream:
        pieces = []
        while piece := stream.read(1 << 16):
            pieces.append(piece)
    assert b"".join(pieces) == BLOB[offset:end]
    wanted = stub.requests[-1].headers.get("Range")
    last = "" if end in (None, len(BLOB)) else str((end or 0) - 1)
    assert wanted == (f"bytes={offset}-{last}" if offset or last else None)


def asked(stub: StubRegistry, method: str = "") -> list[str]:
    return [seen.path for seen in stub.requests if not method or seen.method == method]


def test_a_manifest_by_tag_and_by_digest(stub: StubRegistry, client: RegistryClient) -> None:
    raw = b'{"schemaVersion": 2}'
    digest = stub.put_manifest("a/b", raw, "v1")
    repository = of(client, stub)
    assert repository.manifest("v1") == (raw, MANIFEST, digest)
    assert repository.manifest(digest).raw == raw
    head = repository.head_manifest("v1")
    assert head is not None
    assert (head.digest, head.size, head.media_type) == (digest, len(raw), MANIFEST)
    assert repository.head_manifest("v2") is None
    with pytest.raises(NotFoundError, match=r"manifest .*a/b:v2: .* says 404 .*MANIFEST_UNKNOWN"):
        repository.manifest("v2")
    accept = stub.requests[-1].headers["Accept"]
    assert MANIFEST in accept


def test_an_upload_at_once_and_in_chunks(
    stub: StubRegistry, client: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = of(client, stub)
    found = repository.put_blob([BLOB[:1000], BLOB[1000:]])
    assert found == Uploaded(DIGEST, len(BLOB))
    assert [seen.method for seen in stub.requests if "uploads" in seen.path] == ["POST", "PUT"]
    assert repository.has_blob(DIGEST, len(BLOB))
    assert not repository.has_blob(DIGEST, 5)
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 1 << 20)
    other = of(client, stub, "c")
    assert other.put_blob(BLOB[i : i + 70_000] for i in range(0, len(BLOB), 70_000)) == found
    assert stub.repository("c").blobs[DIGEST] == BLOB
    assert len([seen for seen in stub.requests if seen.method == "PATCH"]) == 3


@pytest.mark.parametrize("method", ["PATCH", "PUT", "POST"])
def test_a_broken_upload_goes_on(
    stub: StubRegistry, client: RegistryClient, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 1 << 20)
    stub.break_("uploads", cut_at(0), method)  # it took the bytes; the answer is lost
    stub.break_("uploads", says(503), method)
    assert of(client, stub).put_blob([BLOB]).digest == DIGEST
    assert stub.repository("a/b").blobs[DIGEST] == BLOB


def test_an_upload_that_is_not_what_was_expected(
    stub: StubRegistry, client: RegistryClient
) -> None:
    with pytest.raises(IntegrityError, match="turned out to be"):
        of(client, stub).put_blob([b"other"], Uploaded(DIGEST, len(BLOB)))
    assert stub.repository("a/b").blobs == {}


def test_mounts(stub: StubRegistry, client: RegistryClient) -> None:
    stub.put_blob("from", BLOB)
    repository = of(client, stub)
    assert repository.mount_blob(DIGEST, "from")
    assert stub.repository("a/b").blobs[DIGEST] == BLOB
    unknown = sha256_digest(b"elsewhere")
    assert not repository.mount_blob(unknown, "from")
    before = len(stub.requests)
    repository.put_blob([b"elsewhere"], Uploaded(unknown, 9))
    assert len(stub.requests) == before + 1  # the upload that the registry offered instead


@pytest.mark.parametrize("count", [0, 10, 1000, 1_000_000, 2_999_999])
def test_a_broken_download_goes_on(
    stub: StubRegistry, client: RegistryClient, world: World, count: int
) -> None:
    stub.put_blob("a/b", BLOB)
    stub.break_("blobs", cut_at(count), times=2)
    assert whole(of(client, stub)) == BLOB
    assert world.pauses
    ranges = [seen.headers.get("Range") for seen in stub.requests if "sha256" in seen.path]
    assert len(ranges) >= 2
    if count > 1000:
        assert all(ranges[1:])


def test_a_range_that_is_ignored(stub: StubRegistry, client: RegistryClient) -> None:
    stub.put_blob("a/b", BLOB)
    stub.break_("blobs", cut_at(1_000_000))
    stub.break_("blobs", lambda handler: handler.answer(200, BLOB))
    assert whole(of(client, stub)) == BLOB


def test_failures_have_an_end(stub: StubRegistry, client: RegistryClient, world: World) -> None:
    stub.put_blob("a/b", BLOB)
    stub.break_("blobs", says(503), times=100)
    with pytest.raises(RegistryAnswerError, match="says 503"):
        whole(of(client, stub))
    assert len(world.pauses) == 5
    assert all(0 < pause <= 20 for pause in world.pauses)
    assert world.pauses[-1] > world.pauses[0]


@pytest.mark.parametrize("status", [400, 403, 404, 405, 501])
def test_what_no_try_will_change(stub: StubRegistry, client: RegistryClient, status: int) -> None:
    stub.break_("manifests", says(status))
    with pytest.raises(RegistryAnswerError, match=f"says {status}"):
        of(client, stub).manifest("v1")
    assert len(asked(stub)) == 1


def test_retry_after(stub: StubRegistry, client: RegistryClient, world: World) -> None:
    raw = b'{"schemaVersion": 2}'
    stub.put_manifest("a/b", raw, "v1")
    stub.break_("manifests", says(429, Retry_After="7"))
    soon = formatdate(usegmt=True, timeval=2_000_000_000)
    stub.break_("manifests", says(429, Retry_After=formatdate(usegmt=True, timeval=1)))
    stub.break_("manifests", says(503, Retry_After="soon"))
    assert of(client, stub).manifest("v1").raw == raw
    assert world.pauses[:2] == [7.0, 0.0]
    for value in ("1000000000", "9" * 400, soon):
        stub.break_("manifests", says(429, Retry_After=value))
        with pytest.raises(RateLimitedError, match="longer than the limit of 300"):
            of(client, stub).manifest("v1")


def test_limits_that_are_near_are_told_once(
    stub: StubRegistry, client: RegistryClient, world: World
) -> None:
    stub.put_manifest("a/b", b"{}", "v1")
    limits = {"RateLimit-Limit": "100;w=21600", "RateLimit-Remaining": "9;w=21600"}
    for _ in range(2):
        stub.break_(
            "manifests",
            lambda handler: handler.answer(200, b"{}", {"Content-Type": MANIFEST, **limits}),
        )
        of(client, stub).manifest("v1")
    assert world.notes == [f"{stub.name}: 9 of 100 pulls are left before its limit"]


def test_tags_over_pages(stub: StubRegistry, client: RegistryClient) -> None:
    for number in range(25):
        stub.put_manifest("a/b", b"{}", f"v{number:02}")
    stub.page = 10
    assert of(client, stub).tags() == [f"v{number:02}" for number in range(25)]
    assert len([path for path in asked(stub) if "tags" in path]) == 3


def test_referrers_by_the_api_and_by_tag(stub: StubRegistry, client: RegistryClient) -> None:
    repository = of(client, stub)
    subject = stub.put_manifest("a/b", b'{"schemaVersion": 2}', "v1")
    assert referrers(repository, Digest(subject)) == []
    raw = json.dumps({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.test",
        "subject": {"mediaType": MANIFEST, "digest": subject, "size": 20},
    }).encode()  # fmt: skip
    digest = repository.put_manifest(raw, MANIFEST, None)
    assert referrers_tag(Digest(subject)) in stub.repository("a/b").tags
    assert [one.digest for one in referrers(repository, Digest(subject))] == [digest]
    assert referrers(repository, Digest(subject), "application/other") == []
    repository.put_manifest(raw, MANIFEST, None)
    assert len(referrers(repository, Digest(subject), "application/vnd.test")) == 1
    index = stub.repository("a/b").manifests[
        stub.repository("a/b").tags[referrers_tag(Digest(subject))]
    ]
    stub.break_("referrers", lambda handler: handler.answer(200, index[0]))
    assert [one.digest for one in referrers(repository, Digest(subject))] == [digest]


def test_a_registry_that_keeps_account_itself(stub: StubRegistry, client: RegistryClient) -> None:
    raw = b'{"subject": {}}'
    stub.break_("manifests", says(201, OCI_Subject="sha256:x"), "PUT")
    of(client, stub).put_manifest(raw, MANIFEST, None)
    assert stub.repository("a/b").tags == {}


def test_mirrors_first(stub: StubRegistry, world: World) -> None:
    with stub_registry() as mirror:
        mirror.put_blob("cache/a/b", BLOB)
        raw = b'{"schemaVersion": 2}'
        stub.put_manifest("a/b", raw, "v1")
        stub.put_blob("a/b", BLOB)
        rules = {stub.name: HostRules(mirrors=(f"{mirror.name}/cache",), insecure=True)}
        with world.client(registries=Registries(rules=rules)) as client:
            repository = of(client, stub)
            assert repository.manifest("v1").raw == raw  # the mirror lacks it
            assert whole(repository) == BLOB
            assert not any("blobs" in path for path in asked(stub))
            mirror.break_("blobs", cut_at(1_000_000))
            mirror.break_("blobs", says(404), times=9)
            assert whole(repository) == BLOB  # begun there, ended here
            repository.put_blob([b"x"])
        assert all(seen.method == "GET" for seen in mirror.requests)


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_credentials(stub: StubRegistry, world: World, auth: str) -> None:
    stub.auth = auth
    stub.put_blob("a/b", BLOB)
    stub.put_manifest("a/b", b"{}", "v1")
    with world.client(Credentials(USER, SECRET)) as client:
        repository = of(client, stub)
        repository.manifest("v1")
        before = len(stub.requests)
        assert whole(repository) == BLOB
        repository.manifest("v1")
        assert len(stub.requests) == before + 2  # nothing is asked twice
    with world.client(Credentials(USER, "wrong")) as client:
        with pytest.raises(UnauthorizedError) as caught:
            of(client, stub).manifest("v1")
        assert "wrong" not in caught.value.message
        assert caught.value.exit_code == 13


def test_tokens_that_end(stub: StubRegistry, world: World) -> None:
    stub.auth = "bearer"
    stub.put_manifest("a/b", b"{}", "v1")
    with world.client(Credentials(USER, SECRET)) as client:
        repository = of(client, stub)
        repository.manifest("v1")
        stub.tokens[:] = ["used"]
        repository.manifest("v1")
        assert len(stub.tokens) == 2
        stub.tokens[:] = ["used"] * 5
        repository.put_blob([b"x"])
        assert "used" not in [seen.authorization for seen in stub.requests]


def test_identity_tokens_and_servers_without_get(stub: StubRegistry, world: World) -> None:
    stub.auth = "bearer"
    stub.put_manifest("a/b", b"{}", "v1")
    with world.client(Credentials("", "", SECRET)) as client:
        of(client, stub).manifest("v1")
    stub.break_("token", says(405), "GET")
    with world.client(Credentials(USER, SECRET)) as client:
        of(client, stub).manifest("v1")
    assert [seen.method for seen in stub.requests if "token" in seen.path] == [
        "POST",
        "GET",
        "POST",
    ]


def test_anybody_may_pull(stub: StubRegistry, client: RegistryClient) -> None:
    stub.auth, stub.anonymous = "bearer", True
    stub.put_manifest("a/b", b"{}", "v1")
    of(client, stub).manifest("v1")
    client.host(stub.name).check()


def test_large_manifests_are_not_read(stub: StubRegistry, client: RegistryClient) -> None:
    stub.put_manifest("a/b", b" " * ((4 << 20) + 1), "v1")
    with pytest.raises(LimitExceededError, match="4194304"):
        of(client, stub).manifest("v1")


def test_blocked(stub: StubRegistry, world: World) -> None:
    rules = {stub.name: HostRules(blocked=True)}
    with (
        world.client(registries=Registries(rules=rules)) as client,
        pytest.raises(RegistryAnswerError, match="blocked by configuration"),
    ):
        of(client, stub).manifest("v1")
    assert stub.requests == []


def test_unknown_is_an_error_of_both_families() -> None:
    assert issubclass(UnknownToRegistryError, NotFoundError)
    assert UnknownToRegistryError("x").exit_code == 13
    assert hashlib.sha256(BLOB).hexdigest() in DIGEST


def test_heads_and_signers_past_mirrors(stub: StubRegistry, world: World) -> None:
    with stub_registry() as mirror:
        raw = b'{"schemaVersion": 2}'
        digest = stub.put_manifest("a/b", raw, "v1")
        rules = {stub.name: HostRules(mirrors=(mirror.name,), insecure=True)}
        with world.client(registries=Registries(rules=rules)) as client:
            head = of(client, stub).head_manifest("v1")  # the mirror lacks it
            assert head is not None
            assert head.digest == digest
            assert of(client, stub).head_manifest("v2") is None
            mirror.put_manifest("a/b", b'{"schemaVersion": 2, "a": 1}', "v1")
            assert of(client, stub).without_mirrors().manifest("v1").raw == raw


def test_tags_that_are_none(stub: StubRegistry, client: RegistryClient) -> None:
    listed = ["v1", "../../c/manifests/v1", "a b", "x\n", "", ".hidden", "t" * 129, 7]
    body = json.dumps({"tags": listed}).encode()
    stub.break_("tags", says(200, body))
    assert of(client, stub).tags() == ["v1"]


def test_referrers_without_end(
    stub: StubRegistry, client: RegistryClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerstore.registry.referrers.MAX_REFERRERS", 3)
    entry = {"mediaType": MANIFEST, "digest": DIGEST, "size": 2}
    index = {"schemaVersion": 2, "manifests": [entry, entry]}
    pages = iter(range(10**9))
    stub.break_("referrers", lambda stub: stub.answer(200, json.dumps(index).encode(), {
        "Link": f'</v2/a/b/referrers/{DIGEST}?n={next(pages)}>; rel="next"',
    }), times=99)  # fmt: skip
    with pytest.raises(LimitExceededError, match="more than 3 referrers"):
        referrers(of(client, stub), DIGEST)


@pytest.mark.parametrize("status", [503, 404])
def test_the_end_of_an_upload_is_told_again(
    stub: StubRegistry, client: RegistryClient, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 1 << 20)
    if status == 404:  # the answer is lost, and so is the upload, for it became a blob
        stub.break_("uploads", cut_at(0), "PUT")
        stub.break_("blobs/sha256", says(503), "HEAD")
    stub.break_("uploads", says(status), "PUT")
    assert of(client, stub).put_blob([BLOB]).digest == DIGEST
    assert stub.repository("a/b").blobs[DIGEST] == BLOB


def test_a_connection_that_breaks_after_the_last_byte(
    stub: StubRegistry, client: RegistryClient
) -> None:
    def unended(stub: Stub) -> None:
        stub.send_response(200)
        stub.send_header("Transfer-Encoding", "chunked")
        stub.end_headers()
        stub.wfile.write(b"%x\r\n" % len(BLOB) + BLOB + b"\r\n")
        stub.hang_up()

    stub.break_("blobs", unended)
    stub.break_("blobs", says(416))
    assert whole(of(client, stub)) == BLOB
    assert len(asked(stub)) == 1


def test_a_registry_that_lies_elsewhere_is_not_asked_where_its_name_says(
    stub: StubRegistry, world: World
) -> None:
    """Who owns that name out there could have other images under the same names."""
    raw = b'{"schemaVersion": 2}'
    with stub_registry() as real:
        stub.put_manifest("a/b", raw, "public")
        real.put_manifest("inside/a/b", raw, "v1")
        rules = {stub.name: HostRules(location=f"{real.name}/inside")}
        with world.client(registries=Registries(rules=rules)) as client:
            repository = of(client, stub)
            assert repository.name == f"{stub.name}/a/b"
            assert repository.manifest("v1").raw == raw
            with pytest.raises(UnknownToRegistryError):
                repository.manifest("public")
            repository.put_blob([BLOB])
        assert real.repository("inside/a/b").blobs == {DIGEST: BLOB}
    assert stub.requests == []
