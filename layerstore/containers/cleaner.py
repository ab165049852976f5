"""What a monitor becomes when its container has ended and nobody waits: it cleans up, and ends.

It holds the container's lock still, in a descriptor that it inherits. What shows the image is
mounted in the mount namespace from which the container was started, so it goes back there.
"""

from __future__ import annotations

import sys

from layerstore.containers.lifecycle import end
from layerstore.containers.records import get_container
from layerstore.errors import LayerstoreError
from layerstore.linux.namespaces import CLONE_NEWNS, enter_namespace


def main(store_root: str, container_id: str, outside: int) -> int:
    """Clean up after a container; what fails is left to whoever looks next.

    Args:
        store_root: The store.
        container_id: The container's whole id.
        outside: Descriptor of the mount namespace it was started from.
    """
    try:
        enter_namespace(outside, CLONE_NEWNS)
        container = get_container(store_root, container_id)
        if container is not None:
            end(store_root, container)
    except (LayerstoreError, OSError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
