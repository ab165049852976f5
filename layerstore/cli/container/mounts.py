"""Mounts of containers from words to values: ``-v``, ``--mount``, ``--tmpfs``, VOLUME of images."""

from __future__ import annotations

import os

from layerstore.containers.settings import MountRequest
from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from layerstore.containers.image_config import ImageDefaults

_PROPAGATIONS = {"shared", "rshared", "slave", "rslave", "private", "rprivate"}
_VOLUME_WORDS = {"ro", "rw", "z", "Z", "nocopy", "bind", "rbind", *_PROPAGATIONS}
_SELINUX = "/sys/fs/selinux/enforce"
_MOUNT_SWITCHES = {"readonly", "ro", "volume-nocopy"}
_MOUNT_HINT = '--mount type=bind,source=/a,target=/b; with commas: "source=/a,b"'


def mounts_of(
    options: argparse.Namespace, config: ImageDefaults, inherited: Sequence[MountRequest] = ()
) -> tuple[MountRequest, ...]:
    """Return all mounts that a container asks for, by the user's words and its image's.

    What other containers have gives way to its user's own words, and is in the place of what
    its image asks for.

    Raises:
        InputError: A word that means nothing, or two mounts with one target.
    """
    found = [
        *map(_volume, options.volume),
        *map(_long_mount, options.mount),
        *map(_tmpfs, options.tmpfs),
    ]
    targets = [mount.target for mount in found]
    for target in targets:
        if targets.count(target) > 1:
            raise InputError(f"two mounts have the target {target}")
    # Of two containers that have something in one place the one named last has it, as docker's.
    for mount in {mount.target: mount for mount in inherited}.values():
        if mount.target not in targets:
            found.append(mount)
            targets.append(mount.target)
    found += [
        MountRequest("volume", "", target, anonymous=True)
        for path in config.volumes
        if (target := _target(path, "VOLUME of the image")) not in targets and target != "/"
    ]
    return tuple(found)


def directories_to_make(words: Sequence[str]) -> list[str]:
    """Return the paths of the host that words of ``-v`` name and that are not there.

    As docker's, directories are made of them, when the container is; ``--mount`` refuses them.
    """
    binds = (mount.source for mount in map(_volume, words) if mount.kind == "bind")
    return [source for source in binds if not os.path.lexists(source)]


def inherited_mounts(root: str, words: Sequence[str]) -> list[MountRequest]:
    """Return what the containers of ``--volumes-from`` have: volumes and directories of the host.

    Args:
        root: The store.
        words: ``CONTAINER``, or with ``:ro`` or ``:rw`` behind it.

    Raises:
        NotFoundError: There is no such container.
        InputError: What stands behind its name means nothing.
    """
    from layerstore.containers.records import find

    found = []
    for word in words:
        name, colon, access = word.partition(":")
        if colon and access not in ("ro", "rw", "z", "Z"):
            raise InputError(f"--volumes-from {word}: no option {access!r}", hint="ro, or rw")
        for mount in find(root, name).settings.mounts:
            if mount.kind == "tmpfs":
                continue
            options = mount.options
            if access == "ro" and "ro" not in options:
                options = (*options, "ro")
            found.append(mount._replace(options=options))
    return found


def _target(path: str, what: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise InputError(f"{what}: the target {path!r} is no absolute path")
    return os.path.normpath(path).replace("//", "/")


def _volume(word: str) -> MountRequest:
    """Return what ``-v`` asks for."""
    from layerstore.containers.volumes import check_volume_name

    parts = word.split(":")
    if len(parts) > 3 or not all(parts):
        raise InputError(f"--volume {word} is none", hint="--volume [SOURCE:]TARGET[:ro]")
    if len(parts) == 1:
        return MountRequest("volume", "", _own_target(parts[0], word), anonymous=True)
    source, target = parts[0], _own_target(parts[1], word)
    words = parts[2].split(",") if len(parts) == 3 else []
    options, copy = _volume_options(words, word)
    if not source.startswith(("/", "./", "../")) and source not in (".", ".."):
        check_volume_name(source)
        return MountRequest("volume", source, target, options, copy=copy)
    return MountRequest("bind", os.path.abspath(source), target, options)


def _own_target(path: str, word: str) -> str:
    target = _target(path, f"--volume {word}")
    if target == "/":
        raise InputError(f"--volume {word}: nothing can be mounted at /")
    return target


def _volume_options(words: Sequence[str], where: str) -> tuple[tuple[str, ...], bool]:
    for word in words:
        if word not in _VOLUME_WORDS:
            raise InputError(
                f"--volume {where}: no option {word!r}", hint=", ".join(sorted(_VOLUME_WORDS))
            )
        if word in ("z", "Z") and os.path.exists(_SELINUX):
            raise InputError(
                f"--volume {where}: files are not labelled here",
                hint="label them: chcon --recursive --type container_file_t DIRECTORY",
            )
    kept = [word for word in words if word in ("ro", *_PROPAGATIONS)]
    return tuple(kept), "nocopy" not in words


def _long_mount(word: str) -> MountRequest:
    """Return what ``--mount`` asks for."""
    fields = _mount_fields(word)
    kind = fields.pop("type", "volume")
    source = fields.pop("source", fields.pop("src", ""))
    target = fields.pop("target", fields.pop("destination", fields.pop("dst", "")))
    if not target:
        raise InputError(f"--mount {word}: no target", hint=_MOUNT_HINT)
    target = _own_target(target, word)
    options = []
    read_only = fields.pop("readonly", fields.pop("ro", "false"))
    if read_only not in ("false", "0"):
        options.append("ro")
    if kind == "tmpfs":
        options += _tmpfs_options(fields)
    propagation = fields.pop("bind-propagation", "") if kind == "bind" else ""
    if propagation:
        options.append(propagation)
    copy = fields.pop("volume-nocopy", "false") in ("false", "0") if kind == "volume" else True
    fields.pop("consistency", "")
    if fields or kind not in ("bind", "volume", "tmpfs"):
        wrong = f"type={kind}" if not fields else next(iter(fields))
        raise InputError(f"--mount {word}: {wrong} is not supported", hint="bind, volume or tmpfs")
    if propagation and propagation not in _PROPAGATIONS:
        raise InputError(f"--mount {word}: no propagation {propagation!r}")
    _check_source(word, kind, source)
    anonymous = kind == "volume" and not source
    return MountRequest(kind, source, target, tuple(options), anonymous=anonymous, copy=copy)


def _mount_fields(word: str) -> dict[str, str]:
    """Return the fields of a word of ``--mount``, a line of CSV as docker reads it, by name."""
    from layerstore.cli.parsing.fields import split_fields

    fields: dict[str, str] = {}
    for part in split_fields(word, "a mount", _MOUNT_HINT):
        name, equals, value = part.partition("=")
        name = name.strip().lower()
        if not equals and name not in _MOUNT_SWITCHES:
            raise InputError(f"--mount {word}: {part!r} is not NAME=VALUE", hint=_MOUNT_HINT)
        fields[name] = value if equals else "true"
    return fields


def _check_source(word: str, kind: str, source: str) -> None:
    from layerstore.containers.volumes import check_volume_name

    if kind == "bind":
        if not source.startswith("/"):
            raise InputError(f"--mount {word}: the source is no absolute path")
        if not os.path.exists(source):
            raise InputError(f"--mount {word}: there is nothing at {source}")
    elif kind == "volume" and source:
        check_volume_name(source)
    elif kind == "tmpfs" and source:
        raise InputError(f"--mount {word}: a tmpfs has no source")


def _tmpfs_options(fields: dict[str, str]) -> list[str]:
    from layerstore.units import parse_size

    options = []
    size = fields.pop("tmpfs-size", "")
    if size:
        options.append(f"size={parse_size(size)}")
    mode = fields.pop("tmpfs-mode", "")
    if mode:
        options.append(f"mode={mode}")
    return options


def _tmpfs(word: str) -> MountRequest:
    target, _, options = word.partition(":")
    words = tuple(option for option in options.split(",") if option)
    return MountRequest("tmpfs", "", _own_target(target, word), words)
