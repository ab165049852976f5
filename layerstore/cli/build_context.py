"""What the words CONTEXT and --file of the build command mean."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import InputError

if TYPE_CHECKING:
    from typing import BinaryIO

    from layerstore.build.contexts import ContextSource

STDIO = "-"


class SpecWords(NamedTuple):
    """What ``--file`` says.

    Attributes:
        path: The Dockerfile; of ``-`` what messages call it; None for the usual one.
        text: From standard input.
        url: Where it is fetched from.
    """

    path: Path | None = None
    text: bytes | None = None
    url: str = ""


def parse_context(word: str, file: str | None) -> ContextSource:
    """Return the build context that a word means, as docker and buildx read it.

    Args:
        word: ``-`` is standard input; a directory goes before a URL that looks the same.
        file: Value of ``--file``.

    Raises:
        InputError: There is no such context.
    """
    if word == STDIO:
        from layerstore.build.contexts import StreamContext

        if file == STDIO:
            raise InputError(
                "stdin cannot be both the build context and the Dockerfile",
                hint="layerstore build - < FILE, or layerstore build -f - CONTEXT < FILE",
            )
        return StreamContext(_stdin("a tar or a Dockerfile"))
    path = Path(word)
    if path.is_dir():
        return path
    remote = remote_context(word)
    if remote is not None:
        return remote
    why = "is not a directory" if path.exists() else "does not exist"
    raise InputError(
        f"the build context {word} {why}",
        hint="a directory, a git or HTTP URL, or - for a tar on stdin",
    )


def remote_context(word: str) -> ContextSource | None:
    """Return the remote context that a word means, None when it means none.

    Raises:
        InputError: It means one and is wrong.
    """
    if "://" not in word and "@" not in word and not word.startswith("github.com/"):
        return None
    from layerstore.build.contexts import GitContext, UrlContext
    from layerstore.build.fetch.git_url import parse_git_source
    from layerstore.build.fetch.urls import is_http, parse_http_url

    source = parse_git_source(word, is_context=True)
    if source is not None:
        return GitContext(source, word)
    if is_http(word):
        parse_http_url(word)
        return UrlContext(word)
    return None


def parse_spec(file: str | None) -> SpecWords:
    """Return what ``--file`` means.

    Raises:
        InputError: A terminal instead of a Dockerfile on standard input.
    """
    if not file:
        return SpecWords()
    if file == STDIO:
        from layerstore.build.contexts import MAX_SPEC_BYTES

        text = _stdin("a Dockerfile").read(MAX_SPEC_BYTES + 1)
        return SpecWords(Path("stdin"), text)
    if "://" in file:
        from layerstore.build.fetch.urls import is_http

        if is_http(file):
            return SpecWords(url=file)
    return SpecWords(Path(file))


def _stdin(expected: str) -> BinaryIO:
    if sys.stdin.isatty():
        raise InputError(f"stdin is a terminal, expected {expected}")
    return sys.stdin.buffer
