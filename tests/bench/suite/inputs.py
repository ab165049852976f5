"""What benchmarks are given: made once below the cache, and shared by all of them."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.corpora import CORPORA, make_corpus, trees_of
from tests.bench.harness import say
from tests.bench.paths.root import make_root
from tests.bench.registry.calibrate import HALVES
from tests.bench.trees import bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BASE = "bookworm.tar"
VERSIONS = ("version-1.tar", "version-2.tar")
_VERSION_TREES = ("03-app-1", "04-app-2")


def make_inputs(cache: Path, names: Sequence[str]) -> None:
    """Make what is missing; an interrupted run leaves nothing that looks whole.

    Args:
        cache: Where inputs are kept.
        names: ``base``, ``root``, ``versions``, ``registry``, or names of corpora.
    """
    cache.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], None]] = {
        "base": lambda: _make_base(cache),
        "root": lambda: _make_root(cache),
        "versions": lambda: _make_versions(cache),
        "registry": lambda: _make_registry(cache),
    }
    for name in names:
        makers.get(name, lambda name=name: make_corpus(cache.absolute(), name))()


def missing_inputs(cache: Path, names: Sequence[str]) -> list[str]:
    """Return which inputs are not there yet."""
    return [name for name in names if not _is_there(cache, name)]


def _is_there(cache: Path, name: str) -> bool:
    if name == "base":
        return (cache / BASE).exists()
    if name == "root":
        return (cache / "root").exists()
    if name == "registry":
        return all((cache / "registry" / file).exists() for file in HALVES.values())
    if name == "versions":
        return all((cache / file).exists() for file in VERSIONS)
    return len(trees_of(cache, name)) == len(CORPORA[name])


def _make_base(cache: Path) -> None:
    with _alone(cache, "base"):
        if not (cache / BASE).exists():
            with tempfile.TemporaryDirectory(dir=cache) as work:
                shutil.move(bootstrap(Path(work)), cache / BASE)


def _make_root(cache: Path) -> None:
    with _alone(cache, "root"):
        make_root(cache.absolute())


def _make_versions(cache: Path) -> None:
    """Make OCI archives of two versions of an image: a layer each over one base."""
    with _alone(cache, "versions"):
        if _is_there(cache, "versions"):
            return
        trees = {tree.name: tree for tree in make_corpus(cache.absolute(), "related")}
        say("making two versions of an image")
        with tempfile.TemporaryDirectory(dir=cache) as work:
            store = [sys.executable, "-m", "layerstore", "--store", f"{work}/store"]
            _quietly([*store, "import", str(trees["02-python"]), "-t", "base:1"])
            spec = Path(work) / "Dockerfile"
            spec.write_text("FROM base:1\nCOPY . /opt/app/\n")
            for number, (file, tree) in enumerate(zip(VERSIONS, _VERSION_TREES, strict=True), 1):
                name = f"app.example/app:{number}"
                context = str(trees[tree] / "opt/app")
                _quietly([*store, "build", "-f", str(spec), "-t", name, context])
                part = f"{work}/{file}"
                _quietly([*store, "save", "--format", "oci-archive", name, "-o", part])
                shutil.move(part, cache / file)


def _make_registry(cache: Path) -> None:
    """Fetch, measure and build what the simulation of a registry is made of; each step resumes."""
    with _alone(cache, "registry"):
        if not _is_there(cache, "registry"):
            say("measuring packages and building images of them")
            program = [sys.executable, "-m", "tests.bench.registry"]
            _quietly([*program, "errors", str(cache / "registry")])


def _quietly(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-1000:]}")


@contextlib.contextmanager
def _alone(cache: Path, name: str) -> Iterator[None]:
    """Let one process make it at a time; whoever comes second finds it."""
    with (cache / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
