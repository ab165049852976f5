"""The simulated registry: its arithmetic on invented packages, its page from what is kept."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.bench.registry import __main__ as program
from tests.bench.registry import page
from tests.bench.registry.calibrate import HALVES, compare, curve, fit
from tests.bench.registry.cost import ALL_SCHEMES, Costs, Shelf
from tests.bench.registry.index import Resolver, by_dependants, parse, read_index, version_key
from tests.bench.registry.model import Atom, Image, Layer, Parameters, Registry
from tests.bench.registry.packages import Zipf
from tests.bench.registry.sample import _step

TOP = Path(__file__).parents[3]
KEPT = TOP / "docs" / "simulation" / "registry.json"

INDEX = """\
Package: libc6
Version: 2.36-9+deb12u10
Priority: optional
Section: libs
Installed-Size: 12000
Size: 2700000

Package: dash
Version: 0.5
Essential: yes
Section: shells
Installed-Size: 200
Depends: libc6 (>= 2.14), awk | mawk

Package: mawk
Version: 1.3
Section: utils
Installed-Size: 100
Provides: awk

Package: gawk
Version: 5
Section: utils
Installed-Size: 900
Provides: awk (= 5)
Depends: libc6

Package: apt
Version: 2.6
Section: admin
Installed-Size: 4000
Depends: libc6

Package: tool
Version: 1
Section: utils
Installed-Size: 50
Depends: awk, missing | gawk:any, libc6
"""


@pytest.fixture
def index():
    return {package.name: package for package in parse(INDEX)}


def sizes(first: float) -> list[float]:
    return [first, first * 0.9, first * 0.8, first * 0.8, first * 0.3, first * 0.2]


@pytest.fixture
def costs(index):
    packages = [
        {
            "ecosystem": eco,
            "name": name,
            "version": "1",
            "order": 0,
            "entries": 10,
            "sizes": sizes(n),
        }
        for eco, name, n in (("deb", "libc6", 13e6), ("deb", "apt", 5e6), ("npm", "x", 1e6))
    ]
    packages.append({**packages[-1], "ecosystem": "pip", "name": "y", "compiled": sizes(4e5),
                     "compiled_entries": 3})  # fmt: skip
    pairs = [
        {"ecosystem": eco, "name": "x", "whole": sizes(100), "added": [0, 30, 25, 20, 4, 2]}
        for eco in ("deb", "pip", "npm")
    ]
    shared = dict.fromkeys(("deb", "pip", "npm"), [1.0] * 6)
    learned = {"packages": packages, "pairs": pairs, "shared": shared}
    recompiled = [1.0, 1.0, 1.0, 1.0, 0.01, 0.01]
    return Costs({**learned, "recompiled": recompiled, "metadata_per_entry": [20.0, 15.0]}, index)


def image(service: int, version: int, *layers: Layer) -> Image:
    return Image(service, "node", version, 0, layers)


def apt(key: str, *atoms: tuple[str, int]) -> Layer:
    return Layer("apt", (key,), tuple(Atom("deb", *atom) for atom in atoms), len(atoms))


def test_versions_sort_as_dpkg_sorts_them():
    ordered = ["0.9", "1.0~rc1-1", "1.0-1", "1.0-1+deb12u2", "1.0-1+deb12u10", "1.0+b", "1.0.1"]
    ordered += ["1.9", "1.10", "1:0.1"]
    shuffled = random.Random(1).sample(ordered, len(ordered))
    assert sorted(shuffled, key=version_key) == ordered


def test_closures_take_what_is_there_and_the_first_alternative_else(index):
    resolver = Resolver(index)
    assert index["libc6"].updates == 10
    assert resolver.base() == {"dash", "libc6", "gawk", "apt"}
    assert resolver.closure(["tool"], frozenset({"libc6", "mawk"})) == {"tool", "gawk"}
    assert resolver.closure(["dash"], resolver.base()) == frozenset()
    assert by_dependants(index)[0] == "libc6"


def test_the_release_s_own_version_is_told_from_what_its_updates_hold(tmp_path, monkeypatch):
    lists = {"debian_dists_bookworm-security_main": "1 3", "debian_dists_bookworm_main": "2 2"}
    for file, versions in lists.items():
        stanzas = zip(("old", "new"), versions.split(), strict=True)
        text = "\n\n".join(f"Package: {name}\nVersion: {version}" for name, version in stanzas)
        (tmp_path / file).write_text(text)

    def run(command, **_):
        text = "".join(f"{tmp_path}/{file}\n" for file in lists)
        if "cat-file" in command:
            text = Path(command[-1]).read_text()
        return SimpleNamespace(stdout=text.encode() if "cat-file" in command else text)

    monkeypatch.setattr(subprocess, "run", run)
    found = read_index()
    assert {n: (p.version, p.released, p.older) for n, p in found.items()} == {
        "old": ("2", "2", ["1"]),
        "new": ("3", "2", ["2"]),
    }


def test_zipf_draws_by_its_law():
    zipf, source = Zipf(1000, 1.0), random.Random(1)
    drawn = [zipf.draw(source) for _ in range(20_000)]
    assert all(0 <= rank < 1000 for rank in drawn)
    assert 1.8 < drawn.count(0) / drawn.count(1) < 2.2
    several = zipf.several(source, 30)
    assert len(set(several)) == len(several) == 30


def test_equal_layers_cost_once_and_versions_what_they_renew(costs):
    shelf = Shelf(costs)
    one = apt("one", ("libc6", 0))
    shelf.add(image(1, 1, one))
    first = dict(zip(ALL_SCHEMES, shelf.totals, strict=True))
    shelf.add(image(2, 1, one))
    again = dict(zip(ALL_SCHEMES, shelf.totals, strict=True))
    assert again["full_copies"] == 2 * first["full_copies"]
    assert all(again[scheme] == first[scheme] for scheme in ALL_SCHEMES[1:])
    shelf.add(image(3, 1, apt("other", ("libc6", 0))))
    moved = dict(zip(ALL_SCHEMES, shelf.totals, strict=True))
    assert moved["plain_layers"] == 2 * first["plain_layers"]
    assert moved["whole_files"] == first["whole_files"]
    shelf.add(image(4, 1, apt("newer", ("libc6", 1))))
    newer = dict(zip(ALL_SCHEMES, shelf.totals, strict=True))
    assert newer["whole_files"] - moved["whole_files"] == pytest.approx(13e6 * 0.9 * 30 / 90)
    assert newer["chunks"] - moved["chunks"] == pytest.approx(13e6 * 0.8 * 20 / 80)


def test_compiled_files_are_new_in_every_layer_but_to_the_compressor(costs):
    shelf = Shelf(costs)
    totals = []
    for number in range(3):
        shelf.add(image(number, 1, Layer("pip", (number,), (Atom("pip", "y", 0),))))
        totals.append(dict(zip(ALL_SCHEMES, shelf.totals, strict=True)))
    one, two = totals[1], totals[2]
    assert two["whole_files"] - one["whole_files"] == pytest.approx(4e5 * 0.9)
    assert two["stored"] - one["stored"] < 0.1 * totals[0]["stored"]


def test_an_unsampled_package_costs_in_proportion_to_its_installed_size(costs):
    row = costs.row(Atom("deb", "gawk", 0))
    assert row["sizes"][0] == pytest.approx(900 * 1024 * 18e6 / (16000 * 1024))
    assert not costs.is_sampled(Atom("deb", "gawk", 0))
    assert costs.row(Atom("npm", "~7", 0))["sizes"] == sizes(1e6)


def test_an_optimized_package_costs_what_the_version_that_is_kept_whole_does(index):
    rows = [
        {"ecosystem": "deb", "name": "apt", "order": order, "entries": 1, "sizes": sizes}
        for order, sizes in enumerate(([9, 8, 7, 6, 5, 1], [9, 8, 7, 6, 2, 4]))
    ]
    shared = dict.fromkeys(("deb", "pip", "npm"), [1.0] * 6)
    learned = {"packages": rows, "pairs": [], "shared": shared, "recompiled": [1.0] * 6}
    known = Costs({**learned, "metadata_per_entry": [20.0, 15.0]}, index)
    assert known.row(Atom("deb", "apt", 0))["sizes"] == [9, 8, 7, 6, 5, 4]


def test_constants_make_training_right_and_errors_are_relative(costs):
    images = [image(n, 1, apt(f"k{n}", ("libc6", n), ("apt", 0))) for n in range(3)]
    simulated = curve(costs, images)
    steps = [[b - a for a, b in itertools.pairwise([0.0, *(row[s] for row in simulated)])]
             for s in range(1, 7)]  # fmt: skip
    real = [[[steps[s][n] + 1000 for s in range(6)]] for n in range(3)]
    real[1][0][4] *= 1.3
    costs.constants = fit(costs, images, real)
    assert costs.constants.apt == pytest.approx([1000] * 4 + [0] * 2)
    assert costs.constants.packed[:4] == [1.0] * 4
    ends = [sum(row[0][s] for row in real) for s in range(6)]
    assert curve(costs, images)[-1][1:] == pytest.approx(
        ends
    )  # the sum, where packages share blocks
    errors = compare([[2.0] * 7, [3.0] * 7], [[1.0] * 7, [4.0] * 7])
    assert errors["stored"] == {
        "real": 4.0, "simulated": 3.0, "error": -0.25, "median": 0.625, "worst": 1.0
    }  # fmt: skip


def registry(index, **changed):
    resolver = Resolver(index)
    for name in ("python3", "nodejs"):
        text = f"Package: {name}\nVersion: 1\nSection: python\nInstalled-Size: 10\n"
        index[name] = next(parse(text))
    parameters = Parameters(services=20, spread=8, tail=10, **changed)
    return Registry(
        parameters, index, resolver, ["tool", "gawk"], lambda _, name: frozenset({name})
    )


def test_the_same_seed_draws_the_same_images_in_the_order_of_weeks(index):
    one, two = (list(registry(dict(index)).images(60)) for _ in range(2))
    assert one == two
    assert one != list(registry(dict(index), seed=2).images(60))
    assert [i.week for i in one] == sorted(i.week for i in one)
    versions: dict[int, int] = {}
    for drawn in one:
        assert drawn.version == versions.get(drawn.service, 0) + 1
        versions[drawn.service] = drawn.version
        assert drawn.layers[0].kind == "base"
        assert drawn.layers[-1].kind == "code"


def test_rebuilds_between_refreshed_bases_keep_their_lower_layers(index):
    by_service: dict[int, list[Image]] = {}
    for drawn in registry(index, rebuild=1.0, bump=0.0).images(100):
        by_service.setdefault(drawn.service, []).append(drawn)
    kept = changed = 0
    for images in by_service.values():
        for one, two in itertools.pairwise(images):
            same = one.layers[:-1] == two.layers[:-1]
            assert same is (one.week // 4 == two.week // 4)
            kept, changed = kept + same, changed + (not same)
    assert kept > changed > 0


def test_the_page_says_what_the_kept_result_says():
    result = json.loads(KEPT.read_text())
    assert page.page(result) == (TOP / "docs" / "simulation.md").read_text()
    assert result["registry"]["curve"][-1][0] == 10_000


def test_the_picture_shows_what_the_kept_result_says(tmp_path):
    pytest.importorskip("matplotlib")
    page.draw(json.loads(KEPT.read_text()), tmp_path / "curves.svg")
    kept = (TOP / "docs" / "simulation" / "curves.svg").read_bytes()
    assert (tmp_path / "curves.svg").read_bytes() == kept


def test_in_whose_favour_errors_are_is_told():
    result = json.loads(KEPT.read_text())
    rows = result["calibration"]["held_out"]["schemes"]
    for part, whom in ((0.8, "us"), (1.25, "plain layers")):
        rows["stored"]["simulated"] = rows["stored"]["real"] * part
        rows["plain_layers"]["simulated"] = rows["plain_layers"]["real"]
        assert f"**The errors favour {whom}**" in page.page(result)


def test_the_page_names_the_program_that_was_frozen():
    result = json.loads(KEPT.read_text())
    result["calibration"]["held_out"]["frozen"] = {"tree": "0123456789abcdef" * 2, "seed": 99}
    told = page.page(result)
    assert "tree 0123456789ab;" in told
    assert "the seed (99)" in told


def test_what_a_version_adds_does_not_depend_on_which_one_optimizing_keeps_whole():
    # Plain layers to layerstore: as read. Optimized: the older one is what differs, 9 of 60.
    class Reader:
        def sizes(self, part, there=None, *, directories=None):
            return part["beside"] if there else part["alone"]

    older = {"alone": (100, 90, 80, 70, 50, 9)}
    newer = {"alone": (110, 95, 85, 75, 12, 60), "beside": (110, 40, 30, 20, 12, 55)}
    step = _step(Reader(), older, older, newer)
    assert step["whole"] == (100, 90, 80, 70, 50, 60)
    assert step["added"] == (110, 40, 30, 20, 12, 4)  # 9 + 55 together, 60 of them the whole one
    older, newer = {"alone": (0,) * 5 + (60,)}, {"alone": (0,) * 6, "beside": (0,) * 5 + (7,)}
    assert _step(Reader(), older, older, newer)["added"][-1] == 7


def test_errors_on_the_page_are_counted_from_both_curves_that_are_kept():
    halves = json.loads(KEPT.read_text())["calibration"]
    for half in halves.values():
        counted = compare(half["simulated"], half["real"])
        assert counted.keys() == half["schemes"].keys()
        for scheme, row in counted.items():
            assert row == pytest.approx(half["schemes"][scheme])
        assert len(half["real"]) == half["images"]
    told = program.errors_of(KEPT)
    rows = [line for line in told.splitlines() if line.startswith("|")]
    text = (TOP / "docs" / "simulation.md").read_text()
    assert len(rows) == 2 * (2 + len(ALL_SCHEMES))
    assert [row for row in rows if row not in text] == []


def test_errors_of_a_cache_take_the_steps_that_were_not_taken(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    halves = json.loads(KEPT.read_text())["calibration"]
    taken = []

    def step(name, *made):
        def take(cache, *_):
            taken.append(name)
            for file, found in made:
                (cache / file).write_text(json.dumps(found))

        return take

    monkeypatch.setattr(program.fetch, "fetch_all", step("fetch"))
    monkeypatch.setattr(program.sample, "main", step("sample", ("samples.json", {})))
    monkeypatch.setattr(program.builds, "build_half", step("build"))
    calibrate = step("calibrate", (HALVES["training"], halves["training"]))
    monkeypatch.setattr(program, "_calibrate", calibrate)
    monkeypatch.setattr(program, "_test", step("test", (HALVES["held_out"], halves["held_out"])))
    told = program.errors_of(cache)
    assert taken == ["fetch", "sample", "build", "calibrate", "test"]
    assert told == program.errors_of(KEPT)
    (cache / HALVES["held_out"]).unlink()
    assert program.errors_of(cache) == told
    assert taken[5:] == ["test"]
