"""What the documents name exists: links, files, modules, tests, commands and their options."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
FOLDERS = ("docs", "layerstore", "fuse_mount", "tests", "Dockerfile-examples")
DOCUMENTS = sorted(
    path
    for path in (
        TOP / "README.md",
        TOP / "CHANGELOG.md",
        *(found for folder in FOLDERS for found in (TOP / folder).rglob("*.md")),
    )
)
SOURCES = [path for folder in FOLDERS for path in (TOP / folder).rglob("*.py")]
OF_THE_READER = frozenset({"hello.py"})
"""Files that a document lets its reader make."""
RELIABILITY = (TOP / "docs/reliability.md").read_text()

each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=[str(path.relative_to(TOP)) for path in DOCUMENTS]
)


def prose(document: Path) -> str:
    return re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def spans(document: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(document))


def command_lines(document: Path) -> list[str]:
    """What a document tells its reader to type: indented lines, blocks and spans of code."""
    text = document.read_text()
    lines = re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE)
    for block in re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL):
        lines += block.splitlines()
    typed = [line.removeprefix("$ ").partition("  #")[0] for line in [*lines, *spans(document)]]
    return [part.strip() for line in typed for part in re.split(r"&&|;|\|", line)]


def defined_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def anchors(document: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


def options_of_commands() -> dict[str, set[str]]:
    """The long options of each command, from the page that the commands' own help makes."""
    page = (TOP / "docs/reference/cli.md").read_text()
    parts = re.split(r"^## layerstore ?", page, flags=re.MULTILINE)[1:]
    return {
        part.partition("\n")[0]: {"--help", "--store", *re.findall(r"--[a-z-]+", part)}
        for part in parts
    }


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    wrong = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert wrong == []


@each_document
def test_files_named_exist(document: Path) -> None:
    wrong = []
    for span in spans(document):
        name = span.partition("::")[0]
        if re.fullmatch(rf"(?:{'|'.join(FOLDERS)})/[\w/.-]*", name):
            found = (TOP / name).exists() or (TOP / f"{name}.py").exists()
        elif re.fullmatch(r"[\w/]+\.py", name) and name not in OF_THE_READER:
            found = any(f"/{path.relative_to(TOP)}".endswith(f"/{name}") for path in SOURCES)
        else:
            continue
        if not found:
            wrong.append(span)
    assert wrong == []


@each_document
def test_tests_named_exist(document: Path) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", document.read_text())
    missing = [f"{file}::{name}" for file, name in named if name not in defined_in(TOP / file)]
    assert missing == []


@each_document
def test_modules_named_run(document: Path) -> None:
    named = re.findall(r"python -m ((?:tests|layerstore|fuse_mount)[\w.]*)", document.read_text())
    paths = {name: TOP / name.replace(".", "/") for name in named}
    missing = [
        name
        for name, path in paths.items()
        if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file()
    ]
    assert missing == []


@each_document
def test_targets_of_make_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    named = {
        line.split()[1] for line in command_lines(document) if re.match(r"make [a-z-]+\b", line)
    }
    assert named - targets == set()


@each_document
def test_commands_and_their_options_exist(document: Path) -> None:
    known = options_of_commands()
    wrong = []
    for line in command_lines(document):
        words = line.split()
        if words[:1] != ["layerstore"] or len(words) < 2 or not re.match(r"[a-z-]+$", words[1]):
            continue
        options = {word.partition("=")[0] for word in words[2:] if word.startswith("--")} - {"--"}
        if words[1] not in known or options - known[words[1]]:
            wrong.append(line)
    assert wrong == []


def test_every_promise_names_a_test() -> None:
    promises = RELIABILITY.partition("## Promises")[2].partition("## Not promised")[0]
    parts = re.split(r"^\*\*(.+?)\.\*\*", promises, flags=re.MULTILINE)[1:]
    without = [name for name, body in zip(parts[::2], parts[1::2], strict=True) if "::" not in body]
    assert parts
    assert without == []
    assert len(re.findall(r"`tests/[\w/]+\.py::\w+`", promises)) > 20


def test_decisions_that_others_replace_say_so() -> None:
    """A decision named as superseded names, by a link, the decision that holds now."""
    for path in (TOP / "docs/decisions").glob("*.md"):
        for line in path.read_text().splitlines():
            if line.startswith("Superseded"):
                assert re.search(r"\]\(\d{4}-[\w-]+\.md\)", line), f"{path.name}: {line}"
