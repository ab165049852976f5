"""Which files packages say are theirs: lists of dpkg, apk, rpm and pip, directories of npm.

What a list says is a stranger's word and is only ever compared with the paths of files; none is
opened by it.

Source: dpkg-query(1), ``--listfiles``; Alpine's apk, "Apk spec", installed database; rpm,
docs/manual/tags.md, "File tags"; Python packaging, "Recording installed projects", RECORD.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING, Final

from layerstore.errors import UnsafeContentError
from layerstore.image.sbom.files import MAX_DATABASE_BYTES
from layerstore.image.sbom.languages import language_packages
from layerstore.image.sbom.rpm import rpm_file_lists
from layerstore.image.sbom.system import INSTALLED, STATUS_PARTS, system_packages
from layerstore.image.trees.stack import resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.formats.tree import Extent
    from layerstore.image.sbom.files import ImageFiles
    from layerstore.image.sbom.packages import Package

_INFO: Final = b"var/lib/dpkg/info"
MAX_LIST_BYTES: Final = 8 << 20
"""Of the names of one package's files; of a kernel's source they take 5 MB."""

MAX_PATHS: Final = 2_000_000
"""Of all packages of one image, and of all lists that are remembered."""


class Lists:
    """Lists of dpkg that were read, by their content: images have most of them in common."""

    def __init__(self) -> None:
        self._paths: dict[tuple[Extent, ...], tuple[bytes, ...]] = {}
        self._left = MAX_PATHS

    def get(self, content: tuple[Extent, ...]) -> tuple[bytes, ...] | None:
        """Return a list, None if it is not remembered."""
        return self._paths.get(content)

    def put(self, content: tuple[Extent, ...], paths: tuple[bytes, ...]) -> None:
        """Remember a list if there is room."""
        if len(paths) <= self._left:
            self._left -= len(paths)
            self._paths[content] = paths


def system_files(files: ImageFiles, known: Lists) -> Iterator[tuple[Package, Sequence[bytes]]]:
    """Yield what dpkg, apk and rpm have installed, with the files of each as it names them.

    Paths are relative to the root, and may go through symlinks.

    Args:
        files: Of an image.
        known: Lists of dpkg that need not be read; those that are read are added.
    """
    info = frozenset(files.names(_INFO))
    lists: dict[tuple[str, str], Sequence[bytes]] | None = None
    left = MAX_PATHS
    for package in system_packages(files):
        if package.kind == "deb":
            paths = _dpkg_list(files, package, info, known)
        else:
            if lists is None:
                read = _apk_lists if package.kind == "apk" else rpm_file_lists
                lists = read(files, MAX_PATHS)
            paths = lists.get((package.name, package.version), ())
        left -= len(paths)
        if left < 0:
            files.leave_out(b"", f"packages name more than {MAX_PATHS} files")
            return
        yield package, paths


def language_files(files: ImageFiles) -> Iterator[tuple[Package, Sequence[bytes], bytes]]:
    """Yield what pip and npm have installed, with its files, and the directory that is its own.

    Of pip there are files and no directory (``b""``), of npm it is the other way round.
    """
    left = MAX_PATHS
    for package in language_packages(files):
        place = package.source.encode("utf-8", "replace").strip(b"/")
        folder = place.rpartition(b"/")[0]
        if package.kind == "npm":
            yield package, (), folder
            continue
        paths = recorded(files, folder) if folder.endswith(b".dist-info") else [place]
        left -= len(paths)
        if left < 0:
            files.leave_out(b"", f"packages name more than {MAX_PATHS} files")
            return
        yield package, paths, b""


def _dpkg_list(
    files: ImageFiles, package: Package, info: frozenset[bytes], known: Lists
) -> Sequence[bytes]:
    name, architecture = package.name.encode(), package.architecture.encode()
    for file in (name + b".list", name + b":" + architecture + b".list"):
        if file in info:
            return _listed(files, _INFO + b"/" + file, known, column=0)
    if package.source.encode("utf-8", "replace").startswith(b"/" + STATUS_PARTS):
        return _listed(files, STATUS_PARTS + b"/" + name + b".md5sums", known, column=1)
    return ()


def _listed(files: ImageFiles, path: bytes, known: Lists, *, column: int) -> Sequence[bytes]:
    """Return the paths in a file of one a line, behind ``column`` words."""
    try:
        _, node = resolve(files.root, path)
    except UnsafeContentError:
        node = None
    if node is None:
        return ()
    found = known.get(node.entry.extents)
    if found is None:
        data = files.content(path, node, MAX_LIST_BYTES)
        lines = data.split(b"\n") if data is not None else []
        words = (line.split(None, column) for line in lines) if column else ([x] for x in lines)
        found = tuple(parts[column].strip(b"/") for parts in words if len(parts) > column)
        found = tuple(filter(None, found))
        known.put(node.entry.extents, found)
    return found


def _apk_lists(files: ImageFiles, limit: int) -> dict[tuple[str, str], Sequence[bytes]]:
    """Return the files of apk's packages by name and version, at most ``limit`` and some more."""
    data = files.read(INSTALLED, MAX_DATABASE_BYTES) or b""
    lists: dict[tuple[str, str], Sequence[bytes]] = {}
    for stanza in data.split(b"\n\n"):
        name = version = ""
        folder = b""
        paths: list[bytes] = []
        for line in stanza.split(b"\n"):
            field, value = line[:2], line[2:]
            if field == b"P:":
                name = value.decode("utf-8", "replace")
            elif field == b"V:":
                version = value.decode("utf-8", "replace")
            elif field == b"F:":
                folder = value.strip(b"/")
            elif field == b"R:":
                paths.append(folder + b"/" + value if folder else value)
        lists[name, version] = paths
        limit -= len(paths)
        if limit < 0:
            break  # who asked says so
    return lists


def recorded(files: ImageFiles, folder: bytes) -> list[bytes]:
    """Return the paths in ``RECORD`` of a ``.dist-info``, from the root."""
    data = files.read(folder + b"/RECORD", MAX_LIST_BYTES) or b""
    base = posixpath.dirname(folder)
    found = []
    for line in data.splitlines():
        name = line.rsplit(b",", 2)[0].strip(b'"')
        if name:
            found.append(posixpath.normpath(posixpath.join(b"/", base, name)).strip(b"/"))
    return found
