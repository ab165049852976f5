"""Small builds with facts to compare: a Dockerfile, its context, and what an image of it holds.

The facts are plain JSON, so that what one builder made can be written down and held against
what another makes. Images are read from OCI layouts, by ``tarfile`` and not by this project.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.api import build
from layerstore.build.request import BuildRequest
from layerstore.errors import LayerstoreError
from layerstore.image.images import load_config
from layerstore.image.layouts.layout import NamedImage, save_oci_layout
from layerstore.store.store import Store
from tests.support.build import RecordingUi, add_base

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

CONTEXT_TIME_S = 1_500_000_000
"""When everything in a context changed last, if the case does not say otherwise."""

CONFIG_FIELDS = (
    *("Env", "Cmd", "Entrypoint", "User", "WorkingDir", "Labels", "ExposedPorts", "Volumes"),
    *("OnBuild", "Healthcheck", "StopSignal", "Shell"),
)
_RUNTIME_NAMES = frozenset(
    (
        *("dev", "proc", "sys", "etc", "run", ".dockerenv", "etc/hosts", "etc/hostname"),
        *("etc/resolv.conf", "etc/mtab", "run/.containerenv", "dev/pts", "dev/shm"),
        "dev/console",
    )
)
_SHOWN_BYTES = 120


class F(NamedTuple):
    """A file of a context."""

    content: str | bytes = ""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime: int = CONTEXT_TIME_S
    xattrs: tuple[tuple[str, bytes], ...] = ()
    size: int | None = None


class D(NamedTuple):
    """A directory of a context that is more than where a file lies."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = CONTEXT_TIME_S


class L(NamedTuple):
    """A symbolic link of a context."""

    target: str


class H(NamedTuple):
    """A further name of a file of a context that stands before it."""

    first: str


class Node(NamedTuple):
    """A device, a pipe: the mode says which."""

    mode: int
    device: int = 0


Entry = str | bytes | F | D | L | H | Node


@dataclass(frozen=True)
class Case:
    """One build.

    Attributes:
        name: Unique among all cases.
        dockerfile: Its text.
        context: What lies in the context, in order; a plain value is a file's content.
        args: Build arguments.
        target: Stage to build.
        file: Where the Dockerfile lies in the context.
    """

    name: str
    dockerfile: str | bytes
    context: Mapping[str, Entry] = field(default_factory=dict)
    args: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    file: str = "Dockerfile"


class Maker:
    """This builder with the base image ``box``, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._store = Store.open(folder / "store", create=True)
        image = add_base(self._store)
        self.base = str(load_config(self._store, image.image_id).diff_ids[0])
        self.base_layout = folder / "base"
        save_oci_layout(self._store, [NamedImage("box:latest", image)], self.base_layout)

    def close(self) -> None:
        self._store.close()

    def facts(self, case: Case) -> Mapping[str, object]:
        """Build a case; return what the image holds, or that it fails."""
        self._number += 1
        place = self._folder / str(self._number)
        context = place / "context"
        context.mkdir(parents=True)
        write_case(case, context)
        began = time.time()
        request = BuildRequest(
            context=context,
            dockerfile=context / case.file,
            target=case.target,
            build_args=case.args,
            no_cache=True,  # a layer of an earlier build has that one's times
        )
        try:
            result = build(self._store, request, RecordingUi())
        except LayerstoreError:
            return {"fails": True}
        layout = place / "layout"
        save_oci_layout(self._store, [NamedImage(None, result.image)], layout, compression="none")
        return read_facts(layout, began, self.base)


def write_case(case: Case, folder: Path) -> None:
    """Make a case's context."""
    root = os.fsencode(folder)
    for name, entry in {case.file: case.dockerfile, **case.context}.items():
        path = os.path.join(root, os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _put(root, path, entry)
    # Last, because making something in a directory changes its time.
    for name, folders, files in os.walk(root, topdown=False):
        for each in (*folders, *files):
            _set_time(case, os.path.join(name, each), CONTEXT_TIME_S)
    for name, entry in case.context.items():
        if isinstance(entry, F | D):
            _set_time(case, os.path.join(root, os.fsencode(name)), entry.mtime)


def _set_time(case: Case, path: bytes, seconds: int) -> None:
    """Set a time, with nanoseconds that no other file of any case has.

    BuildKit takes a file for one of the build or the layer before if size and time are the same.
    They are below half a second, because some builders round.
    """
    digest = hashlib.sha256(os.fsencode(case.name) + path).digest()
    moment = seconds * 10**9 + int.from_bytes(digest[:4]) % 400_000_000
    os.utime(path, ns=(moment, moment), follow_symlinks=False)


def _put(root: bytes, path: bytes, entry: Entry) -> None:
    match entry:
        case L(target):
            os.symlink(os.fsencode(target), path)
        case H(first):
            os.link(os.path.join(root, os.fsencode(first)), path)
        case Node(mode, device):
            os.mknod(path, mode, device)
        case D():
            os.makedirs(path, exist_ok=True)
            os.chown(path, entry.uid, entry.gid)
            os.chmod(path, entry.mode)
        case _:
            _put_file(path, entry if isinstance(entry, F) else F(entry))


def _put_file(path: bytes, entry: F) -> None:
    content = entry.content
    with open(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if entry.size is not None:
            file.truncate(entry.size)
    os.chown(path, entry.uid, entry.gid)
    os.chmod(path, entry.mode)
    for name, value in entry.xattrs:
        os.setxattr(path, name, value)


Facts = dict[str, dict[str, object]]
"""What an image says and holds: ``config``, and ``tree``: what it has that its base has not."""


def read_facts(layout: Path, since: float, base: str) -> Facts:
    """Read an image.

    Args:
        layout: OCI layout of that image alone, a directory.
        since: When its build began; later times are not told.
        base: Diff ID of a layer that is not told where it is the image's first.
    """
    manifest = json.loads((layout / "index.json").read_bytes())
    while "manifests" in manifest:
        chosen = next(
            each
            for each in manifest["manifests"]
            if (each.get("platform") or {}).get("architecture") != "unknown"
        )
        manifest = json.loads(_blob(layout, chosen["digest"]).read_bytes())
    image = json.loads(_blob(layout, manifest["config"]["digest"]).read_bytes())
    layers = [_blob(layout, each["digest"]) for each in manifest["layers"] or ()]
    diff_ids = image["rootfs"].get("diff_ids") or [""]
    below = _tree(layers[: diff_ids[0] == base], since)
    whole = _tree(layers, since)
    changed = {path: text for path, text in whole.items() if below.get(path) != text}
    gone = {path: "-" for path in below if path not in whole}
    config = image.get("config") or {}
    return {
        "config": {key: config[key] for key in CONFIG_FIELDS if config.get(key)},
        "tree": dict(sorted({**gone, **changed}.items())),
    }


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


class _Inode:
    """A file with its names."""

    __slots__ = ("names", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.names: set[str] = set()


def _tree(layers: list[Path], since: float) -> dict[str, str]:
    tree: dict[str, _Inode] = {}
    for layer in layers:
        _apply(tree, layer, since)
    return {path: _shown(path, inode) for path, inode in _visible(tree)}


def _visible(tree: Mapping[str, _Inode]) -> Iterator[tuple[str, _Inode]]:
    return ((path, inode) for path, inode in tree.items() if path not in _RUNTIME_NAMES)


def _shown(path: str, inode: _Inode) -> str:
    names = sorted(inode.names - {path})
    return inode.text + (f" also {', '.join(names)}" if names else "")


def _apply(tree: dict[str, _Inode], layer: Path, since: float) -> None:
    """Apply a layer: whiteouts hide what was there before it, whatever their order in it."""
    fresh: set[str] = set()
    with tarfile.open(layer, errors="surrogateescape") as archive:
        for member in archive:
            path = "/".join(part for part in member.name.split("/") if part not in ("", "."))
            folder, _, name = path.rpartition("/")
            if name == ".wh..wh..opq":
                _remove_below(tree, folder, keep=fresh)
            elif name.startswith(".wh."):
                hidden = f"{folder}/{name[4:]}".lstrip("/")
                _remove(tree, hidden)
            elif path:
                _enter(tree, path, archive, member, since)
                fresh.add(path)


def _enter(
    tree: dict[str, _Inode], path: str, archive: tarfile.TarFile, member: tarfile.TarInfo,
    since: float,
) -> None:  # fmt: skip
    if member.islnk():
        inode = tree[member.linkname.strip("/").removeprefix("./")]
    else:
        inode = _Inode(_description(archive, member, since))
    if not member.isdir():
        _remove(tree, path)
    elif path in tree:
        tree[path].names.discard(path)
    inode.names.add(path)
    tree[path] = inode


def _remove(tree: dict[str, _Inode], path: str) -> None:
    if path in tree:
        tree.pop(path).names.discard(path)
    _remove_below(tree, path, keep=frozenset())


def _remove_below(tree: dict[str, _Inode], folder: str, keep: set[str] | frozenset[str]) -> None:
    prefix = f"{folder}/" if folder else ""
    for path in [each for each in tree if each.startswith(prefix) and each not in keep]:
        if path != folder:
            tree.pop(path).names.discard(path)


_KINDS = {
    tarfile.REGTYPE: "file", tarfile.AREGTYPE: "file", tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "link", tarfile.CHRTYPE: "char", tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "pipe",
}  # fmt: skip


def _description(archive: tarfile.TarFile, member: tarfile.TarInfo, since: float) -> str:
    kind = _KINDS.get(member.type, "file" if member.isfile() else repr(member.type))
    mode = "" if kind == "link" else f" {member.mode & 0o7777:o}"
    words = [f"{kind}{mode} {member.uid}:{member.gid}"]
    if kind == "link":
        words.append(f"-> {member.linkname}")
    elif kind in ("char", "block"):
        words.append(f"{member.devmajor},{member.devminor}")
    elif kind == "file":
        file = archive.extractfile(member)
        words.append(_content(file or io.BytesIO(), member.size))
    for key, value in sorted(member.pax_headers.items()):
        if key.startswith("SCHILY.xattr."):
            raw = value.encode("utf-8", "surrogateescape").hex()
            words.append(f"{key.removeprefix('SCHILY.xattr.')}={raw}")
    # BuildKit's directories have times of its own: those of when it got what lies in them.
    if not member.isdir() and member.mtime < since - 2:
        words.append(f"@{int(member.mtime)}")
    return " ".join(words)


def _content(file: io.IOBase | object, size: int) -> str:
    read = file.read  # type: ignore[attr-defined]
    if size <= _SHOWN_BYTES:
        return json.dumps(read().decode("utf-8", "backslashreplace"))
    digest = hashlib.sha256()
    while data := read(2**20):
        digest.update(data)
    return f"{size} bytes {digest.hexdigest()[:16]}"
