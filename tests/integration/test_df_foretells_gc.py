"""What df calls reclaimable is what gc then frees, to the byte, whatever state a store is in."""

from __future__ import annotations

import os
import signal
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.store import noise, text

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path / "store")
    for number in range(3):
        tree = tmp_path / f"app-{number}"
        tree.mkdir()
        (tree / "shared").write_bytes(text(0, 400_000))
        (tree / "own").write_bytes(noise(number, 70_000))
        cli.ok("import", tree, "-t", f"app:{number}")
    return cli


def collectable(store: Path) -> int:
    files = [path for place in ("packs", "blobs", "tmp") for path in (store / place).rglob("*")]
    return sum(path.stat().st_size for path in files if path.is_file())


def df(cli: Cli) -> dict[str, int]:
    found = cli.ok("df", "--json").json()
    assert isinstance(found, dict)
    rows = sum(row["reclaimable"] for row in found["rows"])
    assert rows + found["reclaimable_slack"] == found["reclaimable"]
    return found


def collect_and_compare(cli: Cli) -> int:
    """Compare what is said with what happens; return it."""
    said = df(cli)
    assert df(cli)["reclaimable"] == said["reclaimable"], "from memory it is the same"
    before = collectable(cli.store)
    done = cli.ok("gc", "--json").json()
    assert isinstance(done, dict)
    assert said["reclaimable"] == done["freed_bytes"] + done["unpacked_bytes"]
    assert said["deferred"] == done["deferred_bytes"]
    assert before - collectable(cli.store) == done["freed_bytes"]
    return said["reclaimable"]


def test_nothing_to_free(cli: Cli) -> None:
    assert collect_and_compare(cli) == 0


def test_after_rm(cli: Cli) -> None:
    cli.ok("rm", "app:1")
    assert collect_and_compare(cli) > 70_000
    assert collect_and_compare(cli) == 0


def test_packs_that_are_left_and_packs_that_are_copied(cli: Cli, tmp_path: Path) -> None:
    for name, dying in (("left", 9_000), ("copied", 300_000)):
        tree = tmp_path / name
        tree.mkdir()
        (tree / "staying").write_bytes(noise(name, 500_000))
        (tree / "half").write_bytes(text(5, 100_000))  # in a block with what dies
        (tree / "dying").write_bytes(noise(name + "-", dying))
        cli.ok("import", tree, "-t", f"{name}:1")
        (tree / "dying").unlink()
        cli.ok("import", tree, "-t", f"{name}:2")
    cli.ok("rm", "left:1")
    unreferenced = {row["kind"]: row["size"] for row in df(cli)["rows"]}["Unreferenced"]  # type: ignore[attr-defined]
    assert 0 < collect_and_compare(cli) < unreferenced, "the pack with little dead in it stays"
    cli.ok("rm", "copied:1")
    assert collect_and_compare(cli) > 250_000
    collect_and_compare(cli)


def test_small_packs_that_are_merged(cli: Cli, tmp_path: Path) -> None:
    for number in range(10):
        tree = tmp_path / f"small-{number}"
        tree.mkdir()
        (tree / "f").write_bytes(noise(100 + number, 20_000))
        cli.ok("import", tree, "-t", f"small:{number}")
    assert collect_and_compare(cli) > 0, "headers and footers"


def test_beside_a_running_command(cli: Cli) -> None:
    cli.ok("rm", "app:0")
    with Store.open(cli.store) as store, store.begin("test"):
        said = df(cli)
        assert said["deferred"] > 70_000
        assert "more when running commands have ended" in cli.ok("df").out
        collect_and_compare(cli)
    assert collect_and_compare(cli) > 0


def test_after_optimize(cli: Cli) -> None:
    cli.ok("optimize")
    collect_and_compare(cli)
    cli.ok("rm", "app:0", "app:1")
    assert collect_and_compare(cli) > 100_000


def test_what_a_killed_command_left(cli: Cli, tmp_path: Path) -> None:
    whole = tmp_path / "large.tar"
    (tmp_path / "f").write_bytes(noise(9, 30_000_000))
    with tarfile.open(whole, "w") as tar:
        tar.add(tmp_path / "f", "f")
    tmp, importing = cli.store / "tmp", cli.command("import", "-", "-t", "large:1")
    with subprocess.Popen(
        importing, env=cli.environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.stdin is not None
        process.stdin.write(whole.read_bytes()[:29_000_000])  # it waits for the rest
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size for path in tmp.glob("*.pack")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    assert collect_and_compare(cli) > 0


@pytest.mark.parametrize("damage", [b"", b"LSFREE\\0\\1", b"x" * 500])
def test_a_damaged_record_is_none(cli: Cli, damage: bytes) -> None:
    cli.ok("rm", "app:1")
    said, record = df(cli)["reclaimable"], cli.store / "measured" / "gc"
    whole = record.read_bytes()
    record.write_bytes(damage)
    assert df(cli)["reclaimable"] == said
    assert record.read_bytes() == whole


def test_damage_frees_nothing_and_is_said(cli: Cli) -> None:
    cli.ok("rm", "app:1")
    (view := cli.store / "views" / "0123456789ab.json").write_text("{")
    said = df(cli)
    assert (said["reclaimable"], said["deferred"]) == (0, 0)
    assert "gc frees none of the packs now: references dangle" in cli.ok("df").out
    cli.fails(10, "gc")
    view.unlink()
    assert collect_and_compare(cli) > 70_000
