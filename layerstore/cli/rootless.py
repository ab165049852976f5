"""Commands that need root somewhere, for users who are not: they become it in a user namespace."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from layerstore.errors import LayerstoreError

if TYPE_CHECKING:
    from layerstore.cli.common import Settings


def become_root(settings: Settings) -> None:
    """Move this process into a user namespace of its own, unless it is root; before threads start.

    Inside it is root, over its own files and those of its subordinate ids, and the store is
    the same as before. Where namespaces are not permitted nothing happens: what needs one
    will say so, and the rest works without.

    Raises:
        UnsupportedError: The namespace is there and its ids could not be mapped.
        MountError: The same.
    """
    if os.geteuid() == 0:
        return
    from fuse_mount import unshare
    from layerstore.linux.namespaces import in_user_namespace

    root = settings.root
    try:
        unshare.enter()
    except LayerstoreError:
        if in_user_namespace():
            raise
    else:
        settings.store_option = root
