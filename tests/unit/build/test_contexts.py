"""Build contexts from streams, URLs and git; which Dockerfile and which rules go with them."""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from layerstore.build.api import build
from layerstore.build.contexts import GitContext, StreamContext, UrlContext
from layerstore.build.errors import BuildStepError
from layerstore.build.fetch.git_url import parse_git_source
from layerstore.build.request import BuildRequest
from layerstore.errors import FormatError, InputError, UnsafeContentError
from layerstore.formats.tree import Kind
from tests.support.build import RecordingUi, builder, tree_of  # noqa: F401
from tests.support.git_server import DIRECT, GitDaemon, Work, needs_git
from tests.support.http_server import serving

if TYPE_CHECKING:
    from collections.abc import Mapping

    from layerstore.build.contexts import ContextSource
    from tests.support.build import Builder

DOCKERFILE = "FROM scratch\nCOPY . /x/\n"


def tar(files: Mapping[str, str], *more: tarfile.TarInfo, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.uid = member.gid = 1000
            member.mode = 0o640
            archive.addfile(member, io.BytesIO(content.encode()))
        for member in more:
            archive.addfile(member)
    return buffer.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    member.devmajor, member.devminor = 5, 0
    return member


def made(builder: Builder, source: ContextSource, **options: object):  # noqa: F811
    builder.ui = RecordingUi()
    request = BuildRequest(context=source, environ=DIRECT, **options)  # type: ignore[arg-type]
    return tree_of(builder.store, build(builder.store, request, builder.ui).image)


def streamed(builder: Builder, data: bytes, **options: object):  # noqa: F811
    return made(builder, StreamContext(io.BytesIO(data)), **options)


class Trickle(io.RawIOBase):
    """Gives a byte at a time, as a pipe may."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        piece = self._data.read(1)
        buffer[: len(piece)] = piece
        return len(piece)


FILES = {"Dockerfile": DOCKERFILE, "a": "A", "d/b": "B"}


@pytest.mark.parametrize(
    "packed", [bytes, gzip.compress, lzma.compress, zstandard.ZstdCompressor().compress]
)
def test_a_tar_is_a_context(builder: Builder, packed) -> None:  # noqa: F811
    files = streamed(builder, packed(tar(FILES)))
    assert {name for name, file in files.items() if file.kind is Kind.FILE} == {
        "x/Dockerfile", "x/a", "x/d/b"
    }  # fmt: skip
    assert (files["x/a"].content, files["x/a"].mode) == (b"A", 0o640)
    assert {(file.uid, file.gid) for file in files.values()} == {(0, 0)}


def test_a_tar_that_comes_in_pieces(builder: Builder) -> None:  # noqa: F811
    files = made(builder, StreamContext(Trickle(tar({"./Dockerfile": DOCKERFILE, "./a": "A"}))))
    assert files["x/a"].content == b"A"


def test_times_of_a_tar_do_not_matter(builder: Builder) -> None:  # noqa: F811
    def at(mtime: int) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in FILES.items():
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(content), mtime
                archive.addfile(member, io.BytesIO(content.encode()))
        return buffer.getvalue()

    streamed(builder, at(1))
    streamed(builder, at(2))
    assert builder.ui.ran == []


def test_rules_in_a_tar(builder: Builder) -> None:  # noqa: F811
    files = streamed(builder, tar({**FILES, "d/c": "C", ".dockerignore": "d\n!d/c\n.docker*\n"}))
    assert set(files) == {"", "x", "x/Dockerfile", "x/a", "x/d", "x/d/c"}
    files = streamed(
        builder, tar({**FILES, "Dockerfile.dockerignore": "a\nDocker*\n", ".dockerignore": "d\n"})
    )
    assert set(files) == {"", "x", "x/.dockerignore", "x/d", "x/d/b"}


def test_a_dockerfile_of_another_name(builder: Builder) -> None:  # noqa: F811
    data = tar(
        {"a": "A", "sub/Other": "FROM scratch\nCOPY a /other\n", "l": ""},
    )
    for name in ("sub/Other", "/sub/Other", "./sub/../sub/Other"):
        assert "other" in streamed(builder, data, dockerfile=Path(name))
    data = tar({"a": "A", "real": DOCKERFILE}, special("Dockerfile", tarfile.SYMTYPE, "/real"))
    assert "x/a" in streamed(builder, data)
    with pytest.raises(InputError, match="there is no Dockerfile absent"):
        streamed(builder, data, dockerfile=Path("absent"))
    nested = tar({"Dockerfile/a": "A"})
    for name in (None, Path("Dockerfile")):
        with pytest.raises(InputError, match="Dockerfile is a directory, not a Dockerfile"):
            streamed(builder, nested, dockerfile=name)
    outside = tar({"a": "A"}, special("Dockerfile", tarfile.SYMTYPE, "../../../../etc/passwd"))
    with pytest.raises(InputError, match="there is no Dockerfile Dockerfile"):
        streamed(builder, outside)


@pytest.mark.parametrize("name", ["dockerfile", "Containerfile"])
def test_other_usual_names(builder: Builder, name: str) -> None:  # noqa: F811
    assert f"x/{name}" in streamed(builder, tar({name: DOCKERFILE}))
    builder.write({name: DOCKERFILE})
    assert f"x/{name}" in made(builder, builder.context)
    builder.write({"Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
    assert set(made(builder, builder.context)) == {"", "Dockerfile"}


def test_a_dockerfile_alone(builder: Builder) -> None:  # noqa: F811
    files = streamed(builder, b"FROM scratch\nCOPY <<a /a\nA\na\n")
    assert files["a"].content == b"A\n"
    with pytest.raises(BuildStepError, match="Dockerfile:2:1: a does not exist in the build"):
        streamed(builder, b"FROM scratch\nCOPY a /a\n")
    with pytest.raises(InputError, match="is a Dockerfile itself"):
        streamed(builder, b"FROM scratch\n", dockerfile=Path("x"))
    with pytest.raises(InputError, match="is empty"):
        streamed(builder, b"")
    with pytest.raises(InputError, match="larger than"):
        streamed(builder, b"#" * (11 << 20))


def test_archives_in_a_stored_context_are_unpacked(builder: Builder) -> None:  # noqa: F811
    inner = tar({"inside": "I"})
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in (("Dockerfile", b"FROM scratch\nADD i.tar /\n"), ("i.tar", inner)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert streamed(builder, data.getvalue())["inside"].content == b"I"


@pytest.mark.parametrize(
    ("member", "error", "message"),
    [
        (special("../evil", tarfile.REGTYPE), UnsafeContentError, "evil"),
        (special("h", tarfile.LNKTYPE, "/etc/passwd"), UnsafeContentError, "passwd"),
        (special(".wh.a", tarfile.REGTYPE), UnsafeContentError, "whiteout"),
        (special("pipe", tarfile.FIFOTYPE), BuildStepError, "pipe in the build context is a named"),
        (special("tty", tarfile.CHRTYPE), BuildStepError, "tty in the build context is a device"),
    ],
)
def test_hostile_members(builder: Builder, member, error, message: str) -> None:  # noqa: F811
    with pytest.raises(error, match=message):
        streamed(builder, tar(FILES, member))


def test_links_in_a_tar_stay_inside(builder: Builder) -> None:  # noqa: F811
    dockerfile = "FROM scratch\nCOPY l/passwd /p\n"
    data = tar({"Dockerfile": dockerfile}, special("l", tarfile.SYMTYPE, "/etc"))
    with pytest.raises(BuildStepError, match="l/passwd does not exist"):
        streamed(builder, data)


@pytest.mark.parametrize("cut", [1, 600, 1500])
def test_damaged_tars(builder: Builder, cut: int) -> None:  # noqa: F811
    data = gzip.compress(tar(FILES))
    with pytest.raises(FormatError):
        streamed(builder, data[: len(data) - min(cut, len(data) - 20)])
    assert list(builder.store.layers()) == []


def test_a_url_is_a_context(builder: Builder) -> None:  # noqa: F811
    with serving() as server:
        url = server.file("/c.tgz", gzip.compress(tar(FILES)), ETag='"1"')
        assert "x/d/b" in made(builder, UrlContext(url))
        assert "x/d/b" in made(builder, UrlContext(url))
        assert builder.ui.ran == []
        assert server.requests[-1][1]["If-None-Match"] == '"1"'
        url = server.file("/Dockerfile", b"FROM scratch\nCOPY <<a /a\nA\na\n")
        assert made(builder, UrlContext(url))["a"].content == b"A\n"
        with pytest.raises(InputError, match="is a Dockerfile itself"):
            made(builder, UrlContext(url), dockerfile=Path("x"))
        builder.write({"a": "A"})
        spec = server.file("/spec", b"FROM scratch\nCOPY a /b\n")
        assert made(builder, builder.context, dockerfile_url=spec)["b"].content == b"A"


@needs_git
def test_git_is_a_context(builder: Builder, tmp_path: Path) -> None:  # noqa: F811
    work = Work(tmp_path / "repos" / "project")
    work.commit({"Dockerfile": DOCKERFILE, "a": "A", ".dockerignore": ".dockerignore\n"})
    work.commit({"sub/Dockerfile": "FROM scratch\nCOPY b /\n", "sub/b": "B"})
    local = tmp_path / "Local"
    local.write_text("FROM scratch\nCOPY a /local\n")
    with GitDaemon(tmp_path / "repos") as daemon:

        def context(suffix: str = "") -> GitContext:
            text = daemon.url("project") + suffix
            source = parse_git_source(text)
            assert source is not None
            return GitContext(source, text)

        files = made(builder, context())
        assert {"x/a", "x/sub/b"} < set(files)
        assert "x/.git" not in files
        assert "x/.dockerignore" not in files
        assert set(made(builder, context("#main:sub"))) == {"", "b"}
        assert "b" in made(builder, context("#:sub"), dockerfile=Path("Dockerfile"))
        assert "local" in made(builder, context(), dockerfile=local)
        assert "x/.git" in made(builder, context("?keep-git-dir"))
        kept = {"BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1"}
        assert "x/.git" in made(builder, context(), build_args=kept)
        assert "x/.git" not in made(builder, context("?keep-git-dir=false"), build_args=kept)


def test_bind_mounts_see_stored_contexts(builder: Builder) -> None:  # noqa: F811
    """Here only the key is asked for; running is for the integration tests."""
    dockerfile = "FROM scratch\nRUN --mount=source=absent,target=/m true\n"
    with pytest.raises(BuildStepError, match="absent does not exist in the build context"):
        streamed(builder, tar({"Dockerfile": dockerfile, "a": "A"}))


@pytest.mark.parametrize(
    "instruction", ["COPY absent /", "RUN --mount=source=absent,target=/m true"]
)
def test_a_dockerfile_alone_has_no_files_that_a_dockerignore_could_hide(
    builder: Builder,  # noqa: F811
    instruction: str,
) -> None:
    with pytest.raises(BuildStepError, match="which is a Dockerfile and no files") as raised:
        streamed(builder, f"FROM scratch\n{instruction}\n".encode())
    assert "DIRECTORY" in (raised.value.hint or "")
    with pytest.raises(BuildStepError, match="absent does not exist") as raised:
        streamed(builder, tar({"Dockerfile": f"FROM scratch\n{instruction}\n"}))
    assert "dockerignore" in (raised.value.hint or "")
