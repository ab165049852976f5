"""What ``umount`` does; :mod:`layerstore.cli.fast` has its options. On the fast path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fuse_mount.mounts import mounts, unmount
from fuse_mount.records import UnreadableRecordError
from fuse_mount.recovering import clean_stale, give_up_unreadable
from layerstore.cli.failure import tell_all
from layerstore.cli.output import write_line, write_note
from layerstore.errors import LayerstoreError

if TYPE_CHECKING:
    import argparse


def take_views_away(root: str, options: argparse.Namespace) -> None:
    """Take the views away that the options name; one that fails does not stop the others.

    Raises:
        LayerstoreError: The last failure.
    """
    failures: list[LayerstoreError] = []
    for target in _all_views(root) if options.all else options.target:
        try:
            _umount_one(root, target, options)
        except LayerstoreError as err:
            failures.append(err)
    if options.all:
        clean_stale(root)
    tell_all(failures)


def _all_views(root: str) -> list[str]:
    unreadable: list[UnreadableRecordError] = []
    listed = mounts(root, unreadable)
    return [*(view.record.target for view in listed), *(err.view_id for err in unreadable)]


def _umount_one(root: str, target: str, options: argparse.Namespace) -> None:
    try:
        record = unmount(root, target, lazy=options.lazy, keep_upper=options.keep_upper)
    except UnreadableRecordError as err:
        write_note(f"note: {err.message}; it is given up")
        for upper in give_up_unreadable(root, err.view_id, lazy=options.lazy):
            write_note(f"note: its writable layer stays: {upper}")
        return
    if options.keep_upper and record.upper is not None:
        write_line(f"{record.upper}/upper")
