"""Containers as the store keeps them: ``containers/ID/container.json``, and their names.

    containers/ID/container.json   what the container is; replaced by rename
    containers/ID/state.json       how it fares; see :mod:`layerstore.containers.states`
    containers/ID/alive            flocked as long as its monitor lives
    containers/ID/stopped          somebody wants it stopped: it is not restarted
    containers/ID/log, log.1 ...   its output
    containers/names/NAME          the id of who is called that
    views/container-ID.json        keeps its image and its layers from the collector
    uppers/ID/                     what it wrote; see :mod:`fuse_mount.uppers`

Making one and removing one happen under ``locks/containers``. The record that the collector
reads is there first and goes last; a directory without ``container.json`` is half made or half
removed and nobody's, once that lock is free.

On the fast path: imports little.
"""

from __future__ import annotations

import contextlib
import os

from layerstore import light_json as json
from layerstore.containers.settings import Settings, settings_from_json
from layerstore.digest import DiffId, Digest, ImageId
from layerstore.errors import (
    ConflictError,
    FormatError,
    InputError,
    NotFoundError,
)
from layerstore.light_re import DIGITS, HEX, LETTERS, only
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.files import (
    fsync_directory,
    make_private_dir,
    open_private,
    read_file,
    write_all,
)
from layerstore.linux.locks import FileLock
from layerstore.linux.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ID_HEX = 64
SHORT_ID_HEX = 12
_RUN_HEX = 24
"""Of the id in paths of sockets, which hold 107 bytes (unix(7)): unlike the rest, no guessing."""

_RECORD_MAX_BYTES = 4 << 20
_NAME_MAX = 128
_FIRST_OF_NAME = LETTERS + DIGITS
_VERSION = 1


class Container(NamedTuple):
    """One container.

    Attributes:
        container_id: 64 hex digits.
        image: What the user called its image.
        layers: Of the image, lowest first.
        created: Seconds since the epoch.
        run_dir: Directory in memory for its bundle and its sockets; gone after a restart.
        settings: What was asked for.
    """

    container_id: str
    name: str
    image: str
    image_id: ImageId
    layers: tuple[DiffId, ...]
    created: float
    run_dir: str
    settings: Settings

    @property
    def user(self) -> str:
        """What it is called among the users of what shows its image."""
        return user_of(self.container_id)


def user_of(container_id: str) -> str:
    """Return the name of the record in ``views/`` that keeps a container's image."""
    return f"container-{container_id}"


def directory_of(store_root: str, container_id: str) -> str:
    """Return where a container's files lie."""
    return f"{store_root}/containers/{container_id}"


def upper_of(store_root: str, container_id: str) -> str:
    """Return the directory that takes what a container writes."""
    return f"{store_root}/uppers/{container_id}"


def run_directory(base: str, container_id: str) -> str:
    """Return a container's directory in memory below that of its store."""
    return f"{base}/{container_id[:_RUN_HEX]}"


def restart_path(store_root: str, container_id: str) -> str:
    """Return the file with a policy of restarts that was changed: its name and a number."""
    return f"{directory_of(store_root, container_id)}/restart"


def group_of(container_id: str, parent: str) -> str:
    """Return the path of a container's control group, from the root of each hierarchy.

    Args:
        container_id: The container's whole id.
        parent: Below which group, as ``--cgroup-parent`` has it; "" for the root.
    """
    return os.path.join("/", parent.strip("/"), f"layerstore-{container_id}")


def new_id() -> str:
    """Return an id that no other container has."""
    return os.urandom(ID_HEX // 2).hex()


def containers_lock(store_root: str) -> FileLock:
    """Hold off others who make or remove containers."""
    return FileLock(f"{store_root}/locks/containers")


def _is_id(text: str) -> bool:
    return len(text) == ID_HEX and only(text, HEX)


def _may_be_name(text: str) -> bool:
    return (
        1 <= len(text) <= _NAME_MAX
        and text[0] in _FIRST_OF_NAME
        and only(text, _FIRST_OF_NAME + "_.-")
    )


def check_name(name: str) -> None:
    """Refuse what cannot be a container's name.

    Raises:
        InputError: It is none.
    """
    if not _may_be_name(name) or _is_id(name):
        raise InputError(
            f"{name!r} cannot be the name of a container",
            hint="letters, digits, '_', '.' and '-', the first a letter or a digit, at most 128",
        )


def put_container(store_root: str, container: Container, *, durable: bool) -> None:
    """Write a container down; call it with the lock held, its directory being there.

    Args:
        store_root: The store.
        container: Its name is taken, its keeper written.
        durable: Whether a power cut must not lose it.
    """
    value = container._asdict()
    value["settings"] = container.settings._asdict()
    value["version"] = _VERSION
    directory = directory_of(store_root, container.container_id)
    publish(f"{directory}/container.json", json.dumps(value).encode(), durable=durable)
    if durable:
        fsync_directory(f"{store_root}/containers")


def publish(path: str, data: bytes, *, durable: bool) -> None:
    """Write a file whole or not at all."""
    directory, name = os.path.split(path)
    staging = f"{directory}/.{name}.tmp"  # which is no container's name
    fd = open_private(staging, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(fd, data)
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(staging, path)
    if durable:
        fsync_directory(directory)


def take_name(store_root: str, name: str, container_id: str) -> None:
    """Call a container so; call it with the lock held.

    Raises:
        ConflictError: Another one is called that.
    """
    names = f"{store_root}/containers/names"
    make_private_dir(names, durable=False)
    other = id_of_name(store_root, name)
    if other and other != container_id and os.path.isdir(directory_of(store_root, other)):
        raise ConflictError(
            f"the name {name!r} is used by container {other[:SHORT_ID_HEX]}",
            hint=f"layerstore rm {name}, or another --name",
        )
    publish(f"{names}/{name}", container_id.encode(), durable=False)


def rename(store_root: str, container_id: str, name: str) -> None:
    """Call a container otherwise; a kill leaves it with both names.

    Raises:
        ConflictError: Another one, or this one, is called that.
        InputError: It cannot be a name.
        NotFoundError: The container is gone.
    """
    check_name(name)
    with containers_lock(store_root):
        container = require_container(store_root, container_id)
        if name == container.name:
            raise ConflictError(f"container {name} is called that", hint="choose another name")
        take_name(store_root, name, container_id)
        put_container(store_root, container._replace(name=name), durable=True)
        give_up_name(store_root, container.name, container_id)


def give_up_name(store_root: str, name: str, container_id: str) -> None:
    """Let a name go if it is this container's."""
    if id_of_name(store_root, name) == container_id:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{store_root}/containers/names/{name}")


def id_of_name(store_root: str, name: str) -> str:
    """Return the id of who is called that, "" for nobody."""
    if not _may_be_name(name):
        return ""
    try:
        text = read_file(f"{store_root}/containers/names/{name}", max_bytes=ID_HEX)
    except OSError:
        return ""
    found = text.decode("ascii", "replace")
    return found if _is_id(found) else ""


def container_ids(store_root: str) -> list[str]:
    """Return the ids of all containers, half made ones too, in no particular order."""
    try:
        names = os.listdir(f"{store_root}/containers")
    except FileNotFoundError:
        return []
    return [name for name in names if _is_id(name)]


def get_container(store_root: str, container_id: str) -> Container | None:
    """Return a container by its whole id; None if there is none, or only half of one.

    Raises:
        FormatError: Its record is damaged.
    """
    path = f"{directory_of(store_root, container_id)}/container.json"
    try:
        value = json.loads(read_file(path, max_bytes=_RECORD_MAX_BYTES))
        return _from_json(value, container_id)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise FormatError(
            f"the record {path} cannot be read: {err}",
            hint=f"remove the container: layerstore rm --force {container_id[:SHORT_ID_HEX]}",
        ) from err


def _from_json(value: dict[str, object], container_id: str) -> Container:
    """Return what a record says.

    Raises:
        ValueError: It is another's, or of a newer version.
        TypeError: It lacks something.
    """
    if value.pop("version") != _VERSION or value["container_id"] != container_id:
        raise ValueError("it is another container's, or a newer layerstore's")
    settings = settings_from_json(value.pop("settings"))
    layers = tuple(DiffId(Digest(str(layer))) for layer in value.pop("layers"))  # type: ignore[attr-defined]
    return Container(**value, layers=layers, settings=settings)  # type: ignore[arg-type]


def all_containers(
    store_root: str, unreadable: list[FormatError] | None = None
) -> Iterator[Container]:
    """Yield every container that is whole.

    Args:
        store_root: The store.
        unreadable: Takes the errors of damaged records; without it the first is raised.
    """
    for container_id in container_ids(store_root):
        try:
            container = get_container(store_root, container_id)
        except FormatError as err:
            if unreadable is None:
                raise
            unreadable.append(err)
            continue
        if container is not None:
            yield container


def find_id(store_root: str, reference: str) -> str:
    """Return the id that a name, an id or the beginning of one means.

    Raises:
        NotFoundError: No container is called that.
        InputError: Several ids begin like that.
    """
    if _is_id(reference) and os.path.isdir(directory_of(store_root, reference)):
        return reference
    named = id_of_name(store_root, reference)
    if named and os.path.isdir(directory_of(store_root, named)):
        return named
    found = []
    if 1 <= len(reference) <= ID_HEX and only(reference, HEX):
        found = [one for one in container_ids(store_root) if one.startswith(reference)]
    if len(found) > 1:
        raise InputError(
            f"several containers have an id that begins with {reference!r}",
            hint="give more digits; 'layerstore ps -a' lists them",
        )
    if not found:
        raise NotFoundError(
            f"no container {reference!r}", hint="'layerstore ps -a' lists what there is"
        )
    return found[0]


def find(store_root: str, reference: str) -> Container:
    """Return the container that a name or an id means.

    Raises:
        NotFoundError: No container is called that.
        InputError: Several ids begin like that.
        FormatError: Its record is damaged.
    """
    return require_container(store_root, find_id(store_root, reference), reference)


def require_container(store_root: str, container_id: str, called: str = "") -> Container:
    """Return a container by its whole id, which somebody may have called otherwise.

    Raises:
        NotFoundError: It is not there, or only half.
        FormatError: Its record is damaged.
    """
    container = get_container(store_root, container_id)
    if container is None:
        called = called or container_id[:SHORT_ID_HEX]
        raise NotFoundError(
            f"container {called!r} is only half there",
            hint=f"remove the rest of it: layerstore rm --force {called}",
        )
    return container


def write_keeper(
    store_root: str, container_id: str, image_id: ImageId | None, layers: Sequence[DiffId]
) -> None:
    """Keep an image and its layers from the collector for as long as a container is there."""
    make_private_dir(f"{store_root}/views", durable=False)
    value = {"kind": "container", "image_id": image_id, "layers": list(layers)}
    path = f"{store_root}/views/{user_of(container_id)}.json"
    publish(path, json.dumps(value).encode(), durable=False)


def kept_layers(store_root: str, container_id: str) -> tuple[DiffId, ...]:
    """Return the layers that are kept for a container whose own record may be damaged."""
    path = f"{store_root}/views/{user_of(container_id)}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        value = json.loads(read_file(path, max_bytes=_RECORD_MAX_BYTES))
        return tuple(DiffId(Digest(str(layer))) for layer in value["layers"])
    return ()


def remove_files(store_root: str, container_id: str, name: str, run_dir: str) -> None:
    """Remove every file of a container that has ended; a kill leaves what a repeat removes."""
    forget_files(store_root, container_id, name)
    remove_rest(store_root, container_id, run_dir)


def forget_files(store_root: str, container_id: str, name: str) -> None:
    """Remove what others see of a container that has ended: it is none any more.

    The record goes first, so that nobody takes the rest for a container. Its image is not kept
    any more: nothing shows that by now.
    """
    directory = directory_of(store_root, container_id)
    for path in (
        f"{directory}/container.json",
        f"{directory}/state.json",
        f"{store_root}/views/{user_of(container_id)}.json",
    ):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    if name:
        give_up_name(store_root, name, container_id)


def remove_rest(store_root: str, container_id: str, run_dir: str) -> None:
    """Remove the other files of a container that is forgotten; its directory, which tells, last."""
    remove_tree(upper_of(store_root, container_id))
    if run_dir:
        remove_tree(run_dir)
    remove_tree(directory_of(store_root, container_id))
