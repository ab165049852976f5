"""Commands that are still to come: what they need stays, and is made ready before."""

from __future__ import annotations

from layerstore.build.graph import BaseOp, CopyOp, RunOp, Vertex
from layerstore.build.schedule import Schedule
from layerstore.build.upcoming import Upcoming
from layerstore.digest import DiffId, sha256_digest

BASE = Vertex(BaseOp(()), (), None, "base")


def layers(*names: str) -> tuple[DiffId, ...]:
    return tuple(DiffId(sha256_digest(name.encode())) for name in names)


def run(*inputs: Vertex) -> Vertex:
    return Vertex(RunOp(("true",), (), "/", "", True, ()), inputs, None, "run")


def copy(*inputs: Vertex) -> Vertex:
    return Vertex(CopyOp(("a",), (), "/", "", "", False, False, False, ()), inputs, None, "copy")


def test_what_a_command_has_written_is_needed_until_those_over_it_have_ended() -> None:
    first = run(BASE)
    above, mounting = run(copy(first)), run(BASE, first)
    target = copy(above, mounting)
    schedule = Schedule(target)
    upcoming = Upcoming(schedule.commands_over())
    assert upcoming.comes_after(first)
    assert not upcoming.comes_after(above)
    upcoming.ended(schedule.number(above))
    assert upcoming.is_needed(first)
    upcoming.solved(schedule.number(mounting), mounting, layers("a"))
    assert not upcoming.is_needed(first)
    assert not upcoming.is_needed(above)


def test_chains_of_commands_to_come_are_told_once_and_the_longest_only() -> None:
    lower = copy(BASE)
    upper = copy(lower)
    waited_for = run(BASE)
    last = run(copy(upper, waited_for))
    schedule = Schedule(last)
    upcoming = Upcoming(schedule.commands_over())
    for vertex, chain in ((lower, layers("a")), (upper, layers("a", "b"))):
        upcoming.solved(schedule.number(vertex), vertex, chain)
    assert upcoming.take_chains(schedule.number(waited_for)) == [layers("a", "b")]
    assert upcoming.take_chains(schedule.number(waited_for)) == []


def test_chains_for_commands_that_run_or_ended_are_not_told() -> None:
    lower, other = copy(BASE), copy(BASE)
    running, ended = run(lower), run(other)
    schedule = Schedule(copy(running, ended))
    upcoming = Upcoming(schedule.commands_over())
    upcoming.solved(schedule.number(lower), lower, layers("a"))
    upcoming.solved(schedule.number(other), other, layers("b"))
    upcoming.ended(schedule.number(ended))
    assert upcoming.take_chains(schedule.number(running)) == []


def test_the_last_command_is_the_one_that_alone_has_not_ended() -> None:
    first = run(BASE)
    second, third = run(copy(first)), run(first)
    schedule = Schedule(copy(second, third))
    upcoming = Upcoming(schedule.commands_over())
    numbers = [schedule.number(each) for each in (first, second, third)]
    upcoming.ended(numbers[0])
    assert not any(upcoming.is_last(number) for number in numbers[1:])
    upcoming.ended(numbers[2])
    assert upcoming.is_last(numbers[1])
    assert [upcoming.has_ended(number) for number in numbers] == [True, False, True]


def test_it_is_over_when_the_last_command_has_ended() -> None:
    first = run(BASE)
    second = run(first)
    schedule = Schedule(copy(second))
    upcoming = Upcoming(schedule.commands_over())
    upcoming.solved(schedule.number(first), first, layers("a"))
    assert not upcoming.is_over
    upcoming.ended(schedule.number(second))
    assert upcoming.is_over
