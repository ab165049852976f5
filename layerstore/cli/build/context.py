"""What the words CONTEXT and --file of the build command mean."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from layerstore.build.contexts import ContextSource, GitContext, NamedSource, UrlContext

STDIO = "-"
_IMAGES = ("docker-image://", "container-image://", "docker://")
_LAYOUT = "oci-layout://"
_TARGET = "target:"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


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
        if file == STDIO:
            raise InputError(
                "stdin cannot be both the build context and the Dockerfile",
                hint="layerstore build - < FILE, or layerstore build -f - CONTEXT < FILE",
            )
        from layerstore.build.contexts import StreamContext

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


def remote_context(word: str) -> GitContext | UrlContext | None:
    """Return the remote context that a word means, None when it means none.

    Raises:
        InputError: It means one and is wrong.
    """
    if "://" not in word and "@" not in word and not word.startswith("github.com/"):
        return None
    from layerstore.build.contexts import GitContext, UrlContext
    from layerstore.build.fetch.git_url import parse_git_source
    from layerstore.net.urls import is_http, parse_http_url

    source = parse_git_source(word, is_context=True)
    if source is not None:
        return GitContext(source, word)
    if is_http(word):
        parse_http_url(word)
        return UrlContext(word)
    return None


def parse_named_contexts(words: Sequence[str]) -> dict[str, NamedSource]:
    """Return what ``--build-context NAME=VALUE`` puts in the place of names.

    Raises:
        InputError: Not such a word, or something that is not there.
    """
    from layerstore.build.contexts import context_key

    named: dict[str, NamedSource] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name or not equals or not value:
            raise InputError(
                f"{word!r} is no build context with a name", hint="--build-context NAME=VALUE"
            )
        if context_key(name) in map(context_key, named):
            raise InputError(f"the build context {name} is given twice")
        named[name] = _named(name, value)
    return named


def _named(name: str, value: str) -> NamedSource:
    from layerstore.build.contexts import ImageContext, StageContext

    for prefix in _IMAGES:
        if value.startswith(prefix):
            return ImageContext(value.removeprefix(prefix))
    if value.startswith(_LAYOUT):
        return _layout(value.removeprefix(_LAYOUT))
    if value.startswith(_TARGET):
        return StageContext(value.removeprefix(_TARGET))
    remote = remote_context(value)
    if remote is not None:
        return remote
    path = Path(value)
    if not path.is_dir():
        why = "is not a directory" if path.exists() else "does not exist"
        raise InputError(
            f"the build context {name}: {value} {why}",
            hint="a directory, a git or HTTP URL, docker-image://NAME, oci-layout://DIR:TAG, "
            "target:STAGE",
        )
    return path


def _layout(value: str) -> NamedSource:
    """Return ``DIR[:TAG][@DIGEST]``, as buildx has it."""
    from layerstore.build.contexts import LayoutContext

    rest, at, digest = value.partition("@")
    path, _, tag = rest.partition(":")
    if not path or (at and not _DIGEST.fullmatch(digest)):
        raise InputError(
            f"{_LAYOUT}{value} is no image of a layout",
            hint="oci-layout://DIR:TAG or ...@sha256:HEX",
        )
    return LayoutContext(Path(path), tag or "latest", digest)


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
        from layerstore.net.urls import is_http

        if is_http(file):
            return SpecWords(url=file)
    return SpecWords(Path(file))


def _stdin(expected: str) -> BinaryIO:
    if sys.stdin.isatty():
        raise InputError(f"stdin is a terminal, expected {expected}")
    return sys.stdin.buffer
