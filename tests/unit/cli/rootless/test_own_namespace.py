"""Becoming root in a user namespace, where that is worth something."""

from __future__ import annotations

import os

import pytest

from fuse_mount import unshare
from layerstore.cli.common import Settings
from layerstore.cli.rootless import own_namespace
from layerstore.errors import UnsupportedError


def refuse(*_: object) -> None:
    raise UnsupportedError("may not")


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What happens to an ordinary user; entries say that the namespace was entered."""
    calls: list[bool] = []
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(unshare, "enter", lambda: calls.append(True))
    return calls


def test_root_stays_where_it_is(entered: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    own_namespace.become_root(Settings(None))
    assert entered == []


def test_the_store_stays_the_user_s(entered: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unshare, "may_enter", lambda: True)
    monkeypatch.delenv("LAYERSTORE_ROOT", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/somebody/data")
    settings = Settings(None)
    own_namespace.become_root(settings)
    assert entered == [True]
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert settings.root == "/home/somebody/data/layerstore"


@pytest.mark.parametrize("what", ["unshare", "mount"])
def test_namespaces_that_are_worth_nothing_are_not_entered(
    entered: list[bool], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Refused at once, or made and then without rights, as AppArmor does."""
    monkeypatch.setattr(unshare, "unshare", refuse if what == "unshare" else lambda _flags: None)
    monkeypatch.setattr(unshare.mounts, "set_propagation", refuse)
    settings = Settings(None)
    own_namespace.become_root(settings)
    assert entered == []
    assert settings.store_option is None
