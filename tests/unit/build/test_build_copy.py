"""COPY and ADD from a context into an image from scratch: no root, no container."""

from __future__ import annotations

import io
import os
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.build import source
from layerstore.build.errors import BuildStepError
from layerstore.errors import FormatError, InputError
from layerstore.formats.tree import Kind
from tests.support.build import builder  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from layerstore.build.source import SourceNode
    from tests.support.build import Builder

TREE = {"a": "A", "b": "B", "dir/c": "C", "dir/sub/d": "D"}


@pytest.fixture
def project(builder: Builder) -> Builder:  # noqa: F811
    builder.write(TREE)
    return builder


@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        ("COPY a /x", {"x": b"A"}),
        ("COPY a /x/", {"x/a": b"A"}),
        ("COPY a /x/.", {"x/a": b"A"}),
        ("COPY a b /x/", {"x/a": b"A", "x/b": b"B"}),
        ("COPY dir /x", {"x/c": b"C", "x/sub/d": b"D"}),
        ("COPY dir/ /x/", {"x/c": b"C", "x/sub/d": b"D"}),
        ("COPY dir/* /x/", {"x/c": b"C", "x/d": b"D"}),
        ("COPY [ab] /x/", {"x/a": b"A", "x/b": b"B"}),
        ("COPY ./dir/../a /x", {"x": b"A"}),
        ("COPY /a /x", {"x": b"A"}),
        ("COPY ../../a /x", {"x": b"A"}),
        ('COPY ["dir/sub/d", "/x y"]', {"x y": b"D"}),
        ("WORKDIR /w\nCOPY a .", {"w/a": b"A"}),
        ("WORKDIR /w\nCOPY a n/", {"w/n/a": b"A"}),
        ("COPY --exclude=sub dir /x", {"x/c": b"C"}),
        ("COPY --exclude=**/d dir /x", {"x/c": b"C"}),
        ("COPY --parents dir/sub/d /x/", {"x/dir/sub/d": b"D"}),
        ("COPY --parents dir/./sub/d /x/", {"x/sub/d": b"D"}),
        ("COPY --link a /x/", {"x/a": b"A"}),
        ("COPY <<one.txt /x/\nhello\none.txt", {"x/one.txt": b"hello\n"}),
        ("COPY a <<EOF /x/\nhello\nEOF", {"x/a": b"A", "x/EOF": b"hello\n"}),
        ("ADD a /x", {"x": b"A"}),
    ],
)
def test_where_files_go(project: Builder, instruction: str, expected: dict[str, bytes]) -> None:
    result = project.build(f"FROM scratch\n{instruction}\n")
    files = project.files(result)
    assert {k: v.content for k, v in files.items() if v.kind is Kind.FILE} == expected


@pytest.mark.parametrize(
    ("instruction", "place", "words"),
    [
        ("COPY missing /x", "2:1", "missing does not exist in the build context"),
        ("COPY a missing /x/", "2:1", "missing does not exist"),
        ("COPY --parents no/such /x/", "2:1", "no/such does not exist"),
        ("COPY --from=9 a /x", "2:6", "no stage number 9"),
        ("COPY --from=nothing a /x", "2:6", "no image 'nothing'"),
        ("COPY --from=no:thing: a /x", "2:6", "'no:thing:' is not an image name"),
        ("FROM debian:$UNSET", "2:1", "'debian:' is not an image name"),
        ("COPY --chown=nobody a /x", "2:1", "no user 'nobody'"),
        ("COPY a /x\nCOPY dir /x", "3:1", "not a directory"),
        ("COPY dir /x\nCOPY a /x/sub/d/e", "3:1", "is a file"),
        ("COPY https://example.test/x /", "2:1", "cannot fetch"),
    ],
)
def test_refusals_name_the_place(
    project: Builder, instruction: str, place: str, words: str
) -> None:
    with pytest.raises((BuildStepError, InputError)) as caught:
        project.build(f"FROM scratch\n{instruction}\n")
    assert f"Dockerfile:{place}: " in str(caught.value)
    assert words in str(caught.value)


def test_a_pattern_may_match_nothing_but_says_so(project: Builder) -> None:
    project.build("FROM scratch\nCOPY z* a /x/\n")
    assert any("no file matches z*" in text for text in project.ui.messages)


def test_attributes_come_from_the_context_but_owners_do_not(project: Builder) -> None:
    os.chmod(project.context / "a", 0o4751)
    os.utime(project.context / "a", ns=(5, 1_234_567_890_123_456_789))
    files = project.files(project.build("FROM scratch\nCOPY a /n/x\n"))
    x = files["n/x"]
    assert (x.mode, x.uid, x.gid, x.mtime_ns) == (0o4751, 0, 0, 1_234_567_890_123_456_789)
    assert (files["n"].mode, files["n"].uid) == (0o755, 0)
    assert abs(files["n"].mtime_ns - time.time_ns()) < 60 * 10**9


def test_chown_and_chmod_reach_everything_copied(project: Builder) -> None:
    os.chmod(project.context / "dir" / "c", 0o640)
    files = project.files(
        project.build("FROM scratch\nCOPY --chown=7:8 --chmod=u=rwX,go=r dir /n/x\n")
    )
    for path in ("n", "n/x", "n/x/c", "n/x/sub", "n/x/sub/d"):
        assert (files[path].uid, files[path].gid) == (7, 8), path
    assert files["n/x/c"].mode == 0o644
    assert files["n/x/sub"].mode == 0o744


@pytest.mark.parametrize(
    ("line", "modes"),
    [
        ("COPY --chmod=700 dir /x", {"x": 0o700, "x/sub": 0o700}),
        ("COPY --chmod=700 dir/ /x/", {"x": 0o700, "x/sub": 0o700}),
        ("COPY --chmod=go-rx dir /x", {"x": 0o700}),
        ("COPY --chmod=750 dir /p/x", {"p": 0o755, "p/x": 0o750}),
        ("COPY --link --chmod=750 dir /p/x", {"p": 0o755, "p/x": 0o750}),
        ("COPY --chmod=640 a /p/", {"p": 0o755, "p/a": 0o640}),
        ("COPY --parents --chmod=640 dir/c /p/", {"p": 0o755, "p/dir/c": 0o640}),
        ("COPY dir /x\nCOPY --chmod=700 dir /x", {"x": 0o755, "x/sub": 0o700}),
    ],
)
def test_chmod_reaches_the_directory_a_copied_one_becomes_but_none_above(
    project: Builder, line: str, modes: dict[str, int]
) -> None:
    files = project.files(project.build(f"FROM scratch\n{line}\n"))
    assert {path: files[path].mode for path in modes} == modes


def test_root_owns_where_no_file_of_the_image_says_who_that_is(project: Builder) -> None:
    files = project.files(project.build("FROM scratch\nCOPY --chown=root:root a /\n"))
    assert (files["a"].uid, files["a"].gid) == (0, 0)
    files = project.files(project.build("FROM scratch\nCOPY --chown=root a /\n"))
    assert (files["a"].uid, files["a"].gid) == (0, 0)


def test_existing_directories_keep_or_take_attributes(project: Builder) -> None:
    os.chmod(project.context / "dir" / "sub", 0o711)
    first = "FROM scratch\nCOPY --chown=5:5 --chmod=700 dir /x\n"
    files = project.files(project.build(first + "COPY dir /x\n"))
    assert (files["x"].mode, files["x"].uid) == (0o700, 5)  # the destination itself keeps them
    assert (files["x/sub"].mode, files["x/sub"].uid) == (0o711, 0)  # below it they are taken


def test_symlinks_stay_links_below_and_are_followed_when_named(project: Builder) -> None:
    os.symlink("sub/d", project.context / "dir" / "link")
    files = project.files(project.build("FROM scratch\nCOPY dir /x\nCOPY dir/link /y\n"))
    assert (files["x/link"].kind, files["x/link"].target) == (Kind.SYMLINK, b"sub/d")
    assert files["y"].content == b"D"


def test_destination_links_resolve_inside_the_image(project: Builder) -> None:
    os.symlink("/../../real", project.context / "link")
    dockerfile = "FROM scratch\nCOPY --parents ./link /l/\nCOPY link /\nCOPY a /"
    os.symlink("/etc", project.context / "dir" / "out")
    files = project.files(project.build("FROM scratch\nCOPY dir /d\nCOPY a /d/out/new\n"))
    assert files["etc/new"].content == b"A"
    assert not os.path.exists("/etc/new")
    with pytest.raises(BuildStepError, match="does not exist"):
        project.build(dockerfile)


def test_hard_links_stay_together(project: Builder) -> None:
    os.link(project.context / "dir" / "c", project.context / "dir" / "c2")
    result = project.build("FROM scratch\nCOPY dir /x\n")
    from layerstore.image.trees.stack import load_root, lookup

    root = load_root(project.store, result.image.layers)
    assert lookup(root, b"x/c") is lookup(root, b"x/c2")


def test_dockerignore_hides_and_brings_back(project: Builder) -> None:
    project.write({".dockerignore": "dir\n!dir/sub/d\n.dockerignore\n"})
    files = project.files(project.build("FROM scratch\nCOPY . /x\n"))
    found = {path for path, file in files.items() if file.kind is Kind.FILE}
    assert found == {"x/a", "x/b", "x/dir/sub/d"}
    with pytest.raises(BuildStepError, match="does not exist"):
        project.build("FROM scratch\nCOPY dir/c /x\n")


def tar_bytes(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mtime = 1_600_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_add_unpacks_archives(project: Builder, mode: str) -> None:
    archive = tar_bytes(
        member("top", type=tarfile.DIRTYPE, mode=0o750, uid=3, gid=4),
        member("top/file", b"content", mode=0o4755, uid=5, gid=6),
        member("implied/file", b"x" * 300_000),
        member("link", type=tarfile.SYMTYPE, linkname="top/file"),
        member("hard", type=tarfile.LNKTYPE, linkname="top/file"),
        mode=mode,
    )
    project.write({"x.bin": archive})
    files = project.files(project.build("FROM scratch\nADD x.bin /y\nCOPY x.bin /copied\n"))
    assert (files["y/top"].mode, files["y/top"].uid, files["y/top"].mtime_ns) == (
        0o750, 3, 1_600_000_000 * 10**9,
    )  # fmt: skip
    assert (files["y/top/file"].content, files["y/top/file"].mode) == (b"content", 0o4755)
    assert files["y/hard"].content == b"content"
    assert files["y/implied/file"].content == b"x" * 300_000
    assert (files["y/implied"].mode, files["y/implied"].uid) == (0o755, 0)
    assert files["copied"].content == archive


def test_add_replaces_and_merges(project: Builder) -> None:
    archive = tar_bytes(
        member("a", type=tarfile.DIRTYPE, mode=0o755),
        member("a/in", b"in"),
        member("dir", b"now a file"),
    )
    project.write({"x.tar": archive})
    files = project.files(
        project.build("FROM scratch\nCOPY a /y/a\nCOPY dir /y/dir\nADD x.tar /y/\n")
    )
    assert files["y/a/in"].content == b"in"
    assert files["y/dir"].content == b"now a file"
    assert "y/dir/c" not in files


def test_below_a_copied_directory_the_source_wins(project: Builder) -> None:
    project.write({"one/name/in": b"1", "one/other": b"1", "two/other/in": b"2"})
    os.symlink("other", project.context / "two" / "name")
    lines = "FROM scratch\nCOPY one /x/\nCOPY two /x/\n"
    files = project.files(project.build(lines))
    assert (files["x/name"].kind, files["x/name"].target) == (Kind.SYMLINK, b"other")
    assert "x/name/in" not in files
    assert files["x/other/in"].content == b"2"
    assert project.ui.messages == []
    files = project.files(project.build(lines + "COPY one /x/\n"))
    assert (files["x/name/in"].content, files["x/other"].content) == (b"1", b"1")
    assert "x/other/in" not in files
    (told,) = project.ui.messages
    assert told.endswith("Dockerfile:4:1: /x/name, a symbolic link to other, becomes a directory")


def test_what_the_instruction_names_is_not_replaced(project: Builder) -> None:
    with pytest.raises(BuildStepError, match="cannot replace the directory /x/a with a file"):
        project.build("FROM scratch\nCOPY dir /x/a/\nCOPY a /x/\n")


def test_add_passes_over_files_without_a_name(project: Builder) -> None:
    project.write({"x.tar": tar_bytes(member("", b"nothing" * 300), member("b", b"B"))})
    files = project.files(project.build("FROM scratch\nADD x.tar /y\n"))
    assert {path for path in files if path.startswith("y")} == {"y", "y/b"}
    assert files["y/b"].content == b"B"


def test_add_never_leaves_the_destination(project: Builder) -> None:
    archive = tar_bytes(
        member("up", type=tarfile.SYMTYPE, linkname="../../.."),
        member("up/escaped", b"inside"),
    )
    project.write({"x.tar": archive})
    files = project.files(project.build("FROM scratch\nADD x.tar /y/z\n"))
    assert files["y/z/escaped"].content == b"inside"


@pytest.mark.parametrize("name", ["../x", "a/../../x"])
def test_add_refuses_names_that_lead_out(project: Builder, name: str) -> None:
    project.write({"x.tar": tar_bytes(member(name, b"x"))})
    with pytest.raises(Exception, match="Dockerfile:2:1") as caught:
        project.build("FROM scratch\nADD x.tar /y\n")
    assert caught.value.exit_code in {10, 11}


def test_a_damaged_archive_fails_the_add(project: Builder) -> None:
    archive = tar_bytes(member("a", b"x" * 4000))
    project.write({"x.tar": archive[:2000]})
    with pytest.raises(FormatError, match="Dockerfile:2:1"):
        project.build("FROM scratch\nADD x.tar /y\n")


def test_unpack_can_be_switched_off(project: Builder) -> None:
    archive = tar_bytes(member("a", b"x"))
    project.write({"x.tar": archive})
    files = project.files(project.build("FROM scratch\nADD --unpack=false x.tar /y\n"))
    assert files["y"].content == archive


def test_copy_from_a_stage_shares_the_chunks(project: Builder) -> None:
    project.write({"big": os.urandom(700_000)})
    dockerfile = "FROM scratch AS one\nCOPY big /big\nFROM scratch\nCOPY --from=one /big /again\n"
    result = project.build(dockerfile)
    assert project.files(result)["again"].content == (project.context / "big").read_bytes()
    assert project.ui.ran == ["COPY big /big", "COPY --from=one /big /again"]
    with project.store.begin("look") as session:
        assert session.stats.new_bytes == 0


def test_a_stage_nobody_needs_is_not_built(project: Builder) -> None:
    project.build("FROM nosuch AS unused\nRUN false\nFROM scratch\nCOPY a /a\n")
    assert project.ui.ran == ["COPY a /a"]


def test_a_dockerfile_may_lie_anywhere(project: Builder, tmp_path: Path) -> None:
    from layerstore.build.api import build
    from layerstore.build.request import BuildRequest

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "My.Dockerfile").write_text("FROM scratch\nCOPY . /x\n")
    (elsewhere / "My.Dockerfile.dockerignore").write_text("dir\nb\n")
    project.write({".dockerignore": "a\n"})
    request = BuildRequest(context=project.context, dockerfile=elsewhere / "My.Dockerfile")
    files = project.files(build(project.store, request, project.ui))
    assert {path for path, file in files.items() if file.kind is Kind.FILE} == {
        "x/a", "x/.dockerignore",
    }  # fmt: skip


def test_steps_unpack_side_by_side(project: Builder) -> None:
    """Each waits in a file of its own until its layer is written."""
    count = 12
    for number in range(count):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            member = tarfile.TarInfo("f")
            content = str(number).encode() * 200_000
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        project.write({f"{number}.tar": packed.getvalue()})
    stages = "".join(f"FROM scratch AS s{n}\nADD {n}.tar /{n}/\n" for n in range(count))
    copies = "".join(f"COPY --link --from=s{n} / /\n" for n in range(count))
    result = project.build(f"{stages}FROM scratch\n{copies}", jobs=count)
    files = project.files(result)
    for number in range(count):
        assert files[f"{number}/f"].content == str(number).encode() * 200_000


def test_an_archive_may_replace_directories_again_and_again(project: Builder) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for number in range(3):
            for name, kind in (("d", tarfile.DIRTYPE), ("d/f", tarfile.REGTYPE)):
                member = tarfile.TarInfo(name)
                member.type, member.mode = kind, 0o700 + number
                archive.addfile(member)
            archive.addfile(tarfile.TarInfo("d"))
        archive.addfile(tarfile.TarInfo("e"))
    project.write({"x.tar": packed.getvalue()})
    files = project.files(project.build("FROM scratch\nADD x.tar /\n"))
    assert {path: file.kind for path, file in files.items() if path} == {
        "d": Kind.FILE, "e": Kind.FILE,
    }  # fmt: skip


def test_equal_sources_of_two_steps_are_looked_for_once(
    project: Builder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.write({"src/a": "A", "src/b": "B"})
    looked: list[str] = []

    def find(root: SourceNode, pattern: str) -> list[tuple[bytes, SourceNode]]:
        looked.append(pattern)
        return source.find(root, pattern)

    monkeypatch.setattr("layerstore.build.copying.find", find)
    result = project.build(
        "FROM scratch AS one\nCOPY src/ /x/\n"
        "FROM scratch AS two\nCOPY src/ /y/\nCOPY --exclude=b src/ /z/\n"
        "FROM one\nCOPY --from=two /y/ /y/\nCOPY --from=two /z/ /z/\n"
    )
    assert looked.count("src/") == 2  # excluding is another question
    found = {path: file.content for path, file in project.files(result).items() if file.content}
    assert found == {"x/a": b"A", "x/b": b"B", "y/a": b"A", "y/b": b"B", "z/a": b"A"}
