"""What shells complete after ``layerstore``, in real shells."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from layerstore.cli.about.completion import script_for
from layerstore.cli.about.completion_words import commands
from layerstore.errors import InputError

BIN = Path(sys.executable).parent
NAMED = "reg.example:5000/app:2"
_PATIENCE_S = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("completion")
    (work / "tree" / "etc").mkdir(parents=True)
    (work / "tree" / "etc" / "motd").write_text("hello\n")
    store = work / "store"
    for line in (["import", str(work / "tree"), "-t", "web:1", "-t", NAMED],
                 ["create", "--name", "sleeper", "web:1", "sh"],
                 ["volume", "create", "kept"]):  # fmt: skip
        subprocess.run(
            [BIN / "layerstore", "--store", store, *line], check=True, capture_output=True
        )
    return store


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the script of each shell, under the shell's name."""
    place = tmp_path_factory.mktemp("scripts")
    for shell in ("bash", "zsh", "fish"):
        (place / shell).write_text(script_for(shell))
    return place


def environment(store: Path) -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "LAYERSTORE_ROOT": str(store)}


def in_bash(typed: str, store: Path, script: Path) -> list[str]:
    """Return what bash would offer for the line, as readline calls the function."""
    asked = (
        'source "$1"; COMP_LINE=$2 COMP_POINT=${#2}; read -ra COMP_WORDS <<<"$2"; _layerstore;'
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", asked, "bash", script, typed],
        check=True, capture_output=True, text=True, env=environment(store),
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def in_fish(typed: str, store: Path, script: Path) -> list[str]:
    done = subprocess.run(
        ["fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", script, typed],
        check=True, capture_output=True, text=True, env=environment(store),
    )  # fmt: skip
    assert done.stderr == ""
    return [line.partition("\t")[0] for line in done.stdout.splitlines()]


def in_zsh(typed: str, store: Path, script: Path) -> str:
    """Return what a terminal shows of a zsh in which the line was typed, then Tab, then Ctrl-D."""
    place = script.parent / "functions"
    place.mkdir(exist_ok=True)
    shutil.copy(script, place / "_layerstore")
    (place / ".zshrc").write_text(
        f"PS1='ready> '; fpath=({place} $fpath); autoload -U compinit; compinit -uD\n"
        "unset zle_bracketed_paste; bindkey '^D' list-choices; COLUMNS=200\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        own = {"TERM": "dumb", "ZDOTDIR": str(place)}
        os.execvpe("zsh", ["zsh"], environment(store) | own)
    try:
        _read_until(terminal, rb"ready> ")
        os.write(terminal, typed.encode() + b"\x04")
        return _read_until(terminal, rb"(?s)\n.*ready> ").decode()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.close(terminal)
        os.waitpid(pid, 0)


def _read_until(terminal: int, wanted: bytes) -> bytes:
    seen, end = b"", time.monotonic() + _PATIENCE_S
    while not re.search(wanted, seen):
        if not select.select([terminal], [], [], max(0, end - time.monotonic()))[0]:
            pytest.fail(f"zsh did not show {wanted!r} but {seen!r}")
        seen += os.read(terminal, 1 << 16)
    return seen


CASES = [
    ("bu", {"build", "bundle"}),
    ("build --progress=pl", {"plain"}),
    ("build --progress ", {"auto", "plain", "tty", "quiet", "json"}),
    ("history ", {"web:1", NAMED}),
    ("run --rm --name x w", {"web:1"}),
    ("rm ", {"web:1", NAMED, "sleeper"}),
    ("stop ", {"sleeper"}),
    ("container rm ", {"sleeper"}),
    ("volume rm ", {"kept"}),
    ("volume r", {"rm"}),
    ("generate systemd ", {"sleeper"}),
    ("login ", set()),
    ("images --di", {"--digests"}),
    ("--store /nowhere/at/all stop ", set()),
    ("--store=/nowhere/at/all stop ", set()),
]


def test_bash_offers_what_fits(store: Path, scripts: Path) -> None:
    for typed, offered in CASES:
        found = in_bash(f"layerstore {typed}", store, scripts / "bash")
        assert set(found) == offered, typed


def test_bash_ends_words_at_colons_and_equals(store: Path, scripts: Path) -> None:
    bash = scripts / "bash"
    assert in_bash("layerstore history web:", store, bash) == ["1"]
    assert in_bash("layerstore history reg.example:5000/", store, bash) == ["5000/app:2"]


def test_bash_offers_files_where_files_are_wanted(
    store: Path, scripts: Path, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile.web").touch()
    for typed in ("build -f ", "build --file=", "mount web:1 ", "run web:1 cat "):
        offered = in_bash(f"layerstore {typed}{tmp_path}/Dock", store, scripts / "bash")
        assert offered == [f"{tmp_path}/Dockerfile.web"]


def test_fish_offers_what_fits(store: Path, scripts: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("there is no fish")
    for typed, offered in CASES:
        found = in_fish(f"layerstore {typed}", store, scripts / "fish")
        plain = {word.partition("=")[2] or word for word in found}
        if typed.startswith(("volume", "generate", "container")):
            assert plain >= offered, typed  # fish does not count operands: words of all of them
        else:
            assert plain == offered, typed


def test_zsh_offers_what_fits(store: Path, scripts: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("there is no zsh")
    for typed, offered in CASES:
        if len(offered) > 1:  # one alone is written into the line, not listed
            shown = in_zsh(f"layerstore {typed}", store, scripts / "zsh")
            assert offered <= set(shown.split()), typed


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_know_every_command_and_option(shell: str, scripts: Path) -> None:
    script = (scripts / shell).read_text()
    if shutil.which(shell) is not None:
        subprocess.run([shell, "-n"], input=script, text=True, check=True)
    known = commands()
    assert len(known) > 50
    for command in known:
        assert re.search(rf"\b{re.escape(command.name)}\b", script)
        for word in (word for option in command.options for word in option.spellings):
            assert word.lstrip("-") in script
            assert word.startswith("-")


def test_another_shell_is_refused() -> None:
    with pytest.raises(InputError, match="no completion for 'tcsh'") as refused:
        script_for("tcsh")
    assert refused.value.hint == "bash, zsh, fish"
