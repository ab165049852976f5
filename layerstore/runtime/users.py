"""Users and groups of an image: what USER and --chown names mean there.

Reads ``/etc/passwd`` and ``/etc/group`` of the image's own tree, links followed inside
it, never the host's. Bounded: these files come from strangers.

Source: docker's rules for ``user[:group]`` (Dockerfile reference, USER and COPY --chown).
"""

from __future__ import annotations

import os
import stat

from layerstore.errors import BuildError, LimitExceededError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2, read_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_FILE_BYTES = 4 << 20
_ROOT = "root"
"""Is 0 in images without the files too: ``COPY --chown=root:root`` is written on ``scratch``."""

_MAX_ID = 2**32 - 2  # (uid_t) -1 means "leave it" to chown(2)


class UserDatabase(NamedTuple):
    """Where the two files are read from; each returns None when the image has none."""

    passwd: Callable[[], bytes | None]
    group: Callable[[], bytes | None]


class RunUser(NamedTuple):
    """What a process runs as.

    Attributes:
        groups: Supplementary groups, sorted.
        home: For the HOME variable.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class _Passwd(NamedTuple):
    name: str
    uid: int
    gid: int
    home: str


class _Group(NamedTuple):
    name: str
    gid: int
    members: tuple[str, ...]


def users_of(root: str) -> UserDatabase:
    """Return the users of a mounted root, whose files are read at once.

    Both are looked at even where no name is asked for: the runtime opens them always.

    Raises:
        BuildError: One is a pipe or the like: the runtime would hang on it.
    """
    passwd, group = (_read_in_root(root, path) for path in (b"etc/passwd", b"etc/group"))
    return UserDatabase(lambda: passwd, lambda: group)


def resolve_owner(database: UserDatabase, text: str) -> tuple[int, int]:
    """Return (uid, gid) of a ``--chown`` value.

    A number without a group gives the group of the same number; a name without a
    group gives the user's primary group.

    Raises:
        BuildError: A name the image does not know, or a number out of range.
    """
    user, colon, group = text.partition(":")
    gid: int | None = None
    if colon and group:
        gid = _group_id(database, group)
    number = _number(user)
    if number is not None:
        return number, number if gid is None else gid
    if not user:
        return 0, 0 if gid is None else gid
    entry = _user_named(database, user)
    if entry is None and user != _ROOT:
        raise _unknown("user", user, "/etc/passwd")
    if entry is None:
        return 0, 0 if gid is None else gid
    return entry.uid, entry.gid if gid is None else gid


def resolve_run_user(database: UserDatabase, text: str) -> RunUser:
    """Return what a process of ``USER text`` runs as; the empty text is root.

    Raises:
        BuildError: A name the image does not know, or a number out of range.
    """
    user, _, group = text.partition(":")
    entry = _find_user(database, user or "0")
    if entry is None:
        number = _number(user)
        if number is None:
            raise _unknown("user", user, "/etc/passwd")
        entry = _Passwd("", number, 0, "/")
    gid = entry.gid
    groups: tuple[int, ...] = ()
    if group:
        gid = _group_id(database, group)
    elif entry.name:
        groups = tuple(
            sorted({item.gid for item in _groups(database) if entry.name in item.members})
        )
    return RunUser(entry.uid, gid, groups, entry.home or "/")


def _find_user(database: UserDatabase, user: str) -> _Passwd | None:
    number = _number(user)
    for entry in _users(database):
        if entry.name == user or entry.uid == number:
            return entry
    if number == 0:
        return _Passwd("root", 0, 0, "/root")
    return None


def _user_named(database: UserDatabase, name: str) -> _Passwd | None:
    return next((entry for entry in _users(database) if entry.name == name), None)


def _group_id(database: UserDatabase, group: str) -> int:
    number = _number(group)
    if number is not None:
        return number
    for entry in _groups(database):
        if entry.name == group:
            return entry.gid
    if group == _ROOT:
        return 0
    raise _unknown("group", group, "/etc/group")


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit()):
        return None
    value = int(text[:20])
    if value > _MAX_ID:
        raise BuildError(f"{text[:40]} is not a user or group id: at most {_MAX_ID}")
    return value


def _unknown(what: str, name: str, file: str) -> BuildError:
    return BuildError(
        f"the image knows no {what} {name!r} in {file}",
        hint=f"create the {what} in an earlier RUN, or use its number",
    )


def _users(database: UserDatabase) -> Iterator[_Passwd]:
    for fields in _lines(database.passwd(), "/etc/passwd"):
        if len(fields) >= 6 and _is_id(fields[2]) and _is_id(fields[3]):
            yield _Passwd(fields[0], int(fields[2]), int(fields[3]), fields[5])


def _groups(database: UserDatabase) -> Iterator[_Group]:
    for fields in _lines(database.group(), "/etc/group"):
        if len(fields) >= 3 and _is_id(fields[2]):
            members = tuple(fields[3].split(",")) if len(fields) > 3 else ()
            yield _Group(fields[0], int(fields[2]), members)


def _lines(data: bytes | None, name: str) -> Iterator[list[str]]:
    if data is None:
        return
    if len(data) > MAX_FILE_BYTES:
        raise LimitExceededError(f"{name} of the image is larger than {MAX_FILE_BYTES} bytes")
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if line and not line.startswith("#"):
            yield line.strip().split(":")


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MAX_ID


def _read_in_root(root: str, path: bytes) -> bytes | None:
    """Return a regular file of the mounted root, links followed inside it.

    Raises:
        BuildError: It is a pipe or the like: the runtime, which opens it too, would hang.
    """
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
    try:
        fd = openat2(root_fd, path, os.O_RDONLY | os.O_NONBLOCK, resolve=resolve)
    except FileNotFoundError:
        return None
    except OSError as err:
        raise BuildError(f"/{os.fsdecode(path)} of the image: {err.strerror}") from err
    finally:
        os.close(root_fd)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise BuildError(f"/{os.fsdecode(path)} of the image is not a regular file")
        return read_at(fd, min(status.st_size, MAX_FILE_BYTES + 1), 0)
    finally:
        os.close(fd)


def group_ids(database: UserDatabase, names: Sequence[str]) -> tuple[int, ...]:
    """Return the ids of groups that are named or numbered.

    Raises:
        BuildError: A name the image does not know, or a number out of range.
    """
    return tuple(_group_id(database, name) for name in names)
