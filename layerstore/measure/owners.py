"""Which package each file of a layer belongs to.

A layer's files are those of the packages that the image has *up to that layer*: what a later layer
upgrades or removes was the older package's when it came, and takes its bytes to this day. Of
distributions the database as it stands at the layer counts, of pip and npm what the layer itself
and those below it bring. A file of several packages belongs to the first: dpkg's, apk's or rpm's in
the order of their databases, then pip's, then the innermost of npm.

Only names and what databases need are kept of trees; most layers change no database, and have the
owners of the layer below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.errors import FormatError
from layerstore.formats.tree import FILE, SYMLINK, Changeset
from layerstore.image.sbom.files import ImageFiles
from layerstore.image.sbom.owned import Lists, language_files, system_files
from layerstore.image.trees.stack import stack
from layerstore.measure.packages import full_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from layerstore.digest import DiffId
    from layerstore.image.sbom.packages import Package
    from layerstore.store.store import Store

NO_PACKAGE: Final = ("(in no package)", "")

_DATABASES = (
    b"var/lib/dpkg/", b"lib/apk/db/", b"usr/lib/apk/db/", b"var/lib/rpm", b"usr/lib/sysimage/rpm",
    b"etc/os-release", b"usr/lib/os-release",
)  # fmt: skip
_DESCRIPTIONS = (b"/METADATA", b"/PKG-INFO", b"/RECORD", b".egg-info")
_MODULE = b"/package.json"
_MODULES = b"node_modules/"

Key = tuple[str, str]
"""A package's name with its version, and its kind."""


class _Parts(NamedTuple):
    """What owners need of a layer.

    Attributes:
        system: Databases of distributions, symlinks at the root, and what is removed.
        languages: Descriptions of packages of pip and npm.
    """

    system: Changeset
    languages: Changeset


class _Languages(NamedTuple):
    """Packages of pip by their files' paths, of npm by their directories."""

    files: Mapping[bytes, Key]
    folders: Mapping[bytes, Key]


class _System(NamedTuple):
    """Packages of a distribution by their files' paths as it names them.

    Attributes:
        aliases: Directories at the root that are symlinks, by where they lead:
            ``usr/lib/`` → ``lib/``.
    """

    files: Mapping[bytes, Key]
    aliases: Mapping[bytes, bytes]


class Owners:
    """Packages by layer and path.

    Attributes:
        left_out: What could not be read of databases, and why.
    """

    def __init__(self) -> None:
        self.left_out: tuple[str, ...] = ()
        self._keys: dict[DiffId, dict[bytes, Key]] = {}

    def package(self, layer: DiffId, path: bytes) -> Key:
        """Return the name and the kind of the package that a file belongs to."""
        return self._keys.get(layer, {}).get(path, NO_PACKAGE)

    def put(self, layer: DiffId, keys: dict[bytes, Key]) -> None:
        """Say whose files of a layer are that belong to a package."""
        self._keys[layer] = keys


class PartReader:
    """Keeps what owners need of every layer that is read; see :class:`Charges`."""

    def __init__(self) -> None:
        self.parts: dict[DiffId, _Parts] = {}

    def __call__(self, layer: DiffId, changeset: Changeset) -> None:
        """Look at a layer's entries."""
        system, languages = [], []
        for entry in changeset.entries:
            path = entry.path
            if path.startswith(_DATABASES) or (entry.kind is SYMLINK and b"/" not in path):
                system.append(entry)
            elif entry.kind is FILE and _describes(path):
                languages.append(entry)
        self.parts[layer] = _Parts(
            Changeset(tuple(system), changeset.whiteouts, changeset.opaques),
            Changeset(tuple(languages)),
        )


def _describes(path: bytes) -> bool:
    if path.endswith(_MODULE):
        return _MODULES in path
    return path.endswith(_DESCRIPTIONS)


def owners_of(
    store: Store,
    chains: Iterable[Sequence[DiffId]],
    paths: Callable[[DiffId], Iterable[bytes]],
    parts: Mapping[DiffId, _Parts],
) -> Owners:
    """Return whose files of layers are.

    Args:
        store: Of the images.
        chains: The layers of images; the first image with a layer says whose its files are.
        paths: Gives the files of a layer that are asked for.
        parts: As a :class:`PartReader` kept them.

    Raises:
        IntegrityError: The content of a database is damaged.
    """
    finder = _Finder(store, parts)
    owners = Owners()
    told: set[DiffId] = set()
    for layers in chains:
        chain: list[DiffId] = []
        for layer in layers:
            chain.append(layer)
            if layer not in told and layer in parts:
                told.add(layer)
                owners.put(layer, finder.owned(chain, paths(layer)))
    owners.left_out = tuple(finder.left_out)
    return owners


class _Finder:
    """Finds packages at layers of chains; keeps the databases of one chain at a time."""

    def __init__(self, store: Store, parts: Mapping[DiffId, _Parts]) -> None:
        self.left_out: dict[str, None] = {}
        self._store = store
        self._parts = parts
        self._known = Lists()
        self._languages: dict[DiffId, _Languages] = {}
        self._base: tuple[tuple[DiffId, ...], _System] = ((), _System({}, {}))

    def owned(self, chain: Sequence[DiffId], paths: Iterable[bytes]) -> dict[bytes, Key]:
        """Return the packages of those of a top layer's files that belong to one."""
        system = self._system(chain)
        languages = [self._languages_of(layer) for layer in reversed(chain)]
        found = {}
        for path in paths:
            key = _of_system(system, path) or _of_languages(languages, path)
            if key is not None:
                found[path] = key
        return found

    def _system(self, chain: Sequence[DiffId]) -> _System:
        """Return the distribution's packages at the top of a chain."""
        changing = tuple(layer for layer in chain if self._changes_system(layer))
        if self._base[0] != changing:
            self._base = (changing, self._read_system(changing))
        return self._base[1]

    def _changes_system(self, layer: DiffId) -> bool:
        system = self._parts[layer].system if layer in self._parts else Changeset(())
        removed = (*system.whiteouts, *system.opaques)
        return bool(system.entries) or any(map(_is_above_database, removed))

    def _read_system(self, chain: Sequence[DiffId]) -> _System:
        files = self._image_files([self._parts[layer].system for layer in chain])
        if files is None:
            return _System({}, {})
        found: dict[bytes, Key] = {}
        for package, paths in system_files(files, self._known):
            key = _key(package)
            for path in paths:
                found.setdefault(path, key)
        self._tell(files)
        aliases = {
            node.entry.target.strip(b"/") + b"/": name + b"/"
            for name, node in (files.root.children or {}).items()
            if node.entry.kind is SYMLINK
        }
        return _System(found, aliases)

    def _languages_of(self, layer: DiffId) -> _Languages:
        """Return the packages of pip and npm that a layer itself describes."""
        if layer not in self._languages:
            files_of: dict[bytes, Key] = {}
            folders: dict[bytes, Key] = {}
            part = self._parts.get(layer)
            if part is not None and part.languages.entries:
                files = self._image_files([part.languages])
                for package, paths, folder in language_files(files) if files else ():
                    if folder:
                        folders[folder] = _key(package)
                    for path in paths:
                        files_of.setdefault(path, _key(package))
                if files is not None:
                    self._tell(files)
            self._languages[layer] = _Languages(files_of, folders)
        return self._languages[layer]

    def _image_files(self, changesets: Sequence[Changeset]) -> ImageFiles | None:
        try:
            return ImageFiles(self._store, stack(changesets))
        except FormatError as err:  # a database behind a hard link to what is not kept here
            self.left_out[f"the databases of a layer: {err.message}"] = None
            return None

    def _tell(self, files: ImageFiles) -> None:
        self.left_out.update(dict.fromkeys(files.left_out))


def _of_system(system: _System, path: bytes) -> Key | None:
    found = system.files.get(path)
    if found is None:
        for place, name in system.aliases.items():
            if path.startswith(place):
                found = system.files.get(name + path[len(place) :])
                if found is not None:
                    break
    return found


def _of_languages(languages: Sequence[_Languages], path: bytes) -> Key | None:
    """Return the package of a file, by the topmost layer that describes one that has it."""
    for each in languages:
        found = each.files.get(path)
        if found is not None:
            return found
    if _MODULES not in path:
        return None
    folder = path.rpartition(b"/")[0]
    while folder:
        for each in languages:
            found = each.folders.get(folder)
            if found is not None:
                return found
        folder = folder.rpartition(b"/")[0]
    return None


def _is_above_database(path: bytes) -> bool:
    """Return whether databases go with a path that is removed."""
    return (
        path.startswith(_DATABASES)
        or any(place.startswith(path + b"/") for place in _DATABASES)
        or not path
    )


def _key(package: Package) -> Key:
    name = full_name(package)
    return f"{name} {package.version}" if package.version else name, package.kind
