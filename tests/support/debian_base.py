"""A real Debian root file system as a tar, made once per test run through mmdebstrap."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

_MIRROR_SECONDS = 300


def debian_base_tar() -> Path:
    """Return a bookworm minbase tar; skips the test, saying why, where none can be made.

    ``LAYERSTORE_TEST_BASE`` may name a ready tar. Made ones are kept for later runs.
    """
    ready = os.environ.get("LAYERSTORE_TEST_BASE")
    if ready:
        return Path(ready)
    cached = Path(tempfile.gettempdir()) / f"layerstore-test-base-{os.getuid()}" / "bookworm.tar"
    if cached.exists():
        return cached
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("a Debian base needs root and mmdebstrap, or LAYERSTORE_TEST_BASE")
    cached.parent.mkdir(mode=0o700, exist_ok=True)
    partial = cached.with_name(f"{os.getpid()}.partial.tar")
    try:
        done = subprocess.run(
            ["mmdebstrap", "--variant=minbase", "--quiet", "bookworm", os.fspath(partial)],
            stderr=subprocess.PIPE,
            timeout=_MIRROR_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"mmdebstrap failed, no mirror? {done.stderr[-300:].decode()}")
        partial.rename(cached)
    except subprocess.TimeoutExpired:
        pytest.skip(f"mmdebstrap took more than {_MIRROR_SECONDS} s")
    finally:
        partial.unlink(missing_ok=True)
    return cached
