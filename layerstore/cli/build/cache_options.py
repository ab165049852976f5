"""What ``build --cache-from`` and ``--cache-to`` mean, in buildx' words.

Source: buildx, docs/reference/buildx_build.md, "cache-from" and "cache-to" (behaviour).
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from layerstore.cli.parsing.fields import parse_fields
from layerstore.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layerstore.build.cache_exchange import CacheExport, CacheImport, CacheKind
    from layerstore.digest import Digest
    from layerstore.image.exchange.blob_files import Compression
    from layerstore.image.exchange.exchange import ImageSource
    from layerstore.registry.repository import Repository

From = Annotated[
    list[str] | None,
    typer.Option(
        "--cache-from",
        metavar="DIR|type=TYPE,src=DIR",
        help="Take steps that hit from there: local, a directory that --cache-to wrote, store, "
        "another store, or registry (ref=NAME). Repeatable.",
    ),
]
To = Annotated[
    list[str] | None,
    typer.Option(
        "--cache-to",
        metavar="DIR|type=TYPE,dest=DIR",
        help="Give the build's steps to a directory (local), another store (store) or a registry "
        "(registry, ref=NAME); mode=max those of all stages. Repeatable.",
    ),
]

_LATER = ("gha", "inline", "s3", "azblob")
_COMPRESSIONS: dict[str, Compression] = {
    "zstd": "zstd", "gzip": "gzip", "uncompressed": "none", "none": "none",
}  # fmt: skip


def parse_from(words: Sequence[str], root: str) -> tuple[CacheImport, ...]:
    """Return what ``--cache-from`` options mean.

    Args:
        words: Their values.
        root: The store that is built in.

    Raises:
        InputError: One is not a cache.
    """
    if not words:
        return ()
    from layerstore.build.cache_exchange import CacheImport, CacheKind

    found = []
    for word in words:
        fields = _fields(word, "src")
        if fields.get("type") == "registry":
            location, tag = _in_registry(word, fields)
            _refuse_rest(word, fields, ("type", "ref"))
            found.append(CacheImport(CacheKind.REGISTRY, location, tag, connected, _gate))
            continue
        kind, location = _place(word, fields, "src", root)
        tag = fields.pop("tag", "latest")
        _refuse_rest(word, fields, ("type", "src", "tag"))
        found.append(CacheImport(kind, location, tag))
    return tuple(found)


def parse_to(words: Sequence[str], root: str) -> tuple[CacheExport, ...]:
    """Return what ``--cache-to`` options mean.

    Args:
        words: Their values.
        root: The store that is built in.

    Raises:
        InputError: One is not a cache.
    """
    if not words:
        return ()
    from layerstore.build.cache_exchange import CacheExport, CacheKind

    found = []
    for word in words:
        fields = _fields(word, "dest")
        connect = None
        if fields.get("type") == "registry":
            kind, connect = CacheKind.REGISTRY, connected
            location, tag = _in_registry(word, fields)
        else:
            kind, location = _place(word, fields, "dest", root)
            tag = fields.pop("tag", "latest")
        mode = _one_of(word, "mode", fields.pop("mode", "min"), ("min", "max"))
        compression = fields.pop("compression", "zstd")
        _one_of(word, "compression", compression, tuple(_COMPRESSIONS))
        may_fail = _one_of(word, "ignore-error", fields.pop("ignore-error", "false"), _BOOLEANS)
        _refuse_rest(word, fields, ("type", "dest", "mode", "tag", "compression", "ignore-error"))
        found.append(
            CacheExport(
                kind,
                location,
                tag,
                mode == "max",
                _COMPRESSIONS[compression],
                may_fail == "true",
                connect,
            )
        )
    return tuple(found)


_BOOLEANS = ("true", "false")


def _fields(word: str, place: str) -> dict[str, str]:
    if "=" not in word:
        return {place: word}
    return parse_fields(word, "a build cache", f"type=local,{place}=DIR")


def connected(name: str) -> Repository:
    """Return a repository of a registry; its connections end with the process."""
    from layerstore.cli.transfer.registries import registry_client
    from layerstore.cli.transfer.transports import named_reference

    client = _STACK.enter_context(registry_client())
    return client.repository(named_reference(name))


_STACK = contextlib.ExitStack()


def _gate(name: str, source: ImageSource, digest: Digest) -> None:
    """Return if the signature policy lets a cache in like an image of its name."""
    from layerstore.cli.transfer.signatures import policy_gate
    from layerstore.cli.transfer.transports import named_reference

    policy_gate(None)(named_reference(name), source, [digest])


def _in_registry(word: str, fields: dict[str, str]) -> tuple[str, str]:
    """Return repository and tag of a cache in a registry."""
    from layerstore.cli.transfer.transports import named_reference

    del fields["type"]
    text = fields.pop("ref", "")
    if not text:
        raise InputError(f"{word!r} names no repository", hint="type=registry,ref=HOST/NAME:TAG")
    name = named_reference(text)
    if name.digest is not None:
        raise InputError(f"{word!r}: a cache has a tag", hint="type=registry,ref=HOST/NAME:TAG")
    return name.repository, name.tag or "latest"


def _place(word: str, fields: dict[str, str], name: str, root: str) -> tuple[CacheKind, str]:
    from layerstore.build.cache_exchange import CacheKind

    location = fields.pop(name, "")
    kind = fields.pop("type", "")
    if kind in _LATER:
        raise InputError(
            f"build caches of type {kind} are not supported yet",
            hint=f"use a directory: type=local,{name}=DIR",
        )
    if kind not in ("", "local", "store"):
        raise InputError(f"{word!r} is not a build cache", hint="type=local or type=store")
    if not location:
        raise InputError(f"{word!r} names no directory", hint=f"type={kind or 'local'},{name}=DIR")
    is_store = os.path.exists(f"{location}/config.toml")
    if kind == "local" and is_store:
        raise InputError(f"{location} is a store", hint=f"type=store,{name}={location}")
    if os.path.realpath(location) == os.path.realpath(root):
        raise InputError(f"{location} is the store of the build itself", hint="leave it away")
    chosen = CacheKind.STORE if kind == "store" or (not kind and is_store) else CacheKind.DIRECTORY
    return chosen, location


def _one_of(word: str, name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise InputError(
            f"{word!r}: {value!r} is not a value of {name}", hint="one of " + ", ".join(known)
        )
    return value


def _refuse_rest(word: str, fields: dict[str, str], known: Sequence[str]) -> None:
    for name in fields:
        raise InputError(
            f"{word!r}: a build cache has no {name!r}", hint="it has " + ", ".join(known)
        )
