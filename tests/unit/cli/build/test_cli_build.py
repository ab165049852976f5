"""What the build command makes of its words, and how it shows a build."""

import contextlib
import io
import json
import os

import pytest

from layerstore.build.dockerfile.errors import SpecError
from layerstore.build.dockerfile.syntax import Notice, SourceSpan
from layerstore.build.errors import StepFailedError, source_lines
from layerstore.build.ui import Reason, StepOutcome
from layerstore.cli.build.json_lines import JsonUi
from layerstore.cli.build.terminal import TerminalUi
from layerstore.cli.build.ui import PlainUi, QuietUi, StepLog, clean_line
from layerstore.cli.build.values import parse_secret
from layerstore.cli.parsing.changes import apply_changes
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
        "------",
        " > [3/3] RUN y:",
        "why",
        "------",
    ]


def test_plain_progress_of_steps_side_by_side():
    stream = io.StringIO()
    ui = PlainUi(stream)
    ui.explained(1, "RUN a", [Reason("file", "x", "x changed: its content")])
    ui.started(1, "RUN a \\\n  b")
    ui.started(2, "RUN c")
    ui.output(1, b"half")
    ui.output(2, b"two\n")
    ui.output(1, b" and half\n")
    ui.finished(2, "RUN c", StepOutcome(cached=False))
    ui.finished(1, "RUN a", StepOutcome(cached=False))
    assert stream.getvalue().splitlines() == [
        "#1 because x changed: its content",
        "#1 RUN a \\ b",
        "",
        "#2 RUN c",
        "#2 0.0 two",
        "",
        "#1 0.0 half and half",
        "",
        "#2 DONE 0.0s",
        "#1 DONE 0.0s",
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
    assert lines == ["------", " > two:", *(f"{number}" for number in range(30, 50)), "------"]


class Screen:
    """What a terminal shows of the few codes that the progress is made of."""

    def __init__(self, text: str) -> None:
        self.lines: list[str] = []
        for part in text.replace("\x1b[?7l", "").replace("\x1b[?7h", "").split("\n"):
            line = part
            while line.startswith("\x1b["):
                count = line[2 : line.index("A")]
                assert line.startswith(f"\x1b[{count}A\r\x1b[J")
                del self.lines[len(self.lines) - int(count) :]
                line = line.removeprefix(f"\x1b[{count}A\r\x1b[J")
            self.lines.append(line)
        assert self.lines.pop() == ""


@pytest.fixture
def plain_words(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.usefixtures("plain_words")
def test_terminal_shows_running_steps_and_keeps_finished_ones():
    stream = io.StringIO()
    with TerminalUi(stream, os.terminal_size((60, 24))) as ui:
        ui.planned(3)
        ui.finished(1, "[1/3] COPY a b", StepOutcome(cached=True))
        assert stream.getvalue() == "✔ [1/3] COPY a b  CACHED\n"
        ui.started(2, "[2/3] RUN a")
        ui.output(2, b"hello\n[bold]not markup\n")
        head, step, *tail = ui.picture()
        assert head.startswith("building ")
        assert head.endswith(" (1/3)")
        assert step.startswith("▸ 0.")
        assert step.endswith(" [2/3] RUN a")
        assert tail == ["    hello", "    [bold]not markup"]
        ui.finished(2, "[2/3] RUN a", StepOutcome(cached=False, seconds=2))
        ui.explained(3, "[3/3] RUN b", [Reason("env", "A", "the variable A changed")])
        ui.started(3, "[3/3] RUN b")
        ui.output(3, b"[red]broken\x1b")
        ui.failed(3, "[3/3] RUN b")
        assert ui.picture() == []
        ui.warning(Notice("odd", SourceSpan("Dockerfile", 1, 2, 1)))
        ui.started(4, "never ends")
    assert Screen(stream.getvalue()).lines == [
        "✔ [1/3] COPY a b  CACHED",
        "✔ [2/3] RUN a  2.0s",
        "? [3/3] RUN b",
        "    because the variable A changed",
        "✘ [3/3] RUN b",
        r"    [red]broken\x1b",
        "! Dockerfile:1:2: odd",
    ]


@pytest.mark.usefixtures("plain_words")
@pytest.mark.parametrize(("height", "lines"), [(24, 21), (10, 9), (8, 5), (4, 3), (1, 1)])
def test_terminal_never_draws_more_than_it_shows(height, lines):
    with TerminalUi(io.StringIO(), os.terminal_size((10, height))) as ui:
        for number in range(4):
            ui.started(number, "x" * 50)
            ui.output(number, b"line\n" * 50)
        assert len(ui.picture()) == lines


def test_colours_unless_they_are_not_wanted(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = io.StringIO()
    with TerminalUi(stream, os.terminal_size((60, 24))) as ui:
        ui.finished(1, "a", StepOutcome(cached=True))
    assert stream.getvalue() == "\x1b[32m✔\x1b[0m a  \x1b[2mCACHED\x1b[0m\n"


def test_progress_for_programs():
    stream = io.StringIO()
    span = SourceSpan("Dockerfile", 3, 1, 3)
    failure = StepFailedError("make", 2, "tail", span, "RUN make")
    with contextlib.suppress(StepFailedError), JsonUi(stream).telling_errors() as ui:
        ui.planned(2)
        ui.warning(Notice("odd", span))
        ui.finished(1, "COPY", StepOutcome(cached=True))
        ui.explained(2, "RUN make", [Reason("file", "a", "a is new")])
        ui.started(2, "RUN make")
        ui.output(2, b"one\n\x1b[1mtw")
        ui.output(2, b"o")
        ui.message("hm")
        ui.failed(2, "RUN make")
        raise failure
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all(isinstance(line.pop("time"), float) for line in lines)
    assert lines == [
        {"event": "planned", "steps": 2},
        {"event": "warning", "message": "odd", "file": "Dockerfile", "line": 3, "column": 1},
        {
            "event": "finished", "step": 1, "label": "COPY", "cached": True, "seconds": 0.0,
            "new_bytes": 0, "reused_bytes": 0,
        },
        {
            "event": "explained", "step": 2, "label": "RUN make",
            "reasons": [{"kind": "file", "name": "a", "text": "a is new"}],
        },
        {"event": "started", "step": 2, "label": "RUN make"},
        {"event": "output", "step": 2, "line": "one"},
        {"event": "message", "message": "hm"},
        {"event": "output", "step": 2, "line": "two"},
        {"event": "failed", "step": 2, "label": "RUN make"},
        {
            "event": "error", "message": failure.message, "hint": None, "exit_code": 14,
            "file": "Dockerfile", "line": 3, "column": 1, "status": 2,
        },
    ]  # fmt: skip


def test_lines_around_a_failed_instruction():
    text = "".join(f"line {number}\n" for number in range(1, 40))
    assert source_lines(text, SourceSpan("F", 2, 1, 3)).splitlines() == [
        "F:2",
        "--------------------",
        "   1 |     line 1",
        "   2 | >>> line 2",
        "   3 | >>> line 3",
        "   4 |     line 4",
        "   5 |     line 5",
        "--------------------",
    ]
    long = source_lines(text, SourceSpan("F", 20, 1, 38)).splitlines()
    assert long[2] == "  18 |     line 18"
    assert long[-3:] == ["  31 | >>> line 31", "     | >>> ... to line 38", "-" * 20]


def test_a_terminal_shows_how_much_of_a_file_there_is(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    with TerminalUi(io.StringIO(), os.terminal_size((80, 24))) as ui:
        ui.started(1, "ADD http://x/y /")
        ui.fetched(1, 1_500_000, None)
        assert ui.picture()[1].endswith("ADD http://x/y /  1.5MB")
        ui.fetched(1, 2_500_000, 5_000_000)
        assert ui.picture()[1].endswith("ADD http://x/y /  2.5MB of 5MB")


def test_programs_hear_of_bytes_now_and_then_and_at_the_end():
    stream = io.StringIO()
    ui = JsonUi(stream)
    for done in range(1, 101):
        ui.fetched(1, done, 100)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (events[0]["event"], events[0]["step"], events[0]["bytes"]) == ("fetched", 1, 1)
    assert (events[-1]["bytes"], events[-1]["total"]) == (100, 100)
    assert len(events) < 100


def test_logs_say_nothing_of_bytes():
    stream = io.StringIO()
    PlainUi(stream).fetched(1, 1, 2)
    assert stream.getvalue() == ""
