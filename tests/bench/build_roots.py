"""What builds cost over roots by the kernel and over roots by FUSE.

    python -m tests.bench.build_roots [--rounds N] [--packages A,B] [--work DIR]

Bootstraps a Debian image with a compiler and Python and shows it once by the kernel. Then
Dockerfiles are built over it, every step anew, in turn with its metadata image where builds look
for it and with that moved away: without it steps read through FUSE. Prints the wall time of both
and the median of their ratio. Needs root, mmdebstrap, a mirror and an OCI runtime.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from fuse_mount import mounts
from layerstore.store.objects import object_sizes
from layerstore.store.store import Store
from tests.bench.harness import environment, run_costed, say

BASE = "bench-base:1"
PACKAGES = "python3-numpy,gcc,libc6-dev"
SOURCES = 20
STEPS = 30

_COMPILE = "gcc -O1 -c"
_IMPORT = "python3 -c 'import numpy, json, email, asyncio'"


def dockerfiles() -> dict[str, str]:
    """Return what is built, by what it does."""
    begin = f"FROM {BASE}\n"
    sources = f"{begin}COPY src /src\nWORKDIR /src\n"
    each = [f"RUN {_COMPILE} f{number}.c && {_IMPORT}\n" for number in range(SOURCES // 2)]
    return {
        "one RUN that writes a file": f"{begin}RUN echo > /done\n",
        f"{STEPS} such": begin + "".join(f"RUN echo > /{number}\n" for number in range(STEPS)),
        f"{SOURCES // 2} RUN that compile and import": sources + "".join(each),
        "one RUN that compiles 20 files, one that reads /usr": f"{sources}"
        f"RUN for file in *.c; do {_COMPILE} $file; done\n"
        "RUN find /usr -type f -exec cat {} + | wc -c > /count\n",
    }


class BuildBench:
    """A store with a base that the kernel has shown."""

    def __init__(self, work: Path, packages: str) -> None:
        self.store = work / "store"
        self.context = work / "context"
        (self.context / "src").mkdir(parents=True)
        for number in range(SOURCES):
            text = f"#include <stdio.h>\n#include <stdlib.h>\nint f{number}(void) {{ return 0; }}\n"
            (self.context / "src" / f"f{number}.c").write_text(text)
        self.run("bootstrap", "debian:bookworm", "-t", BASE, "--include", packages)
        view = work / "view"
        view.mkdir()
        with Store.open(self.store) as store:
            image = store.resolve(BASE)
        begun = time.perf_counter()
        mounts.mount(str(self.store), image, str(view), backend="kernel")
        taken = time.perf_counter() - begun
        mounts.unmount(str(self.store), str(view))
        with Store.open(self.store) as store:
            sizes = [file.size for file in object_sizes(store.paths).values()]
        say(f"unpacking {len(sizes)} files, {sum(sizes) / 1e6:.0f} MB: {taken:.1f} s")

    def run(self, *arguments: str) -> float:
        """Run a command and return the seconds it took."""
        command = [sys.executable, "-m", "layerstore", "--store", str(self.store), *arguments]
        return run_costed(command).wall_seconds

    def build(self, dockerfile: str, *, by_kernel: bool) -> float:
        """Build every step anew and return the seconds it took."""
        (self.context / "Dockerfile").write_text(dockerfile)
        metadata = self.store / "views" / "meta"
        aside = metadata.with_name("meta-aside")
        if not by_kernel:
            metadata.rename(aside)
        try:
            return self.run("build", "--no-cache", "-q", str(self.context))
        finally:
            if not by_kernel:
                aside.rename(metadata)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="tests.bench.build_roots", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--packages", default=PACKAGES)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    if os.geteuid() != 0:
        say("needs root: mounting takes privileges")
        return 1
    work = Path(tempfile.mkdtemp(prefix="layerstore-bench-", dir=given.work))
    try:
        bench = BuildBench(work, given.packages)
        times: dict[str, list[tuple[float, float]]] = {what: [] for what in dockerfiles()}
        for _ in range(given.rounds):
            for what, dockerfile in dockerfiles().items():
                by_fuse = bench.build(dockerfile, by_kernel=False)
                times[what].append((bench.build(dockerfile, by_kernel=True), by_fuse))
        for what, pairs in times.items():
            kernel, fuse = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for one, other in pairs)
            say(f"{what}: kernel {kernel:.1f} s, FUSE {fuse:.1f} s, ratio {ratio:.2f}")
        say(str(environment()))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
