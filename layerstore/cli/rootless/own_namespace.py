"""Commands that need root somewhere, for users who are not: they become it in a user namespace.

As a program it removes the paths that it is given, as root of such a namespace.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from layerstore.errors import LayerstoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.cli.settings import Settings


def become_root(settings: Settings) -> None:
    """Move this process into a user namespace of its own, unless it is root; before threads start.

    Inside it is root, over its own files and those of its subordinate ids, and the store is
    the same as before. Where namespaces are not permitted, or worth nothing, nothing happens:
    what needs one will say so, and the rest works without.

    Raises:
        UnsupportedError: The user's subordinate ids could not be mapped.
    """
    if os.geteuid() == 0:
        return
    from fuse_mount import unshare

    if unshare.may_enter():
        root = settings.root
        unshare.enter()
        settings.store_option = root


def remove_of_subordinates(paths: Sequence[str]) -> None:
    """Remove what steps of a build left to this user's subordinate ids, as far as it is there.

    In a process of its own: from inside of a namespace nobody can tell which processes and
    mounts of others live, and a collector that took views for dead would remove their layers.
    """
    there = [path for path in paths if os.path.lexists(path)]
    if os.geteuid() == 0 or not there:
        return
    import subprocess

    program = [sys.executable, "-P", "-m", "layerstore.cli.rootless.own_namespace"]
    subprocess.run([*program, *there], check=False, stdin=subprocess.DEVNULL)


def _main(paths: Sequence[str]) -> None:
    from fuse_mount import unshare
    from layerstore.linux.removal import remove_leftover

    try:
        unshare.enter()
    except LayerstoreError:
        return  # then no build of this user's has left anything of others
    for path in paths:
        remove_leftover(path)


if __name__ == "__main__":
    _main(sys.argv[1:])
