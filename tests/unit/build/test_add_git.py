"""ADD of git sources, from real servers; what repositories of strangers cannot do."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from layerstore.build.attest import Attestations
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.errors import BuildStepError
from layerstore.build.fetch import git as git_module
from layerstore.errors import IntegrityError, LayerstoreError, UnsafeContentError
from layerstore.formats.tree import Kind
from tests.support.build import builder  # noqa: F401
from tests.support.git_server import COMMIT_S, DIRECT, GitDaemon, Work, needs_git, serving_git
from tests.support.http_server import serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.build import Builder
    from tests.support.git_server import GitHttpServer

pytestmark = needs_git


@pytest.fixture
def work(tmp_path: Path) -> Work:
    made = Work(tmp_path / "repos" / "project")
    made.commit({"README": "one\n", "src/main.c": "int main;\n", "bin/run": "#!/bin/sh\n"})
    (made.directory / "bin" / "run").chmod(0o755)
    os.symlink("/etc/passwd", made.directory / "link")
    made.commit({})
    return made


@pytest.fixture
def daemon(tmp_path: Path, work: Work) -> Iterator[GitDaemon]:
    with GitDaemon(tmp_path / "repos") as made:
        yield made


def add(builder: Builder, *words: str, **options: object):  # noqa: F811
    options.setdefault("environ", DIRECT)
    return builder.files(builder.build(f"FROM scratch\nADD {' '.join(words)} /d\n", **options))


def test_a_repository_as_it_was_committed(
    builder: Builder,  # noqa: F811
    work: Work,
    daemon: GitDaemon,
) -> None:
    files = add(builder, daemon.url("project"))
    assert set(files) == {
        "", "d", "d/README", "d/bin", "d/bin/run", "d/link", "d/src", "d/src/main.c"
    }  # fmt: skip
    assert files["d/README"].content == b"one\n"
    assert {files["d/README"].mode, files["d/src/main.c"].mode} == {0o644}
    assert files["d/bin/run"].mode == files["d/bin"].mode == 0o755
    assert (files["d/link"].kind, files["d/link"].target) == (Kind.SYMLINK, b"/etc/passwd")
    assert {(file.uid, file.gid) for file in files.values()} == {(0, 0)}
    assert {files[name].mtime_ns for name in ("d", "d/README")} == {COMMIT_S * 10**9}
    assert not list((builder.store.root / "tmp").iterdir())


def test_refs_and_directories(builder: Builder, work: Work, daemon: GitDaemon) -> None:  # noqa: F811
    old = work.git("rev-parse", "HEAD")
    work.git("tag", "-a", "-m", "annotated", "v1")
    work.git("branch", "same")
    work.commit({"README": "two\n"})
    work.git("tag", "same")
    work.git("update-ref", "refs/pull/7/head", old)
    url = daemon.url("project")

    def readme(suffix: str) -> bytes:
        return add(builder, url + suffix)["d/README"].content

    assert readme("") == readme("#main") == readme("?branch=main") == b"two\n"
    for suffix in ("#v1", "?tag=v1", "#refs/tags/v1", "#same", "?ref=pull/7/head", f"#{old}"):
        assert readme(suffix) == b"one\n", suffix
    assert readme("?tag=same") == b"two\n"
    assert readme(f"#{old[:10]}") == b"one\n"
    assert set(add(builder, url + "#v1:src")) == {"", "d", "d/main.c"}
    assert set(add(builder, url + "?subdir=/src/")) == {"", "d", "d/main.c"}
    for wrong, message in (
        ("#nothing", "has no branch or tag 'nothing'"),
        ("#v1:absent", "has no directory 'absent'"),
        ("#v1:README", "has no directory 'README'"),
        ("#v1:link", "has no directory 'link'"),
        ("#" + "0" * 40, f"has no commit {'0' * 40}"),
        ("#abcdef1", "has no commit abcdef1"),
    ):
        with pytest.raises(BuildStepError, match=message):
            readme(wrong)


def test_a_commit_is_fetched_once(builder: Builder, work: Work, daemon: GitDaemon) -> None:  # noqa: F811
    commit = work.git("rev-parse", "HEAD")
    url = daemon.url("project")
    add(builder, f"{url}#{commit}")
    before = daemon.connections
    add(builder, f"{url}#{commit}", environ={"PATH": "/nonexistent"})
    assert daemon.connections == before
    assert builder.ui.ran == []
    add(builder, url)
    assert builder.ui.ran == []
    assert daemon.connections == before + 1  # asked what the branch is, no more
    work.commit({"README": "two\n"})
    assert add(builder, url)["d/README"].content == b"two\n"
    add(builder, f"{url}#{commit}", no_cache=True)
    assert builder.ui.ran == [f"{url}#{commit}", f"ADD {url}#{commit} /d"]


def test_checksums(builder: Builder, work: Work, daemon: GitDaemon) -> None:  # noqa: F811
    commit = work.git("rev-parse", "HEAD")
    url = daemon.url("project")
    add(builder, f"--checksum={commit}", url)
    add(builder, f"{url}?checksum={commit[:12]}")
    work.commit({"README": "two\n"})
    assert add(builder, f"{url}?checksum={commit}")["d/README"].content == b"one\n"
    with pytest.raises(IntegrityError, match=f"2:1: .*default branch is .*expected {commit}"):
        add(builder, f"--checksum={commit}", url)
    with pytest.raises(IntegrityError, match="main is the commit"):
        add(builder, f"{url}?ref=main&checksum={commit}")


def test_the_git_directory_is_one(
    builder: Builder,  # noqa: F811
    work: Work,
    daemon: GitDaemon,
    tmp_path: Path,
) -> None:
    work.git("tag", "v1")
    url = daemon.url("project")
    files = add(builder, "--keep-git-dir", url + "#v1")
    assert files["d/.git/HEAD"].content.decode().strip() == work.git("rev-parse", "HEAD")
    assert not any(name.startswith("d/.git/hooks") for name in files)
    clone = tmp_path / "clone"
    for name, file in files.items():
        path = clone / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if file.kind is Kind.DIR:
            path.mkdir(exist_ok=True)
        elif file.kind is Kind.SYMLINK:
            os.symlink(file.target, path)
        else:
            path.write_bytes(file.content)
            path.chmod(file.mode)
    run = ["git", "-C", str(clone / "d")]
    status = subprocess.run([*run, "status", "--short"], capture_output=True, check=True)
    assert status.stdout == b""
    described = subprocess.run([*run, "describe", "--tags"], capture_output=True, check=True)
    assert described.stdout == b"v1\n"
    origin = subprocess.run([*run, "remote", "get-url", "origin"], capture_output=True, check=True)
    assert origin.stdout.decode().strip() == url
    assert "d/.git" in add(builder, url + "?keep-git-dir")
    assert "d/.git" not in add(builder, url)


def test_submodules_at_their_commits(
    builder: Builder,  # noqa: F811
    work: Work,
    daemon: GitDaemon,
    tmp_path: Path,
) -> None:
    inner = Work(tmp_path / "repos" / "inner")
    inner.commit({"deep": "deep\n"})
    outer = Work(tmp_path / "repos" / "outer")
    outer.commit({"file": "old\n"})
    outer.git("submodule", "--quiet", "add", inner.directory, "nested")
    outer.git("config", "-f", ".gitmodules", "submodule.nested.url", "../inner")
    outer.commit({})
    work.git("submodule", "--quiet", "add", outer.directory, "lib/outer")
    work.git("config", "-f", ".gitmodules", "submodule.lib/outer.url", daemon.url("outer"))
    trap = tmp_path / "ran"
    work.git("config", "-f", ".gitmodules", "submodule.lib/outer.update", f"!touch {trap}")
    work.commit({})
    outer.commit({"file": "new\n"})
    files = add(builder, daemon.url("project"))
    assert files["d/lib/outer/file"].content == b"old\n"
    assert files["d/lib/outer/nested/deep"].content == b"deep\n"
    files = add(builder, daemon.url("project?submodules=false"))
    assert files["d/lib/outer"].kind is Kind.DIR
    assert "d/lib/outer/file" not in files
    assert "d/outer/file" in add(builder, daemon.url("project?subdir=lib"))
    assert not trap.exists()


@pytest.mark.parametrize(
    "url",
    ["/etc", "file:///etc", "ext::sh -c touch% /tmp/x", "-u./payload", "ftp://127.0.0.1/x",
     "ssh://-oProxyCommand=touch/x", "git@-oProxyCommand=x:y", "../../../../../etc"],
)  # fmt: skip
def test_submodules_from_where_nothing_is_fetched(
    builder: Builder,  # noqa: F811
    work: Work,
    daemon: GitDaemon,
    url: str,
) -> None:
    commit = work.git("rev-parse", "HEAD")
    work.git("update-index", "--add", "--cacheinfo", f"160000,{commit},sub")
    (work.directory / ".gitmodules").write_text(f'[submodule "s"]\n\tpath = sub\n\turl = {url}\n')
    work.git("add", ".gitmodules")
    work.git("commit", "-q", "-m", "m")
    with pytest.raises(
        LayerstoreError, match=r"Dockerfile:2:1: .*(the submodule sub|cannot fetch)"
    ):
        add(builder, daemon.url("project"))
    (work.directory / ".gitmodules").write_text("")
    work.git("add", ".gitmodules")
    work.git("commit", "-q", "-m", "m")
    with pytest.raises(BuildStepError, match=r"submodule sub has no URL") as caught:
        add(builder, daemon.url("project"))
    assert "submodules=false" in (caught.value.hint or "")


@pytest.mark.parametrize("name", [b"..", b".git", b".GIT", b"a/b", b".", b""])
def test_names_that_git_would_not_check_out(
    builder: Builder,  # noqa: F811
    work: Work,
    daemon: GitDaemon,
    name: bytes,
) -> None:
    work.commit_tree(work.tree(("100644", work.blob(b"x"), name)))
    with pytest.raises(LayerstoreError, match=r"Dockerfile:2:1: "):
        add(builder, daemon.url("project"))


def test_a_name_that_stands_twice(builder: Builder, work: Work, daemon: GitDaemon) -> None:  # noqa: F811
    link, tree = work.blob(b"/etc"), work.tree(("100644", work.blob(b"x"), b"passwd"))
    work.commit_tree(work.tree(("120000", link, b"a"), ("40000", tree, b"a")))
    with pytest.raises(UnsafeContentError, match="stands twice"):
        add(builder, daemon.url("project"))


def test_trees_without_an_end(
    builder: Builder,  # noqa: F811
    work: Work,
    daemon: GitDaemon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tree = work.tree(("100644", work.blob(b"x"), b"f"))
    for _ in range(40):  # 10 to the 12th files
        tree = work.tree(("40000", tree, b"a"), ("40000", tree, b"b"))
    work.commit_tree(tree)
    monkeypatch.setattr(git_module, "MAX_DEPTH", 30)
    with pytest.raises(UnsafeContentError, match="more than 30 nested"):
        add(builder, daemon.url("project"))


def test_attributes_and_filters_do_nothing(
    builder: Builder,  # noqa: F811
    work: Work,
    daemon: GitDaemon,
) -> None:
    work.commit({".gitattributes": "* export-ignore filter=lfs ident\n", "id": "$Id$\n"})
    files = add(builder, daemon.url("project"))
    assert files["d/id"].content == b"$Id$\n"


def test_many_and_large_files(builder: Builder, work: Work, daemon: GitDaemon) -> None:  # noqa: F811
    work.commit({f"many/{number}": f"{number}\n" for number in range(300)})
    large = "x" * (3 << 20)
    work.commit({"large": large, "empty": ""})
    files = add(builder, daemon.url("project"))
    assert files["d/large"].content == large.encode()
    assert files["d/empty"].content == b""
    assert files["d/many/299"].content == b"299\n"


@pytest.fixture
def http(tmp_path: Path, work: Work) -> Iterator[GitHttpServer]:
    (tmp_path / "repos" / "project.git").symlink_to("project/.git")
    with serving_git(tmp_path / "repos") as made:
        yield made


def test_over_http_with_a_token(builder: Builder, work: Work, http: GitHttpServer) -> None:  # noqa: F811
    url = http.url("/project.git")
    assert add(builder, url)["d/README"].content == b"one\n"
    assert all("Authorization" not in headers for _, headers in http.requests)
    work.commit({"README": "two\n"})
    http.authorization = "Basic eC1hY2Nlc3MtdG9rZW46c2VjcmV0"  # x-access-token:secret
    with pytest.raises(BuildStepError, match="cannot fetch") as caught:
        add(builder, url)
    assert "GIT_AUTH_TOKEN" in (caught.value.hint or "")
    assert (
        add(builder, url, secrets={"GIT_AUTH_TOKEN": b"secret\n"})["d/README"].content == b"two\n"
    )
    work.commit({"README": "three\n"})
    with pytest.raises(BuildStepError):
        add(builder, url, secrets={"GIT_AUTH_TOKEN.example.com": b"secret"})
    plain = url.replace("://", "://x-access-token:secret@")
    assert add(builder, "--keep-git-dir", plain)["d/README"].content == b"three\n"
    for path in builder.store.root.rglob("*"):
        if path.is_file():
            assert b"secret" not in path.read_bytes(), path


def test_plain_web_servers(builder: Builder, work: Work) -> None:  # noqa: F811
    work.git("repack", "-adq")
    work.git("update-server-info")
    root = work.directory / ".git"
    with serving() as server:
        for path in root.rglob("*"):
            if path.is_file():
                server.file(f"/p.git/{path.relative_to(root)}", path.read_bytes())
        assert add(builder, server.url("/p.git"))["d/README"].content == b"one\n"


def test_over_ssh(builder: Builder, work: Work, tmp_path: Path) -> None:  # noqa: F811
    tools = tmp_path / "tools"
    tools.mkdir()
    log = tmp_path / "log"
    ssh = tools / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {log}\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    environ = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "GIT_DIR": "/nonexistent"}
    source = f"git@example.com:{work.directory}"
    assert add(builder, source, environ=environ)["d/README"].content == b"one\n"
    words = log.read_text()
    assert "git@example.com" in words
    assert "-o BatchMode=yes" in words
    assert "-o StrictHostKeyChecking=yes" in words
    assert "-o IdentityFile=none -o IdentityAgent=none" in words


def test_without_git(builder: Builder) -> None:  # noqa: F811
    with pytest.raises(BuildStepError, match="git is not installed") as caught:
        add(builder, "git://127.0.0.1/x", environ={"PATH": "/nonexistent"})
    assert caught.value.hint == "install it: apt-get install git"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("COPY git@github.com:a/b /x", "COPY cannot fetch"),
        ("ADD git@github.com:a/b#--upload-pack=x /x", "is no ref"),
        ("ADD git@github.com:-a /x", "names no repository"),
        ("ADD https://example.com/a.git#v1:../.. /x", "leads out of the repository"),
        ("ADD https://example.com/a.git?branch=a&tag=b /x", "a branch and a tag"),
        ("ADD https://example.com/a.git?refs=a /x", "unknown option 'refs'"),
        ("ADD https://example.com/a.git?ref= /x", "ref has no value"),
        ("ADD https://example.com/a.git?ref=a#b /x", "two values for ref: 'b' and 'a'"),
        ("ADD https://example.com/a.git?commit=xyz /x", "is no commit"),
        ("ADD ssh://-oProxyCommand=x/a /x", "is not a host"),
        ("ADD git://host:99999/a /x", "Port out of range"),
        (f"ADD --checksum=sha256:{'0' * 64} git://a/b /x", "is not a commit"),
        ("ADD --keep-git-dir git://a/b?keep-git-dir=false /x", "keep-git-dir=false"),
    ],
)
def test_what_is_refused(builder: Builder, line: str, message: str) -> None:  # noqa: F811
    with pytest.raises(SpecError, match=r"Dockerfile:2:\d+") as caught:
        builder.build(f"FROM scratch\n{line}\n")
    assert message in caught.value.message


def test_provenance_names_the_commit(builder: Builder, work: Work, daemon: GitDaemon) -> None:  # noqa: F811
    url = daemon.url("project")
    for _ in range(2):  # fetched, then known
        result = builder.build(
            f"FROM scratch\nADD {url}#main /d\n",
            environ=DIRECT,
            attestations=Attestations(provenance="min"),
        )
        (text,) = result.predicates.values()
        (dependency,) = json.loads(text)["buildDefinition"]["resolvedDependencies"]
        assert dependency["uri"] == f"{url}#main"
        assert dependency["digest"] == {"sha1": work.git("rev-parse", "HEAD")}
