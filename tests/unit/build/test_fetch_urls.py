"""What strings mean as remote sources: URLs, git sources, proxies, names of files."""

from __future__ import annotations

import pytest

from layerstore.build.fetch.git_url import GitSource, joined_remote, parse_git_source
from layerstore.errors import InputError
from layerstore.net.proxies import Proxy, proxy_environment, proxy_for
from layerstore.net.redaction import redacted
from layerstore.net.urls import file_name, parse_http_url


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("https://example.com/foo.git", GitSource("https://example.com/foo.git")),
        ("https://e.com/foo.git#dead", GitSource("https://e.com/foo.git", ref="dead")),
        ("https://e.com/foo.git#r/1.2", GitSource("https://e.com/foo.git", ref="r/1.2")),
        ("https://e.com/f.git#a/b:c/d", GitSource("https://e.com/f.git", "a/b", "c/d")),
        ("https://e.com/f.git#:c", GitSource("https://e.com/f.git", subdir="c")),
        ("https://u:p@e.com/f.git", GitSource("https://u:p@e.com/f.git")),
        ("HTTPS://e.com/f.git", GitSource("https://e.com/f.git")),
        ("git://e.com/foo", GitSource("git://e.com/foo")),
        ("ssh://git@e.com:22/~u/foo", GitSource("ssh://git@e.com:22/~u/foo")),
        ("ssh://[::1]/foo", GitSource("ssh://[::1]/foo")),
        ("git@github.com:moby/buildkit", GitSource("git@github.com:moby/buildkit")),
        ("git@e.com:a.git#v1:d", GitSource("git@e.com:a.git", "v1", "d")),
        ("git@e.com:a.git?ref=v1", GitSource("git@e.com:a.git", "v1")),
        ("https://e.com/f.git?tag=v1", GitSource("https://e.com/f.git", "refs/tags/v1")),
        ("https://e.com/f.git?branch=b&subdir=/d/",
         GitSource("https://e.com/f.git", "refs/heads/b", "d")),
        ("https://e.com/f.git?commit=0123456",
         GitSource("https://e.com/f.git", "0123456", commit="0123456")),
        ("https://e.com/f.git?keep-git-dir&submodules=false",
         GitSource("https://e.com/f.git", keep_git_dir=True, submodules=False)),
        ("https://e.com/foo", None),
        ("https://e.com/foo.git/", None),
        ("https://e.com/foo.git.bar", None),
        ("http://e.com/a.git:#b", None),
        ("file:///tmp/x.git", None),
        ("ext::sh -c x", None),
        ("./.git", None),
        (".git", None),
        ("github.com/moby/buildkit", None),
        ("user@host", None),
        ("path/git@x:y", None),
    ],
)  # fmt: skip
def test_git_sources(text: str, source: GitSource | None) -> None:
    assert parse_git_source(text) == source


def test_short_github_names_are_contexts_only() -> None:
    wanted = GitSource("https://github.com/moby/buildkit", ref="master", subdir="docs")
    assert parse_git_source("github.com/moby/buildkit#master:docs", is_context=True) == wanted


@pytest.mark.parametrize(
    ("parent", "url", "remote"),
    [
        ("https://e.com/a/b.git", "../c.git", "https://e.com/a/c.git"),
        ("https://e.com/a/b.git/", "./c", "https://e.com/a/b.git/c"),
        ("https://e.com/a/b.git", "../../c", "https://e.com/c"),
        ("git@e.com:b.git", "../c.git", "git@e.com:c.git"),
        ("git@e.com:a/b.git", "../c.git", "git@e.com:a/c.git"),
        ("https://e.com/b.git", "https://f.com/c", "https://f.com/c"),
        ("https://e.com/b.git", "git@f.com:c", "git@f.com:c"),
    ],
)
def test_submodules_are_relative_to_their_parent(parent: str, url: str, remote: str) -> None:
    assert joined_remote(parent, url) == remote


@pytest.mark.parametrize(
    "url", ["/etc", "../../../../etc", "file:///x", "ext::x", "c:\\x", "-x", "x", "http://-x/y"]
)
def test_submodules_from_elsewhere(url: str) -> None:
    with pytest.raises(InputError):
        joined_remote("https://e.com/a/b.git", url)


@pytest.mark.parametrize(
    ("text", "authority", "target"),
    [
        ("http://E.com", "e.com", "/"),
        ("http://e.com:80/a b", "e.com", "/a%20b"),
        ("https://e.com:80/%41?q=ü#f", "e.com:80", "/%41?q=%C3%BC"),
        ("http://[::1]:8080/x", "[::1]:8080", "/x"),
        ("http://bücher.example/", "xn--bcher-kva.example", "/"),
    ],
)
def test_urls(text: str, authority: str, target: str) -> None:
    url = parse_http_url(text)
    assert (url.authority, url.target) == (authority, target)


@pytest.mark.parametrize(
    "text",
    ["http://", "http:///x", "ftp://e/x", "http://e.com/a\nHost: x", "http://e\\@f/", "http://e:x/",
     "http://[::1/", "http://a b/", "http://%41/", "http://e.com/" + "x" * 70_000],
)  # fmt: skip
def test_what_is_no_url(text: str) -> None:
    with pytest.raises(InputError):
        parse_http_url(text)


@pytest.mark.parametrize(
    ("path", "disposition", "name"),
    [
        ("/a/b.c", "other", b"b.c"),
        ("/a%20b", None, b"a b"),
        ("/a/", None, b"a"),
        ("/", "x/../../y", b"y"),
        ("/..", "..", b"__unnamed__"),
        ("/%2e%2e", None, b"__unnamed__"),
        ("/a%00b", "c", b"c"),
        ("/%FF", None, b"\xff"),
        ("", None, b"__unnamed__"),
    ],
)
def test_names_of_files(path: str, disposition: str | None, name: bytes) -> None:
    assert file_name(path, disposition) == name


@pytest.mark.parametrize(
    ("no_proxy", "is_used"),
    [
        ("", True), ("other.com", True), ("example.com", False), (".example.com", False),
        ("www.example.com", False), ("ww.example.com", True), ("*", False),
        (" *.example.com", False), ("x,example.com:8080", False), ("example.com:80", True),
        ("10.0.0.0/8", True),
    ],
)  # fmt: skip
def test_hosts_without_a_proxy(no_proxy: str, is_used: bool) -> None:
    url = parse_http_url("http://www.example.com:8080/x")
    variables = proxy_environment({"HTTP_PROXY": "u:p@proxy:3128", "no_proxy": no_proxy})
    wanted = Proxy("proxy", 3128, "u:p") if is_used else None
    assert proxy_for(url, variables) == wanted


def test_networks_without_a_proxy() -> None:
    variables = {"all_proxy": "http://proxy", "no_proxy": "10.0.0.0/8,[2001:db8::1]:80"}
    assert proxy_for(parse_http_url("http://10.1.2.3/"), variables) is None
    assert proxy_for(parse_http_url("http://[2001:db8::1]/"), variables) is None
    assert proxy_for(parse_http_url("https://11.1.2.3/"), variables) == Proxy("proxy", 80, "")
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert proxy_for(parse_http_url(f"http://{host}/"), variables) is None


def test_small_letters_win() -> None:
    environ = {"http_proxy": "http://small", "HTTP_PROXY": "http://large"}
    assert proxy_environment(environ) == {"http_proxy": "http://small"}


def test_passwords_are_removed_everywhere() -> None:
    text = "ADD https://u:p@e.com/x git://w@f/y /a@b"
    assert redacted(text) == "ADD https://e.com/x git://f/y /a@b"
    assert redacted("git@e.com:x") == "git@e.com:x"
