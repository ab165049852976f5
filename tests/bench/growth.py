"""Growth: what the disk holds as eleven related images are added, here and with the peers.

    python -m tests.bench.growth CACHE [--json FILE] [--only NAME] [--optimize]

CACHE is where ``tests.bench.corpora`` made the corpus ``related`` (made if it is missing). Twice:

``trees``   every root file system comes as a whole, as from eleven houses, or as virtual
            machines: nobody is told what they have in common. layerstore, docker and podman
            (an image of one layer each), casync, restic, borg, SquashFS, EROFS.
``builds``  eleven Dockerfiles, each ``FROM`` the one it is made of, adding what differs: the
            case layers are made for. layerstore, docker's classic builder, buildah.

After each image the allocated blocks below everybody's place are counted (layerstore's evictable
object tier apart), and the CPU seconds of adding it, daemons included. Whether all comes back is
what ``tests.bench.ratio`` asks.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.bench.contenders import ARCHIVES, LAYERSTORE, Contender
from tests.bench.corpora import CORPORA, make_corpus
from tests.bench.docker_load import write_archive
from tests.bench.harness import (
    CommandError,
    Cost,
    absolute,
    environment,
    fresh,
    grid,
    megabytes,
    run_costed,
    say,
    version_of,
    warm,
)
from tests.bench.manifest import Manifest, Record, manifest_of
from tests.bench.seed.distribution import allocated
from tests.bench.seed.engines import Docker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_CORPUS = "related"
_OPTIMIZED = "layerstore, optimized"
_PACK = ("--format=pax", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--no-recursion")
_FAILURES = (CommandError, OSError, RuntimeError, subprocess.SubprocessError)

Figures = dict[str, Any]
Curve = dict[str, list[float]]
"""``disk`` and ``cpu_seconds``, a number for each image."""


class Trees:
    """A contender of the other benchmarks, with one tree after the other."""

    def __init__(self, contender: Contender) -> None:
        self._contender = contender
        self.name = "layerstore" if contender is LAYERSTORE else contender.name

    def version(self) -> str | None:
        return self._contender.found_version()

    def start(self, place: Path) -> None:
        self._repo = place
        self._contender.start(place)

    def add(self, tree: Path) -> Cost:
        return self._contender.put(self._repo, tree, tree.name)

    def finish(self) -> None:
        self._contender.finish(self._repo)


class DockerTrees:
    """``docker load`` of an image of one layer a tree; the daemon's CPU time counts."""

    name = "docker load"

    def version(self) -> str | None:
        return version_of(("dockerd", "--version")) if os.geteuid() == 0 else None

    def start(self, place: Path) -> None:
        self._place = place
        self._engine = Docker(place)
        self._engine.begin()

    def add(self, tree: Path) -> Cost:
        with tempfile.TemporaryDirectory(dir=self._place.parent) as scratch:
            archive = Path(scratch) / "image.tar"
            write_archive(archive, tree, f"{tree.name}:1")
            return self._engine.load(archive)

    def finish(self) -> None:
        self._engine.end()


class PodmanTrees:
    """``podman load`` of the same archives, into a storage of its own."""

    name = "podman load"

    def version(self) -> str | None:
        return version_of(("podman", "--version")) if os.geteuid() == 0 else None

    def start(self, place: Path) -> None:
        self._place = place
        self._run = Path(tempfile.mkdtemp(prefix="growth-"))  # podman wants a short name
        self._words = ["podman", "--root", str(place), "--runroot", str(self._run)]
        self._words += ["--storage-driver", "overlay"]

    def add(self, tree: Path) -> Cost:
        with tempfile.TemporaryDirectory(dir=self._place.parent) as scratch:
            archive = Path(scratch) / "image.tar"
            write_archive(archive, tree, f"{tree.name}:1")
            return run_costed([*self._words, "load", "--quiet", "--input", str(archive)])

    def finish(self) -> None:
        subprocess.run(["umount", "--quiet", str(self._place / "overlay")], capture_output=True)
        shutil.rmtree(self._run, ignore_errors=True)


class LayerstoreBuilds:
    """``layerstore build``."""

    name = "layerstore build"

    def version(self) -> str | None:
        return LAYERSTORE.found_version()

    def start(self, place: Path) -> None:
        self._store = place / "store"

    def add(self, context: Path) -> Cost:
        program = str(Path(sys.executable).parent / "layerstore")
        words = [program, "--store", str(self._store), "build", "--quiet", "--network", "none"]
        return run_costed([*words, "--tag", f"{context.name}:1", str(context)])

    def finish(self) -> None:
        """Nothing runs."""


class DockerBuilds(DockerTrees):
    """``docker build`` by the classic builder."""

    name = "docker build"

    def add(self, context: Path) -> Cost:
        return self._engine.build(context, f"{context.name}:1")


class BuildahBuilds:
    """``buildah bud --layers``: the storage that podman and CRI-O have, too."""

    name = "buildah bud"

    def version(self) -> str | None:
        return version_of(("buildah", "--version")) if os.geteuid() == 0 else None

    def start(self, place: Path) -> None:
        self._place = place
        run = place.with_name(f"{place.name}.run")
        self._words = ["buildah", "--root", str(place), "--runroot", str(run)]
        self._words += ["--storage-driver", "overlay"]
        self._policy = place.with_name(f"{place.name}.policy.json")
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')

    def add(self, context: Path) -> Cost:
        bud = ["bud", "--layers", "--isolation", "chroot", "--network", "host", "--pull-never"]
        bud += ["--quiet", "--signature-policy", str(self._policy)]
        return run_costed([*self._words, *bud, "--tag", f"{context.name}:1", str(context)])

    def finish(self) -> None:
        subprocess.run(["umount", "--quiet", str(self._place / "overlay")], capture_output=True)
        self._policy.unlink()


Adder = Trees | DockerTrees | PodmanTrees | LayerstoreBuilds | DockerBuilds | BuildahBuilds


def of_trees() -> list[Adder]:
    """Return who takes whole trees; ours first."""
    peers = [Trees(one) for one in ARCHIVES if isinstance(one, Contender)]
    return [Trees(LAYERSTORE), *peers, DockerTrees(), PodmanTrees()]


def of_builds() -> list[Adder]:
    """Return who builds; ours first."""
    return [LayerstoreBuilds(), DockerBuilds(), BuildahBuilds()]


def grow(adder: Adder, sources: Iterable[Path], work: Path, *, optimized: bool) -> dict[str, Curve]:
    """Add one after the other; return what the disk holds after each."""
    place = fresh(work / "repo")
    curve: Curve = {"disk": [], "cpu_seconds": []}
    curves = {adder.name: curve}
    adder.start(place)
    try:
        for source in sources:
            cost = adder.add(source)
            curve["disk"].append(_disk(place))
            curve["cpu_seconds"].append(cost.cpu_seconds)
        if optimized:
            words = [sys.executable, "-m", "layerstore", "--store", str(place / "store")]
            cost = run_costed([*words, "optimize"])
            curves[_OPTIMIZED] = {"disk": [_disk(place)], "cpu_seconds": [cost.cpu_seconds]}
    finally:
        adder.finish()
        shutil.rmtree(place)
        shutil.rmtree(work / "repo.run", ignore_errors=True)
    say(f"  {adder.name:20} {megabytes(curve['disk'][-1]):>9} MB, "
        f"{sum(curve['cpu_seconds']):.1f} s CPU")  # fmt: skip
    return curves


def _disk(place: Path) -> int:
    objects = place / "store" / "objects"
    return allocated(place) - (allocated(objects) if objects.exists() else 0)


def contexts(trees: list[Path], place: Path) -> list[Path]:
    """Write a Dockerfile for each tree: what it is made of, and an archive of what differs."""
    parents = {recipe.name: recipe.parent for recipe in CORPORA[_CORPUS]}
    manifests: dict[str, Manifest] = {}
    made = []
    for tree in trees:
        manifests[tree.name] = manifest_of(tree)
        parent = parents[tree.name]
        before = manifests[parent] if parent else {}
        changed, removed = differences(before, manifests[tree.name])
        context = fresh(place / tree.name)
        _archive(context / "changes.tar", tree, changed)
        (context / "Dockerfile").write_text(dockerfile(parent, removed))
        made.append(context)
    return made


def dockerfile(parent: str | None, removed: list[bytes]) -> str:
    """Return the Dockerfile of a tree."""
    lines = [f"FROM {parent}:1" if parent else "FROM scratch", "ADD changes.tar /"]
    if removed:
        paths = [f"/{os.fsdecode(path)}" for path in removed]
        lines.append("RUN " + json.dumps(["rm", "-rf", "--", *paths]))
    return "\n".join([*lines, 'CMD ["sh"]', ""])


def differences(before: Manifest, after: Manifest) -> tuple[list[bytes], list[bytes]]:
    """Return the paths that are new or changed, and the topmost of those that are gone."""
    changed = [
        path for path, record in after.items() if path != b"." and not _same(before, path, record)
    ]
    gone = before.keys() - after.keys()
    return sorted(changed), sorted(path for path in gone if os.path.dirname(path) not in gone)


def _same(before: Manifest, path: bytes, record: Record) -> bool:
    """Tell whether an entry is as it was; a directory's time alone makes no layer bigger."""
    old = before.get(path)
    if old is None or record.content is not None or old.content is not None:
        return old == record
    return old._replace(mtime=0) == record._replace(mtime=0)


def _archive(target: Path, tree: Path, paths: list[bytes]) -> None:
    command = ["tar", "-C", str(tree), *_PACK, "-cf", str(target), "--null"]
    command += ["--verbatim-files-from", "--files-from=-"]
    subprocess.run(command, input=b"".join(path + b"\0" for path in paths), check=True)


def measure(
    adder: Adder, sources: list[Path], work: Path, *, optimized: bool
) -> tuple[dict[str, Curve], dict[str, str]]:
    """Return somebody's curves and version; who is missing or fails is named and left out."""
    version = adder.version()
    if version is None:
        say(f"  {adder.name}: not installed, left out")
        return {}, {}
    try:
        return grow(adder, sources, work, optimized=optimized), {adder.name: version}
    except _FAILURES as err:
        say(f"  {adder.name}: {err}")
        return {}, {}


def described(trees: list[Path]) -> Figures:
    """Return what the images are, before anybody has them."""
    known = [json.loads(tree.with_name(f"{tree.name}.json").read_text()) for tree in trees]
    return {
        "images": [tree.name for tree in trees],
        "logical_bytes": [one["logical_bytes"] for one in known],
        "copies": [allocated(tree) for tree in trees],
        "environment": environment(),
        "versions": {},
        "trees": {},
        "builds": {},
    }


def report(figures: Figures) -> str:
    """Return the tables: bytes after each image, in MB, and the CPU seconds of all."""
    names = figures["images"]
    tables = []
    for form in ("trees", "builds"):
        curves: dict[str, Curve] = figures[form]
        rows = [
            (name, *_cells(curve, len(names)), f"{sum(curve['cpu_seconds']):.1f}")
            for name, curve in sorted(curves.items(), key=lambda one: one[1]["disk"][-1])
        ]
        head = (f"{form}, MB", *(name[:2] for name in names), "CPU s")
        tables.append(grid(head, rows))
    return "\n\n".join(tables)


def _cells(curve: Curve, width: int) -> list[str]:
    cells = [f"{size / 1e6:,.0f}" for size in curve["disk"]]
    return [*["-"] * (width - len(cells)), *cells]


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.growth", description=__doc__.splitlines()[0])
    parser.add_argument("cache", type=Path, help="where the corpora are, or are made")
    parser.add_argument("--only", action="append", help="those whose name holds this text")
    parser.add_argument("--optimize", action="store_true", help="layerstore optimize at the end")
    parser.add_argument(
        "--work", type=absolute, help="where to work (default: for temporary files)"
    )
    parser.add_argument("--json", type=Path, help="keep the figures there, beside those of others")
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops a daemon on its way
    work = Path(tempfile.mkdtemp(prefix="layerstore-growth-", dir=given.work))
    os.environ["BORG_BASE_DIR"] = str(work / "borg-home")

    def chosen(adders: list[Adder]) -> list[Adder]:
        return [a for a in adders if not given.only or any(text in a.name for text in given.only)]

    try:
        trees = make_corpus(given.cache.absolute(), _CORPUS)
        for tree in trees:
            warm(tree)
        figures = described(trees)
        if given.json and given.json.exists():
            known = json.loads(given.json.read_text())
            figures |= {name: known[name] for name in ("versions", "trees", "builds")}
        forms: dict[str, tuple[list[Adder], Callable[[], list[Path]]]] = {
            "builds": (chosen(of_builds()), lambda: contexts(trees, work / "contexts")),
            "trees": (chosen(of_trees()), lambda: trees),
        }
        for form, (adders, prepare) in forms.items():
            say(form)
            sources = prepare() if adders else []
            for adder in adders:
                optimized = given.optimize and adder.name == "layerstore"
                curves, version = measure(adder, sources, work, optimized=optimized)
                figures[form] |= curves
                figures["versions"] |= version
                if given.json:
                    given.json.write_text(json.dumps(figures, indent=1) + "\n")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(report(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
