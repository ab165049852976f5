"""Builds whose answer is known: what makes one known, and every way in which it no longer is."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.build import records
from layerstore.cli.build.again import answer
from layerstore.cli.main import dispatch
from layerstore.formats.known_build import (
    SEAL,
    KnownBuild,
    KnownStep,
    Said,
    decode_known_build,
    encode_known_build,
)
from layerstore.formats.sealed import SUM_BYTES
from layerstore.image.layers import remembered
from layerstore.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DOCKERFILE = """\
FROM scratch AS parts
COPY src/ /src/
WORKDIR /made
MAINTAINER of-old@example.org
FROM base:1
COPY --from=parts /src /app
COPY config.ini /etc/
"""


class Project:
    """A context, a store, and the command that builds one in the other."""

    def __init__(self, top: Path) -> None:
        self.context = top / "context"
        self.store = top / "store"
        self.words = ["-t", "app:1", str(self.context)]
        (self.context / "src").mkdir(parents=True)
        (self.context / "other" / "deep").mkdir(parents=True)
        (self.context / "Dockerfile").write_text(DOCKERFILE)
        (self.context / "src" / "main.py").write_text("print(1)\n")
        (self.context / "src" / "link").symlink_to("main.py")
        (self.context / "config.ini").write_text("[app]\n")
        self.base("one")

    def base(self, content: str) -> None:
        """Make the base image, or another one of its name."""
        base = self.context.parent / "base"
        base.mkdir(exist_ok=True)
        (base / "file").write_text(content)
        assert dispatch(["import", str(base), "-t", "base:1", "--store", str(self.store)]) == 0

    def build(self, *more: str) -> None:
        """Build, and remember."""
        assert dispatch(["build", "--store", str(self.store), *more, *self.words]) == 0

    def manifest(self) -> bytes:
        """Return the manifest of the image that its name means."""
        with Store.open(self.store) as store:
            return store.get_blob(store.resolve("app:1").manifest_digest)

    def is_known(self, *more: str) -> bool:
        """Whether the build is answered without building."""
        return answer([*more, *self.words], str(self.store)) == 0


@pytest.fixture(autouse=True)
def everything_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run on any file system, over files that were written just now."""
    monkeypatch.setattr(remembered, "_file_system", lambda _device: "ext4")
    monkeypatch.setattr(remembered, "SETTLED_NS", -(10**12))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_the_same_build_is_known_and_told_as_if_built(
    project: Project, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not project.is_known()
    project.build()
    project.build("--no-cache", "--progress", "plain")
    capfd.readouterr()
    project.build("--progress", "plain")
    built = capfd.readouterr()
    assert project.is_known("--progress", "plain")
    assert capfd.readouterr() == built
    assert "CACHED" in built.err
    assert "4 of 4 steps from the cache" in built.err


def test_quiet_says_the_id_alone(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    project.build()
    image_id = capfd.readouterr().out.splitlines()[-1]
    assert project.is_known("-q")
    assert capfd.readouterr() == (image_id + "\n", "")


def test_what_a_build_does_not_look_at_does_not_matter(project: Project) -> None:
    project.build()
    (project.context / "other" / "deep" / "new").write_text("")
    assert project.is_known()


@pytest.mark.parametrize(
    "change",
    [
        lambda context: (context / "src" / "main.py").write_text("print(2)\n"),
        lambda context: (context / "src" / "main.py").chmod(0o600),
        lambda context: (context / "src" / "new").write_text(""),
        lambda context: (context / "src" / "link").unlink(),
        lambda context: (context / "Dockerfile").write_text(DOCKERFILE + "ENV A=1\n"),
        lambda context: (context / "Dockerfile.dockerignore").write_text("src/new\n"),
        lambda context: (context / ".dockerignore").symlink_to("nowhere"),
        lambda context: context.rename(context.parent / "gone"),
    ],
)
def test_a_changed_input_is_seen(project: Project, change: Callable[[Path], object]) -> None:
    project.build()
    assert project.is_known()
    change(project.context)
    assert not project.is_known()


def test_a_change_that_keeps_size_and_mtime_is_seen(project: Project) -> None:
    project.build()
    path = project.context / "src" / "main.py"
    before = path.stat()
    path.write_text("print(2)\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not project.is_known()


@pytest.mark.parametrize(
    "more",
    [
        ("--build-arg", "A=1"),
        ("--label", "a=b"),
        ("--target", "parts"),
        ("-t", "app:2"),
        ("--network", "none"),
        ("--no-cache",),
        ("--squash",),
        ("--json",),
        ("--tag=app:2",),
        ("-tapp:2",),
        ("--help",),
        ("--tag",),
    ],
)
def test_another_request_is_another_build(project: Project, more: tuple[str, ...]) -> None:
    project.build()
    assert not project.is_known(*more)


def test_options_that_change_the_image_do_not_answer_for_those_without(project: Project) -> None:
    project.build("--squash")
    assert not project.is_known()


@pytest.mark.parametrize(
    "more",
    [
        ("--annotation", "org.example.mark=1"),
        ("--provenance=true",),
        ("--sbom=true",),
        ("--tag", "other:1", "--annotation", "org.example.mark=1"),
    ],
)
def test_nothing_of_a_build_with_annotations_or_attestations_stays(
    project: Project, more: tuple[str, ...]
) -> None:
    """Its image is the same, and has one manifest whoever built it last."""
    project.build()
    plain = project.manifest()
    assert project.is_known()
    project.build(*more)
    assert project.manifest() != plain
    assert not project.is_known()
    project.build()
    assert project.manifest() == plain
    assert project.is_known()


def test_the_environment_counts_where_it_is_asked(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--build-arg", "A", "--secret", "id=s,env=TOKEN")
    monkeypatch.setenv("TOKEN", "secret")
    monkeypatch.setenv("A", "1")
    project.build(*words)
    assert project.is_known(*words)
    monkeypatch.setenv("TOKEN", "another")  # no key has a secret's value
    assert project.is_known(*words)
    monkeypatch.setenv("A", "2")
    assert not project.is_known(*words)
    monkeypatch.setenv("A", "1")
    monkeypatch.delenv("TOKEN")
    assert not project.is_known(*words)


def test_a_secrets_file_must_be_there(project: Project, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    words = ("--secret", f"id=s,src={token}")
    project.build(*words)
    assert project.is_known(*words)
    token.unlink()
    assert not project.is_known(*words)


def test_a_base_that_moved_is_seen(project: Project) -> None:
    project.build()
    project.base("two")
    assert not project.is_known()


@pytest.mark.parametrize("command", [["tag", "base:1", "app:1"], ["rm", "app:1"], ["gc", "--all"]])
def test_the_store_must_still_hold_the_answer(project: Project, command: list[str]) -> None:
    project.build()
    assert project.is_known()
    assert dispatch([*command, "--store", str(project.store)]) == 0
    assert not project.is_known()


def test_steps_that_are_forgotten_or_came_out_otherwise_are_seen(project: Project) -> None:
    project.build()
    with Store.open(project.store) as store:
        keys = [record.key for record in store.cache_records()]
        with store.catalog.write() as connection:
            connection.execute("UPDATE build_cache SET created = created + 1")
    assert not project.is_known()
    project.build("--no-cache")
    assert project.is_known()
    with Store.open(project.store) as store:
        store.cache_drop(keys[:1])
    assert not project.is_known()


def test_what_changed_just_now_is_not_remembered(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "SETTLED_NS", 10**12)
    project.build()
    assert not project.is_known()


def test_where_changes_are_not_stamped_nothing_is_remembered(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembered, "_file_system", lambda _device: "tmpfs")
    project.build()
    assert not project.is_known()


def test_after_an_hour_uses_are_noted_again(project: Project) -> None:
    project.build()
    for record in (project.store / "scans").iterdir():
        os.utime(record, (0, 0))
    assert not project.is_known()


def test_a_damaged_record_is_none(project: Project) -> None:
    project.build()
    for record in (project.store / "scans").iterdir():
        data = bytearray(record.read_bytes())
        data[len(data) // 2] ^= 1
        record.write_bytes(data)
    assert not project.is_known()


KNOWN = KnownBuild(
    epoch=3,
    image_id="sha256:" + "0" * 64,
    size=7,
    manifest="sha256:" + "2" * 64,
    names=("a:1", "b:2"),
    bases=(("c:1", "sha256:" + "1" * 64),),
    steps=(KnownStep("step:1", "", "1.5"), KnownStep("step:2", "sha256:x", "2.0")),
    labels=("[1/2] RUN \udcff", "[2/2] COPY a\nb"),
    said=(Said("odd", "Dockerfile", 1, 2, 3, 0), Said("message", "", 0, 0, 0, 1)),
    variables=("TOKEN",),
    absent=(b"/x/.dockerignore",),
    given=(b"/x", b"/x/Dockerfile"),
    looked=(b"/x/\xff", b"/x/new\nline"),
    fingerprint=bytes(range(32)),
)


def test_a_record_is_read_as_it_was_written() -> None:
    encoded = encode_known_build(KNOWN)
    assert encoded is not None
    assert decode_known_build(encoded) == KNOWN


def test_no_other_bytes_are_a_record() -> None:
    body = encode_known_build(KNOWN)
    assert body is not None
    record = SEAL.closed(body)
    assert record is not None
    assert SEAL.opened(record) == body
    for place in range(len(record)):
        changed = bytearray(record)
        changed[place] ^= 0x20
        assert SEAL.opened(bytes(changed)) is None
        assert SEAL.opened(record[:place]) is None


def test_a_body_that_is_none_is_refused() -> None:
    body = encode_known_build(KNOWN)
    assert body is not None
    for cut in range(32, len(body) - len(KNOWN.looked[-1]), 7):
        assert decode_known_build(body[:cut]) is None
    assert decode_known_build(body + b"\0more") is None


def test_kinds_of_records_are_told_apart_and_bounded() -> None:
    body = encode_known_build(KNOWN)
    assert body is not None
    kinds = [SEAL, records.SEAL, remembered.SEAL]
    for kind in kinds:
        record = kind.closed(body)
        assert record is not None
        assert [other.opened(record) == body for other in kinds] == [
            other is kind for other in kinds
        ]
    room = remembered.SEAL.max_bytes - len(remembered.SEAL.head) - SUM_BYTES
    assert remembered.SEAL.closed(bytes(room)) is not None
    assert remembered.SEAL.closed(bytes(room + 1)) is None


def test_a_text_with_a_zero_byte_has_no_record() -> None:
    assert encode_known_build(KNOWN._replace(labels=("a\0b",))) is None
