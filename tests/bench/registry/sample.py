"""Learn from real packages: unpack what was fetched, keep it in a store, read off what it took.

    python -m tests.bench.registry sample CACHE

Packages are imported some dozens at a time, as a layer would hold them, older versions before
newer ones as they come in time. The store is then copied and optimized. The result,
``samples.json``, has for each package what it takes in every scheme, and for each pair of versions
what the newer one adds to the older one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import zipfile
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from layerstore.formats.oci_config import ContainerConfig
from layerstore.image.importing import ImportSpec, import_directory
from layerstore.progress import Silent
from layerstore.store.store import Store
from tests.bench.harness import say
from tests.bench.registry.builds import copy_module, module_of, run_layerstore
from tests.bench.registry.catalogue import NPM, PIP
from tests.bench.registry.contents import Part, Reader, layers_of, merge_into
from tests.bench.registry.ecosystems import canonical, lock_needs, wheels
from tests.bench.registry.index import version_key
from tests.bench.registry.model import Atom

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.bench.registry.contents import Sizes

GROUP_BYTES = 150_000_000
"""Of unpacked packages that are imported as one layer, about."""
OPTIMIZE_LEVEL = 9
AGAIN_MAX_BYTES = 1_500_000
COMMON_DIRECTORY = 3
"""A directory that so many packages have is counted for layers, not for packages."""


class Source(NamedTuple):
    """Something to unpack: ``key`` names it in the store, as three parts of a path."""

    ecosystem: str
    name: str
    version: str
    order: int
    path: Path

    @property
    def key(self) -> str:
        """Directory that it is unpacked into."""
        return f"{self.ecosystem}/{urllib.parse.quote(self.name, safe='')}/{self.version}"


def sources(cache: Path) -> list[Source]:
    """Return what was fetched, what came first in time first."""
    found = _debs(cache / "deb")
    place = cache / "pip"
    files = {**wheels(place / "older"), **wheels(place / "current")}
    for key, path in files.items():
        name, _, version = key.partition("==")
        versions = PIP.get(name, version).split()
        found.append(Source("pip", name, version, versions.index(version), path))
    for path in lock_needs(cache / "npm" / "current"):
        name = path.removeprefix("node_modules/")
        for order, version in enumerate(NPM.get(name, "0").split()):
            source = module_of(cache, Atom("npm", name, order))
            if source.is_dir():
                found.append(Source("npm", name, version, order, source))
    ecosystems = ("deb", "pip", "npm")
    return sorted(found, key=lambda s: (ecosystems.index(s.ecosystem), s.order, s.name))


def _debs(place: Path) -> list[Source]:
    by_name: dict[str, list[tuple[str, Path]]] = {}
    for path in place.glob("*.deb"):
        name, version = path.name.split("_")[:2]
        by_name.setdefault(name, []).append((urllib.parse.unquote(version), path))
    found = []
    for name, versions in by_name.items():
        versions.sort(key=lambda item: version_key(item[0]))
        # A package of one version alone stands with the older ones: it came with the release.
        for order, (version, path) in enumerate(versions):
            found.append(Source("deb", name, version, order, path))
    return found


def unpack(source: Source, tree: Path, *, compiled: bool = True) -> None:
    """Unpack one package as its installer would, with what it makes of Python's sources."""
    if source.ecosystem == "deb":
        _unpack_deb(source, tree)
        where = [path for path in (tree / "usr/lib").glob("python3*") if path.is_dir()]
    elif source.ecosystem == "pip":
        with zipfile.ZipFile(source.path) as archive:
            archive.extractall(tree)
        where = [tree]
    else:
        copy_module(source.path, tree)
        return
    if where and (compiled or source.ecosystem != "pip"):
        command = [sys.executable, "-m", "compileall", "-q", "-s", os.fspath(tree), "-p", "/"]
        subprocess.run([*command, *map(os.fspath, where)], check=False, capture_output=True)


def _unpack_deb(source: Source, tree: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", os.fspath(source.path), os.fspath(tree)], check=True)
    listed = sorted(
        os.path.join(host, name)[len(os.fspath(tree)) :]
        for host, folders, names in os.walk(tree)
        for name in (*folders, *names)
    )
    control = tree / "control"
    subprocess.run(["dpkg-deb", "-e", os.fspath(source.path), os.fspath(control)], check=True)
    (control / "control").unlink()  # its text goes into the status file of the layer
    info = tree / "var/lib/dpkg/info"
    info.mkdir(parents=True, exist_ok=True)
    for path in control.iterdir():
        path.rename(info / f"{source.name}.{path.name}")
    control.rmdir()
    (info / f"{source.name}.list").write_text("/.\n" + "\n".join(listed) + "\n")


def keep(cache: Path) -> Store:
    """Import everything into ``cache/samples``; what is there is not imported again."""
    store = Store.open(cache / "samples", create=True)
    tree = cache / "unpacked"
    group = size = 0
    shutil.rmtree(tree, ignore_errors=True)
    pending: list[Source] = []
    everything = sources(cache)
    for number, source in enumerate(everything):
        pending.append(source)
        size += source.path.stat().st_size * 4 if source.path.is_file() else 500_000
        if size > GROUP_BYTES or number + 1 == len(everything):
            _import_group(store, tree, f"group-{group:03}", pending)
            say(f"group {group}: {number + 1}/{len(everything)} packages")
            group, size, pending = group + 1, 0, []
    return store


def _import_group(store: Store, tree: Path, name: str, group: Iterable[Source]) -> None:
    if f"{name}:latest" in store.tags():
        return
    for source in group:
        place = tree / source.key
        place.mkdir(parents=True)
        # Older wheels are there for what the next release changes: their sources are enough.
        newest = PIP.get(source.name, source.version).split()[-1]
        unpack(source, place, compiled=source.version == newest)
    _import(store, tree, name, 0)


def _import(store: Store, tree: Path, name: str, second: int) -> None:
    """Import a tree and remove it; what resembles is looked for in images of late seconds first."""
    created = f"2026-11-26T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"
    spec = ImportSpec((name,), ContainerConfig(), "", created)
    import_directory(store, tree, spec, progress=Silent(), reread=True)
    shutil.rmtree(tree)


def keep_series(cache: Path) -> Store:
    """Import releases of pip's and npm's packages one after another, each where the last one lay.

    Differences are looked for at the same path, so releases must share theirs. The newest release
    of small wheels is compiled, and once more as another build would.
    """
    store = Store.open(cache / "series", create=True)
    second = 0
    for (ecosystem, name), releases in by_name(sources(cache)).items():
        if ecosystem not in ("pip", "npm"):
            continue
        last = releases[-1]
        small = ecosystem == "pip" and last.path.stat().st_size < AGAIN_MAX_BYTES
        if len(releases) == 1 and not small:
            continue
        for number, step in enumerate((*releases, *([last] * small))):
            second += 1
            again = number == len(releases)
            tag = f"{_tag(step)}-again" if again else _tag(step)
            if f"{tag}:latest" in store.tags():
                continue
            tree = cache / "release" / "lib" / urllib.parse.quote(name, safe="")
            shutil.rmtree(cache / "release", ignore_errors=True)
            tree.mkdir(parents=True)
            unpack(step, tree, compiled=small and step is last and not again)
            if again:
                _compile_again(tree)
            _import(store, cache / "release", tag, second)
    return store


def _tag(source: Source) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", source.name.lower()).strip("-")
    return f"{source.ecosystem}-{name}-{source.order}"


def by_name(everything: Iterable[Source]) -> dict[tuple[str, str], list[Source]]:
    """Return the versions of each package in order."""
    found: dict[tuple[str, str], list[Source]] = {}
    for source in everything:
        found.setdefault((source.ecosystem, source.name), []).append(source)
    return found


def _compile_again(place: Path) -> None:
    """Compile as another build would: sources of another second."""
    for path in sorted(place.rglob("*.py")):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    command = [sys.executable, "-m", "compileall", "-q", "-s", os.fspath(place), "-p", "/"]
    subprocess.run([*command, os.fspath(place)], check=False, capture_output=True)


def optimized_copy(cache: Path, name: str) -> Store:
    """Return a copy of the store ``cache/name`` that the command optimized; make it if need be."""
    place, part = cache / f"{name}-optimized", cache / f"{name}-optimized.part"
    if not place.exists():
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(cache / name, part, symlinks=True)
        run_layerstore(part, "optimize", "--level", str(OPTIMIZE_LEVEL))
        part.rename(place)
    return Store.open(place)


_PYC = re.compile(rb"/__pycache__/[^/]*\.pyc$")


def _key(path: bytes) -> str | None:
    """Return the package that a path of the sample store belongs to; compiled files are apart."""
    parts = path.split(b"/", 3)
    if len(parts) < 4:
        return None
    name = b"/".join(parts[:3]).decode("utf-8", "replace")
    compiled = name.startswith("pip/") and _PYC.search(path)
    return f"{name}#pyc" if compiled else name


def learn(cache: Path) -> dict[str, object]:
    """Return what the sample says: packages, pairs of versions, what packages share."""
    pairs, recompiled = _series(cache)
    with keep(cache) as store:
        reader = Reader(store, optimized_copy(cache, "samples"))
        parts: dict[str, Part] = {}
        entries = metadata = better_metadata = 0
        for name in sorted(name for name in store.tags()):
            for diff_id in layers_of(reader.inventory, name):
                parts.update(reader.parts(diff_id, _key))
                entries += reader.inventory.layers[diff_id].entry_count
                metadata += reader.metadata(diff_id)
                better_metadata += reader.metadata(diff_id, optimized=True)
        rows = _rows(cache, reader, parts)
        return {
            "packages": rows,
            "pairs": [*_pairs(cache, reader, parts), *pairs],
            "recompiled": recompiled,
            "shared": _shared(cache, reader, parts),
            "metadata_per_entry": [metadata / entries, better_metadata / entries],
        }


def _own_directories(parts: dict[str, Part]) -> dict[str, int]:
    """Return how many directories of each package are not among those that many have."""
    seen: dict[bytes, int] = {}
    inside = {
        key: {path.split(b"/", 3)[3] for path in part.directories if path.count(b"/") > 2}
        for key, part in parts.items()
    }
    for key, paths in inside.items():
        if key.startswith("deb/"):
            for path in paths:
                seen[path] = seen.get(path, 0) + 1
    return {
        key: sum(seen.get(path, 0) < COMMON_DIRECTORY for path in paths)
        for key, paths in inside.items()
    }


def _rows(cache: Path, reader: Reader, parts: dict[str, Part]) -> list[dict[str, object]]:
    own = _own_directories(parts)
    rows = []
    for source in sources(cache):
        part = parts.get(source.key)
        if part is None:
            continue
        row: dict[str, object] = {
            "ecosystem": source.ecosystem,
            "name": canonical(source.name) if source.ecosystem == "pip" else source.name,
            "version": source.version,
            "order": source.order,
            "entries": part.entries,
            "sizes": reader.sizes(part, directories=own[source.key]),
        }
        compiled = parts.get(f"{source.key}#pyc")
        if compiled is not None:
            row["compiled"] = reader.sizes(compiled, directories=0)
            row["compiled_entries"] = compiled.entries
        rows.append(row)
    return rows


def _pairs(cache: Path, reader: Reader, parts: dict[str, Part]) -> list[dict[str, object]]:
    """Return what each version adds where the one before is there, beside the first one's bytes.

    The first version is stored whole, later ones as differences: they are no measure.
    """
    pairs = []
    for (ecosystem, name), versions in by_name(sources(cache)).items():
        if ecosystem != "deb":
            continue
        first = versions[0]
        for old, new in pairwise(versions):
            if {first.key, old.key, new.key} <= parts.keys():
                step = _step(reader, parts[first.key], parts[old.key], parts[new.key])
                pairs.append({"ecosystem": ecosystem, "name": name, **step})
    return pairs


def _series(cache: Path) -> tuple[list[dict[str, object]], list[float]]:
    """Return pairs of pip's and npm's releases, and what compiling again adds to the first time."""
    pairs: list[dict[str, object]] = []
    first_time, again = [0] * 6, [0] * 6
    with keep_series(cache) as store:
        reader = Reader(store, optimized_copy(cache, "series"))
        tags = store.tags()

        def read(tag: str) -> dict[str, Part]:
            (diff_id,) = layers_of(reader.inventory, f"{tag}:latest")
            return reader.parts(diff_id, lambda path: "pyc" if _PYC.search(path) else "own")

        for (ecosystem, name), releases in by_name(sources(cache)).items():
            kept = [source for source in releases if f"{_tag(source)}:latest" in tags]
            if ecosystem not in ("pip", "npm") or not kept:
                continue
            parts = [read(_tag(source)) for source in kept]
            for old, new in pairwise(parts):
                step = _step(reader, parts[0]["own"], old["own"], new["own"])
                pairs.append({"ecosystem": ecosystem, "name": name, **step})
            small = kept[-1].path.stat().st_size < AGAIN_MAX_BYTES
            if ecosystem == "pip" and small and "pyc" in parts[-1]:
                compiled = read(f"{_tag(kept[-1])}-again")["pyc"]
                step = _step(reader, parts[-1]["pyc"], parts[-1]["pyc"], compiled)
                _add(first_time, step["whole"])
                _add(again, step["added"])
    ratios = [a / f if f else 1.0 for a, f in zip(again, first_time, strict=True)]
    return pairs, ratios


def _step(reader: Reader, first: Part, old: Part, new: Part) -> dict[str, Sizes]:
    """Return what a version takes whole, and what the one after ``old`` adds."""
    before, after = (reader.sizes(part, directories=0) for part in (old, new))
    whole = list(reader.sizes(first, directories=0))
    added = list(reader.sizes(new, old, directories=0))
    # Optimizing keeps one version whole, be it the newer, and turns the other into differences.
    whole[-1] = max(before[-1], after[-1])
    added[-1] += before[-1] - whole[-1]
    return {"whole": tuple(whole), "added": tuple(added)}


def _shared(cache: Path, reader: Reader, parts: dict[str, Part]) -> dict[str, list[float]]:
    """Return what packages add together, as a part of what they are one by one."""
    found = {}
    for ecosystem in ("deb", "pip", "npm"):
        known = Part()
        alone = [0] * 6
        together = [0] * 6
        for source in sources(cache):
            part = parts.get(source.key)
            if source.ecosystem != ecosystem or source.order or part is None:
                continue
            _add(alone, reader.sizes(part, directories=0))
            _add(together, reader.sizes(part, known, directories=0))
            merge_into(known, part)
        found[ecosystem] = [t / a if a else 1.0 for t, a in zip(together, alone, strict=True)]
    return found


def _add(total: list[int], sizes: Sizes) -> None:
    for place, size in enumerate(sizes):
        total[place] += size


def main(cache: Path) -> None:
    """Write ``samples.json``."""
    (cache / "samples.json").write_text(json.dumps(learn(cache), indent=None) + "\n")
