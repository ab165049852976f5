"""Compressed layers, fixed blocks, sharing and places of stores that can be counted by hand."""

from __future__ import annotations

import gzip

import pytest

from layerstore.digest import DiffId, Digest
from layerstore.image.trees.export_layer import layer_tar
from layerstore.linux.locks import FileLock
from layerstore.measure import forms
from layerstore.measure.forms import take_forms
from layerstore.measure.gzip_sizes import recall_gzip_sizes, remember_gzip_sizes
from layerstore.measure.places import take_places
from layerstore.measure.scratch import PREFIX, scratch_directory
from layerstore.measure.sharing import take_sharing
from layerstore.measure.survey import take_survey
from layerstore.measure.table import sparkline
from layerstore.store.store import Store
from tests.support.measure import build, noise

BASE = {b"usr/bin/%d" % n: noise(n, 9000) for n in range(20)}
OWN = {b"srv/a/%d" % n: noise(("a", n), 5000 + n) for n in range(5)}
SAME_AND_MORE = {b"srv/b/0": BASE[b"usr/bin/0"], b"srv/b/1": noise(1, 9000) + b"tail"}


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", create=True) as store:
        build(store, "one", BASE, OWN, created=1)
        build(store, "two", BASE, SAME_AND_MORE, created=2)
        yield store


def blocks(*layers):
    found = set()
    for files in layers:
        for content in files.values():
            whole = content + bytes(-len(content) % 4096)
            found |= {whole[at : at + 4096] for at in range(0, len(whole), 4096)}
    return found - {bytes(4096)}


def test_blocks_are_those_of_the_files(store):
    forms = take_forms(store, take_survey(store))
    one, both = blocks(BASE, OWN), blocks(BASE, OWN, SAME_AND_MORE)
    assert forms.blocks == [4096 * len(one), 4096 * (len(both) - len(one))]


def test_layers_are_as_gzip_makes_them_and_count_once(store):
    survey = take_survey(store)
    forms = take_forms(store, survey)
    for diff_id, size in forms.layer_sizes.items():
        tar = b"".join(layer_tar(store, store.layer(diff_id)))
        assert size == pytest.approx(len(gzip.compress(tar, 6)), rel=0.01)
    base, own, more = (forms.layer_sizes[diff_id] for _, diff_id in survey.new_layers())
    assert forms.compressed == [base + own, more]


def test_layers_are_compressed_once(store, monkeypatch):
    first = take_forms(store, take_survey(store))
    asked = []

    def sizes(tars, _):
        for diff_id, _ in tars:
            asked.append(diff_id)
            yield diff_id, 77

    monkeypatch.setattr(forms, "_gzip_sizes", sizes)
    assert take_forms(store, take_survey(store)) == first
    build(store, "three", BASE, {b"new": noise("new", 9000)}, created=3)
    survey = take_survey(store)
    third = take_forms(store, survey)
    assert third.compressed == [*first.compressed, 77]
    assert asked == [survey.chosen[2].layers[1]]


def test_what_was_compressed_before_an_interruption_is_remembered(store, monkeypatch):
    def interrupted(tars, _):
        yield next(iter(tars))[0], 5
        raise KeyboardInterrupt

    monkeypatch.setattr(forms, "_gzip_sizes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        take_forms(store, take_survey(store))
    largest = max(store.images()[0].layers, key=lambda diff_id: store.layer(diff_id).tar_size)
    assert recall_gzip_sizes(store, forms.GZIP_LEVEL) == {largest: 5}


def test_sizes_of_layers_that_are_gone_and_of_another_zlib_are_forgotten(store, monkeypatch):
    layer = store.images()[0].layers[0]
    gone = DiffId(Digest("sha256:" + "ab" * 32))
    remember_gzip_sizes(store, 6, {layer: 1, gone: 2})
    assert recall_gzip_sizes(store, 6) == {layer: 1}
    assert recall_gzip_sizes(store, 9) == {}
    monkeypatch.setattr("zlib.ZLIB_RUNTIME_VERSION", "99")
    assert recall_gzip_sizes(store, 6) == {}
    remember_gzip_sizes(store, 6, {layer: 3})
    assert recall_gzip_sizes(store, 6) == {layer: 3}


def test_a_damaged_record_of_sizes_is_none(store):
    layer = store.images()[0].layers[0]
    remember_gzip_sizes(store, 6, {layer: 1})
    path = store.root / "measured" / "gzip"
    assert path.stat().st_mode & 0o777 == 0o600
    whole = path.read_bytes()
    for cut in (whole[:-1], whole[:20], b"", whole[:12] + b"\xff" + whole[13:]):
        path.write_bytes(cut)
        assert recall_gzip_sizes(store, 6) == {}


def test_the_matrix_has_what_images_share(store):
    sharing = take_sharing(take_survey(store), ["one", "two"], 60)
    (one, common), (again, two) = sharing.shared_sizes
    assert common == again < min(one, two)
    assert common > 20 * 4500
    assert sharing.shares()[0][0] == 1


@pytest.mark.parametrize("most", [2, 3])
def test_a_large_matrix_is_folded_by_repository_and_then_by_order(tmp_path, most):
    with Store.open(tmp_path / "many", create=True) as store:
        for number in range(6):
            own = {b"f": noise(number, 6000)}
            build(store, f"app{number % 3}:{number}", BASE, own, created=number)
        survey = take_survey(store)
        names = [f"app{n % 3}:{n}" for n in range(6)]
        sharing = take_sharing(survey, names, most)
    assert len(sharing.names) == most
    assert sum(sharing.members) == 6
    if most == 3:
        assert sharing.names == ("app0 (2 images)", "app1 (2 images)", "app2 (2 images)")
    whole = take_sharing(survey, names, 1)
    assert whole.members == (6,)
    assert all(row[i] <= whole.shared_sizes[0][0] for i, row in enumerate(sharing.shared_sizes))


def test_images_of_many_names_are_folded_by_their_first_one(tmp_path):
    with Store.open(tmp_path / "many", create=True) as store:
        for number in range(4):
            build(store, f"app:{number}", BASE, {b"f": noise(number, 6000)}, created=number)
        survey = take_survey(store)
        names = ["a:1, a:new", "a:2, b:2", "c:1, c:2, c:3", "d:1"]
        assert take_sharing(survey, names, 4).names == tuple(names)
        assert take_sharing(survey, names, 3).names == ("a (2 images)", *names[2:])
        two = ("a (2 images) and 1 other", "d:1")
        assert take_sharing(survey, names, 2).names == two
        assert take_sharing(survey, names[2:] + names[:2], 2).names[0] == "c:1 and 1 other"


def test_places_hold_all_stored_contents_once(store):
    survey = take_survey(store)
    places = take_places(survey)
    stored = sum(group.data_stored for group in survey.attribution.groups)
    assert sum(place.size for place in places) == stored
    assert {place.path for place in places} == {"/usr/bin/", "/srv/a/", "/srv/b/"}
    assert [place.size for place in places] == sorted((p.size for p in places), reverse=True)
    (all_of_it,) = take_places(survey, most=1)
    assert all_of_it == type(all_of_it)("/", stored)


def test_a_sparkline_ends_with_the_last_value():
    assert sparkline([0, 1, 50, 100], 100, 10) == " ▁▅█"
    assert sparkline(range(1, 101), 100, 5)[-1] == "█"
    assert len(sparkline(range(1, 101), 100, 5)) == 5
    assert sparkline([], 5, 5) == ""


def test_scratch_directories_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    dead, alive, foreign = (tmp_path / f"{PREFIX}{n}" for n in ("dead", "alive", "foreign"))
    dead.mkdir()
    (dead / "file").write_text("x")
    (dead / "lock").write_text("")
    alive.mkdir()
    foreign.symlink_to(tmp_path)
    (tmp_path / "other").mkdir()
    with FileLock(str(alive / "lock")), scratch_directory(str(tmp_path)) as own:
        (tmp_path / own / "file").write_text("x")
        assert not dead.exists()
        assert alive.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [alive.name, foreign.name, "other"]
