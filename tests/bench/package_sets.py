"""What sharing a layer of packages saves, beside sharing content: time, and bytes.

Builds pairs of images over one Debian base in a new store: with all packages of each in one
set, and with what they have in common as a set of its own in front. Packages come through apt's
cache, filled by a build that is not counted, so no network is measured.

    python -m tests.bench.package_sets [--base TAR] [--json FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from layerstore.build.api import build
from layerstore.build.request import BuildRequest
from layerstore.build.ui import SilentUi
from layerstore.store.store import Store
from layerstore.units import format_size
from tests.bench.result import Result
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

PAIRS = {
    "one set each": (["curl", "git", "python3"], ["nginx", "python3"]),
    "the common set first": ([["python3"], ["curl", "git"]], [["python3"], ["nginx"]]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, help="a Debian root file system as a tar")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every run there")
    given = parser.parse_args()
    base = given.base or debian_base_tar()
    result = Result()
    print("| | second image took | new bytes before compression |")
    print("|---|--:|--:|")
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, pair) in enumerate(PAIRS.items()):
            seconds, new_bytes = measure(Path(scratch) / str(number), base, *pair)
            print(f"| {name} | {seconds:.1f} s | {format_size(new_bytes)} |")
            result.add("the second image", name, "time", "s", [seconds])
            result.add("the second image", name, "new bytes before compression", "B", [new_bytes])
    if given.json:
        result.write(given.json)


def measure(directory: Path, base: Path, first: list, second: list) -> tuple[float, int]:
    """Return seconds and new plain bytes of the second image's build."""
    context = directory / "context"
    context.mkdir(parents=True)
    cli = Cli(directory / "store")
    cli.ok("import", base, "-t", "debian")
    with Store.open(directory / "store") as store:
        warm(store, context, [*first, *second])
        run(store, context, first)
        began = time.monotonic()
        new_bytes = run(store, context, second)
        return time.monotonic() - began, new_bytes


def warm(store: Store, context: Path, packages: list) -> None:
    """Download everything, in a step that keeps nothing."""
    flat = sorted(
        {name for each in packages for name in ([each] if isinstance(each, str) else each)}
    )
    command = (
        "apt-get -q update && apt-get -qy install --download-only --no-install-recommends "
        f"-oDir::Cache=/run/layerstore/apt -oAPT::Keep-Downloaded-Packages=1 {' '.join(flat)}"
    )
    spec = (
        'base = "debian"\n[[run]]\n'
        f'command = "mkdir -p /run/layerstore/apt/archives/partial; {command}"\n'
        'cache = [{ target = "/run/layerstore/apt", id = "layerstore-apt", sharing = "locked" }]\n'
    )
    build(store, request(context, spec), SilentUi())


def run(store: Store, context: Path, packages: list) -> int:
    words = str(packages).replace("'", '"')
    spec = f'base = "debian"\npackages.apt = {words}\n'
    return build(store, request(context, spec), SilentUi()).new_bytes


def request(context: Path, spec: str) -> BuildRequest:
    return BuildRequest(
        context=context, dockerfile=Path("bench.toml"), dockerfile_text=spec.encode()
    )


if __name__ == "__main__":
    main()
