"""What commands print as JSON is what the schema of the reference says, key by key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from layerstore.cli.about.report_shapes import REPORTS, json_schema
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.insight import File, Layer, dpkg_status, image_of
from tests.support.json_schema import faults
from tests.support.measure import noise

STATUS = b"var/lib/dpkg/status"
REFERENCE = Path(__file__).parents[4] / "docs" / "reference" / "reports.schema.json"
SCHEMA = json.loads(json_schema())
BASE = Layer({STATUS: dpkg_status(base_files="1"), b"bin/sh": b"sh"}, step="ADD base /")


def apt(name, version, *, step="RUN apt-get install"):
    files = {STATUS: dpkg_status(base_files="1", common="1", **{name: version})}
    for package in ("common", name):
        files[b"usr/lib/%s" % package.encode()] = noise(package, 400_000)
        files[b"var/lib/dpkg/info/%s.list" % package.encode()] = b"/usr/lib/%s\n" % package.encode()
    return Layer(files, step=step)


def pip(version):
    """A package that no base can have, since the versions differ."""
    info = b"opt/venv/lib/python3.11/site-packages/x-%s.dist-info/" % version
    return Layer(
        {
            b"opt/venv/pyvenv.cfg": b"home = /usr/bin\n",
            info + b"METADATA": b"Name: x\nVersion: %s\n\n" % version,
            info + b"RECORD": b"",
        },
        step="RUN pip install x",
    )


@pytest.fixture(scope="module")
def cli(tmp_path_factory):
    """A store whose images differ in all that reports tell of, and a name that moved."""
    root = tmp_path_factory.mktemp("shapes") / "store"
    key = Layer({b"root/key": b"secret" * 100, b"srv/a": File(b"a" * 5000, mode=0o600)})
    gone = Layer({}, whiteouts=(b"root/key",), step="RUN rm /root/key")
    with Store.open(root, create=True) as store:
        image_of(store, "base", BASE)
        image_of(store, "one", BASE, apt("left", "1"), pip(b"1"), key, gone, Env=["A=1"])
        image_of(store, "two", BASE, apt("right", "2"), pip(b"2"), Cmd=["sh"])
        for release in (b"1", b"2"):
            layers = Layer({b"src": noise(release, 900)}, step="COPY src /"), apt("left", "1")
            made = File(noise("made", 90_000), mtime_ns=int(release))
            again = Layer({b"srv/made": made}, step="RUN make")
            image_of(store, f"app:{release.decode()}", BASE, *layers, again)
    return Cli(root)


def test_the_schema_is_that_of_the_reference():
    assert REFERENCE.read_text() == json_schema() + "\n"


@pytest.mark.parametrize(
    ("report", "words", "code"),
    [
        ("images", ("images",), 0),
        ("history", ("history", "one"), 0),
        ("df", ("df",), 0),
        ("df --by", ("df", "--by", "package"), 0),
        ("savings", ("savings", "--hosts", "2"), 0),
        ("diff OLD NEW", ("diff", "one", "two"), 0),
        ("diff OLD NEW", ("diff", "one", "two", "--files"), 0),
        ("waste", ("waste", "--all", "--max-waste", "0"), 17),
        ("find", ("find", "key", "--hidden"), 0),
        ("find --package", ("find", "--package", "common"), 0),
        ("suggest", ("suggest", "--all"), 0),
        ("fleet", ("fleet", "STORE", "STORE/absent"), 3),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_real_output_is_as_the_schema_says(cli, report, words, code):
    words = [word.replace("STORE", str(cli.store)) for word in words]
    done = cli(*words, "--json")
    assert done.code == code, done
    found = done.json()
    assert list(faults(found, SCHEMA["properties"][report], SCHEMA["$defs"])) == []
    # A report of nothing would fit whatever its schema said.
    assert all(part for part in filled(found, report)), found


def filled(found, report):
    """The parts of a report that this store has something for."""
    return {
        "df": lambda: (found["rows"], found["ledger"]["images"]),
        "df --by": lambda: (found["rows"],),
        "savings": lambda: (found["images"], found["transfers"], found["packages"]),
        "diff OLD NEW": lambda: (
            found["files"],
            found["packages"] or found["packages"] is None,
            {each["kind"] for each in found["files"]} == {"A", "C", "D"},
        ),
        "waste": lambda: (found["causes"], found["steps"], found["images"][1]["verdicts"]),
        "find": lambda: (found[0]["hidden_by"], found[0]["step"]),
        "find --package": lambda: (found["packages"][0]["step"],),
        "suggest": lambda: (
            found["groups"][0]["bases"],
            found["groups"][0]["refused"],
            found["moves"],
        ),
        "fleet": lambda: (found["stores"], found["unread"]),
    }.get(report, lambda: (found,))()


def test_the_check_finds_what_is_lost_added_or_of_another_type():
    defs = SCHEMA["$defs"]
    good = {"kind": "A", "path": "/srv/x"}
    schema = SCHEMA["properties"]["diff VIEW"]
    for bad in ({"kind": "A"}, {**good, "more": 1}, {**good, "path": 1}, {**good, "kind": "B"}):
        assert len(list(faults([good, bad], schema, defs))) == 1


def test_every_report_is_held_against_its_schema():
    assert set(SCHEMA["properties"]) == set(REPORTS)
