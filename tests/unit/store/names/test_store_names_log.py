from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerstore.store.names import names_log
from layerstore.store.store import Store
from tests.support.store import add_image

if TYPE_CHECKING:
    from pathlib import Path

RECORDS = [("tag", "a:1", "sha256:x"), ("untag", "a:1"), ("reset",), ("tag", "b:1", "sha256:y")]


def test_records_round_trip(tmp_path: Path) -> None:
    path = str(tmp_path / "names.log")
    assert names_log.stamp(path) == (0, "")
    size = 0
    for record in RECORDS:
        size = names_log.append(path, [record])
    data = (tmp_path / "names.log").read_bytes()
    assert names_log.stamp(path) == (size, "") == (len(data), "")
    assert names_log.decode_log(data) == names_log.LogContent(RECORDS, 0)


def test_a_torn_tail_is_skipped_and_the_next_record_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "names.log"
    line = names_log.encode_record(RECORDS[0])
    for cut in range(1, len(line)):
        path.write_bytes(line + line[:cut])
        names_log.append(str(path), [RECORDS[1]])
        content = names_log.decode_log(path.read_bytes())
        # Cut just before its newline the record is whole.
        whole = cut == len(line) - 1
        assert content.records == [RECORDS[0]] + [RECORDS[0]] * whole + [RECORDS[1]]
        assert content.unreadable == (not whole)


@given(st.integers(0, 400), st.integers(0, 7))
def test_a_flipped_bit_costs_one_line_at_most(position: int, bit: int) -> None:
    data = bytearray(b"".join(map(names_log.encode_record, RECORDS)))
    data[position % len(data)] ^= 1 << bit
    content = names_log.decode_log(bytes(data))
    assert set(content.records) <= set(RECORDS)
    assert len(content.records) >= len(RECORDS) - 2
    assert content.unreadable >= 1


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[]",
        b"{}",
        b"1",
        b'["tag"]',
        b'["tag","a",1]',
        b'["what"]',
        b'["reset","a"]',
        b"[",
    ],
)
def test_lines_that_mean_nothing_are_unreadable(payload: bytes) -> None:
    line = names_log._checksum(payload) + b" " + payload
    assert names_log.decode_record(line) is None


def test_replay_ignores_names_of_unknown_images() -> None:
    records = [("tag", "a:1", "x"), ("tag", "a:1", "lost"), ("tag", "b:1", "x"), ("untag", "b:1")]
    assert names_log.replay(records, {"x"}) == {"a:1": "x"}
    assert names_log.replay(names_log.snapshot({"c:1": "x"}), {"x"}) == {"c:1": "x"}


def test_a_log_ahead_of_the_catalog_is_set_right(tmp_path: Path) -> None:
    root = tmp_path / "store"
    image = add_image(root, "web", {b"f": b"x"})
    names_log.append(str(root / "names.log"), [("untag", "web:latest")])
    with Store.open(root) as store:
        store.tag("other", image.image_id)
        expected = {"web:latest": image.image_id, "other:latest": image.image_id}
        assert store.tags() == expected
        store.rebuild_catalog()
        assert store.tags() == expected
