"""The difference of two trees: applying it gives the second one."""

import msgspec
import pytest

from layerstore.formats.tree import Changeset, Entry, Kind
from layerstore.image.layers.changeset_builder import ChangesetBuilder
from layerstore.image.trees.stack import stack, walk
from layerstore.image.trees.tree_changes import changes_between


def entry(path, kind=Kind.FILE, **fields):
    return Entry(path=path, kind=kind, mode=fields.pop("mode", 0o755), **fields)


def changeset(*entries, whiteouts=(), opaques=()):
    builder = ChangesetBuilder()
    for each in sorted(entries, key=lambda each: each.kind is Kind.HARDLINK):
        builder.add(each)
    for path in whiteouts:
        builder.add_whiteout(path)
    for path in opaques:
        builder.add_opaque(path)
    return builder.finish()


def shape(root):
    """Return everything that can be seen of a tree."""
    groups: dict[int, list[bytes]] = {}
    for path, node in walk(root):
        groups.setdefault(node.ino, []).append(path)
    return {
        path: (msgspec.structs.replace(node.entry, path=path), node.nlink, groups[node.ino])
        for path, node in walk(root)
    }


BASE = changeset(
    entry(b"d", Kind.DIR),
    entry(b"d/a"),
    entry(b"d/b", Kind.HARDLINK, target=b"d/a"),
    entry(b"d/deep/x"),
    entry(b"f", mtime_ns=5),
    entry(b"l", Kind.SYMLINK, target=b"f"),
)

CASES = {
    "nothing": (changeset(), 0),
    "the same again": (BASE, 0),
    "a new file": (changeset(entry(b"new")), 1),
    "a time": (changeset(entry(b"f", mtime_ns=6)), 1),
    "an owner of a directory": (changeset(entry(b"d", Kind.DIR, uid=7)), 1),
    "the root": (changeset(entry(b"", Kind.DIR, mode=0o700)), 1),
    "gone": (changeset(whiteouts=[b"f", b"d/deep"]), 2),
    "hidden": (changeset(entry(b"d/new"), opaques=[b"d"]), 4),
    "a file where a directory was": (changeset(entry(b"d")), 1),
    "a directory where a file was": (changeset(entry(b"f/x")), 2),
    "one name less": (changeset(whiteouts=[b"d/a"]), 2),
    "one name more": (changeset(entry(b"d/c", Kind.HARDLINK, target=b"d/a")), 3),
    "a name of its own": (changeset(entry(b"d/b")), 2),
    "linked at last": (changeset(entry(b"l"), entry(b"m", Kind.HARDLINK, target=b"l")), 2),
}


@pytest.mark.parametrize("name", CASES)
def test_applying_the_changes_gives_the_upper_tree(name):
    above, count = CASES[name]
    lower, upper = stack([BASE]), stack([BASE, above])
    found = changes_between(lower, upper)
    assert len(found.entries) + len(found.whiteouts) == count
    again = stack([BASE, changeset(*found.entries, whiteouts=found.whiteouts)])
    assert shape(again) == shape(upper)


def test_from_nothing_it_is_the_whole_tree():
    upper = stack([BASE])
    found = changes_between(stack([]), upper)
    assert shape(stack([changeset(*found.entries)])) == shape(upper)
    assert changes_between(stack([]), stack([Changeset()])) == ([], [])
