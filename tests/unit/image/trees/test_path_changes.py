"""What ``diff`` says of an upper directory, without one."""

from __future__ import annotations

from layerstore.formats.tree import Changeset, Entry, Kind, path_key
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.scan import UpperScan
from layerstore.image.trees.path_changes import changes_of_upper
from layerstore.image.trees.stack import stack


def entries(*paths: str) -> list[Entry]:
    """Entries of paths, those with a slash at the end directories."""
    made = [
        Entry(
            path.rstrip("/").encode(),
            Kind.DIR if path.endswith("/") else Kind.FILE,
            0o755,
        )
        for path in paths
    ]
    return sorted(made, key=lambda entry: path_key(entry.path))


LOWER = stack([Changeset(tuple(entries("a/", "a/b/", "a/b/c", "a/d", "e")))])


def lines(items: list[Entry], whiteouts: list[bytes] = [], opaques: list[bytes] = []) -> list[str]:  # noqa: B006
    scan = UpperScan([LayerItem(entry) for entry in items], whiteouts, opaques, [])
    return [f"{kind} {path.decode()}" for kind, path in changes_of_upper(scan, LOWER)]


def test_added_changed_deleted_in_the_order_of_a_tree() -> None:
    found = lines(entries("a/", "a/new", "e", "a.b"), whiteouts=[b"a/d"])
    assert found == ["C a", "D a/d", "A a/new", "A a.b", "C e"]


def test_the_root_is_not_told() -> None:
    assert lines([Entry(b"", Kind.DIR, 0o700), *entries("e")]) == ["C e"]


def test_a_whiteout_of_what_is_not_there_says_nothing() -> None:
    assert lines([], whiteouts=[b"x", b"a/x"]) == []


def test_an_opaque_directory_tells_the_tops_of_what_it_hides() -> None:
    assert lines(entries("a/", "a/d"), opaques=[b"a"]) == ["C a", "D a/b", "C a/d"]


def test_inside_of_an_opaque_directory_nothing_of_the_lower_tree_shows() -> None:
    """``rm -r a; mkdir -p a/b``: the inner directory has no mark of its own."""
    assert lines(entries("a/", "a/b/"), opaques=[b"a"]) == ["C a", "C a/b", "D a/b/c", "D a/d"]


def test_an_opaque_root_hides_everything() -> None:
    assert lines([Entry(b"", Kind.DIR, 0o755)], opaques=[b""]) == ["D a", "D e"]


def test_a_file_in_the_place_of_a_directory_is_one_change() -> None:
    assert lines(entries("a")) == ["C a"]
