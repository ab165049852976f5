"""The command ``umount``. On the fast path."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from fuse_mount.ending import PATIENCE_S, Endings
from fuse_mount.mounts import ELSEWHERE, find_view, mounts, unmount
from fuse_mount.records import UnreadableRecordError
from fuse_mount.recovering import clean_stale, give_up_unreadable
from fuse_mount.states import state_of
from layerstore import light_json as json
from layerstore.cli.failure import tell_all
from layerstore.cli.output import counted, write_line, write_note
from layerstore.cli.settings import require_store
from layerstore.errors import (
    ConflictError,
    InputError,
    LayerstoreError,
    MountError,
    NotFoundError,
)

if TYPE_CHECKING:
    import argparse

    from fuse_mount.records import MountRecord


def umount_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``umount`` takes."""
    parser.add_argument("target", nargs="*", metavar="DIR", help="directory or id of a view")
    parser.add_argument("--all", action="store_true", help="every view of the store")
    parser.add_argument(
        "--lazy", action="store_true", help="detach busy views; they end with their last user"
    )
    parser.add_argument(
        "--keep-upper", action="store_true", help="keep the writable layer and print where it is"
    )
    parser.add_argument(
        "-f", "--force", action="store_true",
        help="views that podman is shown as layers, too; its containers lose their files",
    )  # fmt: skip


def umount(options: argparse.Namespace, root: str) -> int:
    """Take views away, with their writable layers."""
    if bool(options.target) == options.all:
        raise InputError("give directories to unmount, or --all", hint="layerstore mounts")
    require_store(root)
    _take_views_away(root, options)
    return 0


def _take_views_away(root: str, options: argparse.Namespace) -> None:
    """Take the views away that the options name; one that fails does not stop the others.

    Raises:
        LayerstoreError: The last failure.
    """
    failures: list[LayerstoreError] = []
    endings = Endings()
    for target in _all_views(root) if options.all else options.target:
        try:
            _umount_one(root, target, options, endings)
        except LayerstoreError as err:
            failures.append(err)
    if late := endings.wait():
        write_note(
            f"note: after {PATIENCE_S:g} seconds {counted(late, 'FUSE server')} had not ended; "
            f"what is left of the views below {root}/views goes then"
        )
    if options.all:
        clean_stale(root)
    tell_all(failures)


def _all_views(root: str) -> list[str]:
    unreadable: list[UnreadableRecordError] = []
    listed = mounts(root, unreadable)
    return [*(view.record.target for view in listed), *(err.view_id for err in unreadable)]


def _umount_one(root: str, target: str, options: argparse.Namespace, endings: Endings) -> None:
    try:
        record = _unmounted(root, target, options, endings)
    except UnreadableRecordError as err:
        write_note(f"note: {err.message}; it is given up")
        for upper in give_up_unreadable(root, err.view_id, lazy=options.lazy):
            write_note(f"note: its writable layer stays: {upper}")
        return
    if options.keep_upper and record.upper is not None:
        write_line(f"{record.upper}/upper")


def _unmounted(
    root: str, target: str, options: argparse.Namespace, endings: Endings
) -> MountRecord:
    if not options.force and os.path.isdir(root):
        _refuse_shown(root, target)
    if os.geteuid() != 0 and os.path.isdir(root):
        with contextlib.suppress(NotFoundError):
            record = find_view(root, target)
            if state_of(record)[0] == ELSEWHERE:
                _unmount_there(root, record, options)
                return record
    return unmount(root, target, lazy=options.lazy, keep_upper=options.keep_upper, endings=endings)


def _refuse_shown(root: str, target: str) -> None:
    """Refuse to take a layer from under podman, which would go on and find an empty image.

    Raises:
        ConflictError: Names a container that runs over it, as far as mounts tell: of one that was
            made and does not run nobody but podman knows.
    """
    with contextlib.suppress(NotFoundError):
        place = find_view(root, target).target
        if not place.endswith("/diff"):
            return
        from layerstore.peers.podman_store import container_over, store_around

        shown = store_around(place)
        if shown is not None:
            over = container_over(place)
            used = f", and a container of it runs at {over}" if over else ""
            raise ConflictError(
                f"podman is shown the view at {place} as a layer{used}",
                hint=f"layerstore podman-store {shown} --rm takes all of them away from podman "
                "first, --rm IMAGE one image; --force does not ask",
            )


def _unmount_there(root: str, record: MountRecord, options: argparse.Namespace) -> None:
    """Unmount a view by a process that goes into the user's namespaces in which it was mounted.

    Raises:
        MountError: It is busy, or was mounted where this user cannot go.
    """
    from fuse_mount.common import enter_of

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        told: tuple[str, ...] = ("the process that should have unmounted it failed", "")
        try:
            with contextlib.suppress(MountError):  # not this user's: then it is told where it is
                enter_of(record)
            unmount(root, record.view_id, lazy=options.lazy, keep_upper=options.keep_upper)
            told = ()
        except LayerstoreError as err:
            told = (err.message, err.hint or "")
        finally:
            os.write(writer, json.dumps(told).encode())
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = json.loads(pipe.read())
    os.waitpid(pid, 0)
    if told:
        raise MountError(told[0], hint=told[1] or None)
