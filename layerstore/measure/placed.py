"""Packages of pip and npm where they lie in images, and whether a base could have them there.

A base can have a package of pip if the same Python finds it at the same place: a virtual
environment, or the directory of an interpreter. Of npm it is what stands at the top of a
``node_modules``, with all that lies in it. What a step copies, or removes before it installs, no
base can bring; that is told with its reason.

What is looked at are the entries of layers, so layers in common cost nothing. Names, versions and
paths are a stranger's and end in a Dockerfile: only plain ones are taken.
"""

from __future__ import annotations

import posixpath
import re
from typing import TYPE_CHECKING, Final, NamedTuple

from layerstore.formats.tree import FILE
from layerstore.image.sbom.files import MAX_METADATA_BYTES
from layerstore.image.sbom.languages import described_by_npm, described_by_pip
from layerstore.image.sbom.owned import MAX_PATHS, Lists, recorded, system_files
from layerstore.image.trees.stack import lookup, walk

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from layerstore.formats.tree import Extent
    from layerstore.image.sbom.files import ImageFiles
    from layerstore.image.sbom.packages import Package
    from layerstore.image.trees.stack import Node
    from layerstore.measure.chains import AppliedLayer, ChainNode

PIP: Final = "pypi"
NPM: Final = "npm"

_METADATA = b".dist-info/METADATA"
_MANIFEST = b"/package.json"
_DESCRIPTIONS = (_METADATA, _MANIFEST)
_DEBIANS = (b"usr/lib/", b"usr/share/")
_MODULES = "node_modules/"
_SITE = re.compile(r"(?:(.*)/)?lib/(python3\.[0-9]+)/(site|dist)-packages", re.ASCII)
_PLAIN_PATH = re.compile(r"[A-Za-z0-9._@+/-]*", re.ASCII)
_PLAIN_NAME = re.compile(
    r"(?:@[A-Za-z0-9._~-]+/)?[A-Za-z0-9](?:[A-Za-z0-9._~-]*[A-Za-z0-9])?", re.ASCII
)
_PLAIN_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.+!_-]*[A-Za-z0-9])?", re.ASCII)
_HOME = re.compile(rb"^home\s*=\s*(/\S+)\s*$", re.MULTILINE)
_NPM_CI = re.compile(r"\bnpm((?:[\s\\]+--?\S+)*[\s\\]+)(?:ci|clean-install)\b", re.ASCII)
_COPIES = ("COPY ", "ADD ")
_SYSTEM_PREFIXES = ("usr", "usr/local")

_GLOBAL_MODULES = ("usr/lib", "usr/local/lib")
_NPM_HOMES = ("usr/share/nodejs/npm", "usr/local/lib/node_modules/npm", "usr/lib/node_modules/npm")

TOOL = re.compile(
    rb".*/bin/python3\.[0-9]+|.*/ensurepip/__init__\.py|.*/(?:site|dist)-packages/pip/__init__\.py"
    rb"|" + b"|".join(home.encode() + _MANIFEST for home in _NPM_HOMES)
)
"""Files without which a base cannot install what it should have."""

COPIED = "copied by {}: a base of the stage that it comes from could have it"
RENEWED = "npm install -g installs anew what it names, though it is there"
ELSEWHERE = "lies where pip does not look for what is installed (--target, --user)"
UNNAMED = "came from a URL or a directory and cannot be asked for by its name"
STRANGE = "has a name, version or path that no Dockerfile should be given"
NO_TOOL = "what would install it is in no package of Debian, nor below in all of the images"


class Place(NamedTuple):
    """Where packages are installed.

    Attributes:
        kind: ``PIP`` or ``NPM``.
        folder: A virtual environment, the directory above ``node_modules``, or the prefix of
            Python.
        python: The interpreter, as a path; empty for npm.
        own: Whether it is a virtual environment or a project's, not the system's.
    """

    kind: str
    folder: str
    python: str
    own: bool


class Placed(NamedTuple):
    """A package of pip or npm.

    Attributes:
        name: With its scope.
        place: None if no base can have it there.
        refusal: Why not; empty if one can.
        inside: What lies in its directory of other packages: they belong to it.
        tools: Files that installing it needs; of each tuple one.
        files: All that are its own.
        removed_first: Whether ``npm ci`` made it, which removes what a base has there;
            ``npm install`` keeps that, and has the same versions where there is a lock file.
    """

    kind: str
    name: str
    version: str
    place: Place | None
    refusal: str
    inside: tuple[str, ...]
    tools: tuple[tuple[bytes, ...], ...]
    files: tuple[Node, ...]
    removed_first: bool = False


def keeping_modules(spec: str) -> str:
    """Return a Dockerfile with ``npm install`` for each ``npm ci``."""
    return _NPM_CI.sub(r"npm\1install", spec)


class PlacedPackages:
    """Finds the packages of pip and npm that layers bring."""

    def __init__(self) -> None:
        self._paths: dict[int, tuple[bytes, ...]] = {}
        self._lists = Lists()
        self._read: dict[tuple[Extent, ...], Package | None] = {}

    def note(self, applied: AppliedLayer) -> None:
        """Learn which descriptions of packages a layer has."""
        self._paths[id(applied.node)] = tuple(
            entry.path
            for entry in applied.changeset.entries
            if entry.kind is FILE
            and (
                entry.path.endswith(_METADATA)
                or (entry.path.endswith(_MANIFEST) and b"node_modules/" in entry.path)
            )
        )

    def found(
        self, files: ImageFiles, layers: Sequence[ChainNode], step: Callable[[Node], str]
    ) -> Iterator[Placed]:
        """Yield what an image has of the packages that some of its layers describe.

        Args:
            files: Of the image.
            layers: Those that are looked at.
            step: Says what made the layer of a file.
        """
        described = dict.fromkeys(path for layer in layers for path in self._paths[id(layer)])
        paths = self._not_debians(files, described)
        inside: dict[str, list[str]] = {}
        modules: dict[str, tuple[Package, Node]] = {}
        left = MAX_PATHS
        for path in paths:
            node = lookup(files.root, path)
            if node is None or node.entry.kind is not FILE:
                continue
            package = self._described(files, path, node)
            text = path.decode("utf-8", "replace")
            if package is None:
                continue
            if package.kind == PIP:
                placed = _of_pip(files, package, text, step(node))
                left -= len(placed.files)
                if left < 0:
                    files.leave_out(path, f"packages name more than {MAX_PATHS} files")
                    return
                yield placed
            elif (top := _top(text, package)) == text:
                modules[top] = package, node
            elif top:
                inside.setdefault(top, []).append(f"{_name(package)}@{package.version}")
        for top, (package, node) in modules.items():
            yield _of_npm(files, package, top, step(node), tuple(sorted(inside.get(top, ()))))

    def _not_debians(self, files: ImageFiles, paths: Collection[bytes]) -> Collection[bytes]:
        """Leave out what packages of Debian have; only below /usr must that be asked."""
        if not any(path.startswith(_DEBIANS) for path in paths):
            return paths
        lists = system_files(files, self._lists)
        theirs = {path for _, owned in lists for path in owned if path.endswith(_DESCRIPTIONS)}
        return [path for path in paths if path not in theirs]

    def _described(self, files: ImageFiles, path: bytes, node: Node) -> Package | None:
        """Read a description; images have most of them in common."""
        content = node.entry.extents
        if content not in self._read:
            read = described_by_pip if path.endswith(_METADATA) else described_by_npm
            self._read[content] = read(files, path, node)
        return self._read[content]


def _name(package: Package) -> str:
    return f"{package.namespace}/{package.name}" if package.namespace else package.name


def _top(path: str, package: Package) -> str:
    """Return the description of the outermost package that one of npm lies in; empty if none."""
    above, _, rest = path.partition(_MODULES)
    depth = 2 if rest.startswith("@") else 1
    words = rest.split("/")
    if len(words) <= depth:
        return ""
    top = f"{above}{_MODULES}{'/'.join(words[:depth])}/package.json"
    is_itself = path == top and "/".join(words[:depth]) == _name(package)
    is_below = path != top and path.split("/")[-2] == package.name
    return top if is_itself or is_below else ""


def _of_pip(files: ImageFiles, package: Package, path: str, step: str) -> Placed:
    folder = posixpath.dirname(path)
    nodes = (lookup(files.root, each) for each in recorded(files, folder.encode()))
    own = tuple({id(n): n for n in nodes if n is not None and n.entry.kind is FILE}.values())
    place, tools = _python_place(files, posixpath.dirname(folder))
    refusal = _refusal(package, path, step)
    if not refusal and lookup(files.root, f"{folder}/direct_url.json".encode()) is not None:
        refusal = UNNAMED
    if not refusal and place is None:
        refusal = ELSEWHERE
    return Placed(
        PIP, package.name, package.version, None if refusal else place, refusal, (), tools, own
    )


def _python_place(
    files: ImageFiles, site: str
) -> tuple[Place | None, tuple[tuple[bytes, ...], ...]]:
    """Return whose packages lie in a directory, and what is needed to install some there."""
    match = _SITE.fullmatch(site)
    if match is None:
        return None, ()
    prefix, python = match[1] or "", match[2]
    config = files.read(f"{prefix}/pyvenv.cfg".encode(), MAX_METADATA_BYTES)
    if config is not None:
        home = _HOME.search(config)
        if home is None:
            return None, ()
        bin_folder = home[1].decode("utf-8", "replace").strip("/")
        if not _PLAIN_PATH.fullmatch(bin_folder):
            return None, ()
        interpreter = f"{bin_folder}/{python}"
        library = f"{posixpath.dirname(bin_folder)}/lib/{python}"
        tools = _alternatives([interpreter], [f"{library}/ensurepip/__init__.py"])
        return Place(PIP, f"/{prefix}", f"/{interpreter}", own=True), tools
    if prefix not in _SYSTEM_PREFIXES:
        return None, ()
    # Debian's Python, below /usr, installs what is not Debian's below /usr/local.
    interpreter = f"{'usr' if match[3] == 'dist' else prefix}/bin/{python}"
    pip = [
        "usr/lib/python3/dist-packages/pip/__init__.py",
        f"{prefix}/lib/{python}/site-packages/pip/__init__.py",
    ]
    return Place(PIP, f"/{prefix}", f"/{interpreter}", own=False), _alternatives([interpreter], pip)


def _of_npm(
    files: ImageFiles, package: Package, path: str, step: str, inside: tuple[str, ...]
) -> Placed:
    above = path.partition(_MODULES)[0].rstrip("/")
    folder = lookup(files.root, posixpath.dirname(path).encode())
    own = tuple(n for _, n in walk(folder) if n.entry.kind is FILE) if folder is not None else ()
    refusal = _refusal(package, path, step)
    if not refusal and above in _GLOBAL_MODULES:  # what is there was named: the rest lies in it
        refusal = RENEWED
    place = Place(NPM, f"/{above}", "", own=True)
    tools = _alternatives([f"{home}/package.json" for home in _NPM_HOMES])
    return Placed(
        NPM,
        _name(package),
        package.version,
        None if refusal else place,
        refusal,
        inside,
        tools,
        own,
        _NPM_CI.search(step) is not None,
    )


def _refusal(package: Package, path: str, step: str) -> str:
    """Return why no base can have a package, whatever installed it; empty if one can."""
    if step.startswith(_COPIES):
        return COPIED.format(step.split()[0])
    plain = (
        _PLAIN_NAME.fullmatch(_name(package))
        and _PLAIN_VERSION.fullmatch(package.version)
        and _PLAIN_PATH.fullmatch(path)
    )
    return "" if plain else STRANGE


def _alternatives(*tools: Sequence[str]) -> tuple[tuple[bytes, ...], ...]:
    return tuple(tuple(path.encode() for path in each) for each in tools)
