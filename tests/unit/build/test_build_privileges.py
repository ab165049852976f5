"""RUN says what it needs before anything is mounted or started."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.build.run import sandbox
from layerstore.errors import UnsupportedError

if TYPE_CHECKING:
    from pathlib import Path


def test_run_without_root_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedError, match="RUN needs root") as refused:
        sandbox.Sandbox(tmp_path, "test")
    assert "without RUN work for every user" in str(refused.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_run_as_root_of_a_user_namespace_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(sandbox, "in_user_namespace", lambda: True)
    with pytest.raises(UnsupportedError, match="RUN needs root"):
        sandbox.Sandbox(tmp_path, "test")
