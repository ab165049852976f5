"""gc, rm and pins as people use them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli
from tests.support.store import disk_bytes, noise

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path / "store")
    for name in ("app:1", "app:2", "db:1"):
        tree = tmp_path / name
        tree.mkdir()
        (tree / "shared").write_bytes(noise("shared", 40_000))
        (tree / "own").write_bytes(noise(name, 70_000))
        cli.ok("import", tree, "-t", name)
    return cli


def used_days_ago(cli: Cli, name: str, days: float) -> None:
    (image,) = [i for i in cli.ok("images", "--json").json() if name in i["names"]]
    moment = time.time() - days * 86400
    os.utime(cli.store / "blobs" / "sha256" / image["id"].removeprefix("sha256:"), (moment, moment))


def numbers(result) -> list[int]:
    return [int(line.rpartition("(")[2].split()[0]) for line in result.lines if " bytes)" in line]


def test_rm_says_what_it_frees_and_then_it_does(cli: Cli) -> None:
    before = disk_bytes(cli.store)
    said = cli.ok("rm", "--dry-run", "app:1")
    assert said.lines[0] == "would be untagged: app:1"
    assert "only what goes needs" in said.out
    attributed, freed, anyway = numbers(said)[:3]
    assert attributed > 70_000
    assert freed > 70_000
    assert anyway == 0
    assert disk_bytes(cli.store) == before
    cli.ok("rm", "app:1")
    assert cli.ok("gc", "--json").json()["freed_bytes"] == freed
    assert before - disk_bytes(cli.store) == freed


def test_pins(cli: Cli) -> None:
    assert cli.ok("pin", "app:1").lines == ["Pinned: app:1"]
    assert "app:1 is pinned" in cli.fails(4, "rm", "app:1")
    assert "app:1 is pinned" in cli.fails(4, "rm", "--dry-run", "app:1")
    used_days_ago(cli, "app:1", 60)
    used_days_ago(cli, "app:2", 50)
    assert cli.ok("gc", "--keep-within", "30d", "--json").json()["names"] == ["app:2"]
    verbose = cli.ok("images", "-v").lines
    assert verbose[0].split()[-3:] == ["LAST", "USED", "PINNED"]
    (row,) = [line for line in verbose if line.startswith("app")]
    assert row.endswith("yes")
    assert "2 months ago" in row
    assert cli.ok("unpin", "app:1").lines == ["Unpinned: app:1"]
    assert "not pinned" in cli.fails(3, "unpin", "app:1")
    cli.ok("pin", "app:1")
    cli.ok("rm", "--force", "app:1")
    assert [i["names"] for i in cli.ok("images", "--json").json()] == [["db:1"]]


def test_rules_are_said_before_they_act(cli: Cli) -> None:
    for name, days in (("app:1", 60), ("app:2", 50)):
        used_days_ago(cli, name, days)
    rules = ("--keep-last", "1", "--keep-within", "1d12h", "--keep-tag", "v*")
    planned = cli.ok("gc", "--dry-run", *rules)
    assert planned.lines[0] == "name app:1"
    assert "would free" in planned.out
    assert len(cli.ok("images", "-q").lines) == 3
    done = cli.ok("gc", *rules)
    assert done.lines == [line.replace("would free", "freed") for line in planned.lines]
    assert len(cli.ok("images", "-q").lines) == 2


def test_a_cap_that_cannot_be_kept_is_said(cli: Cli) -> None:
    result = cli.ok("gc", "--max-size", "100k", "--compact")
    assert "over --max-size are needed by names" in result.err
    assert "--keep-last" in result.err
    assert len(cli.ok("images", "-q").lines) == 3
    cli.ok("gc", "--keep-storage", "200k", "--keep-last", "1")
    assert disk_bytes(cli.store) <= 200 * 1024
    assert len(cli.ok("images", "-q").lines) == 2


def test_a_clock_that_jumped_is_said(cli: Cli) -> None:
    for name in ("app:1", "db:1"):
        used_days_ago(cli, name, 200)
    used_days_ago(cli, "app:2", 1)
    result = cli.ok("gc", "--keep-within", "30d")
    assert "nothing was used for" in result.err
    assert len(cli.ok("images", "-q").lines) == 3
    cli.ok("gc", "--keep-within", "30d", "--force")
    assert [i["names"] for i in cli.ok("images", "--json").json()] == [["app:2"]]


def test_why_something_is_kept(cli: Cli) -> None:
    cli.ok("pin", "app:1")
    result = cli.ok("gc", "--explain", "app:1")
    assert (
        "name app:1, which is pinned    # layerstore unpin app:1; layerstore rm app:1" in result.out
    )
    assert "GOES WITH IT" in result.out
    found = cli.ok("gc", "--explain", "app:1", "--json").json()
    assert found["kind"] == "image"
    pack = found["packs"][0]["pack_id"]
    assert cli.ok("gc", "--explain", pack[:12]).lines[0].startswith(f"pack {pack[:16]} is kept")
    assert "no image, layer or pack" in cli.fails(3, "gc", "--explain", "nothing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep-tag", "v*"], "only spares names"),
        (["--keep-within", "30"], "is not an age"),
        (["--keep-within", "d"], "is not an age"),
        (["--max-size", "much"], "is not a size"),
        (["--compact", "--threshold", "5"], "leave out --threshold"),
        (["--keep-last", "0"], "0"),
    ],
)
def test_rules_that_make_no_sense_are_refused(cli: Cli, arguments: list[str], message: str) -> None:
    assert message in cli.fails(2, "gc", *arguments)
    assert len(cli.ok("images", "-q").lines) == 3
