"""``rm`` and ``inspect`` take images and containers; here the containers are told apart.

A word that names both is refused: ``image`` and ``container`` in front say which is meant.
"""

from __future__ import annotations

import contextlib
import os

from layerstore.cli.settings import current_root
from layerstore.errors import ConflictError, InputError, LayerstoreError, NotFoundError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_ID_MIN_HEX = 4


def take_containers(line: Sequence[str], store: str | None) -> tuple[int | None, list[str]]:
    """Do what a command line asks of containers.

    Returns:
        The exit code if that was all, else None and the line that is left.

    Raises:
        ConflictError: A word names an image and a container.
    """
    root = current_root(store)
    command, *words = line
    names = [word for word in words if not word.startswith("-")]
    ours = containers_among(names, root, command)
    if not ours:
        return None, list(line)
    options = [word for word in words if word.startswith("-")]
    from layerstore.cli import fast

    code = fast.run("container", [command, *options, *ours], root)
    rest = [word for word in words if word not in ours and word not in ("-v", "--volumes")]
    if len(ours) == len(names):
        return code, []
    return None, [command, *rest]


def containers_among(names: Sequence[str], root: str, command: str) -> list[str]:
    """Return those of the names that are of containers.

    Args:
        names: Words that name something.
        root: Of the store.
        command: What is to be done, for the hint.

    Raises:
        ConflictError: One names an image and a container.
    """
    if not os.path.isdir(f"{root}/containers"):
        return []
    ours = [name for name in names if _is_container(root, name)]
    for name in ours:
        if _is_image(root, name):
            raise ConflictError(
                f"{name!r} is an image and a container",
                hint=f"layerstore image {command} {name}, or layerstore container {command} {name}",
            )
    return ours


def _is_container(root: str, name: str) -> bool:
    from layerstore.containers.records import find_id, id_of_name

    if id_of_name(root, name):
        with contextlib.suppress(NotFoundError, InputError):
            find_id(root, name)
            return True
    if len(name) < _ID_MIN_HEX:
        return False
    with contextlib.suppress(NotFoundError, InputError):
        return bool(find_id(root, name))
    return False


def _is_image(root: str, name: str) -> bool:
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.names.names import resolve
    from layerstore.store.paths import StorePaths

    with (
        contextlib.suppress(LayerstoreError),
        contextlib.closing(Catalog(StorePaths(root))) as all_,
    ):
        resolve(all_, name)
        return True
    return False
