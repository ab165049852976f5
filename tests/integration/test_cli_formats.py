"""What commands print for machines, and what they refuse to print or to read."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.cli import Cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    cli = Cli(tmp_path / "store")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"content" * 1000)
    cli.ok("import", tree, "-t", "web", "-t", "app:1")
    return cli


def without_ages(text: str) -> str:
    """Leave out how long ago something was, and how wide: it is another a moment later."""
    text = re.sub(r"(About an?|Less than a|\d+) (second|minute|hour)s?( ago)? *", "AGO ", text)
    return re.sub(" +", " ", text)


@pytest.mark.parametrize("command", [("images",), ("df",), ("history", "web"), ("inspect", "web")])
def test_formats_as_docker_has_them(cli: Cli, command: tuple[str, ...]) -> None:
    plain = cli.ok(*command).out
    assert without_ages(cli.ok(*command, "--format", "table").out) == without_ages(plain)
    told = cli.ok(*command, "--format", "json").json()
    assert cli.ok(*command, "--format=json").json() == told
    assert cli.ok(*command, "--json").json() == told
    assert "yaml" in cli.fails(2, *command, "--format", "yaml")


def test_spreadsheets_get_the_rows_of_df(cli: Cli) -> None:
    for words in (("df", "--by", "file"), ("df", "--by", "image", "web")):
        text = cli.ok(*words, "--csv").out
        assert cli.ok(*words, "--format", "csv").out == text
        found = list(csv.DictReader(io.StringIO(text)))
        told = cli.ok(*words, "--json").json()["rows"]
        assert found == [
            {key: "" if value is None else str(value) for key, value in row.items()} for row in told
        ]
    assert found[0]["name"] == "app:1, web:latest"
    told = cli.ok("df", "--json").json()
    *rows, slack = csv.DictReader(io.StringIO(cli.ok("df", "--csv").out))
    assert [row["kind"] for row in rows] == [row["kind"] for row in told["rows"]]
    assert sum(int(row["size"]) for row in (*rows, slack)) == told["disk_size"]
    assert "--json" in cli.fails(2, "df", "--verbose", "--csv")


def test_spreadsheets_get_as_many_rows_as_there_are(cli: Cli, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(40):
        (many / f"{number},\n").write_bytes(b"%d" % number * 100)
    cli.ok("import", many, "-t", "many")
    rows = list(csv.reader(cli.ok("df", "--by", "file", "many", "--csv").lines))
    assert {row[0] for row in rows[1:]} == {f"/{number},\\n" for number in range(40)}
    assert len(cli.ok("df", "--by", "file", "many", "--csv", "--limit", "3").lines) == 4


def test_a_format_of_plans_names_their_option(cli: Cli, tmp_path: Path) -> None:
    assert "hint: --plan=dot" in cli.fails(2, "build", "--plan", "--format", "dot", tmp_path)


def test_removals_are_told_to_machines(cli: Cli) -> None:
    [image] = cli.ok("images", "--json").json()
    dry = cli.ok("rm", "--dry-run", "--json", "web", "app:1").json()
    assert dry["dry_run"] is True
    assert dry["untagged"] == ["web:latest", "app:1"]
    assert dry["deleted"] == [image["id"]]
    assert dry["freed"]["freed_bytes"] >= dry["freed"]["attributed_bytes"] > 0
    assert cli.ok("rm", "web", "--json").json() == {
        "dry_run": False,
        "untagged": ["web:latest"],
        "deleted": [],
        "freed": None,
    }


def test_savings_of_what_is_mounted_where_nothing_is(cli: Cli) -> None:
    said = "nothing is mounted, so there is nothing to compare; --copies N asks what if\n"
    assert cli.ok("savings", "--mounted").out == said
    assert cli.ok("savings", "--mounted", "--json").json()["images"] == []


def test_a_layout_does_not_go_to_stdout(cli: Cli, tmp_path: Path) -> None:
    error = cli.fails(2, "save", "web", "-o", "-", "--format", "oci-dir")
    assert "stdout" in error


def test_an_endless_dockerfile_is_refused(cli: Cli, tmp_path: Path) -> None:
    limited = 'ulimit -v 1000000; exec "$@" < /dev/zero'
    done = subprocess.run(
        ["sh", "-c", limited, "sh", *cli.command("build", "-f", "-", tmp_path)],
        capture_output=True,
        text=True,
        env=cli.environment(),
        timeout=120,
        check=False,
    )
    assert done.returncode == 11, done
    assert "10,485,760" in done.stderr
