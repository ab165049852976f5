"""What the campaign itself promises of its seeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.crash.rig import campaign

if TYPE_CHECKING:
    import pytest


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
