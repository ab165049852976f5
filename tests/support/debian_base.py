"""A real Debian root file system as a tar, made once through mmdebstrap and then kept."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.cache import made_by_one

# Less than a test may take, so that a slow mirror is told as such.
_MIRROR_SECONDS = 240


def debian_base_tar() -> Path:
    """Return a bookworm minbase tar; skips the test, saying why, where none can be made.

    ``LAYERSTORE_TEST_BASE`` may name a ready tar.
    """
    ready = os.environ.get("LAYERSTORE_TEST_BASE")
    if ready:
        return Path(ready)
    with made_by_one("bookworm.tar") as cached:
        if not cached.exists():
            _make(cached)
    return cached


def _make(target: Path) -> None:
    if os.geteuid() != 0 or shutil.which("mmdebstrap") is None:
        pytest.skip("a Debian base needs root and mmdebstrap, or LAYERSTORE_TEST_BASE")
    partial = target.with_name(f"{os.getpid()}.partial.tar")
    try:
        done = subprocess.run(
            ["mmdebstrap", "--variant=minbase", "--quiet", "bookworm", os.fspath(partial)],
            stderr=subprocess.PIPE,
            timeout=_MIRROR_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"mmdebstrap failed, no mirror? {done.stderr[-300:].decode()}")
        partial.rename(target)
    except subprocess.TimeoutExpired:
        pytest.skip(f"mmdebstrap took more than {_MIRROR_SECONDS} s")
    finally:
        partial.unlink(missing_ok=True)
