"""What this machine is: said before anything is measured, refused never."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.suite.table import Benchmark

TOP = Path(__file__).parents[3]

PEERS = {
    "docker": "dockerd",
    "podman": "podman",
    "buildah": "buildah",
    "skopeo": "skopeo",
    "containerd": "containerd",
    "docker-registry": "docker-registry",
    "casync": "casync",
    "restic": "restic",
    "borg": "borg",
    "squashfs-tools": "mksquashfs",
    "squashfuse": "squashfuse_ll",
    "erofs-utils": "mkfs.erofs",
    "fuse-overlayfs": "fuse-overlayfs",
    "zstd": "zstd",
    "runc": "runc",
}
"""Who is compared, and the program that says whether they are here."""


INPUTS_GB = 5
"""What all inputs take that are made once and stay."""


def unmet(benchmark: Benchmark) -> list[str]:
    """Return what a benchmark needs and this machine lacks; then it is not begun."""
    found = []
    for need in benchmark.needs:
        if need == "root":
            if os.geteuid() != 0:
                found.append("root")
        elif shutil.which(need) is None:
            found.append(need)
    return found


def described(chosen: Sequence[Benchmark], cache: Path, *, inputs_missing: bool) -> list[str]:
    """Return a line for each thing that a reader of the figures should know beforehand."""
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    lines = [f"{os.uname().sysname} {os.uname().release}, {cpus} processors, load {load:.1f}"]
    if load > 0.5:
        lines.append(
            f"the machine works for others (load {load:.1f}): trust ratios and CPU seconds, "
            "no wall times"
        )
    cache.mkdir(parents=True, exist_ok=True)
    places = (cache, Path(tempfile.gettempdir()))
    free = min(shutil.disk_usage(place).free for place in places) / 1e9
    wanted = max(one.disk_gb for one in chosen) + (INPUTS_GB if inputs_missing else 0)
    lines.append(f"{free:.0f} GB of disk are free, {wanted:.0f} are needed at most")
    if free < wanted:
        lines.append("that is too little: expect failures")
    absent = [name for name, program in PEERS.items() if shutil.which(program) is None]
    if absent:
        lines.append(f"not here, and not compared: {', '.join(absent)} (.ci/system-packages bench)")
    if os.geteuid() != 0:
        lines.append("not root: what mounts and runs containers is left out")
    return lines


def commit() -> str:
    """Return which layerstore this is, with ``+`` if sources differ from the commit; or nothing."""
    asked = ["git", "-C", str(TOP), "rev-parse", "--short=10", "HEAD"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return ""
    sources = ("layerstore", "fuse_mount", "tests/bench")
    changed = ["git", "-C", str(TOP), "status", "--porcelain", "--", *sources]
    dirty = subprocess.run(changed, capture_output=True, text=True, check=False).stdout.strip()
    return done.stdout.strip() + ("+" if dirty else "")
