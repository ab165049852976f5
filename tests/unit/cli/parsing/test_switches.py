"""Switches with a value, as scripts for docker write them."""

import pytest
import typer

from layerstore.cli import fast
from layerstore.cli.app import build_app
from layerstore.cli.main import dispatch
from layerstore.cli.parsing.switches import without_values
from layerstore.errors import InputError


@pytest.fixture(scope="module")
def command():
    return typer.main.get_command(build_app())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("build --no-cache=true .", "build --no-cache ."),
        ("build --no-cache=1 --rm=True -q=t .", "build --no-cache --rm -q ."),
        ("build --no-cache=false --quiet=0 .", "build ."),
        ("build --no-cache --no-cache=false .", "build ."),
        ("build -q --quiet=F .", "build ."),
        ("build --no-cache=false --no-cache .", "build --no-cache ."),
        (
            "build --build-arg A=true --label=b=false .",
            "build --build-arg A=true --label=b=false .",
        ),
        ("build --no-cache=false -- --quiet=true", "build -- --quiet=true"),
        ("push --tls-verify=false a", "push --no-tls-verify a"),
        ("push --tls-verify=true a", "push --tls-verify a"),
        ("unshare env --quiet=false", "unshare env --quiet=false"),
        ("build --unknown=true .", "build --unknown=true ."),
        ("nonsense --quiet=true", "nonsense --quiet=true"),
    ],
)
def test_as_click_wants_them(command, line, expected):
    assert without_values(command, line.split()) == expected.split()


@pytest.mark.parametrize("value", ["maybe", "", "yes", "2"])
def test_a_switch_is_true_or_false(command, value):
    with pytest.raises(InputError, match="--no-cache is true or false"):
        without_values(command, ["build", f"--no-cache={value}", "."])


@pytest.mark.parametrize(
    ("command", "line", "expected"),
    [
        (
            "run",
            "--rm=true -d=1 --init=false a b --rm=false",
            {"rm": True, "detach": True, "init": False},
        ),
        ("run", "--rm --rm=false -e X=true a", {"rm": False, "env": ["X=true"]}),
        ("exec", "-i=t --privileged=F a true", {"interactive": True, "privileged": False}),
        ("ps", "--all=true --no-trunc=false", {"all": True, "no_trunc": False}),
        ("images", "--quiet=true web", {"quiet": True, "name": "web"}),
    ],
)
def test_switches_of_commands_that_argparse_reads(command, line, expected):
    options = vars(fast.parse(command, line.split()))
    assert {name: options[name] for name in expected} == expected


def test_those_are_true_or_false_too():
    for line in ("--rm=maybe a", "--rm= a"):
        with pytest.raises(InputError, match="--rm is true or false"):
            fast.parse("run", line.split())
    assert fast.parse("run", ["a", "--rm=maybe"]).command == ["--rm=maybe"]


def test_those_of_nouns_too(tmp_path):
    with pytest.raises(InputError, match="--force is true or false"):
        dispatch(["--store", str(tmp_path), "container", "rm", "--force=maybe", "x"])
