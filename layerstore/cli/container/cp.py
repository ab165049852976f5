"""The command ``cp``: files between a container and the host, as docker has it."""

from __future__ import annotations

import contextlib
import os
import stat
import sys

from layerstore.cli.container.commands import reference_of
from layerstore.cli.output import printable, write_note
from layerstore.errors import InputError, LayerstoreError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from layerstore.containers.opened import Opened
    from layerstore.containers.places import Place
    from layerstore.containers.records import Container
    from layerstore.formats.tree import Entry
    from layerstore.linux.idmaps import IdMap

_STREAM = "-"


def cp_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``cp`` takes."""
    add = parser.add_argument
    add("-a", "--archive", action="store_true", help=_ARCHIVE)
    add("-L", "--follow-link", action="store_true", help="what SOURCE leads to, if it is a link")
    add("-q", "--quiet", action="store_true", help="docker's; nothing is printed anyway")
    add("source", metavar="SOURCE", help="CONTAINER:PATH, PATH, or - for a tar on stdin")
    add("target", metavar="TARGET", help="the other: PATH, CONTAINER:PATH, or - for a tar")


_ARCHIVE = (
    "out of a container: owners, set-ID bits and devices, too (root); into one: for its own user"
)


def cp(options: argparse.Namespace, root: str) -> int:
    """Copy files between a container and the host."""
    from layerstore.containers.opened import opened
    from layerstore.containers.records import find

    source, target = _split(options.source), _split(options.target)
    if source[0] and target[0]:
        raise InputError(
            "copying between containers is not supported",
            hint="layerstore cp A:PATH - | layerstore cp - B:DIRECTORY",
        )
    if not source[0] and not target[0]:
        raise InputError(
            "neither is in a container", hint="layerstore cp CONTAINER:PATH PATH, or the reverse"
        )
    for name, path in (source, target):
        if name and not path:
            raise InputError(f"{name}: names no path in the container", hint=f"{name}:/PATH")
        if not path:
            raise InputError("a path is empty")
    container = find(root, reference_of(source[0] or target[0]))
    with opened(root, container) as files:
        if source[0]:
            _copy_out(options, container, files, source[1], target[1])
        else:
            _copy_in(options, container, files, source[1], target[1])
    return 0


def _split(word: str) -> tuple[str, str]:
    """Return container and path that a word means; no container for a path of the host."""
    name, colon, path = word.partition(":")
    if word.startswith("/") or not colon or not name or name.startswith("."):
        return "", word
    return name, path


def _skip(path: bytes, why: str) -> None:
    write_note(f"note: left out: {printable(os.fsdecode(path))}: {why}")


@contextlib.contextmanager
def _place(root: int, path: bytes, *, follow: bool) -> Iterator[Place]:
    from layerstore.containers.places import find_place

    place = find_place(root, path, follow=follow)
    try:
        yield place
    finally:
        os.close(place.parent)


@contextlib.contextmanager
def _host() -> Iterator[int]:
    fd = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _on_host(path: str) -> bytes:
    """Return a path of the host from its root, what stands at its end kept."""
    absolute = os.path.join(os.getcwdb(), os.fsencode(path))
    return absolute if not path.endswith("/") else absolute.rstrip(b"/") + b"/"


def _require(place: Place, path: str, where: str) -> os.stat_result:
    from layerstore.containers.places import asserts_directory

    if place.status is None:
        raise NotFoundError(f"there is no {path!r} {where}")
    if asserts_directory(os.fsencode(path)) and not place.is_directory:
        raise InputError(f"{path!r} {where} is not a directory", hint="leave out the '/'")
    return place.status


def _copy_out(
    options: argparse.Namespace, container: Container, files: Opened, source: str, target: str
) -> None:
    """Copy out of a container."""
    from layerstore.containers.copied import Walk
    from layerstore.containers.copying import under_ids, write_tar
    from layerstore.containers.places import base_name, means_content

    asked = os.fsencode(source)
    with _place(files.root, asked, follow=options.follow_link) as place:
        status = _require(place, source, f"in container {container.name}")
        if status.st_dev in files.kernels:
            raise InputError(
                f"{source!r} is the kernel's, and no file of the container",
                hint=f"layerstore exec {container.name} cat {source}",
            )

        def items(name: bytes) -> Iterator[object]:
            walk = Walk(place, name, files.kernels, _skip)
            return under_ids(walk.items(), _to_container(files.idmap))

        if target == _STREAM:
            name = b"." if means_content(asked) else base_name(asked) or b"."
            write_tar(items(name), sys.stdout.buffer.write)  # type: ignore[arg-type]
            sys.stdout.buffer.flush()
            return
        trusted = options.archive and os.geteuid() == 0
        if place.status is not None and _is_device(place.status) and not trusted:
            raise InputError(
                f"{source!r} in container {container.name} is a device", hint="cp -a, as root"
            )
        with _host() as host:
            _write(
                host, frozenset(), _on_host(target), asked, place, items,
                owner=(lambda entry: (entry.uid, entry.gid)) if trusted else (lambda _: None),
                trusted=trusted, shown=target,
            )  # fmt: skip


def _is_device(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)


def _copy_in(
    options: argparse.Namespace, container: Container, files: Opened, source: str, target: str
) -> None:
    """Copy into a container."""
    from layerstore.containers.copied import Walk

    owner = _owner_in(options, container, files)
    if source == _STREAM:
        _extract(files, os.fsencode(target), owner, target)
        return
    with (
        _host() as host,
        _place(host, _on_host(source), follow=options.follow_link) as place,
    ):
        _require(place, source, "here")
        _write(
            files.root, files.kernels, os.fsencode(target), os.fsencode(source), place,
            lambda name: Walk(place, name, frozenset(), _skip).items(),
            owner=owner, trusted=True, shown=target,
        )  # fmt: skip


def _write(
    root: int,
    kernels: frozenset[int],
    target: bytes,
    source: bytes,
    place: Place,
    items: Callable[[bytes], Iterator[object]],
    *,
    owner: Callable[[Entry], tuple[int, int] | None],
    trusted: bool,
    shown: str,
) -> None:
    """Copy what lies at a place to a path of a root."""
    from layerstore.containers.copying import TreeWriter
    from layerstore.containers.places import target_of
    from layerstore.linux.files import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS

    with _place(root, target, follow=True) as there:
        status = there.status
        if status is not None and not (there.is_directory or stat.S_ISREG(status.st_mode)):
            raise InputError(f"{shown!r} is neither a directory nor a regular file")
        goes = target_of(there, target, source, is_directory=place.is_directory)
    try:
        writer = TreeWriter(
            goes.directory, b"", RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS,
            owner=owner, trusted=trusted, kernels=kernels, skip=_skip,
        )  # fmt: skip
        writer.write(items(goes.name))  # type: ignore[arg-type]
    finally:
        os.close(goes.directory)


def _extract(
    files: Opened, target: bytes, owner: Callable[[Entry], tuple[int, int] | None], shown: str
) -> None:
    """Unpack a tar on stdin in a directory of a container."""
    from layerstore.containers.copying import TreeWriter, read_tar
    from layerstore.containers.places import IN_ROOT, target_of

    with _place(files.root, target, follow=True) as there:
        if not there.is_directory:
            raise InputError(
                f"destination {shown!r} must be a directory", hint="make it in the container first"
            )
        goes = target_of(there, target, b".", is_directory=True)
    os.close(goes.directory)
    writer = TreeWriter(
        files.root, goes.path, IN_ROOT,
        owner=owner, trusted=True, kernels=files.kernels, skip=_skip,
    )  # fmt: skip
    writer.write(read_tar(lambda count: os.read(0, count)))


def _owner_in(
    options: argparse.Namespace, container: Container, files: Opened
) -> Callable[[Entry], tuple[int, int]]:
    """Return who owns what is copied into a container, in ids out here.

    As docker: whoever has the same id as on the host; with ``-a`` the user of the container, if
    it has one.
    """
    to_host = _mapped(files.idmap, outwards=True)
    if options.archive and container.settings.user:
        from layerstore.runtime.users import resolve_run_user, users_of

        found = resolve_run_user(users_of(f"/proc/self/fd/{files.root}"), container.settings.user)
        own = to_host(found.uid), to_host(found.gid)
        return lambda _: own
    return lambda entry: (to_host(entry.uid), to_host(entry.gid))


def _to_container(idmap: IdMap) -> Callable[[Entry], tuple[int, int]]:
    inwards = _mapped(idmap, outwards=False)
    return lambda entry: (inwards(entry.uid), inwards(entry.gid))


def _mapped(idmap: IdMap, *, outwards: bool) -> Callable[[int], int]:
    """Return what takes an id of a container to the host's, or back."""

    def change(number: int) -> int:
        for one in idmap:
            begin, to = (one.container, one.host) if outwards else (one.host, one.container)
            if begin <= number < begin + one.size:
                return to + number - begin
        if idmap and outwards:
            raise LayerstoreError(f"the container has no id {number}", hint="cp -a")
        return number

    return change
