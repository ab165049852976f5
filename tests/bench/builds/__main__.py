"""Builds beside docker and buildah: cold, cached, after a change, and what fifty rebuilds store.

    python -m tests.bench.builds [-n ROUNDS] [--examples] [--rebuilds N] [--tar FILE] [--json FILE]

Builds a made project of thirty steps in six stages, and with ``--examples`` each of
Dockerfile-examples/, with every builder that is installed, in interleaved rounds. Packages come
from a proxy on this host that keeps what it fetched; the first, unmeasured build of each Dockerfile
fills it. Prints medians, ratios and bars.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.builds.builders import all_builders
from tests.bench.builds.cases import CASES, EXAMPLE_CASES, Measured, measure_cases
from tests.bench.builds.examples import examples
from tests.bench.builds.packages import PackageCache
from tests.bench.builds.project import BASE, made_project
from tests.bench.builds.rebuilds import Stored, measure_rebuilds
from tests.bench.builds.report import print_report, result_of, verdicts
from tests.bench.builds.trees import compare_trees
from tests.bench.harness import absolute, say
from tests.bench.trees import bootstrap

if TYPE_CHECKING:
    from tests.bench.builds.builders import Builder

NOT_REBUILT = ("buildah",)
"""Stores like docker's classic builder, and takes as long as everybody else together."""

CACHE = Path(__file__).parents[3] / ".cache" / "bench" / "builds"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.bench.builds", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("-n", "--rounds", type=int, default=3, help="of the project's cases")
    parser.add_argument(
        "--examples", action="store_true", help="also Dockerfile-examples/, once each"
    )
    parser.add_argument("--rebuilds", type=int, default=50, help="0 leaves them out")
    parser.add_argument(
        "--no-compare", dest="compare", action="store_false", help="do not compare the images"
    )
    parser.add_argument("--tar", type=Path, help="the base's root file system; made by default")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="builders; all by default")
    parser.add_argument("--work", type=absolute, help="where stores lie")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every run")
    parser.add_argument("--gate", action="store_true", help="exit 1 when a bar is missed")
    return parser.parse_args()


def present(only: list[str] | None) -> tuple[list[Builder], dict[str, str]]:
    """Return the builders that this host has, and their versions."""
    builders, versions = [], {}
    for builder in all_builders():
        version = builder.found_version()
        if version is None:
            say(f"{builder.name} is not installed, or needs root: left out")
        elif not only or builder.name in only:
            builders.append(builder)
            versions[builder.name] = version
    return builders, versions


def base_tar(given: Path | None) -> Path:
    """Return the base's tar, made once and kept."""
    CACHE.mkdir(parents=True, exist_ok=True)
    kept = CACHE / "bookworm.tar"
    if given is None and not kept.exists():
        bootstrap(CACHE)
    return given or kept


def main() -> int:
    given = parse_arguments()
    builders, versions = present(given.only)
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    measured: list[Measured] = []
    stored: list[Stored] = []
    started: list[Builder] = []
    differences: dict[str, list[str]] = {}
    try:
        with PackageCache(CACHE / "packages") as packages:
            tar = base_tar(given.tar)
            for builder in builders:
                started.append(builder)
                builder.start(work / builder.name.replace(" ", "-"), tar, BASE)
            project = made_project(work / "project")
            measured += measure_cases(builders, project, CASES, given.rounds, packages)
            if given.compare:
                differences[project.name] = compare_trees(builders, project.name, work / "trees")
            for example in examples(work / "examples", packages) if given.examples else ():
                measured += measure_cases(builders, example, EXAMPLE_CASES, 1, packages)
                differences[example.name] = compare_trees(builders, example.name, work / "trees")
            if given.rebuilds:
                of_bytes = [each for each in builders if each.name not in NOT_REBUILT]
                stored = measure_rebuilds(
                    of_bytes, project, given.rebuilds, packages, work / "rebuilds"
                )
    finally:
        for builder in started:
            builder.stop()
        shutil.rmtree(work, ignore_errors=True)
    print_report(versions, measured, stored, differences)
    if given.json:
        result_of(versions, measured, stored, differences).write(given.json)
    return 1 if given.gate and not all(bar.met for bar in verdicts(measured, stored)) else 0


if __name__ == "__main__":
    sys.exit(main())
