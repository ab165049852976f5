"""Benchmarks of builds."""

from __future__ import annotations

from tests.bench.suite.table import Bars, Benchmark, Table

_CASES = ("cold", "cached", "one source file", "one early step")
_DISK = ("first build", "after 50 rebuilds", "pruned")

OF_BUILDING = (
    Benchmark(
        name="builds",
        title="Building",
        question=(
            "What do builds cost beside docker's two builders and buildah: from nothing, "
            "unchanged, after a change of a file or a step; what do fifty rebuilds store?"
        ),
        promise=(
            "faster than each of the others, three times as fast when nothing "
            "changed, at most a tenth of docker's bytes after fifty rebuilds"
        ),
        module="tests.bench.builds",
        words=("--work", "{cache}"),
        full=("-n", "2"),
        minutes=(17, 2.5),
        disk_gb=15,
        tables=[
            Table(
                "time",
                only={"group": _CASES, "what": ["time"]},
                show="both",
                against="layerstore",
                rows="group",
                columns="who",
            ),
            Table(
                "CPU",
                only={"group": _CASES, "what": ["CPU"]},
                show="both",
                against="layerstore",
                rows="group",
                columns="who",
            ),
            Table(
                "disk",
                only={"group": _DISK, "what": ["disk"]},
                show="both",
                against="layerstore",
                rows="group",
                columns="who",
            ),
        ],
        pictures=[
            Bars(
                "time",
                "Wall time, less is better",
                only={"group": _CASES, "what": ["time"]},
                columns=2,
                log=True,
            ),
            Bars(
                "disk",
                "Bytes on the disk, fewer are better",
                columns=3,
                only={"group": _DISK, "what": ["disk"]},
            ),
        ],
    ),
    Benchmark(
        name="builds-alone",
        title="Building, beside BuildKit alone",
        question="What do builds cost where only BuildKit takes turns with us?",
        promise="as above",
        module="tests.bench.builds",
        words=(
            "--work",
            "{cache}",
            "--rebuilds",
            "0",
            "--no-compare",
            "--only",
            "layerstore",
            "docker BuildKit",
        ),
        full=("-n", "3"),
        quick=("-n", "2"),
        minutes=(3.4, 2),
        disk_gb=8,
        tables=[
            Table(
                what,
                only={"group": _CASES, "what": [what]},
                show="both",
                against="layerstore",
                rows="group",
                columns="who",
            )
            for what in ("time", "CPU")
        ],
    ),
    Benchmark(
        name="build-cached",
        title="An unchanged build",
        question="How many starts of Python does an unchanged build of twenty steps cost?",
        promise="at most 8 starts of Python",
        module="tests.bench.build_cached",
        words=("--tar", "{base}"),
        full=("-n", "9"),
        quick=("-n", "5"),
        minutes=(0.2, 0.2),
        inputs=("base",),
        needs=("root", "runc"),
        tables=[Table("", columns="what", show="both", against="python -c pass")],
    ),
    Benchmark(
        name="explaining",
        title="Explaining builds",
        question="What does it cost that builds can be explained?",
        module="tests.bench.explaining",
        minutes=(1, 0.5),
        needs=(),
        explores=True,
        tables=[Table("", rows="group", columns="what")],
    ),
    Benchmark(
        name="package-sets",
        title="Layers of package sets",
        question="What does it save that images share a layer of packages, beside sharing content?",
        module="tests.bench.package_sets",
        words=("--base", "{base}"),
        minutes=(2, 1),
        inputs=("base",),
        needs=("root", "runc"),
        explores=True,
        ours="the common set first",
        tables=[Table("", columns="what")],
    ),
)
