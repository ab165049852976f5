"""What makes a build step the same step.

A key is the SHA-256 of the operation and of what it works on: the chain ID of the
layers below, and for files taken from elsewhere their paths, types, modes, owners,
links, attributes and contents, but not their times. Secrets' values and proxies are
in no key; whether an optional secret is there is part of its operation. Steps that copy
from a stage have two keys: one of the stage's identity, which costs nothing, and one of
the files' content, which hits when the stage was built anew with the same files. Pure
but for the reading of files.

Changing anything here makes every cache cold: then raise ``KEY_VERSION``. When one kind of
operation makes another layer of the same input than it did, raise its number in ``_MADE_ANEW``: its
old layers are not taken, and steps behind it only run where it really made another one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from layerstore.digest import chain_id
from layerstore.formats.tree import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from layerstore.build.graph import Op
    from layerstore.build.source import Match, Selected
    from layerstore.digest import DiffId

KEY_VERSION = "layerstore build step 2"
_MADE_ANEW = {"copy": 2}
"""How often the layer of an operation came to be another one, by the operation's tag.

copy 2: ``--chmod`` reaches the directory that a copied one becomes.
"""
_encode = msgspec.msgpack.Encoder(order="deterministic").encode


def step_key(op: Op, inputs: Iterable[str], epoch: int | None) -> str:
    """Return the key of an operation over inputs that are named by strings.

    Args:
        op: The operation.
        inputs: In order: chain IDs or content digests, each with a word for which it is.
        epoch: SOURCE_DATE_EPOCH of the build, which clamps times in layers.
    """
    rules = key_rules(op)
    return "step:" + hashlib.sha256(_encode([rules, op, list(inputs), epoch])).hexdigest()


def key_rules(op: Op) -> str:
    """Return the version of what goes into an operation's key, and of what comes of it."""
    tag = str(op.__struct_config__.tag)
    return f"{KEY_VERSION}, {tag} {_MADE_ANEW[tag]}" if tag in _MADE_ANEW else KEY_VERSION


def layers_input(layers: Sequence[DiffId]) -> str:
    """Return how a stack of layers is named in a key."""
    return f"layers {chain_id(layers)}"


def selection_digest(matches: Iterable[tuple[str, Sequence[Match]]]) -> str:
    """Return the digest of everything that a COPY's sources select.

    Args:
        matches: For each source argument, what it stands for.
    """
    hasher = hashlib.sha256()
    links: dict[object, int] = {}
    for source, found in matches:
        hasher.update(_encode(["source", source]))
        for match in found:
            hasher.update(_encode(["match", match.name]))
            _add(hasher.update, match.selected, b"", links)
    return f"files {hasher.hexdigest()}"


def _add(
    update: Callable[[bytes], None], selected: Selected, path: bytes, links: dict[object, int]
) -> None:
    node = selected.node
    entry = node.entry
    content = b""
    if entry.kind is Kind.FILE:
        content = node.content_digest()
    identity = node.link_identity()
    # Which names share a file matters; the host's inode numbers do not.
    group = 0 if identity is None else links.setdefault(identity, len(links) + 1)
    update(
        _encode(
            [
                path, int(entry.kind), entry.mode, entry.uid, entry.gid, entry.size, entry.target,
                entry.dev_major, entry.dev_minor, entry.xattrs, selected.included, group, content,
            ]
        )
    )  # fmt: skip
    for name, child in selected.children:
        _add(update, child, path + b"/" + name, links)
