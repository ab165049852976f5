"""config.toml that is damaged or gone: what is said of it, and repair, which makes it again."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from layerstore.errors import UnsupportedVersionError
from layerstore.image.repairing import repair_store
from layerstore.store.check.check import check
from layerstore.store.check.findings import Problem
from layerstore.store.config import ConfigDamagedError, load_config, new_config, parse_config
from layerstore.store.paths import StorePaths
from layerstore.store.rebuild.config_again import make_config_again
from layerstore.store.sharing import share_store
from layerstore.store.store import Store
from tests.support.store import add_image, assert_sound, noise

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = {b"large": noise(1, 700_000), b"small": b"x"}
STORES = Path(__file__).parents[3] / "golden" / "stores"


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "emptied": emptied,
    "cut in half": cut_in_half,
    "zeroed": zeroed,
    "gone": Path.unlink,
    "directory": lambda path: replaced(path, Path.mkdir),
    "symlink": lambda path: replaced(path, lambda path: path.symlink_to("/etc/passwd")),
    "fifo": lambda path: replaced(path, os.mkfifo),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    add_image(tmp_path / "store", "a:1", FILES)
    return tmp_path / "store"


@pytest.mark.parametrize("damage", DAMAGE)
def test_repair_makes_it_again(root: Path, damage: str) -> None:
    path = root / "config.toml"
    before = parse_config(path.read_bytes())
    DAMAGE[damage](path)
    for refused in (lambda: Store.open(root), lambda: Store.open(root, create=True)):
        with pytest.raises(ConfigDamagedError) as caught:
            refused()
        assert "layerstore repair" in str(caught.value.hint)
    foreseen = repair_store(str(root), (), dry_run=True)
    assert (foreseen.ok, foreseen.config, list(foreseen.names)) == (True, True, ["a:1"])
    with pytest.raises(ConfigDamagedError):  # nothing was changed
        Store.open(root)
    outcome = repair_store(str(root), (), dry_run=False)
    assert outcome.ok
    assert outcome.config
    after = load_config(StorePaths(str(root)))
    assert after == before._replace(origins=True, indexes=True)
    kept = [name for name in os.listdir(root / "quarantine") if name.startswith("config.toml.")]
    assert len(kept) == (damage != "gone")
    more = {b"more": noise(2, 700_000)}
    add_image(root, "b:1", more)
    assert_sound(root, {"a:1": [FILES], "b:1": [more]})
    assert not repair_store(str(root), (), dry_run=False).config


def test_so_does_repair_of_a_store_whose_index_is_lost_too(root: Path) -> None:
    (root / "config.toml").unlink()
    (root / "catalog.sqlite").unlink()
    outcome = repair_store(str(root), (), dry_run=False)
    assert outcome.ok
    assert outcome.config
    assert outcome.rebuilt is not None
    assert_sound(root, {"a:1": [FILES]})


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a store to a group")
def test_a_store_of_a_group_stays_one(root: Path) -> None:
    share_store(StorePaths(str(root)), 54_321)
    (root / "config.toml").unlink()
    assert make_config_again(str(root))
    assert load_config(StorePaths(str(root))).shared
    with Store.open(root) as store:
        assert check(store, read_data=True).findings == ()


@pytest.mark.parametrize("lost", ["config.toml", "config.toml and index"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_store_of_any_version_goes_on_cutting_where_it_cut(
    tmp_path: Path, version: int, lost: str
) -> None:
    archive = STORES / f"format-{version}.tar.xz"
    subprocess.run(["tar", "-C", str(tmp_path), "-xJf", str(archive)], check=True)
    root = tmp_path / f"format-{version}"
    before = parse_config((root / "config.toml").read_bytes())
    (root / "config.toml").unlink()
    if "index" in lost:
        (root / "catalog.sqlite").unlink()
    assert make_config_again(str(root))
    after = load_config(StorePaths(str(root)))
    assert after.cutting == before.cutting
    assert after.format == (before.format if lost == "config.toml" else 2)


def test_a_newer_store_is_left_alone_and_the_way_out_is_told(root: Path) -> None:
    path = root / "config.toml"
    newer = path.read_text().replace("format = 2", "format = 3")
    path.write_text(newer)
    with pytest.raises(UnsupportedVersionError) as caught:
        repair_store(str(root), (), dry_run=False)
    assert f"move {path} away" in str(caught.value.hint)
    assert path.read_text() == newer


NUMBERS = {
    "whole_max_bytes = 262144": "whole_max_bytes = 262145",
    "min_bytes = 16384": "min_bytes = 16385",
    "average_bytes = 65536": "average_bytes = 32768",
    "\nmax_bytes = 262144": "\nmax_bytes = 262112",
    "normalization = 2": "normalization = 3",
}
UNUSABLE = {
    "min_bytes = 16384": "min_bytes = 96384",
    "normalization = 2": "normalization = 9",
    "average_bytes = 65536": "average_bytes = 65537",
    "whole_max_bytes = 262144": f"whole_max_bytes = 0x{'f' * 5000}",
    "\nmax_bytes = 262144": f"\nmax_bytes = {'9' * 5000}",
    "format = 2": f"format = {'2' * 5000}",
    "\nformat = 2": "\nformat = true",
    'digest = "sha256:': 'digest = "sha256:0',
    "digest = ": "digest = 1 #",
}


@pytest.mark.parametrize(("old", "new"), [*NUMBERS.items(), *UNUSABLE.items()])
def test_a_number_that_became_another_is_damage(root: Path, old: str, new: str) -> None:
    path = root / "config.toml"
    before = load_config(StorePaths(str(root)))
    whole = path.read_text()
    assert whole.count(old) == 1
    path.write_text(whole.replace(old, new, 1))
    with pytest.raises(ConfigDamagedError) as caught:
        Store.open(root)
    assert len(str(caught.value)) < 500
    assert "layerstore repair" in str(caught.value.hint)
    foreseen = repair_store(str(root), (), dry_run=True)
    assert (foreseen.ok, foreseen.config, list(foreseen.names)) == (True, True, ["a:1"])
    assert path.read_text() != whole, "nothing was changed"
    assert repair_store(str(root), (), dry_run=False).config
    assert load_config(StorePaths(str(root))) == before._replace(origins=True, indexes=True)
    assert not repair_store(str(root), (), dry_run=True).config
    assert_sound(root, {"a:1": [FILES]})


def said(root: Path, old: str, new: str) -> list[tuple[Problem, bool]]:
    """Write a config that says something else; return what a check finds then.

    It is one of a version that gave its numbers no digest.
    """
    path = root / "config.toml"
    text = re.sub(r"(?m)^digest = .*\n", "", path.read_text())
    assert old in text
    path.write_text(text.replace(old, new))
    with Store.open(root) as store:
        return [(each.problem, each.is_error) for each in check(store, read_data=False).findings]


def test_another_format_than_the_catalogs_is_noticed(root: Path) -> None:
    whole = (root / "config.toml").read_bytes()
    assert said(root, "format = 2", "format = 1") == [(Problem.FORMAT_DIFFERS, True)]
    assert repair_store(str(root), (), dry_run=True).config
    outcome = repair_store(str(root), (), dry_run=False)
    assert (outcome.ok, outcome.config) == (True, True)
    assert parse_config((root / "config.toml").read_bytes()).cutting == parse_config(whole).cutting
    assert not repair_store(str(root), (), dry_run=False).config
    assert_sound(root, {"a:1": [FILES]})


def test_cuts_that_no_layerstore_makes_are_noticed(root: Path) -> None:
    before = load_config(StorePaths(str(root)))
    changed = said(root, "average_bytes = 65536", "average_bytes = 32768")
    assert changed == [(Problem.CUTS_STRANGE, False)]
    assert repair_store(str(root), (), dry_run=False).config
    assert load_config(StorePaths(str(root))).cutting == before.cutting


def test_chunks_that_are_longer_than_the_config_has_them(tmp_path: Path) -> None:
    archive = STORES / "format-1.tar.xz"
    subprocess.run(["tar", "-C", str(tmp_path), "-xJf", str(archive)], check=True)
    root = tmp_path / "format-1"
    longer = [(Problem.CUTS_STRANGE, False)]
    text = (root / "config.toml").read_text()
    cuts = text[text.index("min_bytes") :]
    ours = new_config().decode()
    assert said(root, cuts, ours[ours.index("min_bytes") :]) == longer
