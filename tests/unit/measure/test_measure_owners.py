"""Files and the packages that they belong to, layer by layer."""

from __future__ import annotations

import pytest

from layerstore.formats.tree import Changeset, Entry, Kind, path_key
from layerstore.image.sbom import owned
from layerstore.image.sbom.rpm import header_paths
from layerstore.measure.ledger import Owner, take_ledger
from layerstore.measure.usage_by import By, take_usage_by
from layerstore.store.store import Store
from tests.support.measure import put_image, put_tree
from tests.support.rpm_database import database, header

STATUS = b"var/lib/dpkg/status"
INFO = b"var/lib/dpkg/info/"


def dpkg(**versions: str) -> bytes:
    return "\n".join(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n"
        for name, version in versions.items()
    ).encode()


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def image(store, *layers, name="a:1"):
    """Publish an image; a layer maps paths to contents, links (``str``) and whiteouts (None)."""
    with store.begin("test") as session:
        put_image(
            session, [put_tree(session, _changeset(session, layer)) for layer in layers], name
        )


def _changeset(session, files):
    found = []
    for path, content in files.items():
        if isinstance(content, str):
            found.append(Entry(path, Kind.SYMLINK, 0o777, target=content.encode()))
        elif content is not None:
            extents = tuple(session.put_bytes(content))
            found.append(Entry(path, Kind.FILE, 0o644, size=len(content), extents=extents))
    return Changeset(
        tuple(sorted(found, key=lambda entry: path_key(entry.path))),
        tuple(sorted(path for path, content in files.items() if content is None)),
    )


def rows(store, *names):
    usage = take_usage_by(store, By.PACKAGE, names)
    assert sum(row.share_size for row in usage.rows) == usage.contents_size
    return {(row.name, row.detail): row.files for row in usage.rows}


BASE = {
    b"lib": "usr/lib",
    b"usr/lib/libc.so": b"c" * 500,
    b"usr/bin/tool": b"t" * 300,
    b"etc/own": b"own",
    STATUS: dpkg(libc6="2.36", tool="1"),
    INFO + b"libc6:amd64.list": b"/.\n/lib\n/lib/libc.so\n",
    INFO + b"tool.list": b"/.\n/usr\n/usr/bin\n/usr/bin/tool\n",
}


def test_lists_of_dpkg_through_links_at_the_root(store):
    image(store, BASE)
    found = rows(store)
    assert found["libc6 2.36", "deb"] == found["tool 1", "deb"] == 1
    assert found["(in no package)", ""] == 4


def test_a_layer_has_the_packages_of_its_time(store):
    upgrade = {b"usr/bin/tool": b"T" * 900, STATUS: dpkg(libc6="2.36", tool="2")}
    image(store, BASE, upgrade)
    found = rows(store)
    assert found["tool 1", "deb"] == found["tool 2", "deb"] == 1
    assert found["libc6 2.36", "deb"] == 1


def test_without_its_database_a_layer_has_no_packages(store):
    late = {b"usr/bin/tool": b"after the database went"}
    image(store, BASE, {b"var/lib/dpkg": None}, late)
    assert rows(store) == {
        ("libc6 2.36", "deb"): 1,
        ("tool 1", "deb"): 1,
        ("(in no package)", ""): 5,
    }


def test_a_layer_of_several_images_is_told_by_the_oldest(store):
    top = {b"usr/bin/tool": b"another"}
    image(store, BASE, top, name="old:1")
    with store.begin("test") as session:
        layers = [put_tree(session, _changeset(session, top))]
        put_image(session, layers, "new:1", created=9)
    assert rows(store)["tool 1", "deb"] == 2
    assert rows(store, "new:1") == {("(in no package)", ""): 1}


def test_images_without_dpkg_have_sums_of_their_files(store):
    image(
        store,
        {
            b"var/lib/dpkg/status.d/base": dpkg(base="12"),
            b"var/lib/dpkg/status.d/base.md5sums": b"0123  etc/a file\n4567  etc/b\n",
            b"etc/a file": b"a",
            b"etc/b": b"b",
        },
    )
    assert rows(store)["base 12", "deb"] == 2


def test_lists_of_apk(store):
    installed = b"P:musl\nV:1.2\nF:lib\nR:ld.so\nF:\nR:top\n\nP:none\nV:1\n\n"
    image(store, {b"lib/apk/db/installed": installed, b"lib/ld.so": b"ld", b"top": b"top"})
    assert rows(store)["musl 1.2", "apk"] == 2


def test_lists_of_rpm(store):
    blob = header(
        name="bash",
        version="5",
        release="1",
        dir_indexes=[0, 1, 9],
        base_names=["bash", "doc", "lost"],
        dir_names=["/usr/bin/", "/usr/share/"],
    )
    assert header_paths(blob) == [b"usr/bin/bash", b"usr/share/doc"]
    image(store, {b"usr/lib/sysimage/rpm/rpmdb.sqlite": database([blob]), b"usr/bin/bash": b"b"})
    assert rows(store)["bash 5-1", "rpm"] == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"dir_indexes": [0]},
        {"dir_indexes": ["0", "0"]},
        {"base_names": [1, 2]},
        {"dir_names": [7]},
        {"base_names": "one"},
    ],
)
def test_headers_that_contradict_themselves_name_no_file(changed):
    whole = {"dir_indexes": [0, 0], "base_names": ["a", "b"], "dir_names": ["/"]}
    assert header_paths(header(**whole)) == [b"a", b"b"]
    assert header_paths(header(**{**whole, **changed})) == []


def test_no_header_of_any_bytes_raises():
    whole = header(dir_indexes=[0, 0], base_names=["a", "b"], dir_names=["/"])
    for end in range(len(whole)):
        header_paths(whole[:end])
    for at in range(len(whole)):
        header_paths(whole[:at] + b"\xff" + whole[at + 1 :])


SITE = b"usr/lib/python3/site-packages/"


def test_packages_of_languages_in_the_layer_or_below(store):
    pip = {
        SITE + b"flask-3.dist-info/METADATA": b"Name: Flask\nVersion: 3\n\n",
        SITE + b"flask-3.dist-info/RECORD": (
            b"flask/app.py,sha256=x,1\n../../../bin/flask,,\n"
            b'"flask/b,c.py",,\nflask-3.dist-info/RECORD,,\n'
        ),
        SITE + b"flask/app.py": b"app",
        SITE + b"flask/b,c.py": b"app",
        b"usr/bin/flask": b"run",
    }
    npm = {
        b"srv/node_modules/a/package.json": b'{"name": "a", "version": "1"}',
        b"srv/node_modules/a/lib/x.js": b"x",
        b"srv/node_modules/a/node_modules/@s/b/package.json": b'{"name": "@s/b", "version": "2"}',
        b"srv/node_modules/a/node_modules/@s/b/y.js": b"y",
        b"srv/node_modules/.hidden": b"z",
    }
    later = {SITE + b"flask/app.py": b"patched", b"srv/node_modules/a/lib/x.js": b"patched"}
    image(store, BASE, pip | npm, later)
    found = rows(store)
    assert found["flask 3", "pypi"] == 5
    assert found["a 1", "npm"] == 3
    assert found["@s/b 2", "npm"] == 2
    assert found["tool 1", "deb"] == 1


def test_lists_are_bounded_and_what_is_left_out_is_told(store, monkeypatch):
    monkeypatch.setattr(owned, "MAX_PATHS", 3)
    image(store, BASE)
    usage = take_usage_by(store, By.PACKAGE)
    assert any("more than 3 files" in each for each in usage.left_out)
    monkeypatch.setattr(owned, "MAX_LIST_BYTES", 3)
    assert any("more than are read" in e for e in take_usage_by(store, By.PACKAGE).left_out)


def test_names_of_strangers_stay_names(store):
    evil = dpkg(**{"../../etc/own": "1", "a\x1b[2Jb": "2"})
    image(store, {**BASE, STATUS: evil, INFO + b"a.list": b"/etc/own\n"})
    assert rows(store) == {("(in no package)", ""): 7}


def test_the_table_adds_up_to_the_disk(store):
    image(store, BASE)
    ledger = take_ledger(store)
    usage = take_usage_by(store, By.PACKAGE)
    assert usage.contents_size == ledger.size_of(Owner.EXCLUSIVE)
    assert usage.contents_size + usage.metadata_size + usage.rest_size == usage.disk_size
