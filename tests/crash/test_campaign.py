"""What the campaign itself promises of its seeds and its table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.crash.rig import campaign

if TYPE_CHECKING:
    from pathlib import Path


def test_the_quick_tier_has_one_seed_and_the_others_explore(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(campaign.SEED_VARIABLE)
    assert len({campaign.seed_of("quick") for _ in range(20)}) == 1
    assert len({campaign.seed_of("nightly") for _ in range(20)}) > 1
    assert len({campaign.seed_of("release") for _ in range(20)}) > 1


def test_a_seed_that_is_given_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(campaign.SEED_VARIABLE, "7")
    assert {campaign.seed_of(tier) for tier in campaign.TIERS} == {7}


def _stopped_part() -> None:
    with campaign.tally("F0", "stopped") as tally:
        for key in ("first", "second", "third"):
            with tally.trial(key):
                tally.fired += 1
                assert key != "second", "an image is gone"
                if key == "third":
                    raise KeyboardInterrupt


def test_a_part_that_is_stopped_tells_what_it_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(campaign, "CACHE", tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _stopped_part()
    (line,) = (tmp_path / f"{campaign.TIER}.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["planned"], row["fired"], row["bad"]) == (3, 3, 1)
    assert "an image is gone" in row["problems"][0]
