"""What images ask npm for: ranges, as node-semver reads them, and the version that all allow."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.measure.asked_npm import Project, chosen, project_in
from layerstore.measure.npm_ranges import allows

# From node-semver's own tests (test/fixtures/range-include.js and range-exclude.js).
INSIDE = [
    ("1.0.0 - 2.0.0", "1.2.3"), ("^1.2.3+build", "1.2.3"), ("^1.2.3+build", "1.3.0"),
    ("1.2.3-pre+asdf - 2.4.3-pre+asdf", "1.2.3"),
    ("1.2.3-pre+asdf - 2.4.3-pre+asdf", "2.4.3-alpha"),
    ("1.0.0", "1.0.0"), (">=*", "0.2.4"), ("", "1.0.0"), ("*", "1.2.3"), ("*", "v1.2.3"),
    (">=1.0.0", "1.0.1"), (">1.0.0", "1.1.0"), ("<=2.0.0", "0.2.9"), ("<2.0.0", "1.9999.9999"),
    (">= 1.0.0", "1.0.0"), (">=  1.0.0", "1.0.1"), ("> 1.0.0", "1.0.1"), ("<\t2.0.0", "0.2.9"),
    (">=0.1.97", "0.1.97"), ("0.1.20 || 1.2.4", "1.2.4"), (">=0.2.3 || <0.0.1", "0.0.0"),
    ("||", "1.3.4"), ("2.x.x", "2.1.3"), ("1.2.x", "1.2.3"), ("1.2.x || 2.x", "2.1.3"),
    ("x", "1.2.3"), ("2.*.*", "2.1.3"), ("2", "2.1.2"), ("2.3", "2.3.1"), ("~0.0.1", "0.0.2"),
    ("~x", "0.0.9"), ("~2", "2.0.9"), ("~2.4", "2.4.5"), ("~>3.2.1", "3.2.2"), ("~1", "1.2.3"),
    ("~> 1", "1.2.3"), ("~1.0", "1.0.2"), ("~ 1.0", "1.0.2"), (">=1", "1.0.0"), ("<1.2", "1.1.1"),
    ("~v0.5.4-pre", "0.5.5"), ("~v0.5.4-pre", "0.5.4"), ("=0.7.x", "0.7.2"), ("<=0.7.x", "0.6.2"),
    ("~1.2.1 >=1.2.3", "1.2.3"), ("1.2.3 >=1.2.1", "1.2.3"), (">=1.2.1 >=1.2.3", "1.2.3"),
    (">=1.2", "1.2.8"), ("^1.2.3", "1.8.1"), ("^0.1.2", "0.1.2"), ("^0.1", "0.1.2"),
    ("^0.0.1", "0.0.1"), ("^1.2", "1.4.2"), ("^1.2 ^1", "1.4.2"), ("^1.2.3-alpha", "1.2.3-pre"),
    ("^1.2.0-alpha", "1.2.0-pre"), ("^0.0.1-alpha", "0.0.1-beta"), ("^x", "1.2.3"),
    ("x - 1.0.0", "0.9.7"), ("x - 1.x", "0.9.7"), ("1.0.0 - x", "1.9.7"), ("1.x - x", "1.9.7"),
    ("<=7.x", "7.9.9"), ("v1.2.3", "1.2.3"), ("=v1.2.3", "1.2.3"),
]  # fmt: skip
OUTSIDE = [
    ("1.0.0 - 2.0.0", "2.2.3"), ("1.2.3+asdf - 2.4.3+asdf", "1.2.3-pre.2"),
    ("^1.2.3", "2.0.0-alpha"),
    ("^1.2.3+build", "2.0.0"), ("1.2.3 - 2", "3.0.0"), ("^1.2.3", "1.2.2"), (">1.2", "1.3.0-beta"),
    ("<=1.2.3", "1.2.3-beta"), ("=0.7.x", "0.7.0-asdf"), (">=0.7.x", "0.7.0-asdf"),
    ("<=0.7.x", "0.7.0-asdf"), ("1", "1.0.0beta"), ("1.0.0", "1.0.1"), (">=1.0.0", "0.0.0"),
    (">1.0.0", "0.0.1"), ("<=2.0.0", "2.2.9"), ("<2.0.0", "2.0.0"), (">=0.1.97", "0.1.93"),
    ("0.1.20 || 1.2.4", "1.2.3"), (">=0.2.3 || <0.0.1", "0.0.3"), ("2.x.x", "3.1.3"),
    ("1.2.x", "1.3.3"), ("1.2.x || 2.x", "3.1.3"), ("2", "1.1.2"), ("2.3", "2.4.1"),
    ("~0.0.1", "0.1.0-alpha"), ("~0.0.1", "0.1.0"), ("~2.4", "2.5.0"), ("~2.4", "2.3.9"),
    ("~>3.2.1", "3.3.2"), ("~1", "0.2.3"), ("~>1", "2.2.3"), ("~1.0", "1.1.0"), ("<1", "1.0.0"),
    (">=1.2", "1.1.1"), ("1", "2.0.0"), ("~v0.5.4-beta", "0.5.4-alpha"), ("=0.7.x", "0.8.2"),
    ("<0.7.x", "0.7.2"), ("<1.2.3", "1.2.3-beta"), ("=1.2.3", "1.2.3-beta"), (">1.2", "1.2.8"),
    ("^0.0.1", "0.0.2-alpha"), ("^0.0.1", "0.0.2"), ("^1.2", "1.1.9"), ("*", "1.2.3-foo"),
    ("^1.0.0", "2.0.0-rc1"), ("1 - 2", "3.0.0-pre"), ("1.1.x", "1.0.0-a"), ("1.x", "2.0.0-a"),
    (">=1.0.0 <1.1.0", "1.1.0"), (">*", "9.9.9"), ("<x", "0.0.1"),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "version"), INSIDE)
def test_what_a_range_allows(wanted, version):
    assert allows(wanted, version)


@pytest.mark.parametrize(("wanted", "version"), OUTSIDE)
def test_what_a_range_does_not_allow(wanted, version):
    assert not allows(wanted, version)


@pytest.mark.parametrize(
    "wanted",
    [
        "latest", "next", "npm:other@^1", "file:../x", "git+https://h/x.git#v1", "user/repository",
        "https://h/x.tgz", "workspace:^", "1.2.3.4", "1.2.3 - 2 - 3", "^", ">=", "^^1",
        "1 || latest", "1.2." + "1" * 300, "1" * 257,
    ],
)  # fmt: skip
def test_what_is_no_range_is_not_guessed(wanted):
    assert allows(wanted, "1.2.3") is None


@given(st.text(alphabet="0123456789.xX*<>=~^|- vab+", max_size=40))
def test_nothing_that_strangers_write_ends_it(wanted):
    assert allows(wanted, "1.2.3") in (True, False, None)


def asking(**files: object) -> Project | None:
    known = {
        "/srv/" + name.replace("_", "-") + ".json": json.dumps(content).encode()
        for name, content in files.items()
    }
    return project_in("/srv", known.get, known.keys().__contains__)


def test_a_project_is_read_as_npm_reads_it():
    project = asking(
        package={
            "dependencies": {"a": "^1", "b": "2"},
            "devDependencies": {"a": "^9", "d": "*"},
            "optionalDependencies": {"b": "3"},
            "peerDependencies": {"p": "1"},
        }
    )
    assert project == Project({"a": "^1", "d": "*", "b": "3"})


@pytest.mark.parametrize(
    "content", [[], "x", None, {"dependencies": []}, {"dependencies": {"a": 1}}]
)
def test_what_is_no_project_asks_for_nothing(content):
    project = asking(package=content)
    assert project is None or not project.ranges


def test_files_that_are_not_there_or_no_json_are_none():
    assert asking() is None
    assert project_in("/srv", lambda _: b"{", lambda _: False) == Project({}, "npm-shrinkwrap.json")
    read = {"/srv/package.json": b"[" * 100_000}.get
    assert project_in("/srv", read, lambda _: False) is None


def test_a_lock_file_of_any_length_has_its_say():
    long = "/srv/package-lock.json"
    read = {"/srv/package.json": b'{"dependencies": {"a": "1"}}'}.get
    assert project_in("/srv/", read, long.__eq__) == Project({}, "package-lock.json")


def test_the_highest_that_all_allow_is_chosen_and_said_to_be():
    ranges = {"one": [Project({"a": "^4.1"})], "two": [Project({"a": ">=4 <4.9"})]}
    told = chosen("a", ["4.2.0", "4.10.0", "4.8.1"], ranges)
    assert told.startswith("the ranges of all package.json allow 4.8.1, which is chosen")


@pytest.mark.parametrize(
    ("two", "why"),
    [
        ([], "what two asked for is not known"),
        ([Project({}, "package-lock.json")], "package-lock.json of two says which"),
        ([Project({"b": "1"})], "no package.json of two names it"),
        ([Project({"a": "latest"})], "not all ask for it by a range"),
        ([Project({"a": "^9"})], "the ranges of all package.json allow none of these"),
    ],
)
def test_what_cannot_be_chosen_is_said_clearly(two, why):
    told = chosen("a", ["4.2.0", "4.10.0"], {"one": [Project({"a": "^4.1"})], "two": two})
    assert told.startswith(why)


def test_versions_that_are_none_are_not_put_in_order():
    ranges = {"one": [Project({"a": "*"})], "two": [Project({"a": "*"})]}
    assert chosen("a", ["1", "2"], ranges).startswith("versions that are none of npm")
