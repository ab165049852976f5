"""Mounts as data, and making them: what a caller may also execute without us.

A :class:`Mount` says everything that a mount takes and does nothing. :func:`execute` makes
one through the system calls of :mod:`layerstore.linux.mounts`; :func:`classic_options`,
:func:`to_oci` and :func:`command_line` say it in the words of mount(2), of the OCI runtime
specification (config.md, "Mounts") and containerd, and of mount(8). The module knows nothing
of images. On the fast path: imports little.
"""

from __future__ import annotations

import contextlib
import os

from layerstore.errors import InputError, UnsupportedError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux import mounts
from layerstore.linux.idmaps import (
    parse_id_map,
    user_namespace_of,
    with_stand_in_for_root,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from layerstore.linux.idmaps import IdMap

OVERLAY = "overlay"
BIND = "bind"

READ_ONLY = "ro"
FLAGS = {
    READ_ONLY: mounts.MS_RDONLY,
    "nosuid": mounts.MS_NOSUID,
    "nodev": mounts.MS_NODEV,
    "noexec": mounts.MS_NOEXEC,
}
"""Words of mount(8) for what a mount forbids."""

_LOWER, _DATA, _UPPER, _WORK = "lowerdir+", "datadir+", "upperdir", "workdir"
_MEANS_SOMETHING = "\\,:"


_ALLOWS = {"suid": "nosuid", "dev": "nodev", "exec": "noexec"}


def flags_of(words: Iterable[str], forbidden: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a mount forbids: what is forbidden anyway, changed by words of mount(8).

    Raises:
        InputError: A word is none of ``suid``, ``dev``, ``exec`` and their opposites.
    """
    flags = list(forbidden)
    for word in words:
        if word in _ALLOWS:
            flags = [flag for flag in flags if flag != _ALLOWS[word]]
        elif word in _ALLOWS.values():
            flags += [] if word in flags else [word]
        else:
            known = ", ".join([*_ALLOWS, *_ALLOWS.values()])
            raise InputError(f"no mount option {word!r}", hint=f"there are {known}")
    return tuple(flags)


class Mount(NamedTuple):
    """The description of one mount.

    Attributes:
        fstype: ``overlay`` or ``bind``.
        source: The directory that is bound; a name without meaning for an overlay.
        target: An existing directory to mount at.
        flags: Of :data:`FLAGS`.
        options: Of the file system, in order, as fsconfig(2) takes them: ``lowerdir+`` and
            ``datadir+`` (uppermost first), ``upperdir``, ``workdir``, and others; the value is
            "" for those that take none.
        idmap: Under which ids the owners of files are shown; of an overlay, those in its
            lower directories and its upper one. Empty for as they are.
    """

    fstype: str
    source: str
    target: str
    flags: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    idmap: IdMap = ()


def describe_overlay(
    overlay: mounts.Overlay, target: str, flags: Iterable[str] = (), idmap: IdMap = ()
) -> Mount:
    """Return the description of an overlay at ``target``."""
    options = [(_LOWER, lower) for lower in overlay.lowers]
    options += [(_DATA, place) for place in overlay.data]
    options += [
        (key, path)
        for key, path in ((_UPPER, overlay.upper), (_WORK, overlay.work))
        if path is not None
    ]
    for word in overlay.options:
        key, _, value = word.partition("=")
        options.append((key, value))
    return Mount(OVERLAY, "layerstore", target, tuple(flags), tuple(options), idmap)


def describe_bind(source: str, target: str, flags: Iterable[str] = (), idmap: IdMap = ()) -> Mount:
    """Return the description of ``source`` shown at ``target`` as well."""
    return Mount(BIND, source, target, tuple(flags), (), idmap)


def execute(mount: Mount) -> None:
    """Make a mount.

    Raises:
        InputError: It describes none.
        MountCallError: The kernel refused.
        UnsupportedError: The kernel or a file system cannot.
    """
    flags = 0
    for word in mount.flags:
        if word not in FLAGS:
            raise InputError(f"no flag {word!r} of a mount", hint=f"there are {', '.join(FLAGS)}")
        flags |= FLAGS[word]
    if mount.fstype == BIND:
        _execute_bind(mount, flags)
    elif mount.fstype == OVERLAY:
        overlay = _overlay_of(mount)
        with _with_owners_mapped(overlay, mount.idmap) as mapped:
            mounts.mount_overlay(mapped, mount.target, flags)
    else:
        raise InputError(
            f"no mount of type {mount.fstype!r} is made here", hint=f"only {OVERLAY} and {BIND}"
        )


def _execute_bind(mount: Mount, flags: int) -> None:
    if not mount.idmap:
        mounts.bind(mount.source, mount.target, flags=flags)
        return
    with user_namespace_of(mount.idmap) as users, _mapped(mount.source, users, flags) as detached:
        mounts.attach(detached, mount.target)


def _overlay_of(mount: Mount) -> mounts.Overlay:
    found: dict[str, list[str]] = {_LOWER: [], _DATA: [], _UPPER: [], _WORK: []}
    others = []
    for key, value in mount.options:
        if key in found:
            found[key].append(value)
        else:
            others.append(f"{key}={value}" if value else key)
    if not found[_LOWER] or len(found[_UPPER]) > 1 or len(found[_UPPER]) != len(found[_WORK]):
        raise InputError(
            f"the overlay at {mount.target} names no lower directory, or not one upper with one "
            "work directory"
        )
    return mounts.Overlay(
        tuple(found[_LOWER]),
        found[_UPPER][0] if found[_UPPER] else None,
        found[_WORK][0] if found[_WORK] else None,
        tuple(others),
        tuple(found[_DATA]),
    )


@contextlib.contextmanager
def _with_owners_mapped(overlay: mounts.Overlay, idmap: IdMap) -> Iterator[mounts.Overlay]:
    """Yield an overlay of id-mapped clones, which are mounted nowhere; it keeps them.

    An overlay itself cannot be mapped, its layers can (Linux 5.19). The files of data-only
    directories show no owners and are read as the mounter: they stay as they are.
    """
    if not idmap:
        yield overlay
        return
    with contextlib.ExitStack() as open_until_mounted:
        users = open_until_mounted.enter_context(user_namespace_of(idmap))
        lowers = [
            f"/proc/self/fd/{open_until_mounted.enter_context(_mapped(lower, users))}"
            for lower in overlay.lowers
        ]
        overlay = overlay._replace(lowers=tuple(lowers))
        if overlay.upper is not None and overlay.work is not None:
            above, upper = os.path.split(overlay.upper)
            beside, work = os.path.split(overlay.work)
            if above != beside:
                raise InputError(f"{overlay.upper} and {overlay.work} do not lie side by side")
            # On disk the upper then has the ids that the image has: it may become a layer.
            writers = open_until_mounted.enter_context(
                user_namespace_of(with_stand_in_for_root(idmap))
            )
            clone = f"/proc/self/fd/{open_until_mounted.enter_context(_mapped(above, writers))}"
            overlay = overlay._replace(upper=f"{clone}/{upper}", work=f"{clone}/{work}")
        yield overlay


@contextlib.contextmanager
def _mapped(path: str, users: int, flags: int = 0) -> Iterator[int]:
    detached = mounts.create_idmapped(path, users, flags)
    try:
        yield detached
    finally:
        os.close(detached)


# -- in the words of others


def classic_options(mount: Mount) -> tuple[str, ...]:
    """Return a mount's options as words: for mount(8), containerd, and OCI runtimes.

    Raises:
        UnsupportedError: These words cannot say it; :func:`execute` can.
    """
    hint = "let layerstore.linux.planned.execute make it"
    if mount.idmap:
        raise UnsupportedError(
            "the ids of an overlay's layers cannot be mapped by an option of mount(8)", hint=hint
        )
    if mount.fstype == BIND:
        return (BIND, *mount.flags)
    overlay = _overlay_of(mount)
    for path in (*overlay.lowers, *overlay.data, overlay.upper or "", overlay.work or ""):
        if any(character in path for character in _MEANS_SOMETHING):
            raise UnsupportedError(
                f"{path!r} has a character that options of overlays give a meaning", hint=hint
            )
    data = mounts.classic_overlay_options(overlay)
    if len(os.fsencode(",".join(data))) > mounts.OPTIONS_MAX_BYTES:
        raise UnsupportedError("the options take more than the page that mount(2) reads", hint=hint)
    return (*mount.flags, *data)


def to_oci(mount: Mount) -> dict[str, object]:
    """Return a mount as the OCI runtime specification's config.json has it.

    Raises:
        UnsupportedError: See :func:`classic_options`.
    """
    return {
        "destination": mount.target,
        "type": mount.fstype,
        "source": mount.source,
        "options": list(classic_options(mount)),
    }


def command_line(mount: Mount) -> list[str]:
    """Return the words of a mount(8) command that makes a mount.

    Raises:
        UnsupportedError: See :func:`classic_options`.
    """
    fstype = "none" if mount.fstype == BIND else mount.fstype
    options = ",".join(classic_options(mount))
    return ["mount", "-t", fstype, "-o", options, "--", mount.source, mount.target]


def to_json(mount: Mount) -> dict[str, object]:
    """Return a mount for json; :func:`from_json` takes it back, whatever it says."""
    return {
        "fstype": mount.fstype,
        "source": mount.source,
        "target": mount.target,
        "flags": list(mount.flags),
        "options": [list(option) for option in mount.options],
        "idmap": [str(mapping) for mapping in mount.idmap],
    }


def from_json(value: object) -> Mount:
    """Return the mount that :func:`to_json` described.

    Raises:
        InputError: It is none.
    """
    if not isinstance(value, dict) or value.keys() != set(Mount._fields):
        raise InputError(f"a mount has the fields {', '.join(Mount._fields)}")
    options = value["options"]
    texts = [value["fstype"], value["source"], value["target"]]
    lists = [value["flags"], options, value["idmap"]]
    if all(isinstance(each, list) for each in lists):
        pairs = [each for each in options if isinstance(each, list) and len(each) == 2]
        texts += [*value["flags"], *value["idmap"], *(text for pair in pairs for text in pair)]
        if len(pairs) == len(options) and all(isinstance(text, str) for text in texts):
            return Mount(
                value["fstype"],
                value["source"],
                value["target"],
                tuple(value["flags"]),
                tuple((key, text) for key, text in pairs),
                parse_id_map(value["idmap"]),
            )
    raise InputError("a field of the mount has another type than it should")
