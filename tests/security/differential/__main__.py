"""``python -m tests.security.differential COUNT``: compare that many archives with GNU tar."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

from tests.security.differential.compare import differences
from tests.security.differential.generate import archive


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.security.differential", description=__doc__
    )
    parser.add_argument("count", type=int, nargs="?", default=50_000)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"))
    arguments = parser.parse_args()
    accepted = refused = different = 0
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="layerstore-differential-", dir=memory) as directory:
        for number in range(arguments.count):
            data = archive(random.Random(f"{arguments.seed}/{number}"))
            found = differences(data, Path(directory) / "x")
            if found is None:
                refused += 1
                continue
            accepted += 1
            if found:
                different += 1
                print(f"seed {arguments.seed}/{number}:", *found, sep="\n    ", flush=True)
    print(f"seed {arguments.seed}: {arguments.count:,} archives, {accepted:,} accepted and "
          f"compared, {refused:,} refused, {different:,} differ")  # fmt: skip
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
