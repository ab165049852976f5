"""Records of views are a stranger's: whatever they hold is a view or an error in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from fuse_mount import mounts, records
from layerstore.cli import main
from layerstore.errors import MountError
from layerstore.store.store import Store

if TYPE_CHECKING:
    from pathlib import Path

VIEW = "aaaaaaaaaaaa"
ODD = (None, 5, 1e300, -1, 10**30, True, "x\0y", "\ud800", [1], ["sha256:x"], {"a": 1})


def record(root: Path, **changed: object) -> dict[str, object]:
    return {
        "view_id": VIEW,
        "image_id": "sha256:" + "0" * 64,
        "image": "web:1",
        "layers": ["sha256:" + "5a" * 32],
        "target": str(root / "absent"),
        "mode": "ro",
        "kind": "bind",
        "upper": None,
        "lower": "chain/instance",
        "mount_id": 5,
        "device": 1,
        "boot_id": "b",
        "namespace": 1,
        "created": 1.5,
        **changed,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "store"
    Store.open(root, create=True).close()
    return root


def write(root: Path, value: object) -> None:
    (root / "views" / f"{VIEW}.json").write_text(json.dumps(value))


def test_a_sound_record_is_listed(root: Path) -> None:
    write(root, record(root))
    [listed] = mounts.mounts(str(root))
    assert (listed.record.image, listed.state) == ("web:1", mounts.STALE)


@pytest.mark.parametrize("field", records.MountRecord._fields)
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_field_is_sound_or_named(root: Path, field: str, value: object) -> None:
    write(root, record(root, **{field: value}))
    error = None
    for line in (["mounts"], ["mounts", "--json"], ["umount", VIEW]):
        try:
            main.dispatch(["--store", str(root), *line])
        except MountError as err:
            error = err
    assert error is None or (VIEW in error.message and error.hint)


@pytest.mark.parametrize("value", [None, [], 3, {}, {"view_id": VIEW}])
def test_what_is_no_record_is_refused(root: Path, value: object) -> None:
    write(root, value)
    with pytest.raises(MountError, match="its fields are not those of a view"):
        mounts.mounts(str(root))


def test_a_record_with_more_fields_is_refused(root: Path) -> None:
    write(root, record(root, more=1))
    with pytest.raises(MountError, match="its fields"):
        mounts.mounts(str(root))
