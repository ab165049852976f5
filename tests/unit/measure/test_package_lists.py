"""Files of packages by dpkg's lists: through the links of merged directories, and within bounds."""

from __future__ import annotations

import pytest

from layerstore.formats.tree import Changeset, Entry, Kind, path_key
from layerstore.image.layers.layers import load_changeset
from layerstore.image.sbom.files import ImageFiles
from layerstore.image.trees.stack import stack
from layerstore.measure import package_lists
from layerstore.measure.package_lists import PackageLists, file_at
from layerstore.measure.waste import take_waste
from layerstore.store.store import Store
from tests.support.insight import Layer, image_of


def tree(*files, **links):
    entries = [Entry(path, Kind.FILE) for path in files]
    entries += [Entry(name.encode(), Kind.SYMLINK, target=target) for name, target in links.items()]
    return stack([Changeset(tuple(sorted(entries, key=lambda entry: path_key(entry.path))))])


@pytest.mark.parametrize("target", [b"usr/lib", b"/usr/lib", b"/usr/lib/"])
def test_a_list_may_name_what_lies_behind_a_link_at_the_root(target):
    root = tree(b"usr/lib/a", lib=target)
    for line in (b"/lib/a", b"/usr/lib/a"):
        path, node = file_at(root, line)
        assert (path, node.entry.path) == (b"usr/lib/a", b"usr/lib/a")


@pytest.mark.parametrize(
    "line",
    [b"", b"/", b"/.", b"lib/a", b"/usr", b"/usr/lib", b"/lib", b"/no/a", b"/x/../usr/lib/a"],
)
def test_other_lines_name_no_file(line):
    assert file_at(tree(b"usr/lib/a", lib=b"usr/lib", x=b"x"), line) is None


def test_chains_of_links_are_not_gone_along():
    root = tree(b"d/f", a=b"b", b=b"d", long=b"./" * 200 + b"d")
    assert file_at(root, b"/b/f") is not None
    assert file_at(root, b"/a/f") is None
    assert file_at(root, b"/long/f") is None


def test_so_many_lines_of_all_lists_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(package_lists, "MAX_PATHS", 10)
    stanza = b"Package: gcc\nStatus: install ok installed\nArchitecture: amd64\nVersion: %d\n\n"
    files = {
        b"var/lib/dpkg/status": b"".join(stanza % number for number in range(5)),
        b"var/lib/dpkg/info/gcc.list": b"/a\n/b\n/c",
        b"a": b"a",
    }
    with Store.open(tmp_path / "store", create=True) as store:
        image = image_of(store, "x", Layer(files))
        kept = ImageFiles(store, stack([load_changeset(store, image.layers[0])]))
        lists = PackageLists(kept)
        found = [[path for path, _ in lists.files_of("gcc", "amd64")] for _ in range(4)]
        assert found == [[b"a"], [b"a"], [], []]
        assert "more than 10 files" in kept.left_out[0]
        (waste,) = take_waste(store, [image]).images
        assert [each.files for each in waste.findings] == [1]
