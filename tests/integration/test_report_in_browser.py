"""The savings report of a real store in a real browser, as people see it.

Capabilities: root and network (mmdebstrap) or ``LAYERSTORE_TEST_BASE`` for the Debian base, and
chromium. What a failing page looked like is kept below ``.cache/tests/report``.
"""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.browser import browser, chromium
from tests.support.cache import cache_directory
from tests.support.cli import Cli
from tests.support.debian_base import debian_base_tar

pytestmark = [pytest.mark.root, pytest.mark.network]

# Every box in pixels of the page: pictures, and each text in them with its picture's.
PROBE = """(() => {
  const box = e => {
    const r = e.getBoundingClientRect(); return [r.left, r.top, r.right, r.bottom]; };
  const seen = e => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0; };
  const svgs = [...document.querySelectorAll('svg')].filter(seen);
  return {
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    figures: document.querySelectorAll('figure').length,
    pictures: svgs.map(svg => ({
      id: svg.getAttribute('aria-labelledby'), box: box(svg),
      shapes: svg.querySelectorAll('rect,polyline').length,
      texts: [...svg.querySelectorAll('text')].map(t => ({
        text: t.lastChild.textContent, box: box(t)})),
    })),
    cells: [...document.querySelectorAll('th,td,h1,h2,h3,li,p')].filter(seen)
      .filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent),
    colour: getComputedStyle(document.body).backgroundColor,
  };
})()"""


# The steps of an image that were copied twice: tiles, and what the pointer over them is told.
WASTE = """[...document.querySelectorAll('svg')]
  .filter(svg => svg.getBoundingClientRect().width > 0)
  .filter(svg => svg.getAttribute('aria-labelledby').startsWith('wastesteps'))
  .map(svg => ({
    texts: [...svg.querySelectorAll('text')].map(t => t.lastChild.textContent),
    told: [...svg.querySelectorAll('rect > title')].map(t => t.textContent)}))"""

DOCKERFILE = """\
FROM app-0:0
COPY app.bin /srv/
COPY --chmod=700 app.bin /srv/
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of twelve images over Debian, two of them with names as long as names get."""
    chromium()
    if os.geteuid() != 0:
        pytest.skip("a whole Debian root is imported as root")
    top = tmp_path_factory.mktemp("report")
    cli = Cli(top / "store")
    tree = top / "tree"
    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "-xpf", debian_base_tar()], check=True)
    long_name = "registry.example.com/a-team-with-a-name/" + "a-service-with-a-long-name-" * 4
    for number in range(11):
        own = tree / "srv" / f"app-{number}"
        own.mkdir(parents=True)
        for part in range(4):
            (own / f"data-{part}").write_bytes(os.urandom(150_000 * (number % 3 + 1)))
        name = f"{long_name}{number}:1" if number in (3, 4) else f"app-{number % 4}:{number}"
        cli.ok("import", "-q", tree, "-t", name)
    context = top / "context"
    context.mkdir()
    (context / "app.bin").write_bytes(os.urandom(8_000_000))
    (context / "Dockerfile").write_text(DOCKERFILE)
    cli.ok("build", "-q", "-t", "built:1", context)
    page = top / "report.html"
    cli.ok("savings", "--copies", "3", "--no-all-schemes", "--html", page)
    return page


@pytest.fixture(scope="module")
def window():
    with browser() as page:
        yield page


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_report_is_whole_in_a_browser(report, window, width, dark):
    window.open(report, width, dark=dark)
    picture = cache_directory() / "report" / f"{width}-{'dark' if dark else 'light'}.png"
    picture.parent.mkdir(exist_ok=True)
    window.screenshot(picture)
    assert not window.seen("Log.entryAdded")
    assert not window.seen("Runtime.consoleAPICalled")
    assert not window.seen("Runtime.exceptionThrown")
    asked = [event["request"]["url"] for event in window.seen("Network.requestWillBeSent")]
    assert asked == [report.as_uri()]
    found = window.evaluate(PROBE)
    assert found["overflow"] <= 0, "the page is wider than the window"
    assert len(found["pictures"]) == found["figures"] / 2 >= 5  # wide or narrow, never both
    for each in found["pictures"]:
        assert_is_whole(each)
    dark_colour = sum(map(int, found["colour"].strip("rgb()").split(","))) < 200
    assert dark_colour == dark
    picture.unlink()  # kept where something above failed


@pytest.mark.parametrize("width", [1280, 400])
def test_a_step_that_wastes_is_seen_with_its_line_and_told_what_to_type(report, window, width):
    window.open(report, width)
    (picture,) = window.evaluate(WASTE)
    assert "built:1" in picture["texts"]
    assert any(text.startswith("Dockerfile:3") for text in picture["texts"])
    (told,) = [text for text in picture["told"] if text.startswith("Dockerfile:3")]
    assert "copy it once, with the --chown and --chmod" in told
    rows = window.evaluate(
        "[...document.querySelectorAll('details tr')].map(row => row.textContent)"
        ".filter(text => text.includes('Dockerfile:3'))"
    )
    assert len(rows) == 1
    assert "copy it once, with the --chown and --chmod" in rows[0]


@pytest.mark.parametrize("width", [1280, 400])
def test_packages_are_seen_with_their_versions(report, window, width):
    window.open(report, width)
    (texts,) = window.evaluate(
        "[...document.querySelectorAll('svg')]"
        ".filter(svg => svg.getBoundingClientRect().width > 0)"
        ".filter(svg => svg.getAttribute('aria-labelledby').startsWith('packages'))"
        ".map(svg => [...svg.querySelectorAll('text')].map(t => t.lastChild.textContent))"
    )
    assert "deb" in texts, "the head over Debian's packages"
    assert any(text.startswith(("perl-base ", "libc6 ", "coreutils ")) for text in texts)
    assert any(text.startswith("(in no") for text in texts), "what the images bring beside"


def assert_is_whole(picture):
    left, top, right, bottom = picture["box"]
    assert right - left > 200, picture["id"]
    assert bottom - top > 60, picture["id"]
    assert picture["shapes"] >= 2, picture["id"]
    assert picture["texts"], picture["id"]
    for each in picture["texts"]:
        box = each["box"]
        assert box[2] - box[0] > 0, f"{picture['id']}: {each['text']!r} is not to be seen"
        assert box[0] >= left - 1, f"{picture['id']}: {each['text']!r} is cut at the left"
        assert box[2] <= right + 1, f"{picture['id']}: {each['text']!r} is cut at the right"
        assert box[1] >= top - 1, f"{picture['id']}: {each['text']!r} is cut at the top"
        assert box[3] <= bottom + 1, f"{picture['id']}: {each['text']!r} is cut at the bottom"
    assert not list(overlaps(picture["texts"])), picture["id"]


def overlaps(texts):
    """Yield texts that lie upon each other; a third of the height is what boxes have of air."""
    for number, one in enumerate(texts):
        for other in texts[:number]:
            a, b = one["box"], other["box"]
            wide = min(a[2], b[2]) - max(a[0], b[0])
            high = min(a[3], b[3]) - max(a[1], b[1])
            if wide > 0.5 and high > min(a[3] - a[1], b[3] - b[1]) / 3:
                yield one["text"], other["text"]


def test_the_probe_sees_what_is_wrong(window, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<svg viewBox="0 0 300 100" width="300" aria-labelledby="x"><rect/><rect/><rect/><rect/>'
        '<text x="250" y="50">runs out of it</text></svg>'
        '<svg viewBox="0 0 300 100" width="300" aria-labelledby="y"><rect/><rect/><rect/><rect/>'
        '<text x="10" y="50">one</text><text x="15" y="52">two</text></svg>'
        '<img src="file:///nowhere.png"><script>console.log(1)</script>'
    )
    window.open(page, 1280)
    cut, over = window.evaluate(PROBE)["pictures"]
    with pytest.raises(AssertionError, match="cut at the right"):
        assert_is_whole(cut)
    with pytest.raises(AssertionError, match="y"):
        assert_is_whole(over)
    assert len(window.seen("Network.requestWillBeSent")) == 2
    assert window.seen("Runtime.consoleAPICalled")


def test_the_policy_of_a_report_stops_scripts(window, report, tmp_path):
    page = tmp_path / "smuggled.html"
    page.write_text(
        report.read_text().replace("</main>", "<script>document.title='x'</script></main>")
    )
    window.open(page, 1280)
    assert window.evaluate("document.title").startswith("layerstore savings")
    assert window.seen("Log.entryAdded")
