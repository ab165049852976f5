"""A user and mount namespace in which a user without privileges may mount writable views.

Inside, the user is root and a range of subordinate ids (subuid(5)) stands for everyone
else, so that files of an image keep their owners. The range is mapped by the
set-user-id helpers newuidmap and newgidmap; without them the user alone is mapped, and
other owners show as nobody. Mounts made inside end with the last process inside, of which
FUSE servers are some.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import InputError, UnsupportedError
from layerstore.linux import mounts
from layerstore.linux.idmaps import GROUPS, USERS, IdMapping
from layerstore.linux.namespaces import (
    CLONE_NEWNS,
    CLONE_NEWUSER,
    become_root_in_namespace,
    unshare,
)
from layerstore.linux.users import user_name

if TYPE_CHECKING:
    from layerstore.linux.idmaps import IdMap


class IdRange(NamedTuple):
    """Subordinate ids that a user may map."""

    first: int
    length: int


def subordinate_range(path: str, user: str, uid: int) -> IdRange | None:
    """Return a user's first range in /etc/subuid or /etc/subgid, or None."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                owner, _, numbers = line.strip().partition(":")
                first, _, count = numbers.partition(":")
                if owner in (user, str(uid)) and first.isdigit() and count.isdigit():
                    return IdRange(int(first), int(count))
    except OSError:
        pass
    return None


def map_onto_subordinate_ids() -> IdMap:
    """Return the map of a container's ids onto this user's subordinate ones, from 0 on.

    Raises:
        InputError: The user has none.
    """
    uid = os.geteuid()
    user = user_name(uid)
    uids = subordinate_range("/etc/subuid", user, uid)
    gids = subordinate_range("/etc/subgid", user, uid)
    if uids is None or gids is None:
        raise InputError(
            f"{user} has no subordinate ids in /etc/subuid and /etc/subgid",
            hint=f"give it some: usermod --add-subuids 100000-165535 "
            f"--add-subgids 100000-165535 {user}; or name ids: --idmap 0:100000:65536",
        )
    return (
        IdMapping(USERS, 0, uids.first, uids.length),
        IdMapping(GROUPS, 0, gids.first, gids.length),
    )


def map_of_rootless(user: str) -> IdMap:
    """Return the map of a user's rootless containers: root is the user, all others subordinate ids.

    Raises:
        InputError: There is no such user, or the user has no subordinate ids.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError as err:
        raise InputError(f"there is no user {user}") from err
    uids = subordinate_range("/etc/subuid", user, entry.pw_uid)
    gids = subordinate_range("/etc/subgid", user, entry.pw_uid)
    if uids is None or gids is None:
        raise InputError(
            f"{user} has no subordinate ids in /etc/subuid and /etc/subgid",
            hint=f"usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
        )
    return (
        IdMapping(USERS, 0, entry.pw_uid, 1),
        IdMapping(USERS, 1, uids.first, uids.length),
        IdMapping(GROUPS, 0, entry.pw_gid, 1),
        IdMapping(GROUPS, 1, gids.first, gids.length),
    )


def may_enter() -> bool:
    """Whether a user namespace can be made here, and mounts in it: found out by a child that does.

    Where a security module takes the rights inside away again, entering would succeed and
    could not be undone.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            unshare(CLONE_NEWUSER | CLONE_NEWNS)
            mounts.set_propagation("/", mounts.MS_SLAVE)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def enter() -> bool:
    """Move this process into the namespaces; call it before threads start.

    Returns:
        Whether a whole range of ids is mapped, so that owners of files are kept.

    Raises:
        UnsupportedError: User namespaces are not permitted here; the hint says why.
    """
    uid, gid = os.geteuid(), os.getegid()
    user = user_name(uid)
    uids = subordinate_range("/etc/subuid", user, uid)
    gids = subordinate_range("/etc/subgid", user, uid)
    if uids is None or gids is None or not (_has("newuidmap") and _has("newgidmap")):
        become_root_in_namespace()
        whole = False
    else:
        _enter_mapped(uid, gid, uids, gids)
        whole = True
    mounts.set_propagation("/", mounts.MS_SLAVE)
    return whole


def run(command: list[str]) -> int:
    """Enter the namespaces, run ``command`` there, and stay until it has ended.

    Somebody has to be there afterwards: the servers of views that it leaves would hold the
    namespaces, and so their own mounts, for ever.

    Returns:
        Its exit status, 128 and the signal's number if one ended it.

    Raises:
        UnsupportedError: User namespaces are not permitted here.
        InputError: There is no such command.
    """
    enter()
    try:
        pid = os.posix_spawnp(command[0], command, os.environ)
    except OSError as err:
        raise InputError(f"could not run {command[0]}: {err.strerror}") from err
    for number in (signal.SIGINT, signal.SIGQUIT):  # a terminal sends them to the command, too
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda sent, _: os.kill(pid, sent))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return status if status >= 0 else 128 - status


def _enter_mapped(uid: int, gid: int, uids: IdRange, gids: IdRange) -> None:
    """Unshare while a helper outside waits to write the maps, which only it may do."""
    ask, asked = os.pipe()
    reply, replied = os.pipe()
    target = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(asked)
        status = 1
        try:
            if os.read(ask, 1) == b"x":
                status = _write_maps(target, (uid, uids), (gid, gids))
        finally:
            with contextlib.suppress(OSError):
                os.write(replied, bytes([status]))
            os._exit(0)
    os.close(ask)
    os.close(replied)
    try:
        unshare(CLONE_NEWUSER | CLONE_NEWNS)
        os.write(asked, b"x")
        answer = os.read(reply, 1)
    finally:
        os.close(asked)
        os.close(reply)
        os.waitpid(helper, 0)
    if answer != b"\0":
        raise UnsupportedError(
            "newuidmap refused to map the subordinate ids",
            hint=f"check /etc/subuid and /etc/subgid for {user_name(uid)}",
        )
    os.setgid(0)
    os.setuid(0)


def _write_maps(pid: int, user: tuple[int, IdRange], group: tuple[int, IdRange]) -> int:
    for program, (own, rest) in (("newuidmap", user), ("newgidmap", group)):
        words = [program, str(pid), "0", str(own), "1", "1", str(rest.first), str(rest.length)]
        child = os.posix_spawnp(program, words, os.environ)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
            return 1
    return 0


def _has(program: str) -> bool:
    return any(
        os.access(f"{directory}/{program}", os.X_OK)
        for directory in os.environ.get("PATH", os.defpath).split(os.pathsep)
    )
