"""Words of docker: what they become here, and what is said of those that mean nothing here."""

from __future__ import annotations

import itertools

import pytest

from layerstore.cli.app import build_app
from layerstore.cli.main import FAST_COMMANDS, NOUNS, dispatch
from layerstore.cli.parsing.docker_words import GROUPS, INSTEAD, translated
from layerstore.errors import InputError

COMMANDS = {command.name for command in build_app().registered_commands} | set(FAST_COMMANDS)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("image ls -q", "images -q"),
        ("image -q ls", "images -q"),
        ("image exists a", "exists a"),
        ("image rm -f a b", "rmi -f a b"),
        ("image inspect a", "inspect --type image a"),
        ("image pull a", "pull a"),
        ("system df --json", "df --json"),
        ("buildx build -t a .", "build -t a ."),
        ("help", "--help"),
        ("help images", "images --help"),
        ("help image ls", "images --help"),
        ("help image", "--help"),
        ("image --help", "--help"),
    ],
)
def test_what_means_the_same(typed: str, meant: str) -> None:
    assert translated(typed.split()) == meant.split()


def test_what_is_typed_instead_is_there() -> None:
    meant = {words[0] for commands in GROUPS.values() for words in commands.values()}
    assert meant <= COMMANDS
    told = " ".join(INSTEAD.values()).replace(",", " ").replace(";", " ").split()
    after = {word for before, word in itertools.pairwise(told) if before == "layerstore"}
    assert after - {"runs"} <= COMMANDS
    assert set(NOUNS) == {*GROUPS, "help"}


def test_no_command_of_ours_is_refused() -> None:
    assert not COMMANDS & (set(INSTEAD) | set(NOUNS))


@pytest.mark.parametrize("words", sorted(INSTEAD))
def test_what_there_is_not_says_what_does_the_like(words: str, tmp_path: object) -> None:
    with pytest.raises(InputError) as refused:
        dispatch(["--store", str(tmp_path), *words.split(), "x"])
    assert refused.value.message == f"there is no 'layerstore {words}'"
    assert refused.value.hint == INSTEAD[words]


@pytest.mark.parametrize("words", ["image", "image frob", "system x", "container frob"])
def test_a_noun_lists_its_commands(words: str, tmp_path: object) -> None:
    with pytest.raises(InputError, match="command") as refused:
        dispatch(["--store", str(tmp_path), *words.split()])
    assert refused.value.hint
