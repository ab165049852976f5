"""What ``build --output`` and ``--annotation`` mean.

Source: buildx, ``--output``, ``--annotation``.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from layerstore.cli.outfile import STDIO, output_stream
from layerstore.cli.parsing.fields import parse_fields
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.outputs import Output
    from layerstore.image.exchange.blob_files import Compression

_COMPRESSIONS: dict[str, Compression] = {
    "gzip": "gzip",
    "zstd": "zstd",
    "uncompressed": "none",
    "none": "none",
}
_ARCHIVES = ("oci", "docker", "tar")
_LAYOUTS = ("oci", "docker")
_FILES = ("tar", "local")
# Attributes that say what is always so here, by the kind of output that knows them.
_ALWAYS = {
    "oci-mediatypes": "true",
    "unpack": "false",
    "store": "true",
    "push": "false",
}
_TRUE = ("true", "1", "")
_FALSE = ("false", "0")


def parse_outputs(words: Sequence[str], *, epoch: bool, push: bool = False) -> list[Output]:
    """Return what ``--output`` was given.

    Args:
        words: As given; none means the store.
        push: Whether ``--push`` was given, which is ``--output type=registry``.
        epoch: Whether the build has a SOURCE_DATE_EPOCH.

    Raises:
        InputError: Not an output, or one that cannot be written; nothing was begun.
    """
    from layerstore.build.outputs import Output, OutputKind

    words = _with_push(words) if push else words
    if not words:
        return [Output(kind=OutputKind.IMAGE)]
    outputs = []
    to_stdout = 0
    for word in words:
        fields = _fields(word)
        to_stdout += fields.get("dest") == STDIO
        outputs.append(_output(word, fields, epoch=epoch))
    if to_stdout > 1:
        raise InputError("only one output can go to stdout", hint="give the others a dest=FILE")
    if to_stdout and sys.stdout.isatty():
        raise InputError(
            "refusing to write a build's result to a terminal", hint="--output type=TYPE,dest=FILE"
        )
    return outputs


def _with_push(words: Sequence[str]) -> list[str]:
    """Return the outputs with an image among them pushed, or one more that is (as buildx)."""
    for number, word in enumerate(words):
        if _fields(word).get("type") in ("image", "registry"):
            return [*words[:number], f"{word},push=true", *words[number + 1 :]]
    return [*words, "type=registry"]


def uses_stdout(words: Sequence[str]) -> bool:
    """Return whether one of the outputs is stdout, which then belongs to it alone."""
    return any(_fields(word).get("dest") == STDIO for word in words)


def _fields(word: str) -> dict[str, str]:
    """Return an output's attributes: comma-separated, with quotes as in CSV."""
    if "=" not in word:
        kind = "tar" if word == STDIO else "local"
        return {"type": kind, "dest": word}
    fields = parse_fields(word, "an output", "--output type=oci,dest=FILE")
    if fields.get("type") in _ARCHIVES and "tar" not in fields:
        fields.setdefault("dest", STDIO)
    return fields


def _output(word: str, fields: dict[str, str], *, epoch: bool) -> Output:
    from layerstore.build.outputs import Output, OutputKind

    rest = dict(fields)
    text = rest.pop("type", "")
    pushes = text == "registry"
    if pushes or text == "image":
        text = "image"
        pushes = _switch(rest, "push", known=True, default=str(pushes).lower())
    kinds = {kind.value: kind for kind in OutputKind}
    if text not in kinds:
        from layerstore.build.dockerfile.hints import suggestion

        known = [f"type={kind}" for kind in sorted((*kinds, "registry"))]
        raise InputError(
            f"{word!r} has no type of an output that is known",
            hint=suggestion(f"type={text}" if text else "", known, "one of " + ", ".join(known)),
        )
    kind = kinds[text]
    names = _names(rest.pop("name", ""), kind.value)
    compression = _compression(rest, kind.value)
    is_archive = text in _ARCHIVES and not _is_directory(rest, text)
    dest = rest.pop("dest", "")
    is_said = text in _FILES and "platform-split" in rest
    splits = _switch(rest, "platform-split", known=True) if is_said else None
    prefix = rest.pop("attestation-prefix", "") if text in _FILES else ""
    if "/" in prefix:
        raise InputError(f"attestation-prefix={prefix} is the beginning of a file's name")
    _check_timestamps(rest, epoch=epoch)
    _refuse_unknown(rest, word)
    if text in ("image", "cacheonly"):
        if dest:
            raise InputError(f"type={text} has no dest", hint="the result stays in the store")
        return Output(kind=kind, names=names, pushes=pushes)
    if not dest:
        raise InputError(f"{word!r} does not say where to", hint=f"type={text},dest=PATH")
    if is_archive:
        _check_file(dest)
        return Output(
            kind=kind, stream=partial(output_stream, dest), names=names, compression=compression,
            splits=splits, prefix=prefix,
        )  # fmt: skip
    if dest == STDIO:
        raise InputError(f"type={text} writes a directory, not stdout", hint="dest=DIR")
    return Output(
        kind=kind, directory=Path(dest), names=names, compression=compression,
        splits=splits, prefix=prefix,
    )  # fmt: skip


def _names(text: str, kind: str) -> tuple[str, ...]:
    from layerstore.formats.reference import parse_tag_name

    if text and kind not in ("image", *_LAYOUTS):
        raise InputError(f"type={kind} has no names", hint="name images with type=image")
    return tuple(parse_tag_name(name.strip()) for name in text.split(",") if name.strip())


def _compression(rest: dict[str, str], kind: str) -> Compression:
    given = rest.pop("compression", None)
    forced = rest.pop("force-compression", "true")
    if given is not None and kind not in _LAYOUTS:
        raise InputError(
            f"type={kind} has no layers that could be compressed",
            hint="the store compresses what it holds by itself",
        )
    text = given or "gzip"
    if text not in _COMPRESSIONS or forced not in (*_TRUE, *_FALSE):
        raise InputError(
            f"{text!r} is not a compression of layers", hint="one of gzip, zstd, uncompressed"
        )
    return _COMPRESSIONS[text]


def _is_directory(rest: dict[str, str], kind: str) -> bool:
    value = rest.pop("tar", "true")
    if value not in (*_TRUE, *_FALSE) or (value in _FALSE and kind not in _LAYOUTS):
        raise InputError(f"tar={value} means nothing to type={kind}", hint="tar=false,dest=DIR")
    return value in _FALSE


def _switch(rest: dict[str, str], name: str, known: bool, default: str = "true") -> bool:
    """Return an attribute that is true or false."""
    value = rest.pop(name, default) if known else default
    if value not in (*_TRUE, *_FALSE):
        raise InputError(f"{name}={value} is neither true nor false")
    return value in _TRUE


def _check_timestamps(rest: dict[str, str], *, epoch: bool) -> None:
    wanted = rest.pop("rewrite-timestamp", None)
    if wanted is None:
        return
    if wanted not in (*_TRUE, *_FALSE):
        raise InputError(f"rewrite-timestamp={wanted} is neither true nor false")
    if wanted in _TRUE and not epoch:
        raise InputError(
            "rewrite-timestamp=true needs a time to rewrite to",
            hint="set SOURCE_DATE_EPOCH, or --build-arg SOURCE_DATE_EPOCH=SECONDS",
        )
    if wanted in _FALSE and epoch:
        raise InputError(
            "with SOURCE_DATE_EPOCH times in new layers are always rewritten",
            hint="leave rewrite-timestamp=false out",
        )


def _refuse_unknown(rest: dict[str, str], word: str) -> None:
    for name, value in rest.items():
        if name not in _ALWAYS:
            raise InputError(f"{word!r}: {name!r} is no attribute of an output that is known")
        always = _TRUE if _ALWAYS[name] == "true" else _FALSE
        if value not in always:
            raise InputError(f"{word!r}: {name}={value} is not supported")


def _check_file(dest: str) -> None:
    if dest == STDIO:
        return
    if os.path.isdir(dest):
        raise InputError(f"{dest} is a directory, expected a file")
    parent = os.path.dirname(os.path.abspath(dest))
    if not os.path.isdir(parent):
        raise InputError(f"there is no directory {parent} to write {dest} to")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{parent} cannot be written, where {dest} is to go")


def parse_annotations(words: Sequence[str]) -> dict[str, str]:
    """Return annotations of the image's manifest.

    Raises:
        InputError: Not one, or of something that a build for one platform has not.
    """
    if not words:
        return {}
    from layerstore.image.images import ATTESTATION_KEY

    annotations: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        level, colon, rest = name.partition(":")
        level = level.partition("[")[0]
        if colon and level in ("index", "index-descriptor", "manifest-descriptor"):
            raise InputError(
                f"{word!r}: only manifests are annotated here", hint="--annotation NAME=VALUE"
            )
        if colon and level == "manifest":
            name = rest
        if not name or not equals or name.startswith(ATTESTATION_KEY):
            raise InputError(f"{word!r} is not an annotation", hint="--annotation NAME=VALUE")
        annotations[name] = value
    return annotations
