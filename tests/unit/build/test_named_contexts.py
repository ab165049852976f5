"""``--build-context``: what stands in the place of stages and images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.build.contexts import (
    GitContext,
    ImageContext,
    LayoutContext,
    StageContext,
    UrlContext,
    context_key,
)
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.errors import BuildStepError
from layerstore.build.fetch.git_url import parse_git_source
from layerstore.cli.build.context import parse_named_contexts
from layerstore.errors import InputError, IntegrityError, NotFoundError
from layerstore.image.layouts.layout import NamedImage, save_oci_layout
from layerstore.store.store import Store
from tests.support.build import BASE_TIME_S, add_image, builder  # noqa: F401
from tests.support.build import _file as base_file
from tests.support.git_server import DIRECT, GitDaemon, Work, needs_git
from tests.support.http_server import serving

if TYPE_CHECKING:
    from tests.support.build import Builder


@pytest.fixture
def other(tmp_path: Path) -> Path:
    directory = tmp_path / "other"
    directory.mkdir()
    (directory / "lib").mkdir()
    (directory / "lib" / "code").write_text("code")
    (directory / "secret").write_text("secret")
    (directory / ".dockerignore").write_text("secret\n.dockerignore\n")
    return directory


def made(builder: Builder, dockerfile: str, **contexts):  # noqa: F811
    result = builder.build(dockerfile, named_contexts=contexts, environ=DIRECT)
    return builder.files(result)


def test_a_directory_to_copy_from(builder: Builder, other: Path) -> None:  # noqa: F811
    dockerfile = "FROM scratch\nCOPY --from=other . /x/\nCOPY --from=OTHER lib/code /y\n"
    files = made(builder, dockerfile, other=other)
    assert set(files) == {"", "x", "x/lib", "x/lib/code", "y"}
    assert {(file.uid, file.gid) for file in files.values()} == {(0, 0)}
    made(builder, dockerfile, other=other)
    assert builder.ui.ran == []
    (other / "lib" / "code").write_text("new")
    assert made(builder, dockerfile, other=other)["y"].content == b"new"
    with pytest.raises(BuildStepError, match="secret does not exist in the build context other"):
        made(builder, "FROM scratch\nCOPY --from=other secret /x\n", other=other)


def test_a_directory_to_begin_with(builder: Builder, other: Path) -> None:  # noqa: F811
    result = builder.build(
        "FROM base\nENV A=b\nCOPY a /a\n", named_contexts={"base": builder_dir(builder, other)}
    )
    assert set(builder.files(result)) == {"", "a", "lib", "lib/code"}
    config = builder.config(result)
    assert len(config.diff_ids) == 2
    assert builder.history(result)[0] == ("FROM base # build context", True)
    assert sum(not step.empty_layer for step in config.history) == 2


def builder_dir(builder: Builder, other: Path) -> Path:  # noqa: F811
    builder.write({"a": "A"})
    return other


def test_a_stage_is_replaced_whole(builder: Builder, other: Path) -> None:  # noqa: F811
    dockerfile = (
        "FROM scratch AS code\nCOPY absent /never\n"
        "FROM scratch\nCOPY --from=code lib/code /x\nCOPY --from=0 lib/code /y\n"
    )
    with pytest.raises(BuildStepError, match="absent does not exist"):
        made(builder, dockerfile)
    files = made(builder, dockerfile, code=other)
    assert {files["x"].content, files["y"].content} == {b"code"}
    derived = "FROM scratch AS code\nCOPY absent /never\nFROM code\nCOPY --from=code lib /z/\n"
    assert set(made(builder, derived, Code=other)) == {"", "lib", "lib/code", "z", "z/code"}


def test_an_image_in_the_place_of_another(builder: Builder) -> None:  # noqa: F811
    add_image(builder.store, "real", [base_file(b"r", b"real")], cmd=("r",))
    for name in ("alpine", "docker.io/library/alpine:latest", "alpine:latest"):
        result = builder.build("FROM alpine\n", named_contexts={name: ImageContext("real")})
        assert builder.files(result)["r"].content == b"real"
        assert builder.config(result).config.cmd == ("r",)
    with pytest.raises(SpecError, match="no image 'alpine:3'"):
        builder.build("FROM alpine:3\n", named_contexts={"alpine": ImageContext("real")})
    with pytest.raises(SpecError, match=r"Dockerfile:1:1: there is no image 'absent'"):
        builder.build("FROM alpine\n", named_contexts={"alpine": ImageContext("absent")})


def test_another_stage(builder: Builder) -> None:  # noqa: F811
    dockerfile = (
        "FROM scratch AS one\nCOPY <<a /a\n1\na\n"
        "FROM scratch AS two\nCOPY <<a /a\n2\na\n"
        "FROM scratch\nCOPY --from=one a /\n"
    )
    assert made(builder, dockerfile, one=StageContext("two"))["a"].content == b"2\n"
    with pytest.raises(SpecError, match="there is no stage 'absent'"):
        made(builder, dockerfile, one=StageContext("absent"))
    with pytest.raises(SpecError, match="would be built from itself"):
        made(builder, dockerfile, one=StageContext("two"), two=StageContext("one"))


def test_a_url_is_one_file(builder: Builder) -> None:  # noqa: F811
    with serving() as server:
        url = server.file("/tool-1.2", b"tool")
        files = made(builder, "FROM scratch\nCOPY --from=tool context /t\n", tool=UrlContext(url))
        assert files["t"].content == b"tool"
        files = made(builder, "FROM tool\n", tool=UrlContext(url))
        assert set(files) == {"", "context"}


@needs_git
def test_git(builder: Builder, tmp_path: Path) -> None:  # noqa: F811
    Work(tmp_path / "repos" / "p").commit({"f": "F"})
    with GitDaemon(tmp_path / "repos") as daemon:
        text = daemon.url("p")
        source = parse_git_source(text)
        assert source is not None
        files = made(builder, "FROM src\nCOPY --from=src f /g\n", src=GitContext(source, text))
    assert {files["f"].content, files["g"].content} == {b"F"}
    assert len(builder.ui.ran) == 3  # fetched once, copied twice


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    path = tmp_path / "layout"
    with Store.open(tmp_path / "elsewhere", create=True) as store:
        images = [
            NamedImage(f"x:{tag}", add_image(store, f"x:{tag}", [base_file(b"f", tag.encode())]))
            for tag in ("one", "two")
        ]
        save_oci_layout(store, images, path)
    return path


def test_an_oci_layout(builder: Builder, layout: Path) -> None:  # noqa: F811
    dockerfile = "FROM base\nCOPY --from=base f /g\n"
    for tag in ("one", "two"):
        files = made(builder, dockerfile, base=LayoutContext(layout, tag, ""))
        assert {files["f"].content, files["g"].content} == {tag.encode()}
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"]
    assert made(builder, dockerfile, base=LayoutContext(layout, "", digest))["f"].content == b"one"
    with pytest.raises(NotFoundError, match="has no image of tag 'three'"):
        made(builder, dockerfile, base=LayoutContext(layout, "three", ""))
    with pytest.raises(NotFoundError, match="is no OCI layout"):
        made(builder, dockerfile, base=LayoutContext(layout / "absent", "one", ""))


def test_the_only_image_of_a_layout_is_not_one_of_another_tag(
    builder: Builder,  # noqa: F811
    layout: Path,
) -> None:
    index = json.loads((layout / "index.json").read_text())
    del index["manifests"][1:]
    (layout / "index.json").write_text(json.dumps(index))
    assert made(builder, "FROM base\n", base=LayoutContext(layout, "latest", ""))
    with pytest.raises(NotFoundError, match="has no image of tag 'three'"):
        made(builder, "FROM base\n", base=LayoutContext(layout, "three", ""))


def test_a_layout_that_lies(builder: Builder, layout: Path) -> None:  # noqa: F811
    blobs = sorted((layout / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    kept = {path: path.read_bytes() for path in blobs}
    for path in blobs:
        for wrong in (kept[path][:-1] + b"!", kept[path] + b"x", kept[path][:-1]):
            path.write_bytes(wrong)
            for tag in ("one", "two"):
                try:
                    files = made(builder, "FROM b\n", b=LayoutContext(layout, tag, ""))
                except IntegrityError:
                    continue
                assert files["f"].content == tag.encode()  # the blob was the other image's
        path.write_bytes(kept[path])
        path.rename(layout / "moved")
        path.symlink_to(layout / "moved")
        outcomes = []
        for tag in ("one", "two"):
            try:
                made(builder, "FROM b\n", b=LayoutContext(layout, tag, ""))
            except NotFoundError as err:
                outcomes.append(err.message)
        path.unlink()
        (layout / "moved").rename(path)
        assert all("cannot read" in message for message in outcomes)


def test_names_of_contexts() -> None:
    assert context_key("Alpine") == context_key("docker.io/library/alpine:latest") == "alpine"
    assert context_key("ghcr.io/a/b:1") == "ghcr.io/a/b:1"
    assert context_key("Stage_One") == "stage_one"
    assert context_key("not a name!") == "not a name!"


def test_words(tmp_path: Path) -> None:
    digest = f"sha256:{'0' * 64}"
    words = [
        f"dir={tmp_path}", "img=docker-image://alpine:3", "b=docker://x", "stage=target:builder",
        "lay=oci-layout://./d:tag", f"dig=oci-layout:///d@{digest}", "url=https://example.com/x",
        "git=git@example.com:a/b.git#v1",
    ]  # fmt: skip
    named = parse_named_contexts(words)
    assert named["dir"] == tmp_path
    assert named["img"] == ImageContext("alpine:3")
    assert named["b"] == ImageContext("x")
    assert named["stage"] == StageContext("builder")
    assert named["lay"] == LayoutContext(Path("./d"), "tag", "")
    assert named["dig"] == LayoutContext(Path("/d"), "latest", digest)
    assert named["url"] == UrlContext("https://example.com/x")
    assert isinstance(named["git"], GitContext)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["x"], "is no build context with a name"),
        (["=x"], "is no build context with a name"),
        (["a=/nonexistent"], "the build context a: /nonexistent does not exist"),
        (["a=https://example.com/x.git?branch="], "branch has no value"),
        (["a=oci-layout://d@md5:x"], "no image of a layout"),
        (["a=target:b", "docker.io/library/A=target:c"], "given twice"),
    ],
)
def test_wrong_words(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_named_contexts(words)


def test_times_are_those_of_files(builder: Builder, other: Path) -> None:  # noqa: F811
    os.utime(other / "lib" / "code", (BASE_TIME_S, BASE_TIME_S))
    files = made(builder, "FROM scratch\nCOPY --from=o lib/code /x\n", o=other)
    assert files["x"].mtime_ns == BASE_TIME_S * 10**9
