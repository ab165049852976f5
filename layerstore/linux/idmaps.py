"""Maps of user and group ids, and user namespaces that stand for them.

A map says under which ids of the host the ids of an image's files are shown. The kernel
takes it as a user namespace (mount_setattr(2), MOUNT_ATTR_IDMAP), so one is made for it
by a child that ends at once; an open descriptor keeps it. Text forms are those of
util-linux and podman: ``[b:|u:|g:]CONTAINER:HOST:SIZE``.

On the fast path: imports little.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import itertools
import os

from layerstore.errors import InputError, MountError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.namespaces import CLONE_NEWUSER, unshare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

USERS = "u"
GROUPS = "g"
BOTH = "b"

_IDS = (1 << 32) - 1
"""Ids end below this: the last number means "no id" to the kernel."""

_MAX_RANGES = 340
"""As many lines as the kernel takes in a map (user_namespaces(7), Linux 4.15)."""

_NS_GET_NSTYPE = 0xB703


class IdMapping(NamedTuple):
    """One range of ids.

    Attributes:
        kind: ``u`` for users, ``g`` for groups, ``b`` for both.
        container: First id in the image and inside the user namespace.
        host: First id on the host.
        size: How many follow one another.
    """

    kind: str
    container: int
    host: int
    size: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.container}:{self.host}:{self.size}"


IdMap = tuple[IdMapping, ...]


def parse_id_mapping(text: str) -> IdMapping:
    """Return what a user typed for one range.

    Raises:
        InputError: It is none.
    """
    kind, colon, rest = text.partition(":")
    if not colon or kind not in (USERS, GROUPS, BOTH):
        kind, rest = BOTH, text
    words = rest.split(":")
    if len(words) != 3 or not all(_is_number(word) for word in words):
        raise InputError(
            f"{text!r} is no map of ids", hint="write CONTAINER:HOST:SIZE, such as 0:100000:65536"
        )
    mapping = IdMapping(kind, *map(int, words))
    if not mapping.size or max(mapping.container, mapping.host) + mapping.size > _IDS:
        raise InputError(
            f"{text!r} maps ids that do not exist", hint=f"ids go from 0 to {_IDS - 1}"
        )
    return mapping


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) <= 10


def parse_id_map(texts: Sequence[str]) -> IdMap:
    """Return the map of several ranges, checked as a whole.

    Raises:
        InputError: A range is none, two overlap, or only users or only groups are mapped.
    """
    mappings = tuple(map(parse_id_mapping, texts))
    for kind, what in ((USERS, "users"), (GROUPS, "groups")):
        ranges = _ranges(mappings, kind)
        if mappings and not ranges:
            raise InputError(
                f"the map of ids leaves out {what}", hint=f"add {kind}:CONTAINER:HOST:SIZE"
            )
        if len(ranges) > _MAX_RANGES:
            raise InputError(f"{len(ranges)} ranges of {what}, the kernel takes {_MAX_RANGES}")
        for side in ("container", "host"):
            _refuse_overlaps(sorted((getattr(one, side), one.size) for one in ranges), what, side)
    return mappings


def _refuse_overlaps(ranges: list[tuple[int, int]], what: str, side: str) -> None:
    for (first, size), (following, _) in itertools.pairwise(ranges):
        if first + size > following:
            raise InputError(f"the map of ids names the {side}'s {what} from {following} on twice")


def _ranges(mappings: IdMap, kind: str) -> list[IdMapping]:
    return [mapping for mapping in mappings if mapping.kind in (kind, BOTH)]


def with_stand_in_for_root(mappings: IdMap) -> IdMap:
    """Return a map in which the host's root has an id, too.

    What overlayfs does for itself in an upper directory (its work directory, whiteouts) it
    does as root, which must be somebody there. The id is one that nothing else is mapped to.
    """
    added = []
    for kind in (USERS, GROUPS):
        ranges = _ranges(mappings, kind)
        if any(mapping.host == 0 for mapping in ranges):
            continue
        taken = [range(one.container, one.container + one.size) for one in ranges]
        last = _IDS - 1
        free = next(last - back for back in range(_IDS) if not _within(last - back, taken))
        added.append(IdMapping(kind, free, 0, 1))
    return (*mappings, *added)


def _within(number: int, ranges: Sequence[range]) -> bool:
    return any(number in one for one in ranges)


@contextlib.contextmanager
def user_namespace_of(mappings: IdMap) -> Iterator[int]:
    """Yield a descriptor of a user namespace with this map, which is good for mounts.

    Raises:
        MountError: The kernel refused it.
        UnsupportedError: There are no user namespaces here.
    """
    with _child(lambda: unshare(CLONE_NEWUSER)) as pid:
        _write_map(pid, "uid_map", _ranges(mappings, USERS))
        _write_map(pid, "gid_map", _ranges(mappings, GROUPS))
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield namespace
    finally:
        os.close(namespace)


def _write_map(pid: int, name: str, ranges: list[IdMapping]) -> None:
    text = "".join(f"{one.container} {one.host} {one.size}\n" for one in ranges)
    if not text:  # the kernel takes no empty map
        return
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as err:
        raise MountError(
            f"could not map ids: {err.strerror}",
            hint="mapping the ids of others takes root" if err.errno == errno.EPERM else None,
        ) from err


def map_of_user_namespace(path: str) -> IdMap:
    """Return the map of a user namespace that exists, such as ``/proc/PID/ns/user``.

    Raises:
        InputError: There is none, or nothing is mapped in it.
    """
    hint = "name a user namespace, such as /proc/PID/ns/user"
    try:
        namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as err:
        raise InputError(f"{path} cannot be opened: {err.strerror}", hint=hint) from err
    try:
        if _type_of(namespace) != CLONE_NEWUSER:
            raise InputError(f"{path} is no user namespace", hint=hint)
        # Seen from outside: a reader inside would be told ids of the namespace's parent.
        with _child(lambda: _enter(namespace)) as pid:
            mappings = (
                *_read_map(f"/proc/{pid}/uid_map", USERS),
                *_read_map(f"/proc/{pid}/gid_map", GROUPS),
            )
    finally:
        os.close(namespace)
    return parse_id_map([str(mapping) for mapping in mappings]) if mappings else _unmapped(path)


def _unmapped(path: str) -> IdMap:
    raise InputError(f"in the user namespace {path} no ids are mapped")


def _type_of(namespace: int) -> int:
    try:
        return fcntl.ioctl(namespace, _NS_GET_NSTYPE)
    except OSError:
        return 0


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(ctypes.c_int(namespace), ctypes.c_int(CLONE_NEWUSER)) != 0:
        code = ctypes.get_errno()
        # EINVAL: it is the caller's own, whose map is the same inside.
        if code != errno.EINVAL:
            raise OSError(code, os.strerror(code))


def _read_map(path: str, kind: str) -> Iterator[IdMapping]:
    with open(path, encoding="ascii") as file:
        for line in file:
            container, host, size = map(int, line.split())
            yield IdMapping(kind, container, host, size)


@contextlib.contextmanager
def _child(prepare: Callable[[], object]) -> Iterator[int]:
    """Run a child that has prepared itself and then waits; yield its pid, end it afterwards."""
    ready, told = os.pipe()
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(go)
            prepare()
            os.write(told, b"1")
            os.read(wait, 1)
        except Exception as err:  # noqa: BLE001 - told to the parent, which raises
            with contextlib.suppress(OSError):
                os.write(told, b"0" + str(err).encode())
        finally:
            os._exit(0)
    os.close(told)
    os.close(wait)
    try:
        answer = os.read(ready, 4096)
        if answer[:1] != b"1":
            raise MountError(f"no user namespace: {answer[1:].decode('utf-8', 'replace')}")
        yield pid
    finally:
        os.close(ready)
        os.close(go)
        os.waitpid(pid, 0)
