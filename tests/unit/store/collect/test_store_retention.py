"""Keep rules and what ages are measured from: pure decisions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from layerstore.store.collect.retention import KeepRules, NamedUse, unkept_names, unkept_steps
from layerstore.store.names.usage import EARLIEST_S, SILENCE_S, age_reference

DAY = 86400.0
NOW = EARLIEST_S + 2500 * DAY
Y2099 = 4070908800.0


def named(name: str, days_ago: float | None, *, held: bool = False) -> NamedUse:
    used = None if days_ago is None else NOW - days_ago * DAY
    return NamedUse(name, f"sha256:{name}", used, held)


def removed(rules: KeepRules, names: list[NamedUse], now: float = NOW) -> list[str]:
    uses = [n.used for n in names if n.used is not None]
    reference = age_reference(now, uses, trust=rules.trust_clock)
    return [n.name for n in unkept_names(rules, names, reference)]


SOME = [
    named("app:1", 40),
    named("app:2", 30),
    named("app:3", 20),
    named("app:v9", 50),
    named("db:1", 45),
    named("db:2", 0),
]


def test_without_rules_nothing_goes() -> None:
    assert removed(KeepRules(), SOME) == []
    assert removed(KeepRules(max_size=0, keep_cache_within_s=0), SOME) == []
    assert removed(KeepRules(keep_tags=("x",)), SOME) == []


def test_the_last_of_each_repository_stay() -> None:
    assert removed(KeepRules(keep_last=1), SOME) == ["app:2", "app:1", "db:1", "app:v9"]
    assert removed(KeepRules(keep_last=3), SOME) == ["app:v9"]
    assert removed(KeepRules(keep_last=9), SOME) == []


def test_rules_add_up_to_what_any_of_them_keeps() -> None:
    assert removed(KeepRules(keep_within_s=25 * DAY), SOME) == ["app:2", "app:1", "db:1", "app:v9"]
    both = KeepRules(keep_within_s=25 * DAY, keep_last=2)
    assert removed(both, SOME) == ["app:1", "app:v9"]
    assert removed(both._replace(keep_tags=("v*",)), SOME) == ["app:1"]
    assert removed(both._replace(keep_tags=("app:*",)), SOME) == []


def test_what_is_held_or_of_unknown_age_stays() -> None:
    names = [named("a:1", 99, held=True), named("a:2", None), named("a:3", 98), named("b:1", 90)]
    assert removed(KeepRules(keep_within_s=7 * DAY), [*names, named("c:1", 89)]) == ["a:3"]


def test_steps_go_by_age() -> None:
    uses = {"old": NOW - 40 * DAY, "new": NOW, "mid": NOW - 20 * DAY}
    reference = age_reference(NOW, uses.values())
    assert unkept_steps(KeepRules(), uses, reference) == []
    assert unkept_steps(KeepRules(keep_cache_within_s=30 * DAY), uses, reference) == ["old"]


def test_a_clock_that_is_ahead_removes_nothing() -> None:
    rules = KeepRules(keep_within_s=60 * DAY)
    assert removed(rules, SOME) == removed(rules, SOME, now=Y2099) == []


def test_a_clock_at_the_epoch_removes_nothing_and_says_so() -> None:
    rules = KeepRules(keep_within_s=DAY)
    assert removed(rules, SOME, now=0.0) == []
    assert age_reference(0.0, [NOW]).doubt


def test_a_use_from_a_clock_far_ahead_does_not_age_the_others() -> None:
    rules = KeepRules(keep_within_s=60 * DAY)
    jumped = NamedUse("x:1", "sha256:x", Y2099, held=False)
    assert removed(rules, [*SOME, jumped]) == [], "the clock is right again"
    assert removed(rules, [*SOME, jumped], now=Y2099 + DAY) == [], "it is still ahead"
    assert age_reference(Y2099 + DAY, [n.used for n in [*SOME, jumped]]).doubt
    forced = rules._replace(trust_clock=True)
    assert len(removed(forced, [*SOME, jumped], now=Y2099 + DAY)) == len(SOME)


def test_a_use_from_a_clock_that_was_not_set_counts_as_just_now() -> None:
    old = NamedUse("x:1", "sha256:x", 12.0, held=False)
    assert removed(KeepRules(keep_within_s=50 * DAY), [*SOME, old]) == []


ages = st.lists(st.floats(0, 89, allow_nan=False), min_size=1, max_size=12)


@given(ages, st.floats(0.5, 80), st.floats(-2, 2))
def test_a_clock_wrong_by_two_days_moves_the_border_by_two_days_at_most(
    days: list[float], within: float, wrong: float
) -> None:
    """Something is used while the clock is wrong: the worst case."""
    rules = KeepRules(keep_within_s=within * DAY)
    names = [named(f"a{n}:1", age) for n, age in enumerate(days)]
    right = [*names, named("z:1", 0)]
    skewed = [*names, NamedUse("z:1", "sha256:z", NOW + wrong * DAY, held=False)]
    got = set(removed(rules, skewed, now=NOW + wrong * DAY))
    # A millisecond less: times since 1970 in floating point are that exact.
    shorter = rules._replace(keep_within_s=max(within - 2, 0) * DAY - 0.001)
    assert got <= set(removed(shorter, right))


@given(ages, st.floats(0.5, 80), st.sampled_from([0.0, 1e9, Y2099, NOW + 400 * DAY]))
def test_no_wrong_clock_at_collection_removes_what_the_right_one_keeps(
    days: list[float], within: float, now: float
) -> None:
    rules = KeepRules(keep_within_s=within * DAY)
    names = [named(f"a{n}:1", age) for n, age in enumerate(days)]
    assert set(removed(rules, names, now=now)) <= set(removed(rules, [*names, named("z:1", 0)]))


@given(ages, st.floats(1, 80))
def test_a_jump_beyond_the_silence_is_seen(days: list[float], within: float) -> None:
    rules = KeepRules(keep_within_s=within * DAY)
    names = [named(f"a{n}:1", age) for n, age in enumerate(days)]
    jumped = NamedUse("z:1", "sha256:z", NOW + SILENCE_S + DAY, held=False)
    later = NOW + SILENCE_S + 2 * DAY
    before = set(removed(rules, names))
    assert set(removed(rules, [*names, jumped], now=later)) <= before
