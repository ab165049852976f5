"""COPY and ADD: what goes where, with which attributes.

Works on trees in memory: reads :mod:`layerstore.build.source` nodes, writes a
:class:`~layerstore.build.target.TargetTree`. The rules are BuildKit's: a directory
copies its contents; a file goes into a destination that is a directory or ends with a
slash; new parents are 0755 and belong to ``--chown`` or root, and so is a destination that a
directory becomes, but ``--chmod`` is for that too; a directory that exists
keeps its mode and owner when it is the destination itself and takes the source's when
it lies below. Below a copied directory the source wins: a file replaces a directory and the
other way round, as docker's old builder has it where BuildKit gives up. What the instruction
itself names is not replaced by something of another kind.

Source: behaviour of BuildKit's file operation (docs/how-to/build.md, "COPY and ADD").
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.errors import BuildError
from layerstore.formats.tree import Entry, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.build.modes import ModeChange
    from layerstore.build.source import Match, Selected
    from layerstore.build.target import Owner, TargetTree
    from layerstore.image.trees.stack import Node


class CopyOptions(NamedTuple):
    """How files are copied.

    Attributes:
        owner: Everything copied and created gets it; None keeps the source's.
        mode: Applied to everything copied except symlinks; None keeps the source's.
        told: Hears of a symlink that a directory replaces: whoever copies over ``/lib`` of
            an image where that is a link to ``usr/lib`` wants to know.
    """

    owner: Owner | None = None
    mode: ModeChange | None = None
    told: Callable[[str], None] = lambda _: None


def copy_match(target: TargetTree, match: Match, dest: str, options: CopyOptions) -> None:
    """Copy one source match to ``dest``.

    Args:
        target: Where to.
        match: What, already filtered.
        dest: Absolute path in the image; a trailing slash makes it a directory.
        options: Owner and mode.

    Raises:
        BuildError: A directory in the way of a file, or a file in the way of a directory.
    """
    is_directory = match.selected.node.entry.kind is Kind.DIR
    # A directory becomes the destination itself, whether or not that ends with a slash.
    wanted = dest.rstrip("/") or "/" if is_directory else dest
    place = prepare_destination(target, wanted, options.owner)
    node = target.lookup(place)
    if not is_directory and node is not None and node.children is not None:
        place = place + b"/" + match.name if place else match.name
        if not match.name:
            raise BuildError(f"cannot copy a file without a name to {dest}")
    if is_directory and node is None:
        _make_top(target, place, options if match.selected.included else CopyOptions(options.owner))
    else:
        target.make_directories(place.rpartition(b"/")[0], options.owner or (0, 0))
    _Copier(target, options).copy(match.selected, place, top=True)


def _make_top(target: TargetTree, place: bytes, options: CopyOptions) -> None:
    """Make the directory that a copied one becomes: only ``--chmod`` makes it other than 0755."""
    target.make_directories(place, options.owner or (0, 0))
    made = target.lookup(place)
    if options.mode is not None and made is not None:
        mode = options.mode.apply(made.entry.mode, is_directory=True)
        target.set_attributes(place, msgspec.structs.replace(made.entry, mode=mode))


def prepare_destination(target: TargetTree, dest: str, owner: Owner | None) -> bytes:
    """Make what must exist before anything is copied; return the destination's real path."""
    raw = os.fsencode(dest)
    # A trailing slash or dot makes the destination itself the directory that must exist.
    parent = raw.removesuffix(b".").rpartition(b"/")[0]
    real_parent, _ = target.resolve(parent)
    target.make_directories(real_parent, owner or (0, 0))
    return target.resolve(raw)[0]


class _Copier:
    """Copies one match; remembers which of its files share an inode."""

    def __init__(self, target: TargetTree, options: CopyOptions) -> None:
        self._target = target
        self._options = options
        self._links: dict[object, Node] = {}

    def copy(self, selected: Selected, place: bytes, *, top: bool) -> None:
        """Copy a file or a directory with what was selected of it to ``place``.

        ``top`` is set for the match itself, whose destination keeps its attributes.
        """
        if selected.node.entry.kind is Kind.DIR:
            self._directory(selected, place, top=top)
        else:
            self._file(selected, place, top=top)

    def _directory(self, selected: Selected, place: bytes, *, top: bool) -> None:
        source = selected.node.entry
        existing = self._target.lookup(place)
        if existing is not None and existing.children is None:
            self._make_way(existing, place, top=top)
            existing = None
        if existing is None:
            self._target.put(self._attributes(selected, place))
        for name, child in selected.children:
            self.copy(child, place + b"/" + name if place else name, top=False)
        if not place:
            return
        if existing is None or (selected.included and not top):
            if selected.included:
                self._target.set_attributes(place, self._attributes(selected, place))
        elif top and selected.included:
            kept = self._target.lookup(place)
            assert kept is not None
            self._target.set_attributes(
                place, msgspec.structs.replace(kept.entry, mtime_ns=source.mtime_ns)
            )

    def _make_way(self, existing: Node, place: bytes, *, top: bool) -> None:
        shown = os.fsdecode(place)
        if top:
            raise BuildError(f"cannot copy the directory to /{shown}: it is not a directory")
        if existing.entry.kind is Kind.SYMLINK:
            points_to = os.fsdecode(existing.entry.target)
            self._options.told(f"/{shown}, a symbolic link to {points_to}, becomes a directory")

    def _file(self, selected: Selected, place: bytes, *, top: bool) -> None:
        existing = self._target.lookup(place)
        if top and existing is not None and existing.children is not None:
            raise BuildError(f"cannot replace the directory /{os.fsdecode(place)} with a file")
        identity = selected.node.link_identity()
        shared = self._links.get(identity) if identity is not None else None
        if shared is not None:
            self._target.link(place, shared)
            return
        node = self._target.put(self._attributes(selected, place), selected.node.opener())
        if identity is not None and node.entry.kind is Kind.FILE:
            self._links[identity] = node

    def _attributes(self, selected: Selected, place: bytes) -> Entry:
        entry = selected.node.entry
        uid, gid = self._options.owner or (entry.uid, entry.gid)
        mode = entry.mode
        if self._options.mode is not None and entry.kind is not Kind.SYMLINK:
            mode = self._options.mode.apply(mode, is_directory=entry.kind is Kind.DIR)
        return msgspec.structs.replace(entry, path=place, uid=uid, gid=gid, mode=mode)
