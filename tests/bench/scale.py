"""A store with N chunks: made quickly, then measured.

    python -m tests.bench.scale --chunks 1000000 [--store DIR] [--json FILE]

Packs, catalog, layers, images and names are real and pass `layerstore check`; only the
chunks are small (chosen so that packs exceed 16 MiB, as full ones do), and the catalog is
filled without waiting for the disk. Every phase runs in a process of its own, whose peak
memory is the phase's. While gc works, another process sets a name over and over, as
builders do, and says how long it waited for the catalog lock at most.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from layerstore.digest import ChunkId, DiffId, Digest
from layerstore.formats.pack import BLOCK_MAX_BYTES, Item, ItemKind
from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.store.packs.codec import compress_block
from layerstore.store.packs.commit import publish_pack
from layerstore.store.packs.pack_writer import PackWriter
from layerstore.store.records import LayerRecord
from layerstore.store.store import Store
from tests.bench.launching import run_small
from tests.bench.result import Result
from tests.support.encoding import encode_changeset

if TYPE_CHECKING:
    from collections.abc import Callable

PROMISED_CHUNKS = 1_000_000
"""Of these what gc may take is promised."""

FILES_A_LAYER = 25_000
PACK_BYTES = 20 * 1024 * 1024
_NOISE = random.Random(0).randbytes(1 << 20)


def chunk_of(number: int, size: int) -> bytes:
    """Return the bytes of chunk ``number``: they do not compress, and no two are equal."""
    start = number * 4099 % (len(_NOISE) - size)
    return number.to_bytes(8, "little") + _NOISE[start : start + size - 8]


def shape(chunks: int) -> tuple[int, int]:
    """Return bytes of a chunk and chunks of a pack: at most about 2 GB in all."""
    size = max(64, min(2048, 2_000_000_000 // chunks))
    return size, PACK_BYTES // size


def generate(root: Path, chunks: int) -> None:
    """Make the store: packs first, then a layer for every 25,000 chunks and an image each."""
    size, per_pack = shape(chunks)
    with Store.open(root, create=True) as store:
        store.catalog.query("PRAGMA cache_size=-262144")
        for start in range(0, chunks, per_pack):
            _make_pack(store, range(start, min(chunks, start + per_pack)), size)
        with store.begin("scale") as session:
            for number, start in enumerate(range(0, chunks, FILES_A_LAYER)):
                numbers = range(start, min(chunks, start + FILES_A_LAYER))
                entries = tuple(
                    Entry(
                        b"%06d" % n,
                        Kind.FILE,
                        0o644,
                        size=size,
                        extents=((size, ChunkId(blake3(chunk_of(n, size)).digest())),),
                    )
                    for n in numbers
                )
                entries = tuple(sorted(entries, key=lambda entry: entry.path))
                tree = session.put_bytes(encode_changeset(Changeset(entries)), meta=True)
                diff_id = DiffId(Digest(f"sha256:{number:064x}"))
                total = size * len(entries)
                record = LayerRecord(diff_id, total, tree, (), "canonical-1", len(entries), total)
                session.publish_layer(record)
                session.publish_image(*_blobs(diff_id), [diff_id], names=[f"image:{number}"])


def _make_pack(store: Store, numbers: range, size: int) -> None:
    writer = PackWriter(store.paths.temporary("scale", f"{numbers.start}.pack"))
    per_block = BLOCK_MAX_BYTES // size
    for start in range(numbers.start, numbers.stop, per_block):
        parts = [chunk_of(n, size) for n in range(start, min(numbers.stop, start + per_block))]
        items = [Item(ChunkId(blake3(part).digest()), size) for part in parts]
        raw = b"".join(parts)
        writer.add_frame(ItemKind.DATA, items, compress_block(raw, verify=False), len(raw))
    pack = writer.seal()
    with store.catalog.write() as connection:
        publish_pack(connection, store.paths, pack, None)


def _blobs(diff_id: DiffId) -> tuple[bytes, bytes]:
    config = json.dumps(
        {
            "created": "2026-11-23T00:00:00Z",
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
    ).encode()
    digest = "sha256:" + hashlib.sha256(config).hexdigest()
    return config, json.dumps({"schemaVersion": 2, "config": {"digest": digest}}).encode()


# -- phases: each prints what it did as JSON


def phase_open(root: Path, chunks: int) -> dict[str, object]:
    """Open, and list images."""
    with Store.open(root) as store:
        return {"images": len(store.images())}


def phase_lookup(root: Path, chunks: int) -> dict[str, object]:
    """Look up 100,000 chunks, half of them absent, as ingest does: 256 at a time."""
    size, _ = shape(chunks)
    source = random.Random(1)
    wanted = [blake3(chunk_of(source.randrange(2 * chunks), size)).digest() for _ in range(100_000)]
    with Store.open(root) as store:
        begun = time.perf_counter()
        absent = sum(
            len(store.catalog.missing(wanted[at : at + 256])) for at in range(0, len(wanted), 256)
        )
        seconds = time.perf_counter() - begun
    return {"lookups_per_second": round(len(wanted) / seconds), "absent": absent}


def phase_insert(root: Path, chunks: int) -> dict[str, object]:
    """Publish packs with 50,000 new chunks, as ingest does."""
    size, per_pack = shape(chunks)
    with Store.open(root) as store:
        begun = time.perf_counter()
        for start in range(3 * chunks, 3 * chunks + 50_000, per_pack):
            _make_pack(store, range(start, min(start + per_pack, 3 * chunks + 50_000)), size)
        seconds = time.perf_counter() - begun
    return {"inserts_per_second": round(50_000 / seconds)}


def phase_plan(root: Path, chunks: int) -> dict[str, object]:
    """Plan a collection to the byte, as gc --dry-run does, a third of the images being nameless."""
    from layerstore.store.collect.gc import plan_gc

    with Store.open(root) as store:
        for name in [n for n in store.tags() if n.startswith("image:")][::3]:
            store.untag(name)
        plan = plan_gc(store)
        return {"freed_bytes": plan.freed_bytes, "written_bytes": plan.written_bytes}


def phase_gc(root: Path, chunks: int) -> dict[str, object]:
    """Collect, while another process sets a name over and over."""
    from layerstore.store.collect.gc import execute, plan_gc

    prober = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.scale", "--phase", "probe", "--store", str(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert prober.stdout is not None
    assert prober.stdin is not None
    prober.stdout.readline()
    with Store.open(root) as store:
        begun = time.perf_counter()
        plan = plan_gc(store, measure=False)
        planned = time.perf_counter()
        report = execute(plan)
        ended = time.perf_counter()
    waits = json.loads(prober.communicate("\n")[0])
    return {
        "plan_seconds": round(planned - begun, 2),
        "execute_seconds": round(ended - planned, 2),
        "report": report._asdict(),
        "builders_waited": waits,
    }


def phase_probe(root: Path, chunks: int) -> dict[str, object]:
    """Set a name until standard input has a line; say how long the lock was waited for."""
    import select

    waited: list[float] = []
    whole: list[float] = []
    with Store.open(root) as store:
        # One that has a name: gc would keep another for it, and free less than was planned.
        image = next(iter(store.tags().values()), store.images()[-1].image_id)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0.01)[0]:
            begun = time.perf_counter()
            with store.catalog.write() as connection:
                waited.append(time.perf_counter() - begun)
                connection.execute("UPDATE meta SET value = value WHERE key = 'epoch'")
            store.tag("probe:1", image)
            whole.append(time.perf_counter() - begun)
    waited.sort()
    return {
        "transactions": len(waited),
        "lock_max_seconds": round(waited[-1], 3),
        "lock_p99_seconds": round(waited[int(len(waited) * 0.99)], 3),
        "two_commits_max_seconds": round(max(whole), 3),
    }


def phase_check(root: Path, chunks: int) -> dict[str, object]:
    """Check the structure."""
    from layerstore.store.check.check import check

    with Store.open(root) as store:
        report = check(store, read_data=False)
    return {"ok": report.ok, "chunks": report.chunks, "findings": len(report.findings)}


def phase_rebuild(root: Path, chunks: int) -> dict[str, object]:
    """Make the catalog anew."""
    with Store.open(root) as store:
        report = store.rebuild_catalog()
    return {"chunks": report.chunks, "images": report.images}


def phase_generate(root: Path, chunks: int) -> dict[str, object]:
    """Make the store."""
    generate(root, chunks)
    return {"catalog_bytes": os.stat(root / "catalog.sqlite").st_size}


PHASES: dict[str, Callable[[Path, int], dict[str, object]]] = {
    "generate": phase_generate,
    "open": phase_open,
    "lookup": phase_lookup,
    "insert": phase_insert,
    "plan": phase_plan,
    "gc": phase_gc,
    "check": phase_check,
    "rebuild": phase_rebuild,
}


def run_phase(name: str, root: Path, chunks: int) -> dict[str, object]:
    """Run one phase in a process of its own; return what it says and what it cost."""
    command = [sys.executable, "-m", "tests.bench.scale", "--phase", name]
    command += ["--store", str(root), "--chunks", str(chunks)]
    with tempfile.TemporaryFile() as said:
        ended = run_small(command, stdout=said)
        if ended.code:
            raise SystemExit(f"phase {name} failed")
        said.seek(0)
        output = said.read().decode()
    return {
        "phase": name,
        "wall_seconds": round(ended.wall_seconds, 2),
        "cpu_seconds": round(ended.cpu_seconds, 2),
        "peak_mb": ended.rss_bytes >> 20,
        **json.loads(output.splitlines()[-1]),
    }


def result_of(results: list[dict[str, Any]], chunks: int) -> Result:
    """Return what the phases cost, and what became of the promises for a million chunks."""
    result = Result(notes=[f"A store of {chunks:,} chunks."])
    for one in results:
        result.add(one["phase"], "layerstore", "time", "s", [one["wall_seconds"]])
        result.add(one["phase"], "layerstore", "CPU", "s", [one["cpu_seconds"]])
        result.add(one["phase"], "layerstore", "memory", "B", [one["peak_mb"] << 20])
    for one in results:
        if one["phase"] == "gc" and chunks == PROMISED_CHUNKS:
            wait = one["builders_waited"]["lock_max_seconds"]
            wall, peak = one["wall_seconds"], one["peak_mb"] << 20
            result.promise("gc of a million chunks", "within 60 s", f"{wall:.1f} s", met=wall <= 60)
            said, met = f"{peak / 1e6:.0f} MB", peak <= 512e6
            result.promise("its memory", "at most 512 MB", said, met=met)
            result.promise("builders meanwhile", "wait at most 1 s", f"{wait:.2f} s", met=wait <= 1)
    return result


def main() -> int:
    """Make a store and measure it, or run one phase."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=1_000_000)
    parser.add_argument("--store", type=Path, help="made there and left; else removed")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--only", help="phases to run, separated by commas")
    parser.add_argument("--phase", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.phase == "probe":
        print(json.dumps(phase_probe(options.store, options.chunks)))
        return 0
    if options.phase:
        print(json.dumps(PHASES[options.phase](options.store, options.chunks)))
        return 0
    assert resource.RUSAGE_CHILDREN
    results = []
    with tempfile.TemporaryDirectory(prefix="layerstore-scale-") as place:
        for name in options.only.split(",") if options.only else PHASES:
            root = options.store or Path(place) / "store"
            results.append(run_phase(name, root, options.chunks))
            print(json.dumps(results[-1]), flush=True)
    if options.json:
        result_of(results, options.chunks).write(options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
