"""Gathers the entries of a layer in any order and makes a valid changeset of them.

The rules that need the whole layer live here: the last of several members of one name
wins; nothing is ever reached through a symlink or file of the same layer; hard links
name what came before them, and in the end the first name of a group is the file.
What two extractors would unpack differently is refused.

Not thread-safe; no I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from layerstore.errors import UnsafeContentError
from layerstore.formats.tree import DIR, HARDLINK, SYMLINK, Changeset, Entry, Kind, path_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class LayerTerms(NamedTuple):
    """What holds for one layer beside the rules of all.

    Attributes:
        charge: Called with the bytes of each directory's path that is a parent: one deep
            path implies a thousand of them.
        alone: There is no lower layer that a hard link's file could be in.
    """

    charge: Callable[[int], None] | None = None
    alone: bool = False


class EntryMap(Protocol):
    """Entries by path, as far as the rules need them."""

    def get(self, path: bytes, /) -> Entry | None:
        """Return the latest entry of a path."""

    def __setitem__(self, path: bytes, entry: Entry, /) -> None: ...


class PathSet(Protocol):
    """A set of paths, as far as the rules need it."""

    def add(self, path: bytes, /) -> None:
        """Add a path."""

    def __contains__(self, path: bytes, /) -> bool: ...


class LayerRules:
    """Takes the entries, whiteouts and opaque directories of one layer, and refuses some.

    Args:
        entries: What was taken.
        parents: Directories with entries.
        linked: Files that hard links name.
        whiteouts: What was removed.
        opaques: Directories whose lower content is hidden.
        terms: What else holds for the layer.
    """

    def __init__(
        self,
        entries: EntryMap,
        parents: PathSet,
        linked: PathSet,
        whiteouts: PathSet,
        opaques: PathSet,
        terms: LayerTerms,
    ) -> None:
        self._entries = entries
        self._parents = parents
        self._linked = linked
        self._whiteouts = whiteouts
        self._opaques = opaques
        self._charge, self._alone = self.terms = terms

    def add(self, entry: Entry) -> None:
        """Take an entry; it replaces an earlier one of its path.

        Raises:
            UnsafeContentError: It lies below something that is not a directory, takes
                the place of a directory with entries or of a hard link's file, is a symlink in
                place of a directory or another one, or a hard link to a directory, itself,
                or nothing.
        """
        path = entry.path
        if path.rpartition(b"/")[0] not in self._parents:
            self._add_parents(path)
        if entry.kind is not DIR and path in self._parents:
            raise UnsafeContentError("takes the place of a directory that has entries")
        if entry.kind is HARDLINK:
            entry = self._resolved(entry)
        elif path in self._linked:
            raise UnsafeContentError("replaces a file that an earlier hard link names")
        elif entry.kind is SYMLINK:
            self._refuse_replacing(entry)
        self._entries[path] = entry

    def _refuse_replacing(self, link: Entry) -> None:
        """Refuse symlinks that replace what GNU tar still changes in the end."""
        before = self._entries.get(link.path)
        if before is None or before == link:
            return
        if before.kind is Kind.SYMLINK:
            # GNU tar keeps the first where both lead out, everybody else the last.
            raise UnsafeContentError("replaces a symlink by another one")
        if before.kind is Kind.DIR:
            # GNU tar gives the directory's mode to what the symlink leads to.
            raise UnsafeContentError("replaces a directory by a symlink")

    def add_whiteout(self, path: bytes) -> None:
        """Remove ``path`` from lower layers.

        Raises:
            UnsafeContentError: It lies below something that is not a directory.
        """
        self._add_parents(path)
        self._whiteouts.add(path)

    def add_opaque(self, path: bytes) -> None:
        """Hide lower children of the directory ``path``.

        Raises:
            UnsafeContentError: It is not a directory here, or lies below such.
        """
        self._add_parents(path + b"/")
        self._opaques.add(path)

    def _add_parents(self, path: bytes) -> None:
        end = path.rfind(b"/")
        while end > 0:
            parent = path[:end]
            if parent in self._parents:
                return
            self._require_directory(parent)
            if self._charge is not None:
                self._charge(end)
            self._parents.add(parent)
            end = path.rfind(b"/", 0, end)

    def _require_directory(self, path: bytes) -> None:
        known = self._entries.get(path)
        if known is not None and known.kind is not Kind.DIR:
            raise UnsafeContentError(
                f"lies below {path[:300]!r}, which is a {known.kind.name.lower()} in this layer"
            )

    def _resolved(self, link: Entry) -> Entry:
        """Return a hard link that names the file itself, not another link."""
        target = link.target
        known = self._entries.get(target)
        if known is not None and known.kind is Kind.HARDLINK:
            target = known.target
            known = self._entries.get(target)
        if target == link.path:
            raise UnsafeContentError("hard link to itself")
        if link.path in self._linked:
            raise UnsafeContentError("replaces a file that an earlier hard link names")
        if target in self._parents or (known is not None and known.kind is Kind.DIR):
            raise UnsafeContentError(f"hard link to the directory {target[:300]!r}")
        if known is None:
            if self._alone:
                raise UnsafeContentError(f"hard link to {target[:300]!r}, which is missing")
            self._check_lower_target(target)
        self._linked.add(target)
        return msgspec.structs.replace(link, target=target)

    def _check_lower_target(self, target: bytes) -> None:
        end = target.rfind(b"/")
        while end > 0:
            self._require_directory(target[:end])
            end = target.rfind(b"/", 0, end)


class Gathered(NamedTuple):
    """The state of a builder in memory."""

    entries: dict[bytes, Entry]
    parents: set[bytes]
    linked: set[bytes]
    whiteouts: set[bytes]
    opaques: set[bytes]


class ChangesetBuilder(LayerRules):
    """Collects entries, whiteouts and opaque directories of one layer in memory."""

    def __init__(self, charge: Callable[[int], None] | None = None, *, alone: bool = False) -> None:
        self.gathered = Gathered({}, {b""}, set(), set(), set())
        super().__init__(*self.gathered, LayerTerms(charge, alone))
        self._moved: dict[int, Entry] = {}

    def finish(self) -> Changeset:
        """Return the canonical changeset of everything taken."""
        self._order_links()
        return Changeset(
            entries=tuple(sorted(self.gathered.entries.values(), key=lambda e: path_key(e.path))),
            whiteouts=_sorted_paths(self.gathered.whiteouts),
            opaques=_sorted_paths(self.gathered.opaques),
        )

    def final(self, entry: Entry) -> Entry | None:
        """Return what became of an entry after :meth:`finish`.

        That is itself, or the entry that got its content because its group's first name
        is another; None when a later member replaced it.
        """
        moved = self._moved.get(id(entry))
        if moved is not None:
            return moved
        return entry if self._entries.get(entry.path) is entry else None

    def _order_links(self) -> None:
        """Make the first name of every group of hard links the file."""
        entries = self.gathered.entries
        groups: dict[bytes, list[bytes]] = {}
        for entry in entries.values():
            if entry.kind is Kind.HARDLINK and entry.target in entries:
                groups.setdefault(entry.target, []).append(entry.path)
        for target, names in groups.items():
            file = entries[target]
            first, *others = sorted([target, *names], key=path_key)
            if first != target:
                moved = msgspec.structs.replace(file, path=first)
                self._moved[id(file)] = entries[first] = moved
            for name in others:
                entries[name] = hard_link(name, first, file)


def hard_link(path: bytes, target: bytes, file: Entry) -> Entry:
    """Return the hard link ``path`` to the entry ``file`` whose path is ``target``."""
    return Entry(
        path=path,
        kind=Kind.HARDLINK,
        mode=file.mode,
        uid=file.uid,
        gid=file.gid,
        mtime_ns=file.mtime_ns,
        target=target,
    )


def _sorted_paths(paths: Iterable[bytes]) -> tuple[bytes, ...]:
    return tuple(sorted(paths, key=path_key))
