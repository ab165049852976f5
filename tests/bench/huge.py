"""Peak memory of ingest by the number of entries, with generated tars and directories.

    python -m tests.bench.huge [--entries N]... [--directories N]... [--work DIR] [--gate]
                               [--json FILE]

A tar of N entries is made on the fly and goes through a pipe into ``layerstore import -``:
a directory for every hundred files, each file of 64 bytes that no other has. Most of such
a layer is metadata, the worst case for memory. ``--directories`` also imports trees of so
many files from disk, one of them with all names in one directory (a work directory on a
tmpfs saves an hour).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tests.bench.harness import Cost, absolute, clean_environment, grid, megabytes, run_costed, say
from tests.bench.result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator

RSS_TARGET_BYTES = 300e6
SIZES = (10_000, 100_000, 1_000_000, 2_000_000)
_DIRECTORY_FILES = 100
_WRITTEN_TOGETHER = 1000


def content(number: int) -> bytes:
    """Return the 64 bytes of a file."""
    return b"%064d" % number


def members(entries: int) -> Iterator[bytes]:
    """Yield a tar of so many entries, member by member, in no tree's order."""
    files = 0
    made = 0
    while made < entries:
        # Directories count down, so that the tar is not sorted as a tree would be.
        directory = b"srv/data/d%07d" % (entries // _DIRECTORY_FILES - made // 101)
        yield header(directory + b"/", b"5", 0o755, 0)
        made += 1
        for _ in range(min(_DIRECTORY_FILES, entries - made)):
            yield header(b"%b/file-%09d.txt" % (directory, files), b"0", 0o644, 64)
            yield content(files) + bytes(448)
            files += 1
            made += 1
    yield bytes(1024)


def header(name: bytes, typeflag: bytes, mode: int, size: int) -> bytes:
    before = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name.ljust(100, b"\0"), mode, 0, 0, size, 1_700_000_000
    )  # fmt: skip
    after = typeflag + bytes(100) + b"ustar\x0000" + bytes(247)
    return b"%b%06o\0 %b" % (before, sum(before) + sum(after) + 8 * 32, after)


def write_tar(entries: int, out: BinaryIO) -> None:
    waiting = []
    for piece in members(entries):
        waiting.append(piece)
        if len(waiting) >= _WRITTEN_TOGETHER:
            out.write(b"".join(waiting))
            waiting = []
    out.write(b"".join(waiting))


def import_tar(work: Path, entries: int) -> Cost:
    """Import a generated tar; the cost is the importer's, not the generator's."""
    store = work / "store"
    shutil.rmtree(store, ignore_errors=True)
    generator = [sys.executable, "-m", "tests.bench.huge", "--write-tar", str(entries)]
    with subprocess.Popen(generator, stdout=subprocess.PIPE, env=clean_environment()) as source:
        assert source.stdout is not None
        return run_costed(_import(store, "-"), stdin=source.stdout)


def import_directory(work: Path, entries: int, *, flat: bool) -> Cost:
    """Import a generated directory."""
    store, tree = work / "store", work / "tree"
    for path in (store, tree):
        shutil.rmtree(path, ignore_errors=True)
    for number in range(entries):
        place = tree if flat else tree / f"d{number // _DIRECTORY_FILES:07}"
        if number % _DIRECTORY_FILES == 0:
            place.mkdir(parents=True, exist_ok=True)
        (place / f"file-{number:09}.txt").write_bytes(content(number))
    cost = run_costed(_import(store, str(tree)))
    shutil.rmtree(tree)
    return cost


def _import(store: Path, source: str) -> list[str]:
    return [sys.executable, "-m", "layerstore", "--store", str(store), "import", source, "-q"]


def measure(given: argparse.Namespace, work: Path) -> list[tuple[str, int, Cost]]:
    rows = []
    for entries in given.entries or SIZES:
        rows.append(("tar through a pipe", entries, import_tar(work, entries)))
        say(f"tar of {entries} done")
    for entries in given.directories or ():
        for name, flat in (("directories of 100", False), ("one directory", True)):
            rows.append((name, entries, import_directory(work, entries, flat=flat)))
            say(f"{name}: {entries} done")
    return rows


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests.bench.huge", description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, action="append", help="may be repeated")
    parser.add_argument(
        "--directories", type=int, action="append", help="files of trees on disk; may be repeated"
    )
    parser.add_argument(
        "--work", type=absolute, help="where to work (default: a temporary directory)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--write-tar", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    if given.write_tar:
        write_tar(given.write_tar, sys.stdout.buffer)
        return 0
    work = Path(tempfile.mkdtemp(prefix="layerstore-huge-", dir=given.work))
    try:
        rows = measure(given, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    table = [
        (
            name,
            f"{entries:,}",
            megabytes(cost.rss_bytes),
            f"{cost.cpu_seconds:.1f}",
            f"{cost.cpu_seconds / entries * 1e6:.0f}",
        )
        for name, entries, cost in rows
    ]
    print(grid(("import of", "entries", "peak MB", "CPU s", "us an entry"), table))
    missed = [row for row in rows if row[2].rss_bytes > RSS_TARGET_BYTES]
    if given.json:
        result = Result()
        for name, entries, cost in rows:
            result.add(str(entries), name, "memory", "B", [cost.rss_bytes])
            result.add(str(entries), name, "CPU", "s", [cost.cpu_seconds])
        most = max(cost.rss_bytes for _, _, cost in rows)
        wanted = f"under {megabytes(RSS_TARGET_BYTES)} MB for any number of entries"
        said = f"{megabytes(most)} MB at most, up to {max(row[1] for row in rows):,} entries"
        result.promise("peak memory of an import", wanted, said, met=not missed)
        result.write(given.json)
    print(f"{len(missed)} over {megabytes(RSS_TARGET_BYTES)} MB" if missed else "target met")
    return 1 if missed and given.gate else 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
