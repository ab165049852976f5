"""Benchmarks of what is stored: what it costs, and what it takes."""

from __future__ import annotations

from tests.bench.contenders import REFERENCE
from tests.bench.suite.table import Bars, Benchmark, Curves, Table

_DIR = "layerstore import DIR"
_INGESTED = ("CPU", "time", "memory", "disk")
_SIZES = ("stored", "ratio", "last adds", "disk", "CPU", "restore CPU")


def _sizes(name: str, title: str, question: str, corpora: tuple[str, ...]) -> dict[str, object]:
    """Return what benchmarks of sizes have in common: a table and a picture for each corpus."""
    tables = [Table(corpus, columns="what", only={"group": [corpus]}) for corpus in corpora]
    pictures = [
        Bars(
            corpus, f"{corpus}: bytes stored, fewer are better", panels="what",
            only={"group": [corpus], "what": ["stored"]},
        )
        for corpus in corpora
    ]  # fmt: skip
    return {
        "name": name,
        "title": title,
        "question": question,
        "module": "tests.bench.ratio",
        "inputs": corpora,
        "ours": "layerstore",
        "tables": tables,
        "pictures": pictures,
        "disk_gb": 12,
    }


OF_STORING = (
    Benchmark(
        name="ingest",
        title="Storing a root file system",
        question="What do a root file system, the same once more, and its next version cost?",
        promise=(
            "at most 1.6 times the CPU of `tar -c | zstd -3`, 1.2 times without "
            "decode-and-compare and digests; at most 15 % of that again when nothing "
            "changed; under 300 MB of memory"
        ),
        module="tests.bench.ingest",
        words=("--tar", "{base}"),
        full=("-n", "3"),
        quick=("-n", "2"),
        minutes=(2.5, 1.5),
        inputs=("base",),
        needs=(),
        ours=_DIR,
        variants=("layerstore", "bare"),
        tables=[
            Table(
                task,
                columns="what",
                only={"group": [task], "what": _INGESTED},
                show="both",
                against=REFERENCE,
            )
            for task in ("first", "again", "second")
        ],
        pictures=[
            Bars(
                "cpu",
                f"CPU seconds, times {REFERENCE}; less is better",
                only={"what": ["CPU"]},
                show="times",
                against=REFERENCE,
                columns=3,
            ),
        ],
    ),
    Benchmark(
        **_sizes(
            "ratio-related",
            "Size: the images of one organisation",
            "How much disk do eleven related root file systems take?",
            ("related",),
        ),
        promise="at most 1/7.0 of the files' bytes at ingest, 1/9.5 after `optimize`",
        words=("{cache}", "related"),
        minutes=(16, 1),
    ),
    Benchmark(
        **_sizes(
            "ratio-updates",
            "Size: security updates",
            "What does a distribution add after its security updates?",
            ("updates",),
        ),
        promise=(
            "the second tree adds at most a third of what the best of casync, restic, "
            "borg and SquashFS adds"
        ),
        words=("{cache}", "updates", "--quick", "--harder"),
        minutes=(6, 1),
    ),
    Benchmark(
        **_sizes(
            "ratio-wheels",
            "Size: releases of a library",
            "How much disk do ten releases of a compiled package take?",
            ("wheels-cryptography", "wheels-pydantic-core"),
        ),
        promise=(
            "after `optimize` at least 1.8 times smaller than the best of casync, restic and borg"
        ),
        words=("{cache}",),
        full=("wheels-cryptography", "wheels-pydantic-core", "--harder"),
        quick=("wheels-pydantic-core",),
        quick_inputs=("wheels-pydantic-core",),
        minutes=(5, 2),
    ),
    Benchmark(
        name="durable",
        title="Making bytes durable",
        question="How fast is an import on stable storage, beside `dd conv=fsync`?",
        promise="at least 200 MB/s where the disk allows it",
        module="tests.bench.durable",
        full=("-n", "3"),
        minutes=(1.4, 1),
        needs=(),
        disk_gb=6,
        ours=_DIR,
        tables=[Table("", columns="what")],
    ),
    Benchmark(
        name="huge",
        title="Memory by the number of entries",
        question="How much memory does an import take, by the number of entries?",
        promise="under 300 MB for any number",
        module="tests.bench.huge",
        words=("--work", "{cache}"),
        full=(
            "--entries",
            "10000",
            "--entries",
            "100000",
            "--entries",
            "1000000",
            "--directories",
            "100000",
        ),
        quick=("--entries", "10000", "--entries", "100000"),
        minutes=(2, 0.2),
        needs=(),
        ours="tar through a pipe",
        tables=[
            Table("peak memory", only={"what": ["memory"]}),
            Table("CPU", only={"what": ["CPU"]}),
        ],
        pictures=[
            Curves("memory", "Peak memory of an import", "memory", "entries", log_x=True),
        ],
    ),
    Benchmark(
        name="trust",
        title="Making sure",
        question="What do checking what is reused, reading a store back and healing cost?",
        promise=("making sure of what is reused takes at most 3 % of the CPU of adding it first"),
        module="tests.bench.trust",
        words=("--tar", "{base}"),
        full=("-n", "3"),
        minutes=(0.3, 0.2),
        inputs=("base",),
        needs=(),
        tables=[Table("", rows="group", columns="what")],
    ),
    Benchmark(
        name="scale",
        title="A million chunks",
        question="What do the index and collecting garbage cost in a store of a million chunks?",
        promise="gc within 60 s and 512 MB, builders wait at most 1 s",
        module="tests.bench.scale",
        full=("--chunks", "1000000"),
        minutes=(1.3, 1),
        needs=(),
        disk_gb=4,
        tables=[Table("phase", rows="group", columns="what")],
    ),
    Benchmark(
        name="ledger",
        title="The account of five hundred images",
        question="What does `df` cost with many images over one base, and what does it remember?",
        promise="under 0.2 s of CPU, the interpreter included",
        module="tests.bench.ledger",
        full=("--images", "500", "--repeat", "5"),
        minutes=(1.1, 1),
        needs=(),
        ours="df",
        variants=("df",),
        tables=[Table("", columns="what")],
    ),
    Benchmark(
        name="waiting",
        title="Many writers",
        question="How long do sixteen writers wait for the catalog, and does one starve?",
        module="tests.bench.waiting",
        full=("--writers", "16", "--seconds", "10"),
        minutes=(0.2, 0.2),
        needs=(),
        tables=[Table("", rows="group", columns="what")],
    ),
    Benchmark(
        name="layout",
        title="Layouts, simulated",
        question="What would other cuts, groups, orders and levels store?",
        module="tests.bench.layout",
        words=("{cache}", "wheels-pydantic-core"),
        minutes=(2, 1),
        inputs=("wheels-pydantic-core",),
        needs=(),
        explores=True,
        tables=[Table("cut / grouping / order / level", columns="what")],
    ),
)
