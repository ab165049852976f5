"""Volumes: directories of the store that outlive containers, ``volumes/NAME/_data``.

A volume that is empty when a container first mounts it gets what the image has in that place,
as docker has it. Anonymous ones are called by 64 digits and go with their container where that
is asked for.
"""

from __future__ import annotations

import errno
import os

from layerstore.errors import ConflictError, ContainerError, InputError, NotFoundError
from layerstore.light_re import HEX, Pattern, only
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import make_private_dir
from layerstore.linux.locks import FileLock
from layerstore.linux.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAME = Pattern(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,254}")
_ANONYMOUS_HEX = 64
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)
"""What rename(2) says of a name that somebody else has made."""


def check_volume_name(name: str) -> None:
    """Refuse what cannot be a volume's name.

    Raises:
        InputError: It is none.
    """
    if _NAME.fullmatch(name) is None:
        raise InputError(
            f"{name!r} cannot be the name of a volume",
            hint="letters, digits, '_', '.' and '-'; a directory of the host begins with / or ./",
        )


def volume_data(store_root: str, name: str) -> str:
    """Return the directory that containers see of a volume."""
    return f"{store_root}/volumes/{name}/_data"


def make_volume(store_root: str, name: str) -> bool:
    """Make a volume that is not there yet; return whether it was not."""
    for directory in (f"{store_root}/volumes", f"{store_root}/volumes/{name}"):
        make_private_dir(directory, durable=False)
    data = volume_data(store_root, name)
    try:
        os.mkdir(data)
    except FileExistsError:
        return False
    os.chmod(data, 0o755)  # noqa: S103 -- containers' users see it, inside a store of 0700
    return True


def make_directories(paths: Iterable[str]) -> None:
    """Make directories of the host that a container is to be shown, and those above them.

    Raises:
        InputError: One cannot be made.
    """
    for path in paths:
        try:
            os.makedirs(path, exist_ok=True)
        except OSError as err:
            raise InputError(
                f"{path} is not there to be mounted, and cannot be made: {err.strerror}",
                hint="make the directory, or name another one",
            ) from err


def new_volume_name() -> str:
    """Return a name that nobody has given a volume."""
    return os.urandom(_ANONYMOUS_HEX // 2).hex()


def is_anonymous(name: str) -> bool:
    """Whether a volume is called as one that nobody named."""
    return len(name) == _ANONYMOUS_HEX and only(name, HEX)


def volume_names(store_root: str) -> list[str]:
    """Return the names of all volumes, sorted."""
    try:
        return sorted(os.listdir(f"{store_root}/volumes"))
    except FileNotFoundError:
        return []


def remove_volume(store_root: str, name: str, users: Iterable[str]) -> None:
    """Remove a volume with all that it holds.

    Args:
        store_root: The store.
        name: Of the volume.
        users: Names of the containers that have it.

    Raises:
        NotFoundError: There is none.
        ConflictError: A container has it.
    """
    check_volume_name(name)
    if name not in volume_names(store_root):
        raise NotFoundError(f"no volume {name!r}", hint="'layerstore volume ls' lists them")
    for user in users:
        raise ConflictError(
            f"volume {name} is in use by container {user}", hint=f"layerstore rm {user}"
        )
    remove_tree(f"{store_root}/volumes/{name}")


def fill_volume(data: str, root: str, place: str, owner: int) -> None:
    """Give an empty volume what a mounted root has at a place, owners and modes too.

    Args:
        data: The volume's directory.
        root: A mounted root in which nothing runs.
        place: A path in it without links.
        owner: Whose it is if the image has nothing there.

    Raises:
        ContainerError: It could not be copied.
    """
    source = f"{root}{place}"
    volume = os.path.dirname(data)
    filling, filled = f"{volume}/filling", f"{volume}/filled"
    # Of two containers that begin at once one fills it, and the other waits.
    with FileLock(f"{volume}/lock"):
        remove_tree(filling)  # of whoever was killed there
        if not os.path.lexists(filled):
            if os.listdir(data):
                return
            if not os.path.isdir(source) or os.path.islink(source):
                if owner and os.stat(data).st_uid == 0:
                    os.chown(data, owner, owner)
                return
            make_private_dir(filling, durable=False)
            _copy(source, filling)
            os.rename(filling, filled)
        _move_into(filled, data)
        status = os.stat(filled)  # cp gave it what the image has there
        os.chown(data, status.st_uid, status.st_gid)
        os.chmod(data, status.st_mode & 0o7777)
        remove_tree(filled)


def _copy(source: str, place: str) -> None:
    """Copy a directory's entries to where no container looks, and bring them to disk."""
    import subprocess  # few starts copy anything

    from layerstore.linux.files import sync_file_system

    # In a private mount namespace, over a root that nobody changes: links are copied as such.
    done = subprocess.run(
        ["cp", "--archive", "--", f"{source}/.", place],
        capture_output=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise ContainerError(f"the volume could not get what the image has: {words[-1:]}")
    sync_file_system(place)


def _move_into(filled: str, data: str) -> None:
    """Move entries into a volume, which a container may be changing meanwhile.

    Names alone are moved, so that no link of that container's is followed; what it has made
    under one of them stays.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    target = os.open(data, flags)
    try:
        for name in os.listdir(filled):
            try:
                os.rename(f"{filled}/{name}", name, dst_dir_fd=target)
            except OSError as err:
                if err.errno not in _TAKEN:
                    raise
    finally:
        os.close(target)
