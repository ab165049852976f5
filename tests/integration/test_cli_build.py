"""The build command as a subprocess; what needs no container runtime."""

import datetime as dt
import subprocess
import time

import pytest

from layerstore.store.store import Store
from tests.support.cli import Cli

RULE_PAGES = "https://docs.docker.com/go/dockerfile/rule/"


@pytest.fixture
def cli(tmp_path):
    return Cli(tmp_path / "store")


@pytest.fixture
def context(tmp_path):
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    (folder / "Dockerfile").write_text(
        "FROM scratch AS base\n"
        "ARG V=1\n"
        "COPY file /copied\n"
        "ENV VERSION=$V\n"
        "FROM base\n"
        'CMD ["/copied"]\n'
    )
    return folder


def test_flags_that_scripts_for_docker_pass_are_accepted(cli, context):
    plain = cli.ok("build", "-q", context).out
    flags = ("--load", "--rm", "--force-rm", "--compress")
    assert cli.ok("build", "-q", *flags, context).out == plain


def test_build_twice(cli, context, tmp_path):
    first = cli.ok(
        "build", "-t", "web:1", "-t", "web:latest", "--iidfile", tmp_path / "id", context
    )
    assert (tmp_path / "id").read_text() == first.out.strip()
    assert "#1 DONE" in first.err
    assert "web:1, web:latest: 8B of files, 0 of 1 steps from the cache" in first.err
    again = cli.ok("build", "-t", "web:1", context, "--json").json()
    assert again["id"] == first.out.strip()
    assert again["cached"] == again["steps"] == 1
    (told,) = cli.ok("inspect", "web:1").json()
    assert told["Config"]["Cmd"] == ["/copied"]
    assert "VERSION=1" in told["Config"]["Env"]
    assert [step["created_by"] for step in cli.ok("history", "web:1", "--json").json()][-1] == (
        "ARG V=1"
    )


def test_quiet_prints_the_id_alone(cli, context):
    result = cli.ok("build", "-q", context)
    assert result.out.startswith("sha256:")
    assert result.err == ""


def test_options_reach_the_build(cli, context):
    options = ["--target", "base", "--build-arg", "V=2", "--label", "a=b", "--no-cache"]
    cli.ok("build", "-t", "x:1", *options, context)
    (told,) = cli.ok("inspect", "x:1").json()
    assert "VERSION=2" in told["Config"]["Env"]
    assert told["Config"]["Labels"] == {"a": "b"}
    assert "Cmd" not in told["Config"]
    cli.ok("build", "-t", "x:2", "--target", "base", "--build-arg", "V", context, V="3")
    assert "VERSION=3" in cli.ok("inspect", "x:2").json()[0]["Config"]["Env"]


def test_dockerfile_from_stdin_or_elsewhere(cli, context, tmp_path):
    cli.ok("build", "-t", "x:1", "-f", "-", context, stdin=b"FROM scratch\nCOPY file /other\n")
    (tmp_path / "Other").write_text("FROM scratch\nCOPY file /other\n")
    result = cli.ok("build", "-t", "x:2", "-f", tmp_path / "Other", context)
    assert "CACHED" in result.err
    assert len(cli.ok("images", "--json").json()) == 1


def test_contexts_from_stdin(cli, context, tmp_path):
    packed = subprocess.run(["tar", "-C", context, "-cz", "."], capture_output=True, check=True)
    cli.ok("build", "-t", "x:1", "-", stdin=packed.stdout)
    assert "CACHED" in cli.ok("build", "-t", "x:1", "-", stdin=packed.stdout).err
    alone = cli.ok("build", "-t", "x:2", "-", stdin=b"FROM scratch\nCOPY <<a /a\nA\na\n")
    assert "x:2" in alone.err
    assert "Dockerfile:1:1" in cli.fails(2, "build", "-", stdin=b"no Dockerfile\n")


def test_two_builds_of_one_spec_are_one_image(cli, context, tmp_path):
    epoch = {"SOURCE_DATE_EPOCH": "1700000000"}
    other = Cli(tmp_path / "other")
    assert cli.ok("build", context, **epoch).out == other.ok("build", context, **epoch).out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--progress", "fancy", "."], "is no progress"),
        (["--network", "bridge", "."], "is not a network"),
        (["--label", "=x", "."], "is not a label"),
        (["--build-arg", "=x", "."], "is not a build argument"),
        (["-t", "Bad", "."], "is not an image name"),
        (["-"], "the build context on stdin is empty"),
        (["-f", "-", "-"], "stdin cannot be both"),
        (["--verify", "-"], "--verify reads the build context twice"),
        (["--check", "-"], "only a Dockerfile of this host can be checked"),
        (["/nonexistent"], "the build context /nonexistent does not exist"),
        (["ftp://example.com/x"], "the build context ftp://example.com/x does not exist"),
        (["https://example.com/x.git?branch="], "branch has no value"),
        (["-f", "/nonexistent", "."], "there is no Dockerfile"),
        (["-f", ".", "."], "is a directory, not a Dockerfile"),
        (["--target", "absent", "CONTEXT"], "absent"),
    ],
)
def test_wrong_words(cli, context, arguments, message):
    words = [str(context) if word == "CONTEXT" else word for word in arguments]
    assert message in cli.fails(2, "build", *words)


@pytest.fixture
def staged(tmp_path):
    folder = tmp_path / "staged"
    folder.mkdir()
    (folder / "a").write_text("A")
    (folder / "Dockerfile").write_text(
        "FROM scratch AS one\nCOPY a /a\nWORKDIR /w\nFROM scratch\nCOPY --from=one /a /b\n"
    )
    return folder


def test_why_an_image_is_what_it_is(cli, staged):
    assert "#1 because it was never built here" in cli.ok("build", "--explain", staged).err
    cli.ok("build", "-t", "x:1", staged)
    (staged / "a").write_text("AA")
    assert "#1 because a changed: its content" in cli.ok("build", "--explain", staged).err
    cli.ok("build", "-t", "x:2", staged)
    told = cli.ok("why", "x:2").out
    assert "a changed: its content" in told
    assert "the stage one: /a changed: its content" in told
    build = cli.ok("why", "x:2", "--json").json()
    assert [step["number"] for step in build["steps"]] == [1, 2, 3]
    assert build["names"] == ["x:2"]
    (step,) = cli.ok("why", "x:2", "one/2", "--json").json()["steps"]
    assert step["reasons"] == [{"kind": "file", "name": "a", "text": "a changed: its content"}]
    assert step["size"] == 2
    assert step["unchanged_since"] < build["finished"]
    for words in ("1", "one/2", "copy a"):
        assert "  a changed: its content" in cli.ok("why", "x:2", words).lines
    first = cli.ok("why", "x:1", "1").out
    assert "the same since the build" in first
    assert "a changed" not in first


def test_a_date_that_a_build_was_told_is_not_when_its_steps_ran(cli, staged):
    began = time.time()
    cli.ok("build", "-q", "-t", "told:1", staged, SOURCE_DATE_EPOCH="86400")
    cli.ok("build", "-q", "-t", "now:1", "--no-cache", staged)
    build = cli.ok("why", "told:1", "--json").json()
    assert {step["created"] for step in build["steps"]} == {"1970-01-02T00:00:00Z"}
    for step in build["steps"]:
        ran = dt.datetime.fromisoformat(step["ran"]).timestamp()
        assert int(began) <= ran <= time.time()
    assert "dated 1970-01-02T00:00:00Z in the image" in cli.ok("why", "told:1", "1").lines
    assert "years ago" not in cli.ok("why", "told:1").out
    assert "dated" not in cli.ok("why", "now:1", "1").out
    assert "SOURCE_DATE_EPOCH" in cli.ok("history", "told:1").err
    assert cli.ok("history", "told:1", "--json").err == ""
    assert cli.ok("history", "now:1").err == ""


def test_why_says_what_it_does_not_know(cli, staged):
    """Of a step whose row is gone there is a date, and nobody can say whose it is."""
    cli.ok("build", "-q", "-t", "told:1", staged, SOURCE_DATE_EPOCH="86400")
    with Store.open(cli.store) as store:
        store.cache_drop([record.key for record in store.cache_records()])
    (step, *_) = cli.ok("why", "told:1", "--json").json()["steps"]
    assert step["ran"] is None
    assert "dated " in cli.ok("why", "told:1").out
    assert cli.ok("why", "told:1", "1").lines[1:3] == [
        "made at an unknown time", "dated 1970-01-02T00:00:00Z in the image",
    ]  # fmt: skip


def test_why_of_what_is_not_known(cli, staged, tmp_path):
    cli.ok("build", "-t", "x:1", staged)
    assert "had 3" in cli.fails(2, "why", "x:1", "4")
    assert "2 steps begin with 'COPY'" in cli.fails(2, "why", "x:1", "COPY")
    assert "no steps begin with" in cli.fails(2, "why", "x:1", "RUN")
    (tmp_path / "tree").mkdir()
    cli.ok("import", tmp_path / "tree", "-t", "y:1")
    assert "no build of the image" in cli.fails(3, "why", "y:1")
    (folder,) = (cli.store / "builds").iterdir()
    folder.write_bytes(b"LSBUILD\1" + b"\xff" * 40)
    assert "no build of the image" in cli.fails(3, "why", "x:1")


def test_check_reports_as_docker_does_and_builds_nothing(cli, context, tmp_path):
    text = "FROM scratch AS base\nCOPY file /\n\nFROM base\nCMD run \\\n  it\n"
    (context / "Dockerfile").write_text(text)
    result = cli("build", "--check", context)
    assert result.code == 1
    assert result.lines == [
        "Check complete, 1 warning has been found!",
        "",
        f"WARNING: JSONArgsRecommended - {RULE_PAGES}json-args-recommended/",
        "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
        f"{context}/Dockerfile:5",
        "--------------------",
        "   3 |",
        "   4 |     FROM base",
        "   5 | >>> CMD run \\",
        "   6 | >>>   it",
        "   7 |",
        "--------------------",
    ]
    assert not cli.store.exists()
    told = cli("build", "--call=check,format=json", context)
    assert told.code == 1
    (warning,) = told.json()["warnings"]
    assert warning["ruleName"] == "JSONArgsRecommended"
    assert warning["location"]["ranges"] == [{"start": {"line": 5}, "end": {"line": 6}}]
    assert cli("build", "--check", "--json", context).out == told.out
    (context / "Dockerfile").write_text(text.replace("CMD run \\\n  it", 'CMD ["run"]'))
    assert cli.ok("build", "--check", context).lines == ["Check complete, no warnings found."]


def test_findings_are_told_when_the_build_is_over(cli, context):
    (context / "Dockerfile").write_text("FROM scratch AS Aside\nFROM scratch\nCMD run\nCOPY file /")
    result = cli.ok("build", context)
    done, end = result.err.split("2 warnings found (layerstore build --check shows the lines):\n")
    assert "#1 DONE" in done
    assert "Dockerfile:1:1: StageNameCasing: Stage name 'Aside' should be lowercase\n" in end
    assert "Dockerfile:3:1: JSONArgsRecommended: JSON arguments" in end
    check = ["--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true;skip=StageNameCasing"]
    message = cli.fails(2, "build", *check, context)
    assert "Dockerfile:3:1: lint violation found for rules: JSONArgsRecommended" in message


def test_only_what_can_be_called_is(cli, context):
    assert "did" not in cli.fails(2, "build", "--call", "lint", context)
    assert "no option of --call" in cli.fails(2, "build", "--call", "check,format=xml", context)


def test_targets_and_what_they_take_are_listed(cli, context):
    (context / "Dockerfile").write_text(
        "# V is the version\nARG V=1\nFROM scratch AS tools\n# app is what ships\n"
        "FROM scratch AS app\nARG V\nRUN --mount=type=secret,id=key,required true\n"
    )
    assert cli.ok("build", "--call=targets", context).lines == [
        "TARGET          DESCRIPTION",
        "tools",
        "app (default)   is what ships",
    ]
    assert cli.ok("build", "--call", "outline", "--build-arg", "V=2", context).lines == [
        "TARGET:      app",
        "DESCRIPTION: is what ships",
        "",
        "BUILD ARG   VALUE   DESCRIPTION",
        "V           2       is the version",
        "",
        "SECRET   REQUIRED",
        "key      true",
    ]
    told = cli.ok("build", "--call=outline", "--json", "--target", "tools", context).json()
    assert (told["name"], told["args"], told["secrets"]) == ("tools", [], [])
    assert "did you mean app?" in cli.fails(2, "build", "--call=outline", "--target=ap", context)
    assert not cli.store.exists()


def test_plans_run_nothing(cli, staged):
    assert "no store at" in cli.fails(3, "build", "--plan", staged)
    cli.ok("init")
    assert "3 steps" in cli.ok("build", "--plan", staged).lines[-1]
    assert cli.ok("images", "--json").json() == []
    cli.ok("build", "-t", "x:1", staged)
    assert cli.ok("build", "--plan", "text", staged).lines[-1] == "3 steps: 3 cached"
    assert cli.ok("build", "--plan=dot", staged).lines[0] == "digraph build {"
    kinds = [each["kind"] for each in cli.ok("build", "--plan=json", staged).json()["vertices"]]
    assert sorted(kinds) == ["base", "context", "copy", "copy", "mkdir"]
    assert "is no form of a plan" in cli.fails(2, "build", "--plan=xml", staged)
