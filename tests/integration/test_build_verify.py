"""``build --verify`` with commands that do, and do not do, the same thing twice."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.support.build import box, builder, needs_runc  # noqa: F401
from tests.support.cli import Cli

if TYPE_CHECKING:
    from tests.support.build import Builder

pytestmark = needs_runc


@pytest.fixture
def cli(box: Builder) -> Cli:  # noqa: F811
    return Cli(box.directory / "store")


def test_a_build_that_differs_is_told_and_gives_nothing(box: Builder, cli: Cli) -> None:  # noqa: F811
    box.write(
        {
            "Dockerfile": "FROM box AS made\nRUN echo same > /same\n"
            "RUN { echo head; cat /proc/sys/kernel/random/uuid; } > /var-log; date > /now\n"
            "FROM box\nCOPY --from=made /var-log /now /\n"
        }
    )
    result = cli("build", "--verify", "-t", "x", "--iidfile", box.directory / "id", box.context)
    assert result.code == 14, result
    assert "Dockerfile:3:1: two builds of [made 3/3] RUN" in result.err
    assert "differ in /now" in result.err
    assert "hint: a time seems to be in the file" in result.err
    assert "path   /now" in result.out
    assert "  content from byte" in result.out
    assert "  /var-log" in result.out
    assert not (box.directory / "id").exists()
    assert [name for name in box.store.tags() if name.startswith("x")] == []
    told = json.loads(cli("build", "--verify", "--json", box.context).out)
    assert (told["path"], told["reproducible"], told["count"]) == ("/now", False, 2)


def test_a_build_that_is_the_same_is_kept(box: Builder, cli: Cli) -> None:  # noqa: F811
    box.write({"Dockerfile": "FROM box\nRUN date > /dev/null && echo x > /x\n"})
    result = cli.ok("build", "--verify", "-t", "x", box.context)
    assert "verified: two builds without the cache made" in result.err
    assert box.store.resolve("x").image_id == result.out.strip()
    assert box.store.resolve("x").image_id in result.err


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("hostname > /accident", "/accident"),
        ("cat /etc/hosts > /accident", "/accident"),
        pytest.param(
            "grep -c ^Cpus_allowed_list:.*[-,] /proc/self/status > /accident || true",
            "/accident",
            marks=pytest.mark.skipif(
                len(os.sched_getaffinity(0)) < 2, reason="there is one processor alone"
            ),
        ),
    ],
)
def test_what_depends_on_the_host_by_accident(
    box: Builder,  # noqa: F811
    cli: Cli,
    command: str,
    path: str,
) -> None:
    box.write({"Dockerfile": f"FROM box\nRUN {command}\n"})
    result = cli("build", "--verify", "--json", "-t", "x", box.context)
    assert result.code == 14, result
    assert json.loads(result.out)["path"] == path
    # What the other surroundings made is not what later builds find.
    assert "CACHED" not in cli.ok("build", "--progress=plain", "-t", "x", box.context).err or (
        "elsewhere" not in cli.ok("run", "--rm", "x", "cat", "/accident").out
    )


def test_umask_language_and_time_zone_do_not_matter(box: Builder, cli: Cli) -> None:  # noqa: F811
    box.write(
        {
            "Dockerfile": "FROM box\nRUN umask > /u; env > /e; date +%Z > /z; mkdir /d; pwd > /p\n"
            "COPY f d/f\nWORKDIR /w\n",
            "f": b"x",
        }
    )
    result = cli.ok("build", "--verify", "-t", "x", box.context)
    assert "another umask" in result.err
