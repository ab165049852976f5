"""What the build command makes of its words, and how it shows a build."""

import io

import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.ui import StepOutcome
from layerstore.cli.build import parse_secret
from layerstore.cli.build_ui import PlainUi, QuietUi, StepLog, TerminalUi, clean_line
from layerstore.cli.changes import apply_changes
from layerstore.errors import InputError


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("id=s,env=TOKEN", {"TOKEN": "t"}, ("s", b"t")),
        ("type=env,id=s,src=TOKEN", {"TOKEN": "t"}, ("s", b"t")),
        ("id=TOKEN", {"TOKEN": "t"}, ("TOKEN", b"t")),
        ("id=s,env=T", {"T": "\udcff"}, ("s", b"\xff")),
    ],
)
def test_secrets_from_the_environment(text, environ, expected):
    assert parse_secret(text, environ) == expected


def test_secrets_from_files(tmp_path, monkeypatch):
    path = tmp_path / "token"
    path.write_bytes(b"\0\xff")
    assert parse_secret(f"id=s,src={path}", {}) == ("s", b"\0\xff")
    assert parse_secret(f"type=file,id=s,source={path}", {}) == ("s", b"\0\xff")
    monkeypatch.chdir(tmp_path)
    assert parse_secret("id=token", {}) == ("token", b"\0\xff")
    path.write_bytes(b"x" * (500 * 1024 + 1))
    with pytest.raises(InputError, match="more than"):
        parse_secret("id=token", {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "src=x",
        "id=",
        "id=s,frob=1",
        "id=s,type=ssh",
        "id=s,src=/nonexistent",
        "id=s,env=NO",
    ],
)
def test_secrets_refused(text):
    with pytest.raises(InputError):
        parse_secret(text, {})


def test_changes_mean_what_they_mean_in_a_dockerfile():
    config = apply_changes(
        ["WORKDIR a", "WORKDIR b", "ENV A=1", "ENV PATH=$PATH:/x", "CMD echo hi", 'SHELL ["/x"]']
    )
    assert config.working_dir == "/a/b"
    assert config.cmd == ("/bin/sh", "-c", "echo hi")
    assert config.shell == ("/x",)
    assert config.env[0].endswith(":/x")


@pytest.mark.parametrize("change", ["", "ARG A", "ADD a b", "CMD a\nCMD b", "CMD \udcff", "# no"])
def test_changes_refused(change):
    with pytest.raises(SpecError):
        apply_changes([change])


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("10%\r50%\r100%", "100%"),
        ("windows\r", "windows"),
        ("\x1b]0;title\x07x", "x"),
        ("a\tb", "a       b"),
        ("bell\x07\x1b", r"bell\x07\x1b"),
    ],
)
def test_lines_of_commands_are_harmless(line, shown):
    assert clean_line(line) == shown


def test_output_in_pieces():
    log = StepLog()
    assert log.feed("é".encode()[:1]) == []
    assert log.feed("é".encode()[1:] + b" one\ntwo") == ["é one"]
    assert log.feed(b"\nthree") == ["two"]
    assert log.finish() == ["three"]
    assert log.finish() == []


def test_plain_progress():
    stream = io.StringIO()
    ui = PlainUi(stream)
    ui.finished(1, "[1/3] COPY a b", StepOutcome(cached=True))
    ui.started(2, "[2/3] RUN \x1bx")
    ui.output(2, b"line\nrest")
    ui.finished(2, "[2/3] RUN x", StepOutcome(cached=False, seconds=1.25, new_bytes=1000))
    ui.started(3, "[3/3] RUN y")
    ui.output(3, b"why")
    ui.failed(3, "[3/3] RUN y")
    assert stream.getvalue().splitlines() == [
        "#1 [1/3] COPY a b",
        "#1 CACHED",
        r"#2 [2/3] RUN \x1bx",
        "#2 0.0 line",
        "#2 0.0 rest",
        "#2 DONE 1.2s, 1kB new, 0B shared",
        "#3 [3/3] RUN y",
        "#3 0.0 why",
        "#3 ERROR [3/3] RUN y",
    ]


def test_quiet_shows_only_what_failed():
    stream = io.StringIO()
    ui = QuietUi(stream)
    ui.started(1, "one")
    ui.output(1, b"fine\n")
    ui.finished(1, "one", StepOutcome(cached=False))
    ui.started(2, "two")
    for number in range(50):
        ui.output(2, f"{number}\n".encode())
    ui.failed(2, "two")
    lines = stream.getvalue().splitlines()
    assert lines == ["two", *(f"  {number}" for number in range(30, 50))]


def test_terminal_shows_running_steps_and_keeps_finished_ones():
    from rich.console import Console

    stream = io.StringIO()
    ui = TerminalUi(Console(file=stream, width=60))
    ui.started(1, "[1/2] RUN a")
    ui.output(1, b"hello\n[bold]not markup\n")
    picture = ui.picture().plain
    assert picture.startswith("▸ [1/2] RUN a")
    assert "hello" in picture
    assert "[bold]not markup" in picture
    ui.finished(1, "[1/2] RUN a", StepOutcome(cached=False, seconds=2))
    ui.started(2, "[2/2] RUN b")
    ui.output(2, b"[red]broken\n")
    ui.failed(2, "[2/2] RUN b")
    assert ui.picture().plain == ""
    assert stream.getvalue().splitlines() == [
        "✔ [1/2] RUN a  2.0s",
        "✘ [2/2] RUN b",
        "    [red]broken",
    ]
