"""Words that are no command line end with docker's status."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from layerstore.cli import fast
from layerstore.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("command", ["run", "create", "exec"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nosuch", "image"], "unrecognized arguments: --nosuch\n"),
        (["--envv", "a=b", "image"], "unrecognized arguments: --envv. Did you mean '--env'"),
        (["--envv=a", "image"], "unrecognized arguments: --envv=a. Did you mean '--env'"),
        ([], "the following arguments are required"),
        (["-e"], "argument -e/--env: expected one argument"),
    ],
)
def test_it_is_125(
    command: str, words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fast.run(command, words, str(tmp_path)) == 125
    assert capsys.readouterr().err.startswith(f"layerstore: error: {said}")


def test_what_only_the_command_itself_finds_wrong_is_so_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fast.run("exec", ["container"], str(tmp_path)) == 125
    assert capsys.readouterr().err.startswith("layerstore: error: no command\n")
    assert fast.run("create", ["-p", "80:80", "image"], str(tmp_path)) == 125
    assert "create has no --publish" in capsys.readouterr().err


def test_of_other_commands_it_is_as_everywhere(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        fast.run("ps", ["--nosuch"], str(tmp_path))
