"""What images ask pip for: the requirements in their steps, and in the files that these name.

Read where they lie in an image, else in the directory that it was built from (a file that a step
had mounted is not in the image). Everything here is a stranger's text, and nothing of it is run.

Source: pip's documentation, "Requirements File Format"; PEP 508.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from typing import TYPE_CHECKING, NamedTuple

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from packaging.specifiers import SpecifierSet

FILE_BYTES = 1 << 20
_DEPTH = 8
_PIP = re.compile(r"(?:.*/)?pip[0-9.]*", re.ASCII)
_FILES = ("-r", "--requirement", "-c", "--constraint")
_VALUED = frozenset(
    ("-t", "--target", "-i", "--index-url", "--extra-index-url", "-f", "--find-links", "-e",
     "--editable", "--root", "--prefix", "--python", "--cache-dir", "--timeout", "--retries",
     "--cert", "--trusted-host", "--proxy", "--progress-bar", "--no-binary", "--only-binary",
     "--src", "--root-user-action", "--upgrade-strategy", "--log")
)  # fmt: skip

Asked = dict[str, list["SpecifierSet"]]
"""Which versions may be installed, by the name of the package as PEP 503 writes it."""


class _Unread(Exception):  # noqa: N818 -- no error: nothing is known then
    """A file of requirements is nowhere, or is no such file."""


class Command(NamedTuple):
    """One command of a step, and the directory that it runs in."""

    words: tuple[str, ...]
    folder: str


def asked_of(steps: Iterable[str], read: Callable[[str], bytes | None]) -> Asked:
    """Return what ``pip install`` was asked for; nothing if a file that it names cannot be read.

    Args:
        steps: Instructions, the first one first.
        read: Gives the content of a file by its absolute path; None if there is none.
    """
    found: Asked = {}
    try:
        for command in _commands(steps):
            for words in _installs(command):
                _note_words(words, command.folder, read, found)
    except (_Unread, ValueError):  # quotes that do not end
        return {}
    return found


def with_directory(
    read: Callable[[str], bytes | None], directory: Path | None
) -> Callable[[str], bytes | None]:
    """Return what reads a file, and one that is not there from a directory by its name alone."""

    def both(path: str) -> bytes | None:
        content = read(path)
        if content is not None or directory is None:
            return content
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(directory / posixpath.basename(path), flags), "rb") as file:
                return file.read(FILE_BYTES)
        except (OSError, ValueError):
            return None

    return both


def agreed(name: str, versions: Iterable[str], every: Iterable[Asked]) -> str:
    """Return the highest version that all who ask for a package by its name allow; empty if none.

    Args:
        name: Of the package.
        versions: That are installed somewhere.
        every: What each image asks for; who does not name the package says nothing of it.
    """
    from packaging.version import InvalidVersion, Version

    asked = [each.get(canonicalize_name(name)) for each in every]
    try:
        for version in sorted(map(Version, versions), reverse=True):
            if all(
                some and all(s.contains(version, prereleases=True) for s in some) for some in asked
            ):
                return str(version)
    except InvalidVersion:
        pass
    return ""


def _commands(steps: Iterable[str]) -> Iterator[Command]:
    """Yield the commands of RUN instructions, as far as a shell is not needed to tell them."""
    workdir = "/"
    for step in steps:
        instruction, _, text = step.strip().partition(" ")
        if instruction == "WORKDIR":
            workdir = posixpath.join(workdir, text.strip())
        if instruction != "RUN" or "pip" not in text:
            continue
        folder = workdir
        lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word.strip(";&|()"):
                words.append(word)
                continue
            if words[:1] == ["cd"] and len(words) == 2:
                folder = posixpath.join(folder, words[1])
            yield Command(tuple(words), folder)
            words = []


def _installs(command: Command) -> Iterator[tuple[str, ...]]:
    """Yield what follows ``pip install``, in whatever way pip is called."""
    words = command.words
    if "install" in words:
        at = words.index("install")
        if any(_PIP.fullmatch(word) for word in words[:at]):
            yield words[at + 1 :]


def _note_words(
    words: Iterable[str], folder: str, read: Callable[[str], bytes | None], found: Asked
) -> None:
    rest = iter(words)
    for word in rest:
        option, equals, value = word.partition("=")
        if word[:2] in ("-r", "-c") and len(word) > 2:
            option, value, equals = word[:2], word[2:], "="
        if option in _FILES:
            path = posixpath.join(folder, value if equals else next(rest, ""))
            _note_file(path, read, found, _DEPTH)
        elif word in _VALUED:
            next(rest, None)
        elif not word.startswith("-"):
            _note(word, found)


def _note_file(path: str, read: Callable[[str], bytes | None], found: Asked, depth: int) -> None:
    content = read(posixpath.normpath(path)) if depth else None
    if content is None:
        raise _Unread
    text = content.decode("utf-8", "replace").replace("\\\n", " ")
    for line in text.splitlines():
        words = re.sub(r"(^|\s)#.*", "", line).split()
        if not words:
            continue
        option, equals, value = words[0].partition("=")
        if option in _FILES:
            named = value if equals else " ".join(words[1:])
            _note_file(posixpath.join(posixpath.dirname(path), named), read, found, depth - 1)
        elif not words[0].startswith("-"):
            _note(" ".join(word for word in words if not word.startswith("--hash")), found)


def _note(text: str, found: Asked) -> None:
    """Note one requirement; what is a path or a URL names no version."""
    try:
        wanted = Requirement(text)
    except (InvalidRequirement, InvalidSpecifier):
        return
    found.setdefault(canonicalize_name(wanted.name), []).append(wanted.specifier)
