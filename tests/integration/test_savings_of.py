"""``savings --of``: images in archives, layouts, tars and directories; and what else it tells."""

from __future__ import annotations

import html
import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from layerstore.build.platforms import native_platform
from layerstore.measure.report.collect import Wishes, collect
from layerstore.progress import Silent
from layerstore.store.store import Store
from tests.integration.test_engines import ENGINES, engine
from tests.support.cli import Cli
from tests.support.layouts import Layout, tar_of
from tests.support.measure import noise


@pytest.fixture
def cli(tmp_path):
    """A store with two images that share most of their files."""
    cli = Cli(tmp_path / "store")
    for name in ("one", "two"):
        tree = tmp_path / name
        (tree / "usr" / "lib").mkdir(parents=True)
        for number in range(30):
            (tree / "usr" / "lib" / f"{number}.so").write_bytes(noise(number, 20_000))
        (tree / "own").write_bytes(noise(name, 90_000))
        cli.ok("import", tree, "-t", f"{name}:1")
    return cli


@pytest.fixture
def other(tmp_path):
    """A command line whose store must not come to be."""
    return Cli(tmp_path / "absent")


AT = {"SOURCE_DATE_EPOCH": "1700000000"}
"""An import has the time in it, and images with other times are others."""


def sizes(result) -> dict:
    value = result.json()
    return {
        "schemes": value["schemes"],
        "images": value["images"],
        "overhead": value["overhead_size"],
        "beside": value["not_counted_size"],
    }


def saved(cli, tmp_path, form):
    """Return the two images in one form, and how a store gets them for good."""
    if form == "directory":
        sources = [tmp_path / "one", tmp_path / "two"]
        return sources, [("import", each, "-t", f"{each.name}:latest") for each in sources]
    if form == "rootfs":
        sources = [tmp_path / "one.tar", tmp_path / "two.tar"]
        for name, target in zip(("one:1", "two:1"), sources, strict=True):
            cli.ok("export", name, "-o", target)
        return sources, [("import", each, "-t", f"{each.stem}:latest") for each in sources]
    target = tmp_path / f"images-{form}"
    cli.ok("save", "one:1", "two:1", "--format", form, "-o", target)
    return [target], [("load", "-i", target)]


@pytest.mark.parametrize(
    "form", ["directory", "rootfs", "docker-archive", "oci-archive", "oci-dir"]
)
def test_numbers_are_those_after_an_import(cli, other, tmp_path, form):
    sources, commands = saved(cli, tmp_path, form)
    work = tmp_path / "work"
    work.mkdir()
    options = [word for each in sources for word in ("--of", each)]
    asked = other.ok("savings", *options, "--work", work, "--all-schemes", "--json", **AT)
    assert not other.store.exists()
    assert list(work.iterdir()) == []
    assert str(work) in asked.err

    real = Cli(tmp_path / "real")
    for command in commands:
        real.ok(*command, **AT)
    shutil.rmtree(real.store / "scans", ignore_errors=True)  # remembered for the next import
    names = [image["names"][0] for image in asked.json()["images"]]
    assert len(names) == 2
    assert sizes(real.ok("savings", *names, "--all-schemes", "--json")) == sizes(asked)


def test_equal_names_are_told_apart(other, tmp_path):
    for place in ("a", "b"):
        (tmp_path / place / "Root FS!").mkdir(parents=True)
        (tmp_path / place / "Root FS!" / "f").write_text(place)
    trees = [tmp_path / "a" / "Root FS!", tmp_path / "b" / "Root FS!"]
    found = other.ok("savings", "--of", trees[0], "--of", trees[1], "--json").json()
    assert [image["names"] for image in found["images"]] == [
        ["root-fs:latest"], ["root-fs-2:latest"],
    ]  # fmt: skip


def test_images_of_a_layout_are_called_by_their_tags_and_come_oldest_first(cli, other, tmp_path):
    layout = tmp_path / "My Layout"
    for name, age in (("new", "1700000000"), ("old", "1600000000"), ("nameless", "1650000000")):
        tree = tmp_path / name
        tree.mkdir()
        (tree / "f").write_text(name)
        cli.ok("import", tree, "-t", f"{name}:1", SOURCE_DATE_EPOCH=age)
    cli.ok("save", "new:1", "old:1", "nameless:1", "--format", "oci-dir", "-o", layout)
    index = json.loads((layout / "index.json").read_text())
    for entry in index["manifests"]:
        name = entry["annotations"]["io.containerd.image.name"].rpartition("/")[2]
        tag = name.replace(":1", "-V1")  # as skopeo copy oci:layout:old-V1 has it
        entry["annotations"] = (
            {} if "nameless" in name else {"org.opencontainers.image.ref.name": tag}
        )
    (layout / "index.json").write_text(json.dumps(index))
    found = other.ok("savings", "--of", layout, "--json").json()
    assert [image["names"] for image in found["images"]] == [
        ["my-layout:old-V1"], ["my-layout:latest"], ["my-layout:new-V1"],
    ]  # fmt: skip


def test_platforms_of_one_name_are_one_image(other, tmp_path):
    flat = Layout(tmp_path / "flat")
    native = native_platform().architecture
    images = [
        flat.image([tar_of({"a": noise(each, 50_000)})], architecture=each)
        for each in ("mips64le", native)
    ]
    flat.finish(*(("docker.io/library/m:1", each) for each in images))
    told = other.ok("savings", "--of", flat.root, "--json")
    (image,) = told.json()["images"]
    assert "m:1 for linux/mips64le" in told.err
    assert image["names"] == ["m:1"]


def test_what_cannot_be_is_refused(cli, other, tmp_path):
    assert "does not exist" in other.fails(3, "savings", "--of", tmp_path / "nothing")
    (tmp_path / "text").write_text("no tar at all " * 100)
    other.fails(10, "savings", "--of", tmp_path / "text", "--work", tmp_path)
    assert not list(tmp_path.glob("layerstore-savings-*"))
    other.fails(2, "savings", "--of", "docker:")
    other.fails(2, "savings", "one:1", "--of", tmp_path / "one")
    other.fails(12, "savings", "--of", tmp_path / "one", "--work", tmp_path / "text")
    other.fails(13, "savings", "--of", "docker:*", "--host", f"unix://{tmp_path}/none")
    cli.fails(2, "savings", "--csv", "--json")
    cli.fails(2, "savings", "--plot", tmp_path / "picture.gif")
    cli.fails(2, "savings", "--hosts", "0")
    cli.fails(2, "savings", "--copies", "1" + "0" * 400)
    # Before minutes of measuring, and without the name of a temporary file.
    assert "nowhere/p.html: " in cli.fails(3, "savings", "--html", tmp_path / "nowhere" / "p.html")
    (tmp_path / "directory").mkdir()
    cli.fails(2, "savings", "--html", tmp_path / "directory")
    cli.fails(3, "savings", "--hosts", tmp_path / "nothing")
    assert not other.store.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_what_is_killed_leaves_nothing_for_long(other, tmp_path, number):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "large").write_bytes(os.urandom(60_000_000))
    work = tmp_path / "work"
    work.mkdir()
    command = other.command("savings", "--of", tree, "--work", work, "--all-schemes")
    process = subprocess.Popen(
        command, env=other.environment({}), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 60
    while not list(work.glob("*/store/packs/*/*")) and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(number)
    process.wait(60)
    if number != signal.SIGKILL:
        assert list(work.iterdir()) == []
    other.ok("savings", "--of", tree, "--work", work, "--json")
    assert list(work.iterdir()) == []


def test_hosts_pull_what_a_file_says(cli, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "# two alike\nweb-1 one:1 two:1\nweb-2 one:1\nweb-2 two:1\n\nweb-3 two:1 # alone\n"
    )
    told = cli.ok("savings", "--hosts", hosts, "--json").json()["transfers"]
    assert (told["hosts"], told["pulls"]) == (3, 5)
    each = cli.ok("savings", "--hosts", "1", "--json").json()["transfers"]
    alone = cli.ok("savings", "two:1", "--hosts", "1", "--json").json()["transfers"]
    for field in ("full_size", "layers_size", "parcels_size"):
        assert told[field] == 2 * each[field] + alone[field]
    # The second image brings its own file and little more; as a layer it is all there again.
    assert each["parcels_size"] < 1.3 * alone["parcels_size"]
    assert each["layers_size"] > 1.9 * alone["layers_size"]
    hosts.write_text("web-1\n")
    assert "line 1" in cli.fails(10, "savings", "--hosts", hosts)
    hosts.write_text("web-1 absent:1\n")
    cli.fails(3, "savings", "--hosts", hosts)
    hosts.write_text("web-1 two:1\n")
    assert "not among" in cli.fails(3, "savings", "one:1", "--hosts", hosts)


def test_a_bundle_is_as_large_as_what_a_host_pulls(cli, tmp_path):
    taken = cli.ok("savings", "two:1", "--hosts", "1", "--json").json()["transfers"]
    bundle = tmp_path / "bundle"
    Cli(tmp_path / "empty").ok("init")
    have = tmp_path / "have"
    Cli(tmp_path / "empty").ok("have", "-o", have)
    cli.ok("save", "two:1", "--have", have, "--compression-level", "12", "-o", bundle)
    assert abs(bundle.stat().st_size - taken["parcels_size"]) < 200  # its name


@pytest.mark.parametrize("level", [None, 3])
def test_optimized_is_what_optimize_makes(cli, tmp_path, level):
    work = tmp_path / "work"
    work.mkdir()
    words = ["--optimize-level", str(level)] if level else []
    told = cli.ok("savings", "--with-optimize", *words, "--work", work, "--json").json()
    assert told["optimize_level"] == (level or 19)
    assert list(work.iterdir()) == []
    before = cli.ok("savings", "--json").json()
    schemes = {item["scheme"]: item["size"] for item in told["schemes"]}
    cli.ok("optimize", *(["--level", str(level)] if level else []))
    cli.ok("gc")
    after = {i["scheme"]: i["size"] for i in cli.ok("savings", "--json").json()["schemes"]}
    assert schemes["stored"] == {i["scheme"]: i["size"] for i in before["schemes"]}["stored"]
    assert abs(schemes["optimized"] - after["stored"]) < 65_536  # the catalog's pages


def test_a_rehearsal_at_another_level_is_told(cli, tmp_path):
    page = tmp_path / "page.html"
    words = ["savings", "--with-optimize", "--work", tmp_path, "--html", page, "--no-all-schemes"]
    told = "ptimized by 'optimize --level 3'; without an option it takes 19"
    assert told in cli.ok(*words, "--optimize-level", "3").out
    assert told in html.unescape(page.read_text())
    assert "optimize --level" not in cli.ok(*words).out
    assert "optimize --level" not in page.read_text()
    assert cli.ok("savings", "--json").json()["optimize_level"] is None
    assert "--with-optimize" in cli.fails(2, "savings", "--optimize-level", "3")


def test_reports_in_every_form(cli, tmp_path):
    page, picture = tmp_path / "report.html", tmp_path / "picture.svg"
    out = cli.ok("savings", "--html", page, "--plot", picture, "--format", "csv")
    assert out.lines[0] == "kind,image,measure,bytes"
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert "<svg" in picture.read_text()
    assert cli.ok("savings", "--html", "-").out.startswith("<!DOCTYPE html>")
    assert json.loads(cli.ok("savings", "--format", "json").out)["sharing"]["names"] == [
        "one:1", "two:1",
    ]  # fmt: skip


def test_images_that_are_removed_while_they_are_read_are_told_to_the_end(cli):
    """Reading takes minutes; gc waits for it with what is read."""

    class Removing(Silent):
        removed = False

        def start(self, what, total):
            if not self.removed:
                self.removed = True
                cli.ok("rm", "one:1", "two:1")
                cli.ok("gc")

    wishes = Wishes(reads_content=True, waste=True)
    collect_report(cli, wishes, Silent())  # sizes that it remembers are on the disk, too
    before = collect_report(cli, wishes, Silent())
    progress = Removing()
    assert collect_report(cli, wishes, progress) == before
    assert progress.removed
    cli.ok("gc")
    assert cli.ok("savings", "--json").json()["stored_content_size"] == 0


def collect_report(cli, wishes, progress):
    with Store.open(cli.store) as store:
        return collect(store, (), wishes, progress).report.schemes


@pytest.mark.root
@pytest.mark.peers
@pytest.mark.parametrize("name", ENGINES)
def test_what_an_engine_has_is_measured_by_its_socket(cli, other, tmp_path, name):
    with engine(name, tmp_path) as peer:
        cli.ok("save", "--to", name, *peer.where, "one:1", "two:1")
        found = other.ok("savings", "--of", f"{name}:*", *peer.where, "--work", tmp_path, "--json")
        assert sorted(image["names"][0] for image in found.json()["images"]) == ["one:1", "two:1"]
        one = other.ok("savings", "--of", f"{name}:one:1", *peer.where, "--json").json()
        assert [image["names"] for image in one["images"]] == [["one:1"]]
        other.fails(3, "savings", "--of", f"{name}:absent*", *peer.where)
        if name == "podman":  # whose short names are another registry's first
            peer.client("tag", "docker.io/library/one:1", "localhost/two:1")
            both = other.ok("savings", "--of", "podman:*", *peer.where, "--json").json()
            assert sorted(image["names"] for image in both["images"]) == [
                ["localhost/two:1", "one:1"], ["two:1"],
            ]  # fmt: skip
            peer.client("untag", "localhost/two:1", "localhost/two:1")
        # What was two:1 has no name now, and its bytes are there as before.
        peer.client("tag", "docker.io/library/one:1", "docker.io/library/two:1")
        rest = other.ok("savings", "--of", f"{name}:*", *peer.where, "--json")
        nameless = sum(not image["names"] for image in rest.json()["images"])
        assert nameless == (name == "docker")
        assert ("left out: 1 image without a name" in rest.err) == (name == "podman")
        assert len(rest.json()["images"]) == 1 + nameless
        some = other.ok("savings", "--of", f"{name}:*:1", *peer.where, "--json").json()
        assert len(some["images"]) == 1
    real = Cli(tmp_path / "real")
    cli.ok("save", "one:1", "two:1", "-o", tmp_path / "both.tar")
    real.ok("load", "-i", tmp_path / "both.tar")
    sizes_there = {i["names"][0]: i["copy_size"] for i in found.json()["images"]}
    here = real.ok("savings", "--json").json()["images"]
    assert sizes_there == {image["names"][0]: image["copy_size"] for image in here}
    assert not other.store.exists()
    assert not list(tmp_path.glob("layerstore-savings-*"))
