"""Cached build benchmark: rebuilding an unchanged 20-step Dockerfile, in starts of Python.

    python -m tests.bench.build_cached [--tree DIR | --tar FILE] [-n ROUNDS] [--json FILE] [--gate]

Imports a Debian root file system, builds a Dockerfile of 20 steps over it once, and then measures
the CPU seconds of building it again when every step is cached, in multiples of
``python3 -c pass`` in the same run. The promise is 8 at most.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.harness import Series, absolute, interleave, run_costed, say
from tests.bench.result import Result
from tests.bench.trees import bootstrap, pack

STARTS_TARGET = 8.0
COPIED_FILES = 200
SETTLED_SECONDS = 3
"""Longer than layerstore.image.layers.remembered.SETTLED_NS."""

DOCKERFILE = """\
FROM bench-base:1
ARG VERSION=1
ENV APP_HOME=/app LANG=C.UTF-8
LABEL org.example.version=$VERSION
WORKDIR /app
COPY requirements.txt .
RUN echo one > /one && cat requirements.txt > /seen
RUN echo two > /two
COPY src/ src/
RUN echo three > /three
ENV STAGE=two
USER root
RUN echo four > /four
COPY --chown=1000:1000 config.ini /etc/app.ini
RUN echo five > /five
EXPOSE 8080
VOLUME /data
HEALTHCHECK CMD true
ENTRYPOINT ["/bin/cat"]
CMD ["/etc/app.ini"]
"""


def make_context(context: Path) -> None:
    """Write a small application with a Dockerfile of 20 steps."""
    (context / "src").mkdir(parents=True)
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "requirements.txt").write_text("flask\n")
    (context / "config.ini").write_text("[app]\n")
    for number in range(COPIED_FILES):
        (context / "src" / f"module_{number}.py").write_text(f"VALUE = {number}\n" * 50)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tests.bench.build_cached", description=__doc__.splitlines()[0]
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--tree", type=Path)
    source.add_argument("--tar", type=Path)
    parser.add_argument("-n", "--rounds", type=int, default=7)
    parser.add_argument("--work", type=absolute)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    parser.add_argument("--gate", action="store_true", help="exit 1 when the target is missed")
    return parser.parse_args()


def measure(given: argparse.Namespace, work: Path) -> dict[str, Series]:
    """Build once, then measure rebuilding and starting Python in turn."""
    tar = given.tar
    if given.tree:
        tar = work / "tree.tar"
        pack(given.tree, tar)
    layerstore = [sys.executable, "-m", "layerstore", "--store", str(work / "store")]
    subprocess.run(
        [*layerstore, "import", str(tar or bootstrap(work)), "-t", "bench-base:1"], check=True
    )
    context = work / "context"
    make_context(context)
    build = [*layerstore, "build", "-t", "bench:1", str(context)]
    subprocess.run(build, check=True)
    # What changed a moment ago could change again unseen, so a build does not vouch for it yet.
    time.sleep(SETTLED_SECONDS)
    subprocess.run(build, check=True)
    series = {name: Series(name, "cached") for name in ("start", "rebuild")}
    tasks = [
        lambda: series["start"].runs.append(run_costed([sys.executable, "-c", "pass"])),
        lambda: series["rebuild"].runs.append(run_costed(build)),
    ]
    interleave(given.rounds, tasks, say=say)
    return series


def main() -> int:
    given = parse_arguments()
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    try:
        series = measure(given, work)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    start = series["start"].median("cpu_seconds")
    rebuild = series["rebuild"].median("cpu_seconds")
    starts = rebuild / start
    if given.json:
        result = Result()
        for who, one in (("python -c pass", series["start"]), ("layerstore", series["rebuild"])):
            result.add("cached", who, "CPU", "s", [run.cpu_seconds for run in one.runs])
            result.add("cached", who, "time", "s", [run.wall_seconds for run in one.runs])
        wanted = f"at most {STARTS_TARGET:g} starts of Python"
        met = starts <= STARTS_TARGET
        result.promise("an unchanged build of 20 steps", wanted, f"{starts:.1f} starts", met=met)
        result.write(given.json)
    print(
        f"cached rebuild of 20 steps: {rebuild:.3f} s CPU, {starts:.1f} starts of Python "
        f"({start * 1000:.1f} ms each); promised: at most {STARTS_TARGET:.0f}"
    )
    return 1 if given.gate and starts > STARTS_TARGET else 0


if __name__ == "__main__":
    sys.exit(main())
