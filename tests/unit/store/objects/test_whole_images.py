"""Images that are known to be whole: nothing of them is asked for until somebody takes it away."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from layerstore.digest import ObjectId
from layerstore.linux.files import directory
from layerstore.store.objects import whole_images
from layerstore.store.objects.tier import missing_objects
from layerstore.store.objects.whole_images import WholeImages, forget
from layerstore.store.paths import StorePaths

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

BASE, APP, OTHER = (bytes([number]) * 32 for number in (1, 2, 3))
OBJECTS = frozenset(ObjectId(bytes([first]) * 31 + b"x") for first in (0x00, 0x10, 0xAB, 0xFF))
ADDED = frozenset(ObjectId(bytes([first]) * 31 + b"y") for first in (0x10, 0x77))


@pytest.fixture
def paths(tmp_path: Path) -> StorePaths:
    paths = StorePaths(str(tmp_path))
    os.mkdir(paths.objects)
    put(paths, OBJECTS)
    return paths


def put(paths: StorePaths, names: Iterable[ObjectId]) -> None:
    for name in names:
        os.makedirs(os.path.dirname(paths.object(name)), exist_ok=True)
        with open(paths.object(name), "wb"):
            pass


def add(paths: StorePaths, known: WholeImages, names: Iterable[ObjectId]) -> None:
    """Add objects as who unpacks does."""
    with directory(paths.objects) as tier:
        for name in names:
            is_known = known.begin_adding(name[0], tier)
            put(paths, [name])
            if is_known:
                known.end_adding(name[0], tier)


def asked(paths: StorePaths, image: bytes = BASE) -> set[ObjectId]:
    """Return which of the base's objects would be asked for now."""
    return set(WholeImages(paths).unsure(image, OBJECTS))


def remember(paths: StorePaths, *images: bytes) -> None:
    known = WholeImages(paths)
    for image in images:
        assert not missing_objects(paths, known.unsure(image, OBJECTS))
    known.remember(*images)


def test_nothing_is_asked_for_that_was_found(paths: StorePaths) -> None:
    assert asked(paths) == OBJECTS
    remember(paths, BASE)
    assert asked(paths) == set()
    assert asked(paths, APP) == OBJECTS, "of another image nothing is known"
    remember(paths, APP)
    assert asked(paths) == asked(paths, APP) == set()


def test_what_lost_something_is_asked_for_again(paths: StorePaths) -> None:
    remember(paths, BASE, APP)
    gone = min(OBJECTS)
    os.unlink(paths.object(gone))
    for _ in range(2):  # looking makes nothing known
        assert asked(paths) == {gone}
    put(paths, [gone])
    assert asked(paths) == {gone}, "it is another file"
    remember(paths, BASE)
    assert asked(paths) == set()
    assert asked(paths, APP) == OBJECTS, "nobody has looked for what this one has there"


def test_a_directory_that_went_or_became_a_link_is_asked_for(
    paths: StorePaths, tmp_path: Path
) -> None:
    remember(paths, BASE)
    first, last = min(OBJECTS), max(OBJECTS)
    shutil.rmtree(os.path.dirname(paths.object(first)))
    outside = tmp_path / "outside"
    os.rename(os.path.dirname(paths.object(last)), outside)
    os.symlink(outside, os.path.dirname(paths.object(last)))
    for _ in range(2):
        known = WholeImages(paths)
        assert missing_objects(paths, known.unsure(BASE, OBJECTS)) == {first, last}
        with directory(paths.objects) as tier, pytest.raises(FileExistsError):
            known.begin_adding(last[0], tier)


def test_who_adds_keeps_what_is_known(paths: StorePaths) -> None:
    remember(paths, BASE)
    known = WholeImages(paths)
    add(paths, known, ADDED)
    known.remember(APP)
    assert asked(paths) == set()
    assert not WholeImages(paths).unsure(APP, OBJECTS | ADDED)
    known = WholeImages(paths)
    add(paths, known, [ObjectId(bytes([0xAB]) * 31 + b"z")])
    known.remember()  # who made no image keeps what was known, too
    assert asked(paths) == asked(paths, APP) == set()


def test_what_somebody_takes_while_others_add_is_missed(paths: StorePaths) -> None:
    remember(paths, BASE)
    gone = next(name for name in OBJECTS if name[0] == 0x10)
    known = WholeImages(paths)
    assert not known.unsure(BASE, OBJECTS)
    os.unlink(paths.object(gone))
    add(paths, known, ADDED)
    known.remember(APP, BASE)
    assert asked(paths) == {gone}


def test_who_adds_without_saying_so_has_it_asked_for(paths: StorePaths) -> None:
    remember(paths, BASE)
    put(paths, ADDED)
    assert {name[0] for name in asked(paths)} == {0x10}
    assert missing_objects(paths, asked(paths)) == set()


def test_what_two_note_at_once_is_true_of_both(paths: StorePaths) -> None:
    remember(paths, BASE)
    put(paths, ADDED)
    one, other = WholeImages(paths), WholeImages(paths)
    for known, image in ((one, APP), (other, OTHER)):
        assert not missing_objects(paths, known.unsure(image, OBJECTS))
        known.remember(image)
    gone = next(name for name in OBJECTS if name[0] == 0x10)
    os.unlink(paths.object(gone))
    for image in (BASE, APP, OTHER):
        assert gone in asked(paths, image)


def test_it_is_believed_until_the_host_starts_anew(
    paths: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(paths, BASE)
    with monkeypatch.context() as patched:
        patched.setattr(whole_images, "boot_id", lambda: "another")
        assert asked(paths) == OBJECTS
    os.unlink(paths.whole_images)
    monkeypatch.setattr(whole_images, "boot_id", lambda: "")
    remember(paths, BASE)
    assert not os.path.exists(paths.whole_images)


def test_another_tier_with_the_same_times_is_not_meant(paths: StorePaths, tmp_path: Path) -> None:
    remember(paths, BASE)
    copy = tmp_path / "copy"
    shutil.copytree(paths.objects, copy / "objects")
    assert asked(StorePaths(str(copy))) == OBJECTS


def test_a_damaged_file_says_nothing(paths: StorePaths) -> None:
    remember(paths, BASE)
    with open(paths.whole_images, "rb") as file:
        good = file.read()
    known = WholeImages(paths)
    for place in range(0, len(good), 7):
        for bad in (good[:place], good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]):
            with open(paths.whole_images, "wb") as file:
                file.write(bad)
            assert known._read()[1] == []
    with open(paths.whole_images, "wb") as file:
        file.write(good)
    assert known._read()[1] == [BASE]


def test_what_cannot_be_marked_is_asked_for_each_time(
    paths: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    remember(paths, BASE)
    assert asked(paths) == OBJECTS


def test_the_images_used_longest_ago_are_forgotten(
    paths: StorePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_images, "_IMAGES_MAX", 2)
    for image in (BASE, APP, OTHER):
        remember(paths, image)
    assert asked(paths) == OBJECTS
    assert asked(paths, APP) == asked(paths, OTHER) == set()


def test_it_is_removed_with_what_killed_writers_left(paths: StorePaths) -> None:
    remember(paths, BASE)
    with open(f"{paths.whole_images}.123.tmp", "wb"):
        pass
    before = sorted(os.listdir(paths.objects))
    forget(paths)
    left = sorted(os.listdir(paths.objects))
    assert left == [name for name in before if not name.startswith("whole")]
    assert not missing_objects(paths, OBJECTS)
