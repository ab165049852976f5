"""What a container wrote, for those who list it and make images of it."""

from __future__ import annotations

import os
from pathlib import Path

from fuse_mount.committing import Written
from layerstore.containers.records import upper_of
from layerstore.light_typing import TYPE_CHECKING
from layerstore.runtime.oci_spec import STANDARD_DIRECTORIES

if TYPE_CHECKING:
    from layerstore.containers.records import Container

_OWN_FILES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


def written_in_container(store_root: str, container: Container) -> Written:
    """Return what a container wrote, whether it runs or not.

    Without what its runtime made where the image has nothing to mount over.
    """
    upper = f"{upper_of(store_root, container.container_id)}/upper"
    mounted = {mount.target for mount in container.settings.mounts}
    targets = {*mounted, *STANDARD_DIRECTORIES, *_OWN_FILES}
    return Written(
        f"the container {container.name}",
        container.image_id,
        container.image,
        container.layers,
        Path(upper) if os.path.isdir(upper) else None,
        f"cp -a {upper} elsewhere",
        exclude=frozenset(os.fsencode(target.strip("/")) for target in targets),
        users=lambda: f"layerstore stop {container.name}",
    )
