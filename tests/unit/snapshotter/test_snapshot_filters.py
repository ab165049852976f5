"""containerd's filter language, on fields that are given as a dict."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.snapshotter.failures import SnapshotRequestError
from layerstore.snapshotter.filters import Filter

FIELDS = {
    ("name",): "default/1/one",
    ("parent",): "",
    ("kind",): "active",
    ("labels", "containerd.io/gc.root"): "yes",
    ("labels", "odd"): 'a"b, c\\d',
    ("labels", "short"): "v",
}


def matches(*filters: str) -> bool:
    return Filter(filters).matches(lambda path: FIELDS.get(tuple(path)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        "kind==active",
        "kind!=committed",
        'parent==""',
        'name=="default/1/one"',
        "name==default/1/one",
        "name~=^default/",
        "name~=/1./",
        "name~=|one$|",
        'labels."containerd.io/gc.root"',
        'labels."containerd.io/gc.root"==yes,kind==active',
        "labels.`containerd.io/gc.root`==`yes`",
        r'labels.odd=="a\"b, c\\d"',
        r'labels.odd=="\x61\u0022b, \143\U0000005cd"',
        "labels.nothing!=x",
    ],
)
def test_it_matches(text: str) -> None:
    assert matches(text)


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        "labels.nothing",
        "labels.nothing==x",
        "kind==active,name==other",
        "kind==act",
        "name~=^/1",
        'labels.nothing!=""',
    ],
)
def test_it_does_not_match(text: str) -> None:
    assert not matches(text)


def test_several_filters_are_alternatives() -> None:
    assert matches("kind==view", "name~=one")
    assert not matches("kind==view", "name~=two")


@pytest.mark.parametrize(
    "text",
    [
        "=", "==x", "name=x", "name==", "name==x,", ",", "name==x y", "1name", "name..x", "name.",
        'name=="open', r'name=="\q"', r'name=="\U00110000"', "name~=(", "na-me==x", "a" * 20_000,
    ],
)  # fmt: skip
def test_what_is_no_filter_is_refused(text: str) -> None:
    with pytest.raises(SnapshotRequestError):
        matches(text)


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    with contextlib.suppress(SnapshotRequestError):
        matches(text)


@given(st.text(st.characters(codec="utf-8", exclude_characters='"\\\n'), max_size=40))
def test_any_value_can_be_quoted(text: str) -> None:
    asked = Filter([f'labels.x=="{text}"'])
    assert asked.matches(lambda path: text if path == ("labels", "x") else None)
    assert not asked.matches(lambda _: f"{text}!")
