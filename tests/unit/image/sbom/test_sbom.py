"""The list of an image's packages: what is read, what is bounded, what is written."""

import io
import json

import pytest

from layerstore.formats.tree import Entry, Kind
from layerstore.image.layers.layer_item import LayerItem
from layerstore.image.layers.layer_writer import write_layer
from layerstore.image.sbom import files as bounds
from layerstore.image.sbom import scan
from layerstore.image.sbom.scan import sbom_of
from layerstore.image.trees.stack import load_root
from layerstore.store.store import Store

IMAGE_ID = "sha256:" + "1" * 64
STATUS = """\
Package: libc6
Status: install ok installed
Maintainer: GNU Libc Maintainers <debian-glibc@lists.debian.org>
Architecture: amd64
Source: glibc (2.36-9+deb12u8)
Version: 2.36-9+deb12u9
Description: GNU C Library
 Version: 0 is text here
Homepage: https://www.gnu.org/software/libc/libc.html

Package: gone
Status: deinstall ok config-files
Version: 1

Package: base-files
Status: install ok installed
Version: 12.4+deb12u7
Architecture: all
"""
APK = "P:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\nm:Someone <s@example.org>\n\nC:broken\n\n"
METADATA = "Metadata-Version: 2.1\nName: Flask_Login.x\nVersion: 3.0\nLicense: BSD\n\nName: no\n"


LIBC6 = (
    "pkg:deb/debian/libc6@2.36-9%2Bdeb12u9?arch=amd64&distro=debian-12"
    "&upstream=glibc%402.36-9%2Bdeb12u8"
)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def file(path, text):
    data = text.encode() if isinstance(text, str) else text
    entry = Entry(path=path, kind=Kind.FILE, mode=0o644, size=len(data))
    return LayerItem(entry, lambda: io.BytesIO(data))


def link(path, target):
    return LayerItem(Entry(path=path, kind=Kind.SYMLINK, mode=0o777, target=target))


def listed(store, *items):
    with store.begin("test") as session:
        layer = write_layer(session, store, items)
    root = load_root(store, [layer.diff_id])
    return sbom_of(store, root, name="web:1", image_id=IMAGE_ID, created="2026-01-02T03:04:05.6Z")


def purls(sbom):
    return sorted(
        ref["referenceLocator"]
        for package in json.loads(sbom.text)["packages"]
        for ref in package.get("externalRefs", ())
    )


def everything():
    return (
        file(b"usr/lib/os-release", '# x\nID=debian\nVERSION_ID="12"\n'),
        link(b"etc/os-release", b"../usr/lib/os-release"),
        file(b"var/lib/dpkg/status", STATUS),
        file(b"var/lib/dpkg/status.d/tzdata", "Package: tzdata\nVersion: 2024a\n"),
        file(b"var/lib/dpkg/status.d/tzdata.md5sums", "x"),
        file(b"lib/apk/db/installed", APK),
        file(b"usr/lib/python3/flask.dist-info/METADATA", METADATA),
        file(b"opt/old.egg-info", "Name: old\nVersion: 1!2.0\n\n"),
        file(b"opt/empty.dist-info/RECORD", ""),
        file(b"srv/node_modules/left-pad/package.json", '{"name":"left-pad","version":"1.3.0"}'),
        file(
            b"srv/node_modules/@types/node/package.json",
            '{"name":"@types/node","version":"20.1","license":"MIT","author":{"name":"A",'
            '"email":"a@example.org"}}',
        ),
        file(b"srv/node_modules/left-pad/esm/package.json", '{"type":"module"}'),
    )


def test_databases_of_systems_and_languages(store):
    sbom = listed(store, *everything())
    assert purls(sbom) == [
        "pkg:apk/debian/musl@1.2.4-r2?arch=x86_64&distro=debian-12",
        "pkg:deb/debian/base-files@12.4%2Bdeb12u7?arch=all&distro=debian-12",
        LIBC6,
        "pkg:deb/debian/tzdata@2024a?distro=debian-12",
        "pkg:npm/%40types/node@20.1",
        "pkg:npm/left-pad@1.3.0",
        "pkg:pypi/flask-login-x@3.0",
        "pkg:pypi/old@1%212.0",
    ]
    assert (sbom.packages, sbom.left_out) == (8, ())
    document = json.loads(sbom.text)
    by_name = {package["name"]: package for package in document["packages"]}
    assert by_name["libc6"]["supplier"] == (
        "Organization: GNU Libc Maintainers (debian-glibc@lists.debian.org)"
    )
    assert by_name["libc6"]["homepage"] == "https://www.gnu.org/software/libc/libc.html"
    assert by_name["@types/node"]["supplier"] == "Person: A (a@example.org)"
    assert by_name["@types/node"]["licenseComments"] == "declared as: MIT"
    assert document["creationInfo"]["created"] == "2026-01-02T03:04:05Z"
    ids = [package["SPDXID"] for package in document["packages"]]
    assert len(set(ids)) == len(ids) == len(document["relationships"])


def test_equal_images_give_equal_documents(store):
    assert listed(store, *everything()) == listed(store, *reversed(everything()))
    assert listed(store).packages == 0


def test_hostile_databases_are_bounded(store, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_DATABASE_BYTES", 100)
    monkeypatch.setattr("layerstore.image.sbom.system.MAX_DATABASE_BYTES", 100)
    sbom = listed(
        store,
        file(b"var/lib/dpkg/status", "x" * 101),
        link(b"lib/apk/db/installed", b"installed"),
        link(b"etc/os-release", b"/proc/../../etc/passwd"),
        file(b"a/node_modules/b/package.json", "[" * 100_000),
        file(b"a/node_modules/c/package.json", b"\xff\xfe{"),
        file(b"a/node_modules/d/package.json", '{"name":["x"],"version":{}}'),
        file(b"a/node_modules/e/package.json", '{"name":"e\\u0000\\n\\ud800","version":7}'),
        LayerItem(Entry(path=b"a/node_modules/f/package.json", kind=Kind.FIFO, mode=0o644)),
        file(b"x.dist-info/METADATA", "no header at all"),
        file(b"y.dist-info/METADATA", "Name: " + "n" * 10_000 + "\nVersion: \x1b[31m\n"),
    )
    told = "\n".join(sbom.left_out)
    assert "/var/lib/dpkg/status: 101 bytes are more than are read" in told
    assert "/lib/apk/db/installed: too many levels of symbolic links" in told
    assert "/a/node_modules/b/package.json: it is not JSON" in told
    assert "/x.dist-info/METADATA: it names no package" in told
    document = json.loads(sbom.text)
    assert document["comment"].startswith("not whole, left out: ")
    names = sorted(package["name"] for package in document["packages"])
    assert names == ["e", "n" * 300, "web:1"]
    assert "\\u001b" not in sbom.text


def test_the_number_of_packages_is_bounded(store, monkeypatch):
    monkeypatch.setattr(scan, "MAX_PACKAGES", 2)
    status = "\n\n".join(f"Package: p{n}\nVersion: 1" for n in range(3))
    sbom = listed(store, file(b"var/lib/dpkg/status", status))
    assert sbom.packages == 2
    assert sbom.left_out == ("/: more than 2 packages",)


def test_the_sum_of_bytes_is_bounded(store, monkeypatch):
    monkeypatch.setattr(bounds, "MAX_TOTAL_BYTES", 60)
    texts = [file(f"m{n}.dist-info/METADATA".encode(), f"Name: m{n}\n" + "x" * 40) for n in "ab"]
    sbom = listed(store, *texts)
    assert purls(sbom) == ["pkg:pypi/ma"]
    assert sbom.left_out == ("/mb.dist-info/METADATA: 49 bytes are more than are read",)
