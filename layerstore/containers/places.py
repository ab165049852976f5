"""Where ``cp`` reads and writes, by docker's rules: what a path means, and what a copy is called.

A path resolves inside a root that somebody else may change at any moment: the kernel follows its
links as in a chroot there (openat2(2)), and the last name is ours to follow or not.

Source: docker's reference of ``container cp``; its archive/copy.go.
"""

from __future__ import annotations

import os
import stat

from layerstore.errors import InputError, NotFoundError
from layerstore.light_typing import NamedTuple
from layerstore.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
_LINKS_MAX = 40
"""As the kernel has it (path_resolution(7))."""


class Place(NamedTuple):
    """One name in an open directory.

    Attributes:
        parent: The directory, open; whoever asked for the place closes it.
        name: ``.`` for the directory itself.
        directory: Its path in the root.
        status: Of what is there, a link for itself; None if nothing is.
    """

    parent: int
    name: bytes
    directory: bytes
    status: os.stat_result | None

    @property
    def is_directory(self) -> bool:
        """Whether there is a directory."""
        return self.status is not None and stat.S_ISDIR(self.status.st_mode)


class Target(NamedTuple):
    """Where a copy goes.

    Attributes:
        directory: That it is put into, open; whoever asked closes it.
        path: Its path in the root.
        name: What the copy is called there; empty if what is in the source goes there.
    """

    directory: int
    path: bytes
    name: bytes


def asserts_directory(path: bytes) -> bool:
    """Whether a path can mean a directory alone: ``dir/``, ``dir/.``."""
    return path.endswith((b"/", b"/.")) or path == b"."


def means_content(path: bytes) -> bool:
    """Whether a path means what is in a directory: ``dir/.``."""
    return path == b"." or path.endswith(b"/.")


def find_place(root: int, path: bytes, *, follow: bool) -> Place:
    """Return what a path means in a root.

    Args:
        root: Open directory.
        path: From the root; ``..`` is taken out as it is written, as docker does.
        follow: Whether a link at its end means what it leads to.

    Raises:
        NotFoundError: The directory is not there.
        InputError: What should be one is none, or the links go in circles.
    """
    follow = follow or asserts_directory(path)
    path = os.path.normpath(b"/" + path).lstrip(b"/")
    for _ in range(_LINKS_MAX):
        directory, _, name = path.rpartition(b"/")
        if name in (b"", b".", b".."):
            parent = _open_directory(root, path)
            return Place(parent, b".", path, os.fstat(parent))
        parent = _open_directory(root, directory)
        try:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not (follow and stat.S_ISLNK(status.st_mode)):
                return Place(parent, name, directory, status)
            link = os.readlink(name, dir_fd=parent)
        except FileNotFoundError:
            return Place(parent, name, directory, None)
        except OSError:
            os.close(parent)
            raise
        os.close(parent)
        path = link.lstrip(b"/") if link.startswith(b"/") else directory + b"/" + link
        path = path.strip(b"/")
    raise InputError(f"{os.fsdecode(path)!r}: too many levels of symbolic links")


def _open_directory(root: int, path: bytes) -> int:
    try:
        return openat2(root, path or b".", os.O_PATH | os.O_DIRECTORY, resolve=IN_ROOT)
    except FileNotFoundError as err:
        raise NotFoundError(f"there is no directory /{os.fsdecode(path)}") from err
    except NotADirectoryError as err:
        raise InputError(f"/{os.fsdecode(path)} is not a directory") from err


def target_of(place: Place, asked: bytes, source: bytes, *, is_directory: bool) -> Target:
    """Return where a copy goes, by what there is at its destination.

    Args:
        place: What ``asked`` means, links followed.
        asked: The destination as it was typed.
        source: The source as it was typed; its last name is the copy's in a directory.
        is_directory: Whether that is a directory.

    Raises:
        InputError: There is a file where a directory is needed.
        NotFoundError: A directory that must be there is not.
    """
    shown = os.fsdecode(asked)
    if place.is_directory:
        name = b"" if means_content(source) else base_name(source)
        path = place.directory + b"/" + place.name if place.name != b"." else place.directory
        inner = os.open(place.name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place.parent)
        return Target(inner, path, name)
    if place.status is not None and is_directory:
        raise InputError(f"cannot copy a directory: {shown!r} is none", hint="name a directory")
    if asserts_directory(asked) and (place.status is not None or not is_directory):
        raise NotFoundError(f"no such directory: {shown!r}", hint="make it first, or leave out '/'")
    return Target(os.dup(place.parent), place.directory, place.name)


def base_name(path: bytes) -> bytes:
    """Return the last name of a path; empty of the root."""
    return os.path.basename(os.path.normpath(b"/" + path))
