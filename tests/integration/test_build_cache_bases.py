# ruff: noqa: F811 -- pytest fixtures are parameters of the same name
"""Cache mounts that begin with what a stage or an image has."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from layerstore.build.errors import BuildStepError
from tests.support.build import box, builder, needs_runc  # noqa: F401

if TYPE_CHECKING:
    from tests.support.build import Builder

pytestmark = needs_runc

_STAGE = (
    "FROM box AS seed\n"
    "RUN mkdir -p /s/d && echo seed > /s/f && chmod 640 /s/f && chown 1:4 /s/f && ln -s /etc /s/l\n"
)
_MOUNT = "--mount=type=cache,id=c,target=/c,from=seed,source=/s"


def test_it_begins_with_the_content_and_keeps_what_is_written(box: Builder) -> None:
    look = "stat -c '%a %u %g' /c/f && readlink /c/l && cat /c/f && echo more >> /c/f"
    box.build(f"{_STAGE}FROM box\nRUN {_MOUNT} {look}\n")
    assert box.ui.text == b"640 1 4\n/etc\nseed\n"
    box.build(f"{_STAGE}FROM box\nRUN {_MOUNT} cat /c/f\n")
    assert box.ui.text == b"seed\nmore\n"


def test_caches_with_other_bases_are_others(box: Builder) -> None:
    box.build(f"{_STAGE}FROM box\nRUN {_MOUNT} echo more >> /c/f\n")
    other = _STAGE.replace("echo seed", "echo changed")
    box.build(f"{other}FROM box\nRUN {_MOUNT} cat /c/f\n")
    assert box.ui.text == b"changed\n"
    box.build("FROM box\nRUN --mount=type=cache,id=c,target=/c ls /c\n")
    assert box.ui.text == b""
    box.build("FROM box\nRUN --mount=type=cache,id=c,target=/c,from=box ls /c/etc\n")
    assert box.ui.text == b"group\npasswd\n"


@pytest.mark.parametrize(("source", "why"), [("/none", "No such file"), ("/s/f", "is a file")])
def test_what_cannot_be_a_base_is_told(box: Builder, source: str, why: str) -> None:
    mount = _MOUNT.replace("source=/s", f"source={source}")
    with pytest.raises(BuildStepError, match=why):
        box.build(f"{_STAGE}FROM box\nRUN {mount} true\n")
    (top,) = (box.store.root / "cache-mounts").iterdir()
    assert os.listdir(top) == ["lock"]


def test_links_in_the_way_stay_inside_the_source(box: Builder) -> None:
    mount = _MOUNT.replace("source=/s", "source=/s/l")
    box.build(f"{_STAGE}FROM box\nRUN {mount} ls /c\n")
    assert box.ui.text == b"group\npasswd\n"


def test_a_directory_of_a_cache_is_mounted_alone(box: Builder) -> None:
    """source= without from= is a place in the cache itself, as under BuildKit."""
    box.build(
        "FROM box\n"
        "RUN --mount=type=cache,id=c,target=/c mkdir -p /c/a/b && echo one > /c/a/b/f"
        " && ln -s /a/b /c/l\n"
    )
    mount = "--mount=type=cache,id=c,target=/x,source={}"
    box.build(f"FROM box\nRUN {mount.format('a/b')} cat /x/f && echo two >> /x/f && ls -d /x/..\n")
    assert box.ui.text == b"one\n/x/..\n"
    box.build(f"FROM box\nRUN {mount.format('/a/../l')} cat /x/f && : linked\n")
    assert box.ui.text == b"one\ntwo\n"
    box.build(f"FROM box\nRUN {mount.format('/')} ls /x\n")
    assert box.ui.text == b"a\nl\n"
    box.build(f"FROM box\nRUN {mount.format('a/b/f')} cat /x && : a file\n")
    assert box.ui.text == b"one\ntwo\n"


def test_what_a_cache_does_not_have_is_told(box: Builder) -> None:
    with pytest.raises(BuildStepError, match=r"cannot mount none: No such file.* in the cache"):
        box.build("FROM box\nRUN --mount=type=cache,id=c,target=/x,source=none true\n")
    box.build("FROM box\nRUN --mount=type=cache,id=c,target=/c ln -s ../../../../etc /c/out\n")
    with pytest.raises(BuildStepError, match="No such file"):
        box.build("FROM box\nRUN --mount=type=cache,id=c,target=/x,source=out true\n")
