"""What lowering a native spec asks of a store and a build context."""

from __future__ import annotations

import contextlib
import hashlib
import time
from typing import TYPE_CHECKING

import msgspec

from layerstore.build.cache_key import layers_input, step_key
from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.graph import MergeOp
from layerstore.build.native.limits import MAX_FILE_BYTES, limit_exceeded
from layerstore.build.native.lockfile import chain_text
from layerstore.build.source import resolve
from layerstore.errors import InputError, NotFoundError
from layerstore.formats.reference import parse_reference
from layerstore.formats.tree import Kind
from layerstore.store.records import CacheRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.build.contexts import MainContext
    from layerstore.build.dockerfile.syntax import SourceSpan
    from layerstore.build.ignore import IgnoreRules
    from layerstore.build.native.spec import Bootstrap
    from layerstore.digest import DiffId
    from layerstore.formats.tree import Changeset, Entry
    from layerstore.store.store import Store

BOOTSTRAP_REPOSITORY = "bootstrap"
"""Name of the images that ``base = { bootstrap = ... }`` makes; the tag says what of."""


class StoreSources:
    """A store, and the files of a directory.

    Args:
        store: Where images are; None if only files are asked for.
        context: The build context.
        ignore: What the context leaves out.
        now: RFC 3339 time for images that are bootstrapped.
        tell: Hears of what takes long.
        read_only: Nothing is made and nothing remembered.
    """

    def __init__(
        self,
        store: Store | None,
        context: MainContext,
        ignore: IgnoreRules,
        *,
        now: str,
        tell: Callable[[str], None],
        read_only: bool = False,
    ) -> None:
        self._store = store
        self._context = context
        self._ignore = ignore
        self._now = now
        self._tell = tell
        self._read_only = read_only
        self._texts: dict[str, str] = {}

    def registry_digest(self, name: str) -> str:
        """Return what the store's image of a name was called in its registry; else nothing.

        Of several names that one image had there, the same is returned each time.
        """
        assert self._store is not None
        repository = parse_reference(name).repository
        image_id = self._store.resolve(name).image_id
        names = [known for known, of in self._store.tags().items() if of == image_id]
        digests = [each.partition("@")[2] for each in names if each.startswith(f"{repository}@")]
        return min(digests, default="")

    def has_base(self, name: str, layers: str) -> bool:
        """Whether the store has an image of that name with these layers (a chain ID)."""
        assert self._store is not None
        try:
            return chain_text(self._store.resolve(name).layers) == layers
        except NotFoundError:
            return False

    def bootstrap(self, wish: Bootstrap, span: SourceSpan) -> str:
        """Return the name of the image that a bootstrap makes, making it if it is missing.

        Raises:
            SpecError: The wish is wrong.
            BuildError: mmdebstrap failed.
        """
        from layerstore.image.bootstrap import BootstrapSpec, bootstrap

        packages = tuple(sorted(set(wish.packages)))
        spec = BootstrapSpec(
            source=f"debian:{wish.suite}",
            variant=wish.variant,
            include=packages,
            mirror=wish.mirror,
            components=tuple(dict.fromkeys(wish.components)),
        )
        digest = hashlib.sha256(msgspec.msgpack.encode(spec)).hexdigest()[:12]
        name = f"{BOOTSTRAP_REPOSITORY}/{wish.suite}:{digest}"
        assert self._store is not None
        with contextlib.suppress(NotFoundError):
            self._store.resolve(name)
            return name
        if self._read_only:
            raise SpecError(f"the base {name} is not there yet: a build makes it", span)
        self._tell(f"making the base {name} with mmdebstrap")
        try:
            bootstrap(self._store, spec, created=self._now, names=(name,))
        except InputError as err:
            raise SpecError(err.message, span, hint=err.hint) from err
        return name

    def conflicts(self, stacks: Sequence[tuple[DiffId, ...]]) -> Sequence[str]:
        """Return paths that two stacks have with different content, not counting what both share.

        Stacks without conflicts are remembered like a step of a build.
        """
        assert self._store is not None
        key = step_key(MergeOp(), ["without conflicts", *map(layers_input, stacks)], None)
        if self._store.cache_get(key) is not None:
            return ()
        found = _Conflicts(self._store).between(stacks)
        if not found and not self._read_only:
            with self._store.begin("build: combined bases") as session:
                session.cache_put(CacheRecord(key, None, b"", time.time()))
        return found

    def read(self, path: str, span: SourceSpan) -> str:
        """Return a text file of the build context; links in it never lead out of it.

        Raises:
            SpecError: It is not there, or not text.
        """
        known = self._texts.get(path)
        if known is None:
            known = self._texts[path] = self._read(path, span)
        return known

    def _read(self, path: str, span: SourceSpan) -> str:
        with self._context.open(self._ignore, now_ns=0) as context:
            node = resolve(context.tree(), path.encode("utf-8", "surrogateescape"))
            if node is None:
                raise SpecError(
                    f"there is no {path} in the build context", span,
                    hint="see whether .dockerignore leaves it out",
                )  # fmt: skip
            opener = node.opener()
            if node.entry.kind is not Kind.FILE or opener is None:
                raise SpecError(f"{path} in the build context is not a file", span)
            if node.entry.size > MAX_FILE_BYTES:
                raise limit_exceeded(span, f"{path} is too large, in bytes", MAX_FILE_BYTES)
            with opener() as file:
                data = file.read()
        try:
            text = data.decode()
        except UnicodeDecodeError as err:
            raise SpecError(f"{path} in the build context is not UTF-8", span) from err
        if "\0" in text:
            raise SpecError(f"{path} in the build context holds a NUL character", span)
        return text


class _Conflicts:
    """Compares what layers of several stacks bring."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._changesets: dict[DiffId, Changeset] = {}

    def between(self, stacks: Sequence[tuple[DiffId, ...]]) -> list[str]:
        """Return the paths, sorted."""
        paths: set[bytes] = set()
        for number, one in enumerate(stacks):
            for other in stacks[:number]:
                shared = 0
                while shared < min(len(one), len(other)) and one[shared] == other[shared]:
                    shared += 1
                paths |= _different(self._brought(one[shared:]), self._brought(other[shared:]))
        return [path.decode("utf-8", "backslashreplace") for path in sorted(paths)]

    def _brought(self, layers: Sequence[DiffId]) -> dict[bytes, object]:
        """Return what layers leave at each path they name; None for what they remove."""
        from layerstore.image.layers.layers import load_changeset

        brought: dict[bytes, object] = {}
        for layer in layers:
            if layer not in self._changesets:
                self._changesets[layer] = load_changeset(self._store, layer)
            changeset = self._changesets[layer]
            for path in (*changeset.whiteouts, *changeset.opaques):
                brought[path] = None
            brought.update((entry.path, _identity(entry)) for entry in changeset.entries)
        return brought


def _different(one: dict[bytes, object], other: dict[bytes, object]) -> set[bytes]:
    return {path for path in one.keys() & other.keys() if path and one[path] != other[path]}


def _identity(entry: Entry) -> object:
    if entry.kind is Kind.DIR:
        return Kind.DIR  # directories are united; their attributes break nothing
    return (
        entry.kind, entry.mode, entry.uid, entry.gid, entry.size, entry.target,
        entry.extents, entry.dev_major, entry.dev_minor, entry.xattrs,
    )  # fmt: skip
