"""Ratio benchmark: what series of trees cost on disk, here and with the peers, in one run.

    python -m tests.bench.ratio CACHE [CORPUS ...] [--quick] [--harder] [--only NAME] [--gate]

CACHE is where ``tests.bench.corpora`` made the corpora (missing ones are made). Every
contender stores the trees of a corpus one after the other in one place; layerstore also
after ``optimize``. A figure counts only when **every tree was restored and compares equal**
with its source: paths, types, sizes, contents and link targets for everybody, and for
layerstore everything else too (modes, owners, times to the nanosecond, xattrs, hard links).
What a peer does not give back is named. Trees are restored in memory, two at a time, for only
bytes are judged then; the last one alone, and that is whose CPU time is kept. Bars:
tests/bench/README.md.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.bars import Bar, bars_of
from tests.bench.contenders import ARCHIVES, HARDER, LAYERSTORE, Contender, found
from tests.bench.corpora import CORPORA, add_corpora, make_corpus
from tests.bench.harness import (
    CommandError,
    absolute,
    disk_bytes,
    environment,
    grid,
    megabytes,
    run_costed,
    say,
)
from tests.bench.manifest import Difference, Manifest, compare, manifest_of
from tests.bench.memory import place_in_memory
from tests.bench.result import Result as Document

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Executor

    from tests.bench.docker_load import DockerLoad

OPTIMIZED = "layerstore, optimized"
STORE = "layerstore"

SIDE_BY_SIDE = 2
"""Trees that are read, or restored and compared, at the same time."""
_RESTORED_BYTES = 3 * 10**9
"""What that many restored trees take at most, with the archives of those who write one first."""

_FAILURES = (CommandError, OSError, subprocess.SubprocessError)


@dataclass
class Result:
    """What one contender made of one corpus.

    Attributes:
        stored: Bytes of files after each tree, in order.
        disk: Allocated bytes at the end.
        unpacked: Bytes of the evictable object tier, not part of the others.
        restore_cpu_seconds: What the last tree took, restored alone.
        restored: Whether every tree came back with equal content.
        lost: What restores did not give back, summed over the trees' entries.
    """

    name: str
    corpus: str
    stored: list[int] = field(default_factory=list)
    disk: int = 0
    unpacked: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    restore_cpu_seconds: float = 0.0
    restored: bool = True
    lost: str = "-"
    error: str | None = None

    @property
    def total(self) -> int:
        return self.stored[-1]

    @property
    def last_added(self) -> int:
        """What the last tree added."""
        return self.stored[-1] - (self.stored[-2] if len(self.stored) > 1 else 0)

    @property
    def valid(self) -> bool:
        """Whether the figures may be quoted."""
        return self.error is None and self.restored


@dataclass(frozen=True)
class Corpus:
    """The trees of a corpus with what they hold."""

    name: str
    trees: list[Path]
    manifests: list[Manifest]

    @property
    def logical(self) -> int:
        """Bytes of all regular files, hard links of a tree once."""
        return sum(_logical(manifest) for manifest in self.manifests)

    @property
    def entries(self) -> int:
        return sum(len(manifest) for manifest in self.manifests)


def _logical(manifest: Manifest) -> int:
    return sum(
        record.size or 0
        for path, record in manifest.items()
        if record.links is None or record.links == path
    )


def load(cache: Path, name: str, readers: Executor) -> Corpus:
    """Make a corpus if need be, and read all of it once."""
    trees = make_corpus(cache, name)
    say(f"{name}: reading {len(trees)} trees")
    return Corpus(name, trees, list(readers.map(manifest_of, trees)))


class Bench:
    """One contender at a time: store all, restore all, remove.

    Args:
        work: For repositories.
        scratch: For restored trees.
        readers: Processes that read these.
        optimize: Whether layerstore is asked for what it has after optimize, too.
    """

    def __init__(
        self, work: Path, scratch: Path, readers: Executor, *, optimize: bool = True
    ) -> None:
        self._scratch = scratch
        self._readers = readers
        self._with_optimize = optimize
        self._repo = work / "repo"

    def run(self, corpus: Corpus, contender: Contender | DockerLoad) -> list[Result]:
        """Return a result, for layerstore one more after optimize."""
        name = STORE if contender is LAYERSTORE else contender.name
        result = Result(name, corpus.name)
        results = [result]
        try:
            self._store(corpus, contender, result)
            self._restore(corpus, contender, result)
            if contender is LAYERSTORE and self._with_optimize:
                results += self._optimize(corpus, contender, result)
        except _FAILURES as err:  # a peer that fails is a row of the table, not the end
            results[-1].error = str(err)
            say(f"  {name}: {err}")
        finally:
            contender.finish(self._repo)
            shutil.rmtree(self._repo, ignore_errors=True)
        return results

    def _store(self, corpus: Corpus, contender: Contender | DockerLoad, result: Result) -> None:
        contender.start(self._repo)
        for tree in corpus.trees:
            cost = contender.put(self._repo, tree, _image_name(tree))
            result.cpu_seconds += cost.cpu_seconds
            result.wall_seconds += cost.wall_seconds
            self._measure(result)
        say(f"  {result.name:24} {megabytes(result.total):>8} MB, {result.cpu_seconds:.1f} s CPU")

    def _measure(self, result: Result) -> None:
        allocated, apparent = disk_bytes(self._repo)
        unpacked = (0, 0)
        if (objects := self._repo / "store" / "objects").is_dir():
            unpacked = disk_bytes(objects)
        result.stored.append(apparent - unpacked[1])
        result.disk = allocated - unpacked[0]
        result.unpacked = unpacked[0]

    def _restore(self, corpus: Corpus, contender: Contender | DockerLoad, result: Result) -> None:
        """Give back and compare all trees; a few copies at most lie about."""

        def given_back(number: int) -> tuple[float, Difference]:
            tree, target = corpus.trees[number], self._scratch / f"restored-{number}"
            try:
                cost, root = contender.get(self._repo, tree, _image_name(tree), target)
                found = self._readers.submit(manifest_of, root).result()
            finally:
                shutil.rmtree(target, ignore_errors=True)
            return cost.cpu_seconds, compare(corpus.manifests[number], found)

        last = len(corpus.trees) - 1
        with ThreadPoolExecutor(SIDE_BY_SIDE) as several:
            differences = [difference for _, difference in several.map(given_back, range(last))]
        result.restore_cpu_seconds, difference = given_back(last)
        self._judge(corpus, result, [*differences, difference])

    def _judge(self, corpus: Corpus, result: Result, differences: list[Difference]) -> None:
        """Note what restores did not give back, and whether that is too much."""
        lost = []
        for tree, difference in zip(corpus.trees, differences, strict=True):
            ours = result.name in (STORE, OPTIMIZED)
            enough = difference.equal if ours else difference.content_equal
            result.restored &= enough
            if not difference.equal:
                lost.append(difference.lost())
            if not enough:
                say(f"  {result.name}: {tree.name} differs: {difference.lost()}")
                say(f"    {difference.missing[:3]} {difference.extra[:3]} {difference.example}")
        result.lost = "; ".join(dict.fromkeys(lost)) or "-"

    def _optimize(
        self, corpus: Corpus, contender: Contender | DockerLoad, before: Result
    ) -> list[Result]:
        result = Result(OPTIMIZED, corpus.name, stored=before.stored[:-1])
        store = [sys.executable, "-m", "layerstore", "--store", str(self._repo / "store")]
        known = subprocess.run([*store, "optimize", "--help"], capture_output=True, check=False)
        if known.returncode != 0:
            result.error = "this layerstore has no optimize"
            return [result]
        try:
            cost = run_costed([*store, "optimize"])
            result.cpu_seconds, result.wall_seconds = cost.cpu_seconds, cost.wall_seconds
            self._measure(result)
            say(f"  {result.name:24} {megabytes(result.total):>8} MB, {cost.cpu_seconds:.1f} s CPU")
            self._restore(corpus, contender, result)
        except _FAILURES as err:
            result.error = str(err)
        return [result]


def _image_name(tree: Path) -> str:
    return tree.name.lower().replace("_", "-")


def report(corpus: Corpus, results: Iterable[Result]) -> str:
    """Return the table of one corpus."""
    rows = []
    for result in results:
        if not result.valid:
            why = result.error or f"not restored: {result.lost}"
            rows.append((result.name, *["-"] * 6, why.splitlines()[0][:60]))
            continue
        rows.append(
            (
                result.name,
                megabytes(result.total),
                f"{corpus.logical / result.total:.2f}",
                megabytes(result.last_added) if result.name != OPTIMIZED else "-",
                megabytes(result.disk),
                f"{result.cpu_seconds:.1f}",
                f"{result.restore_cpu_seconds:.1f}",
                result.lost if len(result.lost) < 60 else result.lost[:57] + "...",
            )
        )
    head = (
        corpus.name,
        "stored MB",
        "1/x",
        "last adds",
        "disk MB",
        "CPU s",
        "restore CPU s",
        "lost",
    )
    counts = (
        f"{len(corpus.trees)} trees, {corpus.entries:,} entries, "
        f"{megabytes(corpus.logical)} MB in files"
    )
    return f"{grid(head, rows)}\n{counts}"


def choose(
    only: list[str] | None, *, harder: bool
) -> tuple[list[Contender | DockerLoad], dict[str, str], list[str]]:
    """Return who takes part, their versions, and who is missing."""
    present, versions, missing = found(
        contender
        for contender in (*ARCHIVES, *(HARDER if harder else ()))
        if not only or any(text in contender.name for text in only)
    )
    return [LAYERSTORE, *present], versions, missing


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.ratio", description=__doc__.splitlines()[0])
    add_corpora(parser, "where the corpora are, or are made")
    parser.add_argument("--only", action="append", help="peers whose name holds this text")
    parser.add_argument("--quick", action="store_true", help="leave optimize out")
    parser.add_argument("--harder", action="store_true", help="peers with all their effort too")
    parser.add_argument(
        "--work", type=absolute, help="where to work (default: a temporary directory)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a bar is not met")
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    contenders, versions, missing = choose(given.only, harder=given.harder)
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    os.environ["BORG_BASE_DIR"] = str(work / "borg-home")
    tables: list[str] = []
    results: list[Result] = []
    bars: list[Bar] = []
    described: dict[str, Corpus] = {}
    forked = multiprocessing.get_context("fork")
    try:
        with (
            place_in_memory(work, _RESTORED_BYTES) as (scratch, in_memory),
            ProcessPoolExecutor(SIDE_BY_SIDE, forked) as readers,
        ):
            bench = Bench(work, scratch, readers, optimize=not given.quick)
            for name in given.corpora or list(CORPORA):
                corpus = load(given.cache.absolute(), name, readers)
                of_corpus = [one for who in contenders for one in bench.run(corpus, who)]
                results += of_corpus
                described[name] = corpus
                tables.append(report(corpus, of_corpus))
                bars += bars_of(corpus.name, corpus.logical, of_corpus)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    document = result_of(results, bars, described, versions, missing)
    document.notes.append(
        "restore CPU is of the last tree, restored alone, "
        f"{'in memory' if in_memory else 'on the disk'}."
    )
    if given.json:
        document.write(given.json)
    print("\n\n".join(tables), end="\n\n")
    print("\n".join(str(bar) for bar in bars), end="\n\n")
    print("\n".join(f"{name}: {version}" for name, version in versions.items()))
    print("".join(f"{name}: not installed, left out\n" for name in missing), end="")
    where = environment()
    print(f"{where['kernel']}, {where['cpus']} CPUs, {where['at']}")
    return 1 if given.gate and not all(bar.met for bar in bars) else 0


def result_of(
    results: list[Result],
    bars: list[Bar],
    corpora: dict[str, Corpus],
    versions: dict[str, str],
    missing: list[str],
) -> Document:
    """Return what was stored and restored; who did not give everything back has no figure."""
    document = Document(versions, missing=missing)
    for one in results:
        if not one.valid:
            why = (one.error or f"not restored: {one.lost}").splitlines()[0]
            document.notes.append(f"{one.corpus}, {one.name}: no figure ({why}).")
            continue
        logical = corpora[one.corpus].logical
        document.add(one.corpus, one.name, "stored", "B", [one.total])
        document.add(one.corpus, one.name, "ratio", "x", [logical / one.total])
        if one.name != OPTIMIZED:
            document.add(one.corpus, one.name, "last adds", "B", [one.last_added])
        document.add(one.corpus, one.name, "disk", "B", [one.disk])
        document.add(one.corpus, one.name, "CPU", "s", [one.cpu_seconds])
        document.add(one.corpus, one.name, "restore CPU", "s", [one.restore_cpu_seconds])
        if one.lost != "-":
            document.notes.append(f"{one.corpus}: {one.name} does not give back {one.lost}.")
    for name, corpus in corpora.items():
        document.notes.append(
            f"{name}: {len(corpus.trees)} trees, {corpus.entries:,} entries, "
            f"{megabytes(corpus.logical)} MB in files."
        )
    for bar in bars:
        document.promise(bar.what, bar.wanted, bar.measured or "not measured", met=bar.met)
    return document


if __name__ == "__main__":
    sys.exit(main())
