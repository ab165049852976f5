"""The page: it asks for nothing, runs nothing, and says what the numbers say."""

from __future__ import annotations

import csv
import json
from html.parser import HTMLParser

import msgspec
import pytest

from layerstore.measure.report import sections, wasted
from layerstore.measure.report.collect import Report, Wishes, collect, to_builtins
from layerstore.measure.report.page import POLICY, page
from layerstore.measure.savings import Scheme
from layerstore.measure.savings_report import csv_rows
from layerstore.measure.transfers import same_hosts
from layerstore.progress import Silent
from layerstore.store.store import Store
from layerstore.units import format_size
from tests.support.cli import Cli
from tests.support.insight import Layer, image_of
from tests.support.measure import build, noise
from tests.support.store import noise as incompressible

BASE = {b"usr/lib/%d" % n: noise(n, 9000) for n in range(30)}
NASTY = b"usr/share/<script>alert(1)<\x2fscript>\x1b[31m\xff"


class Elements(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        for number in range(3):
            own = {b"srv/app%d/%d" % (number, n): noise((number, n), 7000) for n in range(4)}
            build(store, f"app:{number}", BASE, own | {NASTY + b"/f": noise("f", 90_000)},
                  created=number)  # fmt: skip
        yield store


def taken(store, *names, **wishes):
    return collect(store, names, Wishes(**wishes), Silent())


def test_the_page_is_one_file_that_asks_for_nothing(store):
    text = page(taken(store, reads_content=True), "")
    elements = Elements(text)
    assert elements.open == []
    names = {tag for tag, _ in elements.tags}
    assert names.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "a", "form"})
    for tag, attributes in elements.tags:
        assert not any(name.startswith("on") for name in attributes), tag
        assert not {"src", "href", "xlink:href"} & set(attributes)
    policies = [a["content"] for t, a in elements.tags if a.get("http-equiv")]
    assert policies == [POLICY]
    assert "url(" not in text
    assert "@import" not in text


def test_names_of_strangers_are_text(store):
    text = page(taken(store), "")
    assert "<script" not in text
    assert "\x1b" not in text
    assert "<script>alert(1)" in Elements(text).text


def test_every_number_of_the_schemes_is_on_the_page(store):
    collected = taken(store, copies=7, reads_content=True)
    shown = Elements(page(collected, "")).text
    assert "3 images as 21 containers" in shown
    assert {item.scheme for item in collected.report.schemes} == set(Scheme) - {Scheme.OPTIMIZED}
    for item in collected.report.schemes:
        assert item.label in shown
        assert format_size(item.size) in shown
        assert item.growth[-1] == item.size
        assert list(item.growth) == sorted(item.growth)


def test_ids_are_unique_and_pictures_name_what_they_show(store):
    elements = Elements(page(taken(store, reads_content=True), ""))
    ids = [a["id"] for _, a in elements.tags if "id" in a]
    assert len(ids) == len(set(ids))
    pictures = [a for tag, a in elements.tags if tag == "svg"]
    assert len(pictures) >= 8
    for attributes in pictures:
        assert attributes["role"] == "img"
        assert set(attributes["aria-labelledby"].split()) <= set(ids)


@pytest.mark.parametrize("count", [0, 1])
def test_a_store_of_nothing_or_one_image_has_a_page(tmp_path, count):
    with Store.open(tmp_path / "other", create=True) as store:
        for number in range(count):
            build(store, f"app:{number}", BASE)
        assert Elements(page(taken(store, reads_content=True), "")).open == []


def test_json_tells_the_whole_report(store):
    report = taken(store, reads_content=True, hosts=lambda _, survey: same_hosts(survey, 2)).report
    text = json.dumps(to_builtins(report))
    assert msgspec.json.decode(text, type=Report) == report


def test_spreadsheets_get_the_same_numbers(store):
    report = taken(store).report
    rows = list(csv.DictReader(csv_rows(report)))
    schemes = {row["measure"]: int(row["bytes"]) for row in rows if row["kind"] == "scheme"}
    assert schemes == {item.scheme.value: item.size for item in report.schemes}
    last = {r["measure"]: int(r["bytes"]) for r in rows if r["kind"] == "growth"}
    assert last == schemes
    added = [int(r["bytes"]) for r in rows if (r["kind"], r["measure"]) == ("image", "added")]
    assert sum(added) == report.stored_content_size


def test_of_many_names_a_few_are_shown_and_all_where_the_pointer_rests(store):
    (first, *_) = store.images()
    for number in range(100, 120):
        store.tag(f"many:{number}", first.image_id)
    collected = taken(store)
    (image,) = [image for image in collected.report.images if len(image.names) > 1]
    assert len(image.names) == 21
    told = ", ".join(image.names)
    assert told in collected.report.sharing.names  # --json has all
    elements = Elements(page(collected, ""))
    titles = [a["title"] for tag, a in elements.tags if tag in ("th", "td") and "title" in a]
    assert set(titles) == {told}
    assert len(titles) >= 3  # growth, pairs, images
    labels = elements.text.replace(told, "")
    assert f"{', '.join(image.names[:3])} and 18 more" in labels
    assert image.names[-1] not in labels
    assert elements.text.count(told) == 2  # a title of either matrix


class TestWaste:
    """Steps that waste, as a picture with what to type, and the same as a table."""

    def page_of(self, store):
        return Elements(page(taken(store, waste=True), "")), taken(store, waste=True).report

    @pytest.fixture
    def wasteful(self, tmp_path):
        with Store.open(tmp_path / "wasteful", create=True) as store:
            base = (
                Layer({b"tmp/x": noise("x", 40_000)}, step="RUN curl <b>"),
                Layer({}, whiteouts=(b"tmp/x",), step="RUN rm -r /tmp/x"),
            )
            image_of(store, "one:1", *base)
            image_of(store, "two:1", *base, Layer({b"var/log/y": noise("y", 9000)}, step="RUN y"))
            yield store

    def test_each_step_is_a_tile_and_a_row_with_its_fix(self, wasteful):
        elements, report = self.page_of(wasteful)
        pictures = [a["aria-labelledby"] for tag, a in elements.tags if tag == "svg"]
        assert {"wastesteps-w-t wastesteps-w-d", "wastesteps-n-t wastesteps-n-d"} <= set(pictures)
        shared, own = report.waste_steps
        assert (len(shared.images), shared.size, own.size) == (2, 40_000, 9000)
        assert [each.where for each in (shared, own)] == ["step 1", "step 3"]
        for each in (shared, own):
            assert elements.text.count(each.fix) >= 3  # two pictures and the table
        assert " and 1 more: RUN curl <b>;" in elements.text

    def test_steps_beyond_the_first_are_one_tile_and_one_row(self, wasteful, monkeypatch):
        monkeypatch.setattr(wasted, "STEPS_SHOWN", 1)
        elements, report = self.page_of(wasteful)
        assert report.waste_steps[1].fix not in elements.text
        assert "1 more step: 9kB" in elements.text

    def test_steps_add_up_to_the_causes(self, wasteful):
        _, report = self.page_of(wasteful)
        for name in ("size", "stored", "files"):
            sums = [sum(getattr(each, name) for each in some)
                    for some in (report.waste, report.waste_steps)]  # fmt: skip
            assert sums[0] == sums[1] > 0

    def test_packages_are_named_where_they_are_known(self, wasteful):
        status = b"Package: docs\nStatus: install ok installed\nArchitecture: all\nVersion: 2-1\n\n"
        files = {
            b"usr/share/doc/a": noise("doc", 60_000),
            b"srv/own": noise("own", 5000),
            b"var/lib/dpkg/status": status,
            b"var/lib/dpkg/info/docs.list": b"/usr/share/doc/a\n",
        }
        gone = (b"usr/share/doc/a", b"srv/own")
        image_of(wasteful, "doc:1", Layer(files), Layer({}, whiteouts=gone))
        elements, report = self.page_of(wasteful)
        first, *others = report.waste_steps
        assert first.size == 65_000
        assert [(each.name, each.size) for each in first.packages] == [("docs 2-1", 60_000)]
        assert not any(each.packages for each in others)
        assert "deleted: files; of docs 2-1 60kB" in elements.text
        cli = Cli(wasteful.root)
        (step,) = cli.ok("waste", "doc:1", "--json").json()["steps"]
        assert step["packages"] == [{"name": "docs 2-1", "size": 60_000}]

    def test_a_page_that_was_not_to_look_for_waste_has_none(self, wasteful):
        assert "wastesteps" not in page(taken(wasteful), "")


class TestPackages:
    """Whose the bytes are, each once, as a picture and a table."""

    STATUS = "Package: {}\nStatus: install ok installed\nArchitecture: all\nVersion: {}\n\n"

    def dpkg(self, **versions):
        """The database of packages that have one file each."""
        status = "".join(self.STATUS.format(*each) for each in versions.items())
        lists = {
            b"var/lib/dpkg/info/%b.list" % name.encode(): b"/usr/lib/%b\n" % name.encode()
            for name in versions
        }
        return {b"var/lib/dpkg/status": status.encode(), **lists}

    @pytest.fixture
    def packaged(self, tmp_path):
        with Store.open(tmp_path / "packaged", create=True) as store:
            one = incompressible("one", 60_000)
            base = Layer(
                {b"usr/lib/a": one, b"usr/lib/b": incompressible("b", 9000)} | self.dpkg(a=1, b=1)
            )
            upgraded = Layer({b"usr/lib/a": incompressible("two", 50_000)} | self.dpkg(a=2, b=1))
            own = Layer({b"srv/copy": one, b"srv/own": incompressible("own", 30_000)})
            image_of(store, "old:1", base)
            image_of(store, "new:1", base, upgraded, own)
            yield store

    def test_each_byte_is_of_one_package_of_its_version(self, packaged):
        report = taken(packaged).report
        held = {(each.name, each.kind): each.size for each in report.packages}
        assert 60_000 <= held["a 1", "deb"] < 60_100, "a copy elsewhere is no byte more"
        assert 50_000 <= held["a 2", "deb"] < 50_100
        assert 9000 <= held["b 1", "deb"] < 9100
        assert held["(in no package)", ""] > 30_000
        assert sum(held.values()) == sum(place.size for place in report.places)

    def test_they_have_a_picture_and_a_table(self, packaged, monkeypatch):
        monkeypatch.setattr(sections, "PACKAGES_SHOWN", 2)
        elements = Elements(page(taken(packaged), ""))
        pictures = [a["aria-labelledby"] for tag, a in elements.tags if tag == "svg"]
        assert {"packages-w-t packages-w-d", "packages-n-t packages-n-d"} <= set(pictures)
        assert "a 1: 60" in elements.text
        assert "b 1" not in elements.text
        assert "1 more: 9" in elements.text

    def test_without_packages_nothing_is_said_of_them(self, store):
        assert "Whose the bytes are" not in page(taken(store), "")
