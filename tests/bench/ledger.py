"""What the default view of the disk costs: ``df`` on a store of many images over one base.

    python -m tests.bench.ledger --images 500 [--base-files 60000] [--files 200] [--store DIR]
                                 [--json FILE]

Makes the store (or measures the one at DIR if there is one), then runs ``layerstore df`` as
people do, each time a process of its own: first without the summaries that ``df`` keeps, then
with them, after a name was set, after a layer was published, and after an image lost its only
name. CPU seconds of the whole process, interpreter included; the least of ``--repeat`` runs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from layerstore.store.store import Store
from tests.bench.result import Result
from tests.support.measure import noise, put_image, put_layer

BASE_DIRECTORIES = 600
FILE_BYTES = 600
PROMISED_IMAGES, PROMISED_SECONDS = 500, 0.2


def make_store(root: Path, images: int, base_files: int, files: int) -> None:
    """Publish ``images`` images of ``files`` files of their own over one base."""
    with Store.open(root, create=True) as store:
        with store.begin("base") as session:
            base = put_layer(session, dict(_base_file(number) for number in range(base_files)))
        for start in range(0, images, 50):
            with store.begin("images") as session:
                for image in range(start, min(images, start + 50)):
                    layer = put_layer(session, dict(_own_file(image, n) for n in range(files)))
                    put_image(session, [base, layer], f"app-{image}:1", created=image % 28)


def _base_file(number: int) -> tuple[bytes, bytes]:
    return b"usr/d%d/f%d" % (number % BASE_DIRECTORIES, number), noise(("b", number), FILE_BYTES)


def _own_file(image: int, number: int) -> tuple[bytes, bytes]:
    return b"app/f%d" % number, noise(("own", image, number), FILE_BYTES)


def cpu_seconds(root: Path, *arguments: str) -> float:
    """Run one command on the store; return the CPU time of its process, user and system."""
    command = [sys.executable, "-m", "layerstore", "--store", str(root), *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=_environment()) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed: {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def measure(root: Path, repeat: int) -> dict[str, list[float]]:
    """Return CPU seconds of all runs by what was run."""

    def all_of(*arguments: str) -> list[float]:
        return [cpu_seconds(root, *arguments) for _ in range(repeat)]

    cpu_seconds(root, "df")
    found = {"start only (--version)": all_of("--version"), "df": all_of("df")}
    found["df --json"] = all_of("df", "--json")
    found["df --verbose"] = all_of("df", "--verbose")
    for what in ("image", "package", "file"):
        found[f"df --by {what}"] = all_of("df", "--by", what)
    found["savings"] = all_of("savings")
    named, published, cold, unnamed = [], [], [], []
    for number in range(repeat):
        with Store.open(root) as store:
            store.tag(f"renamed-{number}:1", store.images()[-1].image_id)
        named.append(cpu_seconds(root, "df"))
        with Store.open(root) as store, store.begin("one more") as session:
            layer = put_layer(session, {b"x": os.urandom(99)})
            put_image(session, [layer], f"one-more-{number}:1")
        published.append(cpu_seconds(root, "df"))
        shutil.rmtree(root / "measured", ignore_errors=True)
        cold.append(cpu_seconds(root, "df"))
    for number in range(repeat):
        with Store.open(root) as store:
            store.untag(f"one-more-{number}:1")
        unnamed.append(cpu_seconds(root, "df"))
    found["df after a name was set"] = named
    found["df after a layer was published"] = published
    found["df after an image lost its name"] = unnamed
    found["df without any summary"] = cold
    return found


def result_of(found: dict[str, list[float]], images: int) -> Result:
    """Return all runs, and what became of the promise for 500 images."""
    result = Result()
    for what, seconds in found.items():
        result.add(f"{images} images", what, "CPU", "s", seconds)
    if images == PROMISED_IMAGES:
        least = min(found["df"])
        said, met = f"{least:.3f} s", least < PROMISED_SECONDS
        wanted = f"under {PROMISED_SECONDS:g} s of CPU, the interpreter included"
        result.promise(f"df of {images} images", wanted, said, met=met)
    return result


def main() -> int:
    """Make a store and measure it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--base-files", type=int, default=60_000)
    parser.add_argument("--files", type=int, default=200, help="of each image's own")
    parser.add_argument("--store", type=Path, help="kept; made if it is not there")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ledger-") as scratch:
        root = options.store or Path(scratch) / "store"
        if not root.exists():
            make_store(root, options.images, options.base_files, options.files)
        found = measure(root, options.repeat)
    print(json.dumps({what: round(min(seconds), 3) for what, seconds in found.items()}, indent=2))
    if options.json:
        result_of(found, options.images).write(options.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
