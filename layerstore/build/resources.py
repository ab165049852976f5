"""What the steps of one build share: the write session, the scratch directory, trees.

All of it is made when the first step needs it, so a build that finds everything in the
cache makes none of it. Leaving the context undoes everything but published layers.

Steps run side by side in threads: everything here may be called from any of them. Layers
are written one at a time, for a session is one thread's.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import msgspec

from layerstore.build.errors import BuildCanceledError
from layerstore.build.target import TargetTree
from layerstore.digest import chain_id
from layerstore.linux.spreading import make_apart, spread_children
from layerstore.progress import Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from layerstore.build.contexts import Contexts
    from layerstore.build.source import SourceNode
    from layerstore.build.ui import BuildUi
    from layerstore.digest import ChainId, DiffId
    from layerstore.formats.tree import Changeset
    from layerstore.image.layers.layer_item import LayerItem
    from layerstore.image.trees.chain_trees import ChainTree
    from layerstore.image.trees.stack import Node
    from layerstore.store.store import Store
    from layerstore.store.writing.session import WriteSession

_REMEMBERED_CHANGESETS = 64
_REMEMBERED_TREES = 64
_REMEMBERED_ENTRIES = 100_000
"""Of one layer: of a larger one reading it again costs less than its memory."""


class _GivesUp(Silent):
    """Ends the writing of a layer soon after the build was interrupted."""

    def __init__(self, resources: BuildResources) -> None:
        self._resources = resources

    def advance(self, amount: int) -> None:  # noqa: ARG002 -- the protocol's
        if self._resources.aborted:
            raise BuildCanceledError


class _Told:
    """What a layer holds that was written."""

    changeset: Changeset | None = None

    def __call__(self, changeset: Changeset) -> None:
        self.changeset = changeset


class _Written(threading.local):
    """What a thread has published."""

    new_bytes = 0
    reused_bytes = 0


class BuildResources:
    """See the module; use it in a ``with`` block.

    Args:
        store: Where layers come from and go to.
        contexts: The build contexts.
        ui: Hears what steps have to say.
        epoch: SOURCE_DATE_EPOCH: no time in a layer is later.

    Attributes:
        stack: Undone when the build ends, last entry first.
        lock: Held while something that steps share is made.
        stopping: Set when the build ends early: nothing new begins.
        aborted: Set when not even what is being published is of use any more.
        remove_elsewhere: Removes a directory by another process, and returns whether it could;
            set as long as there is one.
        epoch: SOURCE_DATE_EPOCH, None for the real time.
    """

    def __init__(self, store: Store, contexts: Contexts, ui: BuildUi, *, epoch: int | None) -> None:
        self.store = store
        self.ui = ui
        self.stack = contextlib.ExitStack()
        self.lock = threading.RLock()
        self.stopping = threading.Event()
        self.aborted = False
        self._writing = threading.Lock()
        self._written = _Written()
        self._contexts = contexts
        self.epoch = epoch
        self._session: WriteSession | None = None
        self._scratch: Path | None = None
        self._is_spread = False
        self._discarding: list[threading.Thread] = []
        self.remove_elsewhere: Callable[[str], bool] | None = None
        self._changesets: dict[DiffId, Changeset] = {}
        self._trees: dict[ChainId, ChainTree] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    @property
    def session(self) -> WriteSession:
        """The build's one write session, begun when first asked for."""
        with self.lock:
            if self._session is None:
                self._session = self.stack.enter_context(self.store.begin("build"))
            return self._session

    @property
    def scratch(self) -> Path:
        """The build's own directory below the store's ``tmp``, made when first asked for."""
        with self.lock:
            if self._scratch is None:
                path = Path(self.session.temporary("build"))
                path.mkdir(mode=0o700)
                self._is_spread = spread_children(str(path))
                self._scratch = path
                self.stack.callback(self._discard_all, path)
            return self._scratch

    def make_scratch(self, name: str) -> Path:
        """Make a directory for much that is removed soon, and return it."""
        path = self.scratch / name
        if self._is_spread:
            make_apart(str(path))
        else:
            path.mkdir(mode=0o700)
        return path

    def step_name(self, number: int) -> str:
        """Return a name for a step's directory and container that no other build has."""
        return f"{number}-{self.session.lease_id[-8:]}"

    def discard(self, path: Path) -> None:
        """Remove a directory of the build's own, whatever containers left in it."""
        from layerstore.build.run.reaper import remove_tree

        with contextlib.suppress(OSError):  # gc removes it when this build's lease has ended
            remove_tree(str(path))

    def discard_beside(self, *paths: Path) -> None:
        """Remove directories by a thread, for which the end of the build waits: it may be much."""
        remove = self.remove_elsewhere

        def discard() -> None:
            for path in paths:
                if remove is None or not remove(str(path)):
                    self.discard(path)

        thread = threading.Thread(target=discard, name="build-discard", daemon=True)
        with self.lock:
            self._discarding.append(thread)
        thread.start()

    def wait_for_discarding(self) -> None:
        """Wait until everything is gone that was given to :meth:`discard_beside`."""
        for thread in self._discarding:
            thread.join()

    def _discard_all(self, scratch: Path) -> None:
        self.wait_for_discarding()
        self.discard(scratch)

    def context_tree(self, name: str) -> SourceNode:
        """Return a build context as a tree to copy from; the main one has no name."""
        with self.lock:
            return self._contexts.tree(name)

    def is_context_bare(self, name: str) -> bool:
        """Return whether a build context came without files: a Dockerfile alone."""
        return self._contexts.is_bare(name)

    def changeset(self, diff_id: DiffId) -> Changeset:
        """Return the entries of a layer; the latest ones are remembered."""
        from layerstore.image.layers.layers import load_changeset

        with self.lock:
            known = self._changesets.get(diff_id)
            if known is None:
                known = load_changeset(self.store, diff_id)
                self._remember(diff_id, known)
            return known

    def _remember(self, diff_id: DiffId, changeset: Changeset | None) -> None:
        if changeset is None or len(changeset.entries) > _REMEMBERED_ENTRIES:
            return
        with self.lock:
            if len(self._changesets) >= _REMEMBERED_CHANGESETS:
                self._changesets.clear()
            self._changesets[diff_id] = changeset

    def load(self, layers: Sequence[DiffId]) -> Node:
        """Return a tree of its own over the layers."""
        from layerstore.image.trees.stack import stack

        return stack([self.changeset(diff_id) for diff_id in layers])

    def tree(self, layers: Sequence[DiffId]) -> ChainTree:
        """Return a tree over the layers, which nobody changes; the latest ones are remembered."""
        from layerstore.image.trees.chain_trees import empty_tree

        with self.lock:
            tree, count = empty_tree(), 0
            for known in range(len(layers), 0, -1):
                found = self._trees.get(chain_id(layers[:known]))
                if found is not None:
                    tree, count = found, known
                    break
            for number in range(count, len(layers)):
                if len(self._trees) >= _REMEMBERED_TREES:
                    self._trees.clear()
                tree = tree.over(self.changeset(layers[number]))
                self._trees[chain_id(layers[: number + 1])] = tree
            return tree

    def target(self, layers: Sequence[DiffId]) -> TargetTree:
        """Return a tree over the layers that takes new files."""
        return TargetTree(self.tree(layers).root, now_ns=self.now_ns())

    def publish(
        self,
        items: Sequence[LayerItem],
        opaques: Iterable[bytes] = (),
        whiteouts: Sequence[bytes] = (),
        near: Sequence[DiffId] = (),
        was_read: Callable[[], object] | None = None,
    ) -> DiffId | None:
        """Publish a layer; return None when there is nothing in it.

        ``was_read`` is called before it is published, when all that it is made of was read.
        """
        from layerstore.image.layers.layer_writer import write_layer

        opaque_list = list(opaques)
        if not items and not opaque_list and not whiteouts:
            if was_read is not None:
                was_read()
            return None
        session = self.session
        with self._writing:
            told = _Told()
            before = session.stats
            record = write_layer(
                session, self.store, self._clamped(items), whiteouts=whiteouts,
                opaques=opaque_list, near=near, progress=_GivesUp(self),
                told=told, was_read=was_read,
            )  # fmt: skip
            after = session.stats
        self._remember(record.diff_id, told.changeset)
        self._written.new_bytes += after.new_bytes - before.new_bytes
        self._written.reused_bytes += after.reused_bytes - before.reused_bytes
        return record.diff_id

    def take_written(self) -> tuple[int, int]:
        """Return the new and the reused bytes that this thread published since the last call."""
        new, reused = self._written.new_bytes, self._written.reused_bytes
        self._written.new_bytes = self._written.reused_bytes = 0
        return new, reused

    def abort(self) -> None:
        """Give up what is being published: the build was interrupted."""
        self.aborted = True
        self.stopping.set()

    def changes(self, items: Sequence[LayerItem]) -> bool:
        """Whether a layer of these items has other times than they have."""
        return self._clamped(items) is not items

    def _clamped(self, items: Sequence[LayerItem]) -> Sequence[LayerItem]:
        if self.epoch is None:
            return items
        limit = self.epoch * 1_000_000_000
        if all(item.entry.mtime_ns <= limit for item in items):
            return items
        return [
            item
            if item.entry.mtime_ns <= limit
            else item._replace(entry=msgspec.structs.replace(item.entry, mtime_ns=limit))
            for item in items
        ]

    def now_ns(self) -> int:
        """Return the time of what the build makes."""
        return time.time_ns() if self.epoch is None else self.epoch * 1_000_000_000
