"""rpm's database: what is read of it, and what a hostile one comes to."""

from __future__ import annotations

import json
import sqlite3
import struct
from contextlib import closing

import pytest

from layerstore.image.sbom import rpm
from layerstore.image.sbom.rpm import header_fields
from layerstore.store.store import Store
from tests.support.rpm_database import database, header
from tests.unit.image.sbom.test_sbom import file, link, listed, purls

NEW = b"usr/lib/sysimage/rpm/rpmdb.sqlite"
OLD = b"var/lib/rpm/rpmdb.sqlite"
HELLO = header(
    name="hello", version="1.2", release="3.fc40", epoch=2, vendor="Fedora Project",
    license="MIT", url="https://example.org/", arch="x86_64", source="hello-1.2-3.fc40.src.rpm",
)  # fmt: skip
KEY = header(name="gpg-pubkey", version="a15b79cc", release="63d04c2c")
HELLO_PURL = (
    "pkg:rpm/fedora/hello@1.2-3.fc40?arch=x86_64&distro=fedora-40&epoch=2"
    "&upstream=hello-1.2-3.fc40.src.rpm"
)
RELEASE = file(b"etc/os-release", "ID=fedora\nVERSION_ID=40\n")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as opened:
        yield opened


def test_packages_of_rpm(store):
    plain = header(name="plain", version="7", release="1", epoch=0)
    data = database([HELLO, KEY, plain])
    sbom = listed(
        store, RELEASE, file(NEW, data), link(b"var/lib/rpm", b"../../usr/lib/sysimage/rpm")
    )
    assert purls(sbom) == [HELLO_PURL, "pkg:rpm/fedora/plain@7-1?distro=fedora-40"]
    assert sbom.left_out == ()
    (hello,) = [each for each in json.loads(sbom.text)["packages"] if each["name"] == "hello"]
    assert hello["versionInfo"] == "2:1.2-3.fc40"
    assert hello["supplier"] == "Organization: Fedora Project"
    assert hello["sourceInfo"] == "found in /usr/lib/sysimage/rpm/rpmdb.sqlite"


def test_the_older_place_without_a_log(store):
    sbom = listed(store, RELEASE, file(OLD, database([HELLO], wal=False)), file(OLD + b"-wal", ""))
    assert purls(sbom) == [HELLO_PURL]
    assert sbom.left_out == ()


def test_a_log_that_holds_something_is_told(store):
    sbom = listed(store, file(OLD, database([HELLO])), file(OLD + b"-wal", "x"))
    assert sbom.packages == 1
    assert sbom.left_out == (
        "/var/lib/rpm/rpmdb.sqlite-wal: what rpm has not moved to its database is not read",
    )


@pytest.mark.parametrize(("name", "form"), [(b"Packages", "Berkeley DB"), (b"Packages.db", "ndb")])
def test_older_forms_are_told(store, name, form):
    sbom = listed(store, file(b"var/lib/rpm/" + name, "x"))
    assert sbom.packages == 0
    assert sbom.left_out == (
        f"/var/lib/rpm/{name.decode()}: rpm's database is not read in this form, {form}",
    )


def endless():
    """A database whose table of packages is a view that never ends."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        made.execute(
            "CREATE VIEW Packages AS WITH RECURSIVE r(hnum, blob) AS "
            "(VALUES (1, x'00') UNION ALL SELECT hnum + 1, blob FROM r) SELECT * FROM r"
        )
        return made.serialize()


def computed():
    """A database that makes a gigabyte of zeros out of nothing."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as made:
        made.execute(
            "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob AS (zeroblob(900000000)))"
        )
        made.execute("INSERT INTO Packages (hnum) VALUES (1)")
        return made.serialize()


def repeating():
    """A database one of whose pages holds itself, many times over."""
    data = bytearray(database([HELLO + bytes(300) for _ in range(200)]))
    size = 512
    for number in range(1, len(data) // size):
        page = data[number * size : (number + 1) * size]
        if page[0] != 5:  # an inner page of a table
            continue
        (cells,) = struct.unpack(">H", page[3:5])
        for cell in struct.unpack(f">{cells}H", page[12 : 12 + 2 * cells]):
            data[number * size + cell : number * size + cell + 4] = struct.pack(">I", number + 1)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SQLite format 3\0",
        b"x" * 5000,
        database([HELLO])[:-600],
        database([]).replace(b"Packages", b"Parcels_"),
        database([]).replace(b"Packages (hnum", b"P\xff (\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
        database([HELLO, "text", 7]),
        endless(),
        repeating(),
        computed(),
    ],
    ids=[
        "empty",
        "head",
        "noise",
        "cut",
        "no table",
        "schema",
        "text",
        "endless",
        "repeating",
        "computed",
    ],
)
def test_what_is_no_database_is_told(store, data):
    sbom = listed(store, file(OLD, data))
    assert sbom.packages <= 1
    (told,) = sbom.left_out
    assert told.startswith("/var/lib/rpm/rpmdb.sqlite: not a database of rpm that can be read: ")


def test_the_work_is_bounded(store, monkeypatch):
    monkeypatch.setattr(rpm, "_MAX_WORK", 1)
    monkeypatch.setattr(rpm, "_OPERATIONS", 50)
    sbom = listed(store, file(OLD, database([HELLO] * 100)))
    assert sbom.left_out == (
        "/var/lib/rpm/rpmdb.sqlite: not a database of rpm that can be read: interrupted",
    )


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\0" * 7,
        struct.pack(">II", 2**32 - 1, 2**32 - 1),
        struct.pack(">II", 1, 4) + struct.pack(">4I", 1000, 6, 2**31, 1) + b"abc\0",
        HELLO[:-1],
    ],
)
def test_what_is_no_header_says_nothing(blob):
    assert header_fields(blob) == {}


def test_a_text_without_an_end_ends_with_the_header():
    blob = struct.pack(">II", 1, 3) + struct.pack(">4I", 1000, 6, 0, 1) + b"abc"
    assert header_fields(blob) == {"name": "abc"}
