"""A git source: what its ref means now, and its files as entries of a layer.

Fetching is shallow where the server allows it. Submodules are fetched as BuildKit fetches them,
each at the commit that its parent names, but only from remotes that a git source could name, and
none of their settings counts besides the URL.

Source: BuildKit, source/git (behaviour); gitmodules(5).
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from layerstore.build.fetch.errors import FetchError
from layerstore.build.fetch.git_objects import LINK, SUBMODULE, TREE, Objects
from layerstore.build.fetch.git_process import Git, GitFailedError
from layerstore.build.fetch.git_url import is_commit, is_short_commit, joined_remote
from layerstore.errors import InputError, LimitExceededError, UnsafeContentError
from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layer_item import LayerItem
from layerstore.net.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from layerstore.build.fetch.git_objects import TreeEntry
    from layerstore.build.fetch.git_process import GitAccess
    from layerstore.build.graph import GitOp

MAX_DEPTH = 250
"""Nested directories, those of submodules included."""

MAX_SUBMODULES = 1000
_MAX_NESTED = 10
_MODULES = b".gitmodules"
_MODULES_MAX_BYTES = 4 << 20
_TARGET_MAX_BYTES = 4095
_FETCHED = "refs/layerstore/fetched"


class Resolved(NamedTuple):
    """What a ref means.

    Attributes:
        commit: Whole id; empty while only fetching can tell.
        ref: Full name on the server; empty for a commit.
    """

    commit: str
    ref: str


class Repositories:
    """The repositories of one git source, its submodules' included.

    Args:
        scratch: An empty directory of ours.
        access: What git may use.
    """

    def __init__(self, scratch: Path, access: GitAccess) -> None:
        self._scratch = scratch
        self._access = access
        self._home = scratch / "home"
        self._home.mkdir(mode=0o700)
        self._count = 0

    def open(self, remote: str) -> Repository:
        """Return a new, empty repository for what ``remote`` has."""
        self._count += 1
        if self._count > MAX_SUBMODULES:
            raise LimitExceededError(f"the source has more than {MAX_SUBMODULES} submodules")
        directory = self._scratch / f"{self._count}.git"
        directory.mkdir(mode=0o700)
        git = Git(directory, self._home, self._access)
        git.run("init", "--quiet", "--bare", f"--template={self._home}")
        return Repository(git, remote)


class Repository:
    """One repository of ours, and where its objects come from."""

    def __init__(self, git: Git, remote: str) -> None:
        self.git = git
        self.remote = remote

    def resolve(self, ref: str) -> Resolved:
        """Return what a ref means on the server now; a whole commit means itself.

        A name is first a full ref, then a branch, then a tag, as for git and BuildKit.

        Raises:
            FetchError: The server cannot be asked, or has no such ref.
        """
        if is_commit(ref):
            return Resolved(ref, "")
        known = self._list(ref or "HEAD")
        full = ref.removeprefix("refs/")
        for name in (ref or "HEAD", f"refs/{full}", f"refs/heads/{ref}", f"refs/tags/{ref}"):
            if name in known:
                return Resolved(known.get(f"{name}^{{}}", known[name]), name)
        if is_short_commit(ref):
            return Resolved("", "")
        raise FetchError(f"{redacted(self.remote)} has no branch or tag {ref or 'HEAD'!r}")

    def _list(self, ref: str) -> dict[str, str]:
        patterns = (ref, f"{ref}^{{}}")
        output = self._run("ls-remote", "--quiet", "--", self.remote, *patterns)
        known = {}
        for line in output.decode("utf-8", "surrogateescape").splitlines():
            commit, _, name = line.partition("\t")
            if is_commit(commit):
                known[name] = commit
        return known

    def fetch(self, resolved: Resolved, ref: str) -> str:
        """Bring a commit's objects here; return its id, which may have moved on meanwhile.

        Args:
            resolved: As :meth:`resolve` returned it.
            ref: What was asked for there.

        Raises:
            FetchError: It cannot be had.
        """
        if resolved.ref:
            self._fetch(f"+{resolved.ref}:{_FETCHED}")
            return self._commit(_FETCHED)
        try:
            if not resolved.commit:
                self._fetch_all()
                return self._commit(ref)
            self._fetch(resolved.commit)
        except GitFailedError as err:
            # Servers need not hand out commits that no ref names.
            if not err.says("not our ref", "unadvertised object", "reference is not a tree"):
                raise
            self._fetch_all()
        return self._commit(resolved.commit)

    def _fetch(self, refspec: str) -> None:
        words = ("--quiet", "--no-tags", "--no-write-fetch-head", "--", self.remote, refspec)
        try:
            self._run("fetch", "--depth=1", *words)
        except GitFailedError as err:
            if not err.says("shallow", "--depth"):  # such as files behind a plain web server
                raise
            self._run("fetch", *words)

    def _fetch_all(self) -> None:
        refspecs = ("+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
        self._run("fetch", "--quiet", "--no-write-fetch-head", "--", self.remote, *refspecs)

    def _commit(self, ref: str) -> str:
        try:
            output = self.git.run("rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
        except GitFailedError as err:
            shown = "what its ref names" if ref == _FETCHED else ref
            raise FetchError(f"{redacted(self.remote)} has no commit {shown}") from err
        return output.decode("ascii").strip()

    def _run(self, *words: str) -> bytes:
        try:
            return self.git.run(*words)
        except GitFailedError as err:
            err.message = f"cannot fetch {redacted(self.remote)}: {err.message}"
            err.args = (err.message,)
            raise

    def keep_as_git_dir(self, commit: str, resolved: Resolved, work_tree: Path) -> None:
        """Make of this repository a ``.git`` for a tree that holds the commit's files."""
        run = self.git.run
        name = _local_name(resolved.ref)
        if name:
            run("update-ref", name, commit)
        if resolved.ref:
            run("update-ref", "-d", _FETCHED)
        run("update-ref", "--no-deref", "HEAD", commit)
        run("config", "core.bare", "false")
        run("config", "remote.origin.url", redacted(self.remote))
        run("config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")
        run(f"--work-tree={work_tree}", "read-tree", commit)


def _local_name(ref: str) -> str:
    """Return what a clone calls a server's ref."""
    if ref.startswith("refs/heads/"):
        return "refs/remotes/origin/" + ref.removeprefix("refs/heads/")
    return ref if ref.startswith("refs/tags/") else ""


class GitTree:
    """The files of a commit as entries of a layer, in the order of a layer's tree.

    Args:
        op: What is asked for.
        repositories: Where submodules are opened.
    """

    def __init__(self, op: GitOp, repositories: Repositories) -> None:
        self._op = op
        self._repositories = repositories

    def items(self, repository: Repository, commit: str) -> Generator[LayerItem]:
        """Yield every file; each is to be read before the next is asked for.

        Raises:
            InputError: There is no such directory.
            FetchError: A submodule cannot be had.
            UnsafeContentError: A name or nesting that no checkout would have.
        """
        with Objects(repository.git) as objects:
            described = objects.commit(commit)
            time_ns = described.time_s * 1_000_000_000
            root = self._subdirectory(objects, described.tree)
            walk = _Walk(self._op, self._repositories, repository, objects, time_ns)
            walk.load_modules(described.tree)
            extra = None
            if self._op.keep_git_dir and not self._op.subdir:
                extra = _GitDirectory(repository.git.directory, time_ns)
            # What is copied from the root gets its time.
            yield walk.item(b"", Kind.DIR, 0o755)
            yield from walk.directory(root, b"", self._op.subdir.encode(), 0, extra)

    def _subdirectory(self, objects: Objects, tree: str) -> str:
        """Return the tree of the source's directory; links are no directories."""
        for name in filter(None, self._op.subdir.split("/")):
            wanted = name.encode("utf-8", "surrogateescape")
            found = [entry for entry in objects.tree(tree) if entry.name == wanted]
            if not found or found[0].kind != TREE:
                raise InputError(
                    f"{redacted(self._op.remote)} has no directory {self._op.subdir!r}"
                )
            tree = found[0].object_id
        return tree


class _Walk:
    """One repository on its way into a layer."""

    def __init__(
        self,
        op: GitOp,
        repositories: Repositories,
        repository: Repository,
        objects: Objects,
        time_ns: int,
        nested: int = 0,
    ) -> None:
        self._op = op
        self._repositories = repositories
        self._repository = repository
        self._objects = objects
        self._time_ns = time_ns
        self._nested = nested
        self._urls: dict[bytes, str] = {}

    def load_modules(self, tree: str) -> None:
        """Learn the URLs of the submodules from the root directory's ``.gitmodules``."""
        if not self._op.submodules:
            return
        for entry in self._objects.tree(tree):
            if entry.name == _MODULES and entry.kind not in (TREE, LINK, SUBMODULE):
                self._objects.small(entry.object_id, _MODULES_MAX_BYTES)
                self._urls = self._modules(entry.object_id)

    def _modules(self, object_id: str) -> dict[bytes, str]:
        output = self._repository.git.run(
            "config", "--blob", object_id, "--no-includes", "--null", "--list"
        )
        paths: dict[bytes, bytes] = {}
        urls: dict[bytes, str] = {}
        for item in output.split(b"\0"):
            key, _, value = item.partition(b"\n")
            section, _, field = key.rpartition(b".")
            if field == b"path":
                paths[section] = value.strip(b"/")
            elif field == b"url":
                urls[section] = value.decode("utf-8", "surrogateescape")
        return {path: urls[section] for section, path in paths.items() if section in urls}

    def directory(
        self,
        tree: str,
        place: bytes,
        source: bytes,
        depth: int,
        extra: _GitDirectory | None = None,
    ) -> Iterator[LayerItem]:
        """Yield what lies below a directory, in order.

        Args:
            tree: Its id.
            place: Its path in the layer.
            source: Its path in this repository.
            depth: Of ``place``.
            extra: Yielded among the names, as ``.git``.
        """
        if depth > MAX_DEPTH:
            raise LimitExceededError(f"the repository has more than {MAX_DEPTH} nested directories")
        for entry in self._objects.tree(tree):
            if extra is not None and entry.name > b".git":
                yield from extra.items()
                extra = None
            path = place + b"/" + entry.name if place else entry.name
            inside = source + b"/" + entry.name if source else entry.name
            if entry.kind == TREE:
                yield self.item(path, Kind.DIR, 0o755)
                yield from self.directory(entry.object_id, path, inside, depth + 1)
            elif entry.kind == SUBMODULE:
                yield self.item(path, Kind.DIR, 0o755)
                yield from self._submodule(entry, path, inside, depth + 1)
            else:
                yield self._file(entry, path)
        if extra is not None:
            yield from extra.items()

    def item(self, path: bytes, kind: Kind, mode: int, target: bytes = b"") -> LayerItem:
        """Return something without content, with the commit's time."""
        return LayerItem(
            Entry(path=path, kind=kind, mode=mode, mtime_ns=self._time_ns, target=target)
        )

    def _file(self, entry: TreeEntry, path: bytes) -> LayerItem:
        if entry.kind == LINK:
            target = self._objects.small(entry.object_id, _TARGET_MAX_BYTES)
            if not target or b"\0" in target:
                raise UnsafeContentError(f"the link {path[:300]!r} leads nowhere")
            return self.item(path, Kind.SYMLINK, 0o777, target)
        blob = self._objects.blob(entry.object_id)
        described = Entry(
            path=path, kind=Kind.FILE, mode=0o755 if entry.executable else 0o644,
            mtime_ns=self._time_ns, size=blob.size,
        )  # fmt: skip
        return LayerItem(described, lambda: cast("BinaryIO", blob))

    def _submodule(
        self, entry: TreeEntry, path: bytes, inside: bytes, depth: int
    ) -> Iterator[LayerItem]:
        if not self._op.submodules:
            return
        shown = os.fsdecode(inside[:300])
        url = self._urls.get(inside)
        if url is None:
            raise FetchError(
                f"the submodule {shown} has no URL in .gitmodules",
                hint="?submodules=false at the end of the source leaves submodules out",
            )
        if self._nested >= _MAX_NESTED:
            raise LimitExceededError(f"submodules are nested more than {_MAX_NESTED} deep: {shown}")
        try:
            remote = joined_remote(self._repository.remote, url)
        except InputError as err:
            raise UnsafeContentError(f"the submodule {shown}: {err.message}") from err
        repository = self._repositories.open(remote)
        commit = repository.fetch(Resolved(entry.object_id, ""), entry.object_id)
        with Objects(repository.git) as objects:
            described = objects.commit(commit)
            walk = _Walk(
                self._op, self._repositories, repository, objects, self._time_ns, self._nested + 1
            )
            walk.load_modules(described.tree)
            yield from walk.directory(described.tree, path, b"", depth)


class _GitDirectory:
    """Our own repository as the ``.git`` of a layer."""

    def __init__(self, directory: Path, time_ns: int) -> None:
        self._directory = directory
        self._time_ns = time_ns

    def items(self) -> Iterator[LayerItem]:
        """Yield its files, in order."""
        yield self._entry(b".git", Kind.DIR, 0o755)
        yield from self._below(self._directory, b".git")

    def _below(self, directory: Path, place: bytes) -> Iterator[LayerItem]:
        for name in sorted(os.listdir(os.fsencode(directory))):
            path = directory / os.fsdecode(name)
            entry_path = place + b"/" + name
            if path.is_dir():
                yield self._entry(entry_path, Kind.DIR, 0o755)
                yield from self._below(path, entry_path)
            else:
                size = path.stat().st_size
                entry = Entry(
                    path=entry_path, kind=Kind.FILE, mode=0o644, mtime_ns=self._time_ns, size=size
                )
                yield LayerItem(entry, partial(_open, path))

    def _entry(self, path: bytes, kind: Kind, mode: int) -> LayerItem:
        return LayerItem(Entry(path=path, kind=kind, mode=mode, mtime_ns=self._time_ns))


def _open(path: Path) -> BinaryIO:
    return path.open("rb")
