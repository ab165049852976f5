"""Go's templates: what scripts for docker ask, as docker answers it."""

from __future__ import annotations

from typing import Any

import pytest

from layerstore.cli.parsing.templates import Template, print_rows
from layerstore.errors import InputError

VALUE: dict[str, Any] = {
    "Id": "sha256:1",
    "Config": {"Cmd": ["sh", "-c"], "Labels": {"a": "b", "c.d": "e"}, "Tty": False, "User": ""},
    "Mounts": [],
    "Nothing": None,
}


@pytest.mark.parametrize(
    ("template", "filled"),
    [
        ("plain", "plain"),
        ("{{.Id}} {{ .Config.Cmd }}", "sha256:1 [sh -c]"),
        ("{{json .Config.Cmd}}", '["sh","-c"]'),
        ("{{.Config.Labels | json}}", '{"a":"b","c.d":"e"}'),
        ("{{.Config.Labels}} {{.Config.Tty}} {{.Nothing}}", "map[a:b c.d:e] false <no value>"),
        ("{{range .Config.Cmd}}<{{.}}>{{end}}", "<sh><-c>"),
        ("{{range $i, $w := .Config.Cmd}}{{$i}}{{$w}} {{end}}", "0sh 1-c "),
        ("{{range $k, $v := .Config.Labels}}{{$k}}={{$v}};{{end}}", "a=b;c.d=e;"),
        ("{{range .Mounts}}x{{else}}none{{end}}", "none"),
        ('{{index .Config.Labels "c.d"}}{{index .Config.Labels "x"}}', "e"),
        ("{{index .Config.Cmd 1}}", "-c"),
        ("{{len .Config.Cmd}}", "2"),
        ('{{join .Config.Cmd ","}}', "sh,-c"),
        (r'{{join .Config.Cmd "\n"}}', "sh\n-c"),
        (r"{{.Id}}\t{{.Id}}", "sha256:1\tsha256:1"),
        ("{{if .State.Health}}a{{else if .Config.Cmd}}b{{else}}c{{end}}", "b"),
        ('{{if eq .Id "sha256:1" "x"}}y{{end}}', "y"),
        ("{{if and .Id (not .Config.Tty)}}y{{end}}", "y"),
        ("{{with .Config}}{{.Tty}} {{$.Id}}{{end}}", "false sha256:1"),
        ("{{$x := .Id}}{{$x}}", "sha256:1"),
        ("a {{- .Id -}} b", "asha256:1b"),
        ("{{/* nothing */}}a", "a"),
        ("{{or .Config.User .Id}}", "sha256:1"),
        ("{{upper (index .Config.Cmd 0)}}", "SH"),
        ("{{if and (ge (len .Config.Cmd) 2) (le (len .Config.Cmd) 2)}}two{{end}}", "two"),
        ('{{printf "%-10s|%5s|" .Id "x"}}', "sha256:1  |    x|"),
        ('{{printf "%s %v\n" .Config.Cmd .Nothing}}', "[sh -c] <nil>\n"),
        (r'{{printf "%s\t%q" .Id .Id}}', 'sha256:1\t"sha256:1"'),
        ('{{printf "%.4s" .Id}}{{.Id | printf "<%s>"}}', "sha2<sha256:1>"),
        ('{{printf "%d" (len .Config.Cmd) | printf "%3s"}}', "  2"),
        ("{{slice .Id 7}}{{slice .Id 0 3}} {{slice .Config.Cmd 1}}", "1sha [-c]"),
        ("{{pad .Id 1 2}}|{{pad .Config.User 1 2}}|", " sha256:1  ||"),
    ],
)
def test_what_is_filled_in(template: str, filled: str) -> None:
    assert Template(template).fill(VALUE) == filled


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{.Nope}}", "there is no 'Nope'"),
        ("{{.Config.Cm}}", "there is no 'Cm'"),
        ("{{.Id.x}}", "there is no 'x'"),
        ("{{nope}}", "'nope' is not known"),
        ("{{$x}}", "the variable $x is not known"),
        ("{{", "not closed"),
        ("{{end}}", "ends nothing"),
        ("{{else}}", "ends nothing"),
        ("{{if .Id}}", "has no {{end}}"),
        ("{{range .Id}}{{end}}", "no list"),
        ("{{}}", "asks for nothing"),
        ("{{|}}", "nothing at one end"),
        ("{{.Id |}}", "nothing at one end"),
        ("{{if}}{{end}}", "nothing at one end"),
        ("{{(.Id}}", "parenthesis"),
        ('{{"a}}', "cannot be read"),
        (r'{{"\x"}}', "not a text in quotes"),
        ("{{len .Config.Tty}}", "len cannot take false"),
        ("{{index .Config.Cmd 9}}", "index cannot take"),
        ("{{json}}", "json cannot take nothing"),
        ('{{printf "%d" .Id}}', "printf: %d wants a whole number, and 'sha256:1' is none"),
        ('{{printf "%s"}}', "printf: %s has no value"),
        ('{{printf "%s" 1 2}}', "fewer verbs"),
        ('{{printf "%y" 1}}', "printf: %y is not known"),
        ("{{printf 1}}", "printf cannot take 1"),
        ("{{slice .Id 2 99}}", "slice cannot take"),
        ("{{pad 1 2 3}}", "pad cannot take"),
        ("{{len}}{{.Id .Id}}", "len cannot take nothing"),
        ("{{.Id .Id}}", "no call"),
        ("{{if .Id}}" * 60, "too deeply"),
    ],
)
def test_what_is_refused(template: str, words: str) -> None:
    with pytest.raises(InputError) as refused:
        Template(template).fill(VALUE)
    assert words in refused.value.message
    assert refused.value.hint


def test_the_hint_lists_what_there_is() -> None:
    with pytest.raises(InputError) as refused:
        Template("{{.Config.Command}}").fill(VALUE)
    assert refused.value.hint == "Cmd, Labels, Tty, User"


def test_names_of_strangers_draw_nothing() -> None:
    value = {"Name": "a\x1b[2J\nb", "All": ["\x1b"]}
    assert Template('{{.Name}} {{.All}} {{join .All "\\n"}}').fill(value) == (
        r"a\x1b[2J\nb [\x1b] \x1b"
    )


def test_printf_of_what_strangers_named_draws_nothing_either() -> None:
    value = {"Name": "a\x1b[2J\nb"}
    assert Template('{{printf "%s\n%q" .Name .Name}}').fill(value) == (
        'a\\x1b[2J\\nb\n"a\\x1b[2J\\nb"'
    )


def test_a_table_has_titles_and_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[dict[str, object]] = [
        {"ID": "1", "RunningFor": "long"},
        {"ID": "222", "RunningFor": ""},
    ]
    print_rows(r"table {{.ID}}\t{{.RunningFor}}", rows, {"ID": "IMAGE ID"})
    assert capsys.readouterr().out == "IMAGE ID   RUNNING FOR\n1          long\n222\n"
    print_rows(r"table {{.ID}}", [], {})
    assert capsys.readouterr().out == "ID\n"
    print_rows('table {{printf "%03d" .N}}\t{{.ID}}', [{"N": 7, "ID": "a"}], {})
    assert capsys.readouterr().out == "  N   ID\n007   a\n"
