"""Which strings mean a git repository, and what of it: ref, directory, options.

    https://host/path.git#ref:dir      git@host:path#ref      ssh://...      git://...
    ...?branch=B, ?tag=T, ?ref=R, &subdir=D, &checksum=COMMIT, &keep-git-dir, &submodules=false

Over HTTP a path that ends in ``.git`` makes a repository of a URL. What is returned is safe to
hand to git as arguments: nothing in it can be read as an option, a helper or another protocol.
Pure.

Source: BuildKit, util/gitutil and frontend/dockerfile/dfgitutil (behaviour).
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, urlsplit

from layerstore.errors import InputError
from layerstore.net.redaction import redacted

_SCHEMES = ("http", "https", "ssh", "git")
_URL = re.compile(r"([a-zA-Z0-9]+)://", re.ASCII)
_SCP = re.compile(r"([\w-]+)@([\w.-]+):([^?#]*)(?:\?([^#]*))?(?:#(.*))?", re.ASCII | re.DOTALL)
_HOST = re.compile(
    r"(?:[\w-]+@)?(?:[a-z0-9_][\w.-]*|\[[0-9a-f:.]+\])(?::\d{1,5})?", re.IGNORECASE | re.ASCII
)
_REF = re.compile(r"[^\x00-\x20\x7f~^:?*\[\\]+")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_WHOLE_COMMIT = re.compile(r"[0-9a-f]{40}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LOCAL_GITHUB = "github.com/"
_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")
_ONCE = ("ref", "tag", "branch", "subdir", "checksum", "commit", "keep-git-dir", "submodules")


class GitSource(NamedTuple):
    """A part of a repository.

    Attributes:
        remote: What to fetch from, as git takes it; may hold a password.
        ref: A branch, tag, other ref or commit; empty for the default branch.
        subdir: Directory whose content is meant, without slashes around it; empty for all.
        commit: What the ref must be, or begin with; empty when anything will do.
        keep_git_dir: Whether ``.git`` comes along; None when the source does not say.
        submodules: Whether submodules come along.
    """

    remote: str
    ref: str = ""
    subdir: str = ""
    commit: str = ""
    keep_git_dir: bool | None = None
    submodules: bool = True

    @property
    def shown(self) -> str:
        """For messages: without a password."""
        return redacted(self.remote)


def parse_git_source(text: str, *, is_context: bool = False) -> GitSource | None:
    """Return what of a repository a source means, None when it means something else.

    Args:
        text: As written.
        is_context: Also take ``github.com/...``, which elsewhere is a path.

    Raises:
        InputError: It means a repository and is wrong.
    """
    if is_context and text.startswith(_LOCAL_GITHUB):
        return _from_url(f"https://{text}")
    scheme = _URL.match(text)
    if scheme is not None:
        if scheme[1].lower() not in _SCHEMES:
            return None
        if scheme[1].lower() in ("http", "https") and not _ends_in_git(text):
            return None
        return _from_url(text)
    scp = _SCP.fullmatch(text)
    if scp is None:
        return None
    return _with_options(text, _scp_remote(text, scp), scp[4], scp[5])


def joined_remote(parent: str, url: str) -> str:
    """Return the remote of a submodule, whose URL may be relative to its parent's remote.

    Raises:
        InputError: It is nothing that a git source could name.
    """
    if url.startswith(("./", "../")):
        separator = "/"
        remote = parent.rstrip("/")
        while url.startswith(("./", "../")):
            if url.startswith("../"):
                head, separator, _ = remote.rpartition("/")
                if not separator:
                    head, separator, _ = remote.rpartition(":")
                remote = head
            url = url.partition("/")[2]
        url = f"{remote}{separator}{url}"
    return _remote(url)


def _remote(url: str) -> str:
    """Return a remote without options, checked; over HTTP it may be called as it likes."""
    scheme = _URL.match(url)
    if scheme is not None:
        if scheme[1].lower() not in _SCHEMES:
            raise _wrong(url, f"{scheme[1]} is no protocol that is fetched over")
        return _from_url(url).remote
    scp = _SCP.fullmatch(url)
    if scp is None:
        raise _wrong(url, "only http, https, ssh and git are fetched over")
    return _scp_remote(url, scp)


def is_commit(ref: str) -> bool:
    """Return whether a ref is the whole id of a commit."""
    return _WHOLE_COMMIT.fullmatch(ref) is not None


def is_short_commit(ref: str) -> bool:
    """Return whether a ref may be the beginning of a commit's id."""
    return _COMMIT.fullmatch(ref) is not None


def check_ref(text: str, ref: str) -> str:
    """Return ``ref`` if git can have one of that name.

    Raises:
        InputError: It cannot, so that it would be read as something else.
    """
    bad = ref.startswith(("-", "/")) or ".." in ref or "@{" in ref or "//" in ref
    if ref and (bad or not _REF.fullmatch(ref) or ref.endswith(("/", ".", ".lock"))):
        raise _wrong(text, f"{ref[:100]!r} is no ref")
    return ref


def clean_directory(text: str, path: str) -> str:
    """Return a directory of a repository without ``.`` and slashes around it.

    Raises:
        InputError: It leads out of the repository.
    """
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise _wrong(text, f"the directory {path[:100]!r} leads out of the repository")
    return "/".join(parts)


def _ends_in_git(text: str) -> bool:
    try:
        return urlsplit(text).path.endswith(".git")
    except ValueError:
        return False


def _from_url(text: str) -> GitSource:
    if _CONTROL.search(text):
        raise _wrong(text, "it holds control characters")
    try:
        parts = urlsplit(text)
        _ = parts.port
    except ValueError as err:
        raise _wrong(text, str(err)) from err
    scheme = parts.scheme.lower()
    user, at, host = parts.netloc.rpartition("@")
    if scheme == "ssh":
        _checked_host(text, f"{user}@{host}" if at else host)
    else:
        _checked_host(text, host)
    path = quote(parts.path, "%/:=&?~+!$,;'@()*[]", errors="surrogateescape")
    if not path.strip("/"):
        raise _wrong(text, "it names no repository")
    remote = f"{scheme}://{parts.netloc}{path}"
    return _with_options(text, remote, parts.query, parts.fragment)


def _scp_remote(text: str, scp: re.Match[str]) -> str:
    user, host, path = scp[1], scp[2], scp[3]
    if not path or path.startswith("-") or _CONTROL.search(path):
        raise _wrong(text, "it names no repository")
    if user.startswith("-"):
        raise _wrong(text, "its user begins with a dash")
    return f"{user}@{_checked_host(text, host)}:{path}"


def _checked_host(text: str, host: str) -> str:
    if not _HOST.fullmatch(host) or host.startswith("-") or "@-" in host:
        raise _wrong(text, f"{host[:100]!r} is not a host")
    return host


def _with_options(text: str, remote: str, query: str | None, fragment: str | None) -> GitSource:
    if _CONTROL.search(text):
        raise _wrong(text, "it holds control characters")
    ref, _, subdir = (fragment or "").partition(":")
    options = _options(text, query or "")
    ref = _agreed(text, "ref", ref, options.get("ref", ""))
    subdir = _agreed(text, "subdir", subdir, options.get("subdir", ""))
    if "tag" in options and "branch" in options:
        raise _wrong(text, "it has a branch and a tag")
    for kind, prefix in (("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if kind in options:
            full = prefix + options[kind].removeprefix(prefix)
            ref = _agreed(text, "ref", ref, full)
    commit = options.get("checksum") or options.get("commit", "")
    if commit and not is_short_commit(commit):
        raise _wrong(text, f"{commit[:100]!r} is no commit")
    submodules = _switch(text, options, "submodules")
    return GitSource(
        remote,
        check_ref(text, ref or commit),
        clean_directory(text, subdir),
        commit,
        _switch(text, options, "keep-git-dir"),
        submodules is not False,
    )


def _options(text: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _ONCE:
            raise _wrong(text, f"unknown option {name[:100]!r}; there are {', '.join(_ONCE)}")
        if name in options:
            raise _wrong(text, f"{name} stands twice")
        if not value and name not in ("keep-git-dir", "submodules"):
            raise _wrong(text, f"{name} has no value")
        options[name] = value
    return options


def _agreed(text: str, what: str, one: str, other: str) -> str:
    if one and other and one != other:
        raise _wrong(text, f"two values for {what}: {one[:100]!r} and {other[:100]!r}")
    return one or other


def _switch(text: str, options: dict[str, str], name: str) -> bool | None:
    value = options.get(name)
    if value is None:
        return None
    if value in ("", *_TRUE):
        return True
    if value in _FALSE:
        return False
    raise _wrong(text, f"{name} is {value[:100]!r}, expected true or false")


def _wrong(text: str, why: str) -> InputError:
    return InputError(f"{redacted(text)[:200]!r} is not a git source: {why}")
