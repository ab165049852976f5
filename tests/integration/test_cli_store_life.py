"""init, upgrade, check and repair as commands."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.store.store import Store
from tests.support.store import add_image, noise, text

if TYPE_CHECKING:
    from tests.support.cli import Cli

STORES = Path(__file__).parents[1] / "golden" / "stores"
A = {b"a/%d" % n: text(n, 5_000) for n in range(10)}
B = {b"b/%d" % n: noise(n, 5_000) for n in range(10)}


def damage(root: Path, name: str) -> None:
    """Flip a bit of an image's content."""
    with Store.open(root) as store:
        place = store.catalog.locate(store.layer(store.resolve(name).layers[0]).tree[0][1])
        assert place is not None
        path = Path(store.paths.pack(place.pack_id))
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)


def test_init_makes_a_store_once(cli: Cli, tmp_path: Path) -> None:
    assert "made a store" in cli.ok("init").out
    assert "there already" in cli.ok("init").out
    assert cli.ok("images", "-q").out == ""
    elsewhere = tmp_path / "elsewhere"
    told = json.loads(cli.ok("init", str(elsewhere), "--json").out)
    assert told == {"store": str(elsewhere), "made": True, "shared": False}
    assert elsewhere.stat().st_mode & 0o7777 == 0o700
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert cli("init", str(tmp_path / "full")).code == 4


def test_init_shares_a_store_with_a_group(cli: Cli) -> None:
    assert cli("init", "--shared", "no-such-group").code == 3
    assert not cli.store.exists()
    assert "open to group" in cli.ok("init", "--shared", str(os.getegid())).out
    assert cli.store.stat().st_mode & 0o7777 == 0o2770
    add_image(cli.store, "a", A)
    assert cli.ok("check").out.startswith("ok")


def test_check_says_what_it_read(cli: Cli) -> None:
    add_image(cli.store, "a", A)
    add_image(cli.store, "b", B)
    assert "structure only" in cli.ok("check").out
    said = cli.ok("check", "--read-data").out
    assert "all bytes read: 2 images" in said
    assert "/s" in said
    damage(cli.store, "a")
    assert "ok, all bytes read of the images named" in cli.ok("check", "--read-data", "b").out
    result = cli("check", "--read-data", "a")
    assert result.code == 10
    assert "    a/0\n" in result.out
    assert "layerstore repair" in result.err
    report = json.loads(cli("check", "--read-data", "--json").out)
    assert not report["ok"]
    assert report["read_data"]
    assert report["bytes_read"] > 0
    assert {file["path"] for file in report["findings"][0]["files"]} == {
        path.decode() for path in A
    }
    assert cli("check", "--repair", "a").code == 2


def test_repair_heals_from_a_copy_and_names_what_is_lost(cli: Cli, tmp_path: Path) -> None:
    add_image(cli.store, "a", A)
    add_image(cli.store, "b", B)
    subprocess.run(["cp", "-a", str(cli.store), str(tmp_path / "copy")], check=True)
    for words in (["repair"], ["repair", "--dry-run"]):  # nothing need be done
        assert "the store is whole" in cli.ok(*words).out
    damage(cli.store, "a")
    dry = cli("repair", "--dry-run")
    assert dry.code == 10
    assert "lost: image a:latest" in dry.out
    assert cli("check", "--read-data").code == 10
    copy = str(tmp_path / "copy")
    assert "would be whole" in cli.ok("repair", "--dry-run", "--from", copy).out
    lost = cli("repair", "--json")
    assert lost.code == 10
    (loss,) = json.loads(lost.out)["losses"]
    assert loss["names"] == ["a:latest"]
    assert sorted(loss["files"]) == sorted(path.decode() for path in A)
    gc = cli("gc")
    assert gc.code == 10
    assert "layerstore check" in gc.err
    told = json.loads(cli.ok("repair", "--from", copy, "--json").out)
    assert told["ok"]
    assert told["sources"][0]["kind"] == "store"
    assert cli.ok("check", "--read-data").out.startswith("ok")
    assert "does not exist" in cli.fails(3, "repair", "--from", str(tmp_path / "nothing"))


def test_an_old_store_is_read_then_upgraded_and_taken_back(cli: Cli) -> None:
    archive = STORES / "format-1.tar.xz"
    cli.store.mkdir()
    subprocess.run(
        ["tar", "-C", str(cli.store), "--strip-components=1", "-xJf", str(archive)], check=True
    )
    assert "base" in cli.ok("images").out
    assert cli.ok("check", "--read-data").out.startswith("ok")
    refused = cli("tag", "base:1", "mine:1")
    assert refused.code == 12
    assert "layerstore upgrade" in refused.err
    assert "would change" in cli.ok("upgrade", "--dry-run").out
    assert "from format 1 to" in cli.ok("upgrade").out
    assert "already" in cli.ok("upgrade").out
    cli.ok("tag", "base:1", "mine:1")
    assert "to 1" in cli.ok("upgrade", "--undo").out
    cli.ok("upgrade")
    add_image(cli.store, "new", A)
    stuck = cli("upgrade", "--undo")
    assert stuck.code == 4
    assert "were written in format" in stuck.err


@pytest.mark.parametrize("command", ["init", "upgrade", "check", "repair"])
def test_help_is_there(cli: Cli, command: str) -> None:
    assert f"layerstore {command}" in cli.ok(command, "--help").out
