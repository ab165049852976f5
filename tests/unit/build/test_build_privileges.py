"""RUN says what it needs before anything is mounted or started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.build.run import sandbox
from layerstore.errors import UnsupportedError
from tests.support.build import add_image, builder  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.build import Builder


def test_run_without_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedError, match="RUN needs root") as refused:
        sandbox.Sandbox(tmp_path, "test")
    assert "without RUN work for every user" in str(refused.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="RUN needs root")
def test_without_a_runtime_only_run_fails(
    builder: Builder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    builder.write({"a": "A"})
    add_image(builder.store, "box", [])
    monkeypatch.setenv("PATH", str(tmp_path))
    builder.build("FROM box\nCOPY a /a\n")
    with pytest.raises(UnsupportedError, match="neither runc nor crun is installed") as caught:
        builder.build("FROM box\nRUN true\n")
    assert caught.value.hint == "apt-get install runc"
    for name in ("runc", "crun"):
        broken = tmp_path / name
        broken.write_text("#!/bin/sh\necho bad luck\nexit 9\n")
        broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UnsupportedError, match=r"runc exits 9 \(bad luck\); .*crun exits 9"):
        builder.build("FROM box\nRUN true\n")
