"""Two images side by side: what differs and what it costs."""

from __future__ import annotations

import json
import os

import pytest

from layerstore.measure.image_diff import diff_images
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.insight import File, Layer, dpkg_status, image_of
from tests.support.measure import noise

STATUS = b"var/lib/dpkg/status"
BASE = Layer(
    {
        STATUS: dpkg_status(openssl="3.0.1", libc6="2.36", gone="1"),
        b"bin/a": noise("a", 9000),
        b"bin/b": noise("b", 9000),
        b"bin/c": noise("c", 9000),
    }
)
NEXT = Layer(
    {
        STATUS: dpkg_status(openssl="3.0.2", libc6="2.36", new="7"),
        b"bin/a": File(noise("a", 9000), mode=0o755, uid=7),
        b"bin/b": noise("B", 20_000),
        b"srv/one": noise("one", 50_000),
        b"srv/two": noise("one", 50_000),
    },
    whiteouts=(b"bin/c",),
)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


def told(found):
    return {(each.kind.value, each.path.decode(), each.differs) for each in found.files}


def test_files_packages_and_config(store):
    old = image_of(store, "old", BASE, Env=["A=1", "B=2"], Cmd=["a"], Labels={"x": "1"})
    new = image_of(store, "new", BASE, NEXT, Env=["A=1", "B=3"], User="app")
    found = diff_images(store, old, new)
    assert told(found) == {
        ("C", "bin/a", ("mode", "owner")),
        ("C", "bin/b", ("content",)),
        ("D", "bin/c", ()),
        ("A", "srv", ()),
        ("A", "srv/one", ()),
        ("A", "srv/two", ()),
        ("C", STATUS.decode(), ("content",)),
    }
    assert {(each.name, each.old, each.new) for each in found.packages} == {
        ("openssl", ("3.0.1",), ("3.0.2",)),
        ("gone", ("1",), ()),
        ("new", (), ("7",)),
    }
    assert {(each.field, str(each.old), str(each.new)) for each in found.config} == {
        ("Env.B", "2", "3"),
        ("Cmd", "['a']", "None"),
        ("Labels.x", "1", "None"),
        ("User", "None", "app"),
    }
    assert found.common_layers == 1
    assert found.new_size.logical_size - found.old_size.logical_size == (
        20_000 + 100_000 - 2 * 9000 + len(NEXT.files[STATUS]) - len(BASE.files[STATUS])
    )


def test_the_other_way_round_is_the_mirror(store):
    old = image_of(store, "old", BASE, Env=["A=1"])
    new = image_of(store, "new", BASE, NEXT)
    there, back = diff_images(store, old, new), diff_images(store, new, old)
    mirror = {"A": "D", "D": "A", "C": "C"}
    assert {(mirror[kind], *rest) for kind, *rest in told(there)} == told(back)
    assert there.beyond == back.back
    assert there.back == back.beyond
    assert [(each.name, each.new, each.old) for each in there.packages] == [
        (each.name, each.old, each.new) for each in back.packages
    ]


def test_new_stored_bytes_are_what_the_store_grew_by(store):
    """A second store that has the first image grows by what was told, packs' framing aside."""
    old = image_of(store, "old", BASE)
    before = stored_bytes(store)
    new = image_of(store, "new", BASE, NEXT)
    grown = stored_bytes(store) - before
    found = diff_images(store, old, new)
    assert found.beyond.stored_size == grown
    assert found.back.stored_size == 0
    new_layer = sum(each.new_stored for each in found.files)
    assert 0 < new_layer < found.beyond.stored_size  # tree and record belong to no file


def stored_bytes(store):
    return sum(row.stored_length for row in store.catalog.block_rows())


def test_content_at_two_paths_is_charged_to_the_first(store):
    old = image_of(store, "old", BASE)
    found = diff_images(store, old, image_of(store, "new", BASE, NEXT))
    stored = {each.path: each.new_stored for each in found.files}
    assert stored[b"srv/one"] > 20_000
    assert stored[b"srv/two"] == stored[b"bin/a"] == 0


def test_images_without_common_layers_are_compared_by_what_they_show(store):
    old = image_of(store, "old", BASE, NEXT)
    flat = {STATUS: NEXT.files[STATUS], b"bin/a": NEXT.files[b"bin/a"]}
    flat |= {path: NEXT.files[path] for path in (b"bin/b", b"srv/one")}
    flat[b"srv/two"] = File(noise("one", 50_000), mtime_ns=5)
    found = diff_images(store, old, image_of(store, "flat", Layer(flat)))
    assert found.common_layers == 0
    assert told(found) == {("C", "srv/two", ("time",))}
    assert found.files[0].is_of_time
    assert found.packages == []


def test_the_same_image_has_no_difference(store):
    image = image_of(store, "one", BASE, NEXT)
    found = diff_images(store, image, image)
    assert found.is_empty
    assert found.beyond.stored_size == found.beyond.tar_size == 0


@pytest.mark.parametrize("common", [True, False])
def test_links_that_became_copies_are_told(store, common):
    one = noise("one", 9000)
    linked = Layer({b"a": one, b"b": File(link=b"a"), b"c": one, b"d": one})
    copied = {b"b": one} if common else {b"a": one, b"b": one, b"c": one, b"d": one}
    old = image_of(store, "old", linked)
    layers = [linked, Layer(copied)] if common else [Layer(copied)]
    new = image_of(store, "new", *layers)
    wanted = {("C", "b", ("links",))}
    if not common:  # else it is the very file that it was
        wanted.add(("C", "a", ("links",)))
    assert told(diff_images(store, old, new)) == wanted
    assert told(diff_images(store, new, old)) == wanted


def test_one_more_name_of_a_file_is_no_change_of_the_others(store):
    one = noise("one", 9000)
    old = image_of(store, "old", Layer({b"a": one}))
    new = image_of(store, "new", Layer({b"a": one, b"b": File(link=b"a")}))
    assert told(diff_images(store, old, new)) == {("A", "b", ())}


def test_packages_of_languages_are_found_where_something_changed(store):
    metadata = b"Metadata-Version: 2.1\nName: Flask\nVersion: %d.0\n\n"
    site = b"usr/lib/python3/site-packages/"
    lower = Layer(
        {
            site + b"flask-1.dist-info/METADATA": metadata % 1,
            site + b"six.dist-info/METADATA": b"Name: six\nVersion: 1\n\n",
            b"app/node_modules/express/package.json": b'{"name": "express", "version": "4.0"}',
        }
    )
    upper = Layer(
        {
            site + b"flask-2.dist-info/METADATA": metadata % 2,
            b"app/node_modules/@a/b/package.json": b'{"name": "@a/b", "version": "2"}',
        },
        whiteouts=(site + b"flask-1.dist-info",),
    )
    old, new = image_of(store, "old", lower), image_of(store, "new", lower, upper)
    assert {(each.kind, each.name, each.old, each.new) for each in
            diff_images(store, old, new).packages} == {
        ("pypi", "flask", ("1.0",), ("2.0",)),
        ("npm", "@a/b", (), ("2",)),
    }  # fmt: skip


def test_a_database_that_is_too_large_is_told(store, monkeypatch):
    from layerstore.image.sbom import system

    monkeypatch.setattr(system, "MAX_DATABASE_BYTES", 10)
    old, new = image_of(store, "old", BASE), image_of(store, "new", BASE, NEXT)
    found = diff_images(store, old, new)
    assert found.packages == []
    assert any("status" in each for each in found.left_out)


def test_without_packages_no_content_is_read(store, monkeypatch):
    old, new = image_of(store, "old", BASE), image_of(store, "new", BASE, NEXT)
    trees = {chunk for image in (old, new) for diff_id in image.layers
             for _, chunk in store.layer(diff_id).tree}  # fmt: skip
    read = set()
    plain = store.read_chunk
    monkeypatch.setattr(store, "read_chunk", lambda chunk: read.add(chunk) or plain(chunk))
    assert diff_images(store, old, new, packages=False).packages is None
    assert read == trees


class TestCommand:
    @pytest.fixture
    def cli(self, store):
        hostile = Layer({b"srv/\x1b[31mred": b"x", b"srv/\xff": b"y"})
        image_of(store, "old", BASE, Labels={"a": "1"})
        image_of(store, "new", BASE, NEXT, hostile, Labels={"a": "\x1b[2J"})
        return Cli(store.root)

    def test_tables_are_bounded_and_safe(self, cli):
        result = cli.ok("diff", "old", "new", "--limit", "2")
        assert "\x1b" not in result.out
        assert "more paths: --limit 0 lists all" in result.out
        assert len([line for line in result.lines if line.startswith(("A  ", "C  ", "D  "))]) == 2
        everything = cli.ok("diff", "old", "new", "--limit", "0")
        assert r"/srv/\x1b[31mred" in everything.out
        assert "more paths" not in everything.out

    def test_json_has_all_of_it(self, cli):
        found = cli.ok("diff", "old", "new", "--json").json()
        assert found["file_count"] == len(found["files"]) == 9
        assert {each["change"] for each in found["packages"]} == {"added", "removed", "upgrade"}
        back = cli.ok("diff", "new", "old", "--json").json()
        assert {each["change"] for each in back["packages"]} == {"added", "removed", "downgrade"}
        assert json.dumps(found)
        few = cli.ok("diff", "old", "new", "--format", "json", "--limit", "1", "--files").json()
        assert len(few["files"]) == 1
        assert few["packages"] is None

    def test_one_kind_alone(self, cli):
        for option, there, not_there in (
            ("--packages", "PACKAGE", "PATH"),
            ("--files", "PATH", "PACKAGE"),
        ):
            result = cli.ok("diff", "old", "new", option)
            assert there in result.out
            assert not_there not in result.out
            assert "CONFIG" not in result.out
            assert cli.ok("diff", "old", "new", option, "--json").json()["config"] == []
        assert "CONFIG" in cli.ok("diff", "old", "new").out

    def test_exit_code(self, cli):
        assert cli("diff", "old", "new", "--exit-code").code == 1
        assert cli("diff", "old", "old", "--exit-code").code == 0
        assert "no difference" in cli.ok("diff", "old", "old").out

    def test_one_image_alone_is_no_question(self, cli):
        assert "takes another one" in cli.fails(2, "diff", "old")
        assert "one was named" in cli.fails(2, "diff", "old", "--packages")
        cli.fails(3, "diff", "old", "nowhere")
        cli.fails(3, "diff", "nowhere")

    def test_what_differs_in_its_time_only_is_counted(self, cli, tmp_path):
        for number in (1, 2):
            tree = tmp_path / f"tree-{number}"
            tree.mkdir()
            for name in ("a", "b"):
                (tree / name).write_text(name)
                os.utime(tree / name, (number, number))
            os.utime(tree, (9, 9))
            cli.ok("import", "-q", tree, "-t", f"time:{number}")
        said = cli.ok("diff", "time:1", "time:2").out
        assert "not listed: 2 paths of which only the time differs (--times)" in said
        assert said.endswith("no other difference\n")
        assert cli("diff", "time:1", "time:2", "--exit-code").code == 0
        listed = cli.ok("diff", "time:1", "time:2", "--times").out
        assert "not listed" not in listed
        assert "no other difference" not in listed
        assert "not listed" not in cli.ok("diff", "time:1", "time:2", "--packages").out
