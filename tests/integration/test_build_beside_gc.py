# ruff: noqa: F811 -- pytest fixtures are parameters of the same name
"""Builds whose cached layers are collected under them at the worst moments."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layerstore.build import api
from layerstore.build.executor import BuildExecutor
from layerstore.store.check.check import check
from layerstore.store.collect.gc import execute, plan_gc
from layerstore.store.failures import LayerNotFoundError
from tests.support.build import builder  # noqa: F401

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.build import Builder

DOCKERFILE = """\
FROM scratch AS one
COPY a /a
COPY b /b
FROM scratch
COPY c /c
COPY --from=one /b /d
"""


def collect_once(builder: Builder, function: Callable[..., object]) -> Callable[..., object]:
    """Return ``function`` with a collection of everything unnamed before its first call."""
    done: list[bool] = []

    def collecting(*args: object, **kwargs: object) -> object:
        if not done:
            done.append(True)
            execute(plan_gc(builder.store, keep_cache=False))
        return function(*args, **kwargs)

    return collecting


@pytest.mark.parametrize(
    ("owner", "name"),
    [(api, "finished_image"), (BuildExecutor, "execute"), (BuildExecutor, "content_key")],
)
@pytest.mark.parametrize("change", ["nothing", "c", "b"])
def test_it_builds_again(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, change: str
) -> None:
    builder.write({"a": "A" * 1000, "b": "B" * 1000, "c": "C"})
    builder.build(DOCKERFILE)
    builder.write({change: "new"})
    monkeypatch.setattr(owner, name, collect_once(builder, getattr(owner, name)))
    result = builder.build(DOCKERFILE, tags=["new:1"])
    files = builder.files(result)
    assert {path for path in files if path} == {"c", "d"}
    assert files["d"].content == (b"new" if change == "b" else b"B" * 1000)
    assert check(builder.store, read_data=True).ok


def test_what_stays_gone_is_told(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> None:
    builder.write({"a": "A", "b": "B", "c": "C"})
    builder.build(DOCKERFILE)

    def gone(*_: object, **__: object) -> None:
        raise LayerNotFoundError("the store holds no layer sha256:...")

    monkeypatch.setattr(api, "finished_image", gone)
    with pytest.raises(LayerNotFoundError):
        builder.build(DOCKERFILE)
    assert len(builder.ui.messages) == 2
