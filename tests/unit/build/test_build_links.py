# ruff: noqa: F811 -- pytest fixtures are parameters of the same name
"""COPY --link: its layer stays what it is whatever comes to lie below."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.build.errors import BuildStepError
from tests.support.build import box, builder  # noqa: F401

if TYPE_CHECKING:
    from tests.support.build import Builder


def _layer(builder: Builder, dockerfile: str) -> tuple[str, str]:
    """Return the last layer's diff ID and its time in the history."""
    result = builder.build(dockerfile)
    steps = [step for step in builder.config(result).history if not step.empty_layer]
    return result.image.layers[-1], steps[-1].created


def test_it_is_not_made_again_when_what_is_below_changes(box: Builder) -> None:
    box.write({"a": "A", "dir/b": "B"})
    link = "COPY --link --chown=7:8 a dir /deep/er/\n"
    first = _layer(box, f"FROM scratch\n{link}")
    os.utime(box.context / "a", (1, 1))
    assert _layer(box, f"FROM box\n{link}") == first
    assert box.ui.ran == []
    assert _layer(box, f"FROM box\nWORKDIR /deep\n{link}") == first
    assert box.ui.ran == ["WORKDIR /deep"]


def test_what_it_takes_is_still_in_its_key(box: Builder) -> None:
    box.write({"a": "A"})
    link = "COPY --link a /x\n"
    first = _layer(box, f"FROM box\n{link}")
    (box.context / "a").chmod(0o700)
    assert _layer(box, f"FROM box\n{link}") != first
    assert box.ui.ran == ["COPY --link a /x"]


def test_a_relative_destination_means_another_layer(box: Builder) -> None:
    box.write({"a": "A"})
    one = _layer(box, "FROM box\nWORKDIR /one\nCOPY --link a .\n")
    two = _layer(box, "FROM box\nWORKDIR /two\nCOPY --link a .\n")
    assert one != two


def test_names_of_owners_cannot_be_looked_up(box: Builder) -> None:
    box.write({"a": "A"})
    with pytest.raises(BuildStepError, match="daemon"):
        box.build("FROM box\nCOPY --link --chown=daemon a /x\n")
    box.build("FROM box\nCOPY --chown=daemon a /x\n")
