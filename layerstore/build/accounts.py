"""Users that a spec creates, written into an image's own files without its tools.

The same wish over the same root file system gives the same bytes: numbers are the next free
ones, and no password or date is set. Files are found as a process in the image would, links
inside it followed, and replaced whole.

Source: passwd(5), group(5), shadow(5).
"""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import BuildError, LimitExceededError
from layerstore.formats.tree import Entry, Kind
from layerstore.runtime.users import MAX_FILE_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.graph import NewUser, UsersOp
    from layerstore.build.resources import BuildResources
    from layerstore.build.solver import Result
    from layerstore.build.target import TargetTree
    from layerstore.digest import DiffId

NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
"""What useradd(8) takes everywhere."""

FIRST_ID = 1000
LAST_ID = 59_999
_HOME_MODE = 0o755
_NUMBER = re.compile(rb"[0-9]{1,10}")


class Account(NamedTuple):
    """A user that was added."""

    user: NewUser
    uid: int
    gid: int


class Databases:
    """The text of passwd, group and shadow while users are added.

    Attributes:
        passwd: Content, empty when the image has no such file.
        group: The same.
        shadow: None when the image has none: then it has no passwords at all.
    """

    def __init__(self, passwd: bytes, group: bytes, shadow: bytes | None) -> None:
        self.passwd = passwd
        self.group = group
        self.shadow = shadow

    def add(self, user: NewUser) -> Account | None:
        """Add a user; None when it is there already.

        Raises:
            BuildError: One of that name is another, a number is taken, a group is not there.
        """
        known = _numbers(self.passwd, 4).get(user.name.encode())
        if known is not None:
            _check_same(user, known)
            return None
        uid, gid, own_group = self._numbered(user)
        if own_group:
            self.group = _appended(self.group, f"{user.name}:x:{gid}:")
        for name in user.groups:
            self.group = _with_member(self.group, name, user.name)
        line = f"{user.name}:x:{uid}:{gid}:{user.comment}:{user.home}:{user.shell}"
        self.passwd = _appended(self.passwd, line)
        if self.shadow is not None:
            self.shadow = _appended(self.shadow, f"{user.name}:!:::::::")
        return Account(user, uid, gid)

    def _numbered(self, user: NewUser) -> tuple[int, int, bool]:
        """Return uid, gid, and whether the group is to be made."""
        uids = {numbers[0] for numbers in _numbers(self.passwd, 3).values()}
        groups = {name: numbers[0] for name, numbers in _numbers(self.group, 3).items()}
        gids = set(groups.values())
        if user.uid is not None and user.uid in uids:
            raise BuildError(f"the uid {user.uid} of the user {user.name!r} is taken in the image")
        if user.group:
            gid = groups.get(user.group.encode())
            if gid is None:
                raise BuildError(f"the image knows no group {user.group!r}")
            return _free(uids) if user.uid is None else user.uid, gid, False
        if user.name.encode() in groups:
            raise BuildError(
                f"the image has a group {user.name!r} already",
                hint=f'make it the primary group of the user: group = "{user.name}"',
            )
        if user.gid is not None and user.gid in gids:
            raise BuildError(f"the gid {user.gid} of the user {user.name!r} is taken in the image")
        uid = _free(uids | gids) if user.uid is None else user.uid
        if user.gid is not None:
            return uid, user.gid, True
        return uid, uid if uid not in gids else _free(gids), True


def create_users(resources: BuildResources, op: UsersOp, base: Result) -> DiffId | None:
    """Carry out a :class:`~layerstore.build.graph.UsersOp`; None when all of them are there.

    Raises:
        BuildError: See :meth:`Databases.add`.
    """
    target = resources.target(base.layers)
    files = [
        _File(resources, target, path, mode)
        for path, mode in ((b"etc/passwd", 0o644), (b"etc/group", 0o644), (b"etc/shadow", 0o640))
    ]
    passwd, group, shadow = files
    databases = Databases(passwd.data, group.data, shadow.data if shadow.exists else None)
    accounts = [databases.add(user) for user in op.users]
    passwd.write(databases.passwd)
    group.write(databases.group)
    shadow.write(databases.shadow or b"")
    for account in accounts:
        if account is not None:
            _make_home(target, account)
    return resources.publish(*target.items(), near=base.layers)


def _check_same(user: NewUser, known: Sequence[int]) -> None:
    uid, gid = known
    if user.uid not in {None, uid} or user.gid not in {None, gid}:
        raise BuildError(
            f"the image has a user {user.name!r} already, with uid {uid} and gid {gid}",
            hint="leave the numbers out, or choose another name",
        )


def _free(taken: set[int]) -> int:
    for number in range(FIRST_ID, LAST_ID + 1):
        if number not in taken:
            return number
    raise BuildError(f"all ids from {FIRST_ID} to {LAST_ID} are taken in the image")


def _numbers(data: bytes, end: int) -> dict[bytes, tuple[int, ...]]:
    """Return the numbers in fields 2 to ``end`` (not included) by name; the first line wins."""
    found: dict[bytes, tuple[int, ...]] = {}
    for line in data.split(b"\n"):
        fields = line.split(b":")
        numbers = fields[2:end]
        if len(numbers) == end - 2 and all(map(_NUMBER.fullmatch, numbers)):
            found.setdefault(fields[0], tuple(map(int, numbers)))
    return found


def _appended(data: bytes, line: str) -> bytes:
    if data and not data.endswith(b"\n"):
        data += b"\n"
    return data + line.encode() + b"\n"


def _with_member(data: bytes, group: str, member: str) -> bytes:
    lines = data.split(b"\n")
    for index, line in enumerate(lines):
        fields = line.split(b":")
        if fields[0] == group.encode() and len(fields) == 4:
            members = [each for each in fields[3].split(b",") if each and each != member.encode()]
            fields[3] = b",".join([*members, member.encode()])
            lines[index] = b":".join(fields)
            return b"\n".join(lines)
    raise BuildError(f"the image knows no group {group!r}, which the user {member!r} is to be in")


def _make_home(target: TargetTree, account: Account) -> None:
    path, node = target.resolve(os.fsencode(account.user.home))
    if node is not None:
        return  # as useradd(8): what is there belongs to somebody
    target.make_directories(path.rpartition(b"/")[0])
    target.put(
        Entry(
            path=path, kind=Kind.DIR, mode=_HOME_MODE, uid=account.uid, gid=account.gid,
            mtime_ns=target.now_ns,
        )
    )  # fmt: skip


class _File:
    """One of the databases in the image.

    Attributes:
        data: The content, empty when there is no such file.
        exists: Whether there is.
    """

    def __init__(
        self, resources: BuildResources, target: TargetTree, path: bytes, mode: int
    ) -> None:
        self._target = target
        self._path, node = target.resolve(path)
        self.exists = node is not None
        self.data = b""
        self._mode, self._uid, self._gid = mode, 0, 0
        if node is None:
            return
        entry = node.entry
        if entry.kind is not Kind.FILE:
            raise BuildError(f"/{os.fsdecode(path)} of the image is not a regular file")
        if entry.size > MAX_FILE_BYTES:
            raise LimitExceededError(
                f"/{os.fsdecode(path)} of the image is larger than {MAX_FILE_BYTES} bytes"
            )
        self._mode, self._uid, self._gid = entry.mode, entry.uid, entry.gid
        refs = tuple((length, chunk) for length, chunk in entry.extents if chunk is not None)
        self.data = resources.store.read_refs(refs) if refs else b""

    def write(self, data: bytes) -> None:
        """Put the file into the layer if it changed."""
        if data == self.data:
            return
        self._target.make_directories(self._path.rpartition(b"/")[0])
        entry = Entry(
            path=self._path, kind=Kind.FILE, mode=self._mode, uid=self._uid, gid=self._gid,
            size=len(data), mtime_ns=self._target.now_ns,
        )  # fmt: skip
        self._target.put(entry, lambda: io.BytesIO(data))
