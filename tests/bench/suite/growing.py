"""Benchmarks of what grows, which have pages of their own as well."""

from __future__ import annotations

from tests.bench.suite.readers import read_growth, read_registry, read_seed
from tests.bench.suite.table import Benchmark, Curves, Table

_IMAGES = ("1", "3", "5", "8", "11")

OF_GROWTH = (
    Benchmark(
        name="growth",
        title="Eleven related images, one after the other",
        question="How does the disk grow as related images are added, here and with the peers?",
        module="tests.bench.growth",
        words=("{cache}",),
        minutes=(15, 1),
        inputs=("related",),
        disk_gb=12,
        explores=True,
        tables=[
            Table(
                "whole trees, after image",
                only={"what": ["disk, trees"], "group": _IMAGES},
                show="both",
                against="layerstore",
            ),
            Table(
                "builds, after image",
                only={"what": ["disk, builds"], "group": _IMAGES},
                show="both",
                against="layerstore build",
            ),
        ],
        pictures=[
            Curves(
                "trees",
                "Bytes on the disk: every root file system as a whole",
                "disk, trees",
                "images",
                log_y=True,
            ),
            Curves(
                "builds",
                "Bytes on the disk: Dockerfiles over each other",
                "disk, builds",
                "images",
                log_y=True,
            ),
        ],
        read=read_growth,
    ),
    Benchmark(
        name="seed",
        title="Many applications on one distribution",
        question="What does the disk hold of applications of 15 MB on one distribution of 800 MB?",
        module="tests.bench.seed",
        words=("--cache", "{cache}", "--only", "disk"),
        full=("--apps", "50"),
        minutes=(5, 2),
        needs=("root", "dockerd"),
        disk_gb=8,
        explores=True,
        tables=[Table("disk, after", only={"what": ["disk"]}, show="both", against="layerstore")],
        pictures=[
            Curves("disk", "Bytes on the disk", "disk", "applications", log_y=True),
        ],
        read=read_seed,
    ),
    Benchmark(
        name="registry",
        title="A registry of ten thousand images, simulated",
        question="What would every scheme hold of thousands of images?",
        module="tests.bench.registry",
        words=("simulate", "{cache}/registry"),
        full=("--images", "10000"),
        minutes=(1, 1),
        inputs=("registry",),
        disk_gb=15,
        explores=True,
        ours="stored",
        variants=("optimized",),
        tables=[
            Table("bytes, after image", only={"what": ["disk"]}, show="both", against="stored")
        ],
        pictures=[
            Curves("disk", "Bytes by scheme", "disk", "images", log_x=True, log_y=True),
        ],
        read=read_registry,
    ),
)
