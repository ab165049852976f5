"""What is remembered of a step beside its key: what went into it, and what it cost.

A key says that something changed; the facts say what. They are the value of the step's
row in the build cache, so they go when the row goes, and nothing but an explanation
depends on them. They hold digests, never values: no variable's, no secret's.

Format: docs/format/build-cache.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec
from blake3 import blake3

from layerstore.build.cache_value import FACTS_HEAD
from layerstore.build.graph import BaseOp, ContextOp, CopyOp, GitOp, HttpOp, RunOp
from layerstore.build.labels import stage_of, text_of
from layerstore.build.listing import DIGEST_BYTES, Listed, list_matches

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from layerstore.build.graph import Op, Vertex
    from layerstore.build.source import Match
    from layerstore.digest import DiffId

FACTS_MAX_BYTES = 1 << 20
"""Plain bytes of listings; a longer text is damage or an attack."""

_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Selection(NamedTuple):
    """Files that a step takes from one of its inputs.

    Attributes:
        input: Number of the input.
        place: Of a mount, its target; empty for COPY and ADD.
        matches: What each source argument stands for.
    """

    input: int
    place: str
    matches: Sequence[tuple[str, Sequence[Match]]]


class InputFacts(msgspec.Struct, frozen=True, array_like=True):
    """One input of a step.

    Attributes:
        kind: ``base`` (an image), ``context``, ``remote``, or ``step``.
        name: The image's reference, the remote source or the stage as progress shows it.
        identity: Of an image its id, of all else the stack of layers it came to.
    """

    kind: str
    name: str
    identity: str


class Facts(msgspec.Struct, frozen=True, array_like=True):
    """See the module.

    Attributes:
        rules: Version of what goes into a key.
        op: Which operation it is.
        text: Digest of the instruction as written.
        fields: Of the operation, digests by name; variables and mounts are apart.
        variables: Of the environment, digests of values by name.
        mounts: Digests by a name for people.
        secrets: Which were asked for by id, and whether there was one.
        inputs: The first one is what lies below; empty where nothing below matters.
        listings: For each selection the input's number, the place, and files.
        epoch: SOURCE_DATE_EPOCH.
        seconds: That the step took when it was made.
        new_bytes: Plain bytes that it added to the store then.
        reused_bytes: Those that the store had already.
        ran: Seconds since the epoch when it was made, whatever SOURCE_DATE_EPOCH was; 0 if not
            known: earlier versions did not keep it.
    """

    rules: str
    op: str
    text: bytes
    fields: dict[str, bytes]
    variables: dict[str, bytes]
    mounts: dict[str, bytes]
    secrets: dict[str, bool]
    inputs: tuple[InputFacts, ...]
    listings: tuple[tuple[int, str, tuple[Listed, ...]], ...]
    epoch: int | None
    seconds: float = 0.0
    new_bytes: int = 0
    reused_bytes: int = 0
    ran: float = 0.0


def encode_facts(facts: Facts) -> bytes:
    """Return the bytes to remember."""
    import zstandard

    return FACTS_HEAD + zstandard.compress(_encoder.encode(facts), 3)


def decode_facts(value: bytes) -> Facts | None:
    """Return facts, or None for bytes that are none."""
    import zstandard

    try:
        if not value.startswith(FACTS_HEAD):
            return None
        with zstandard.ZstdDecompressor().stream_reader(value[len(FACTS_HEAD) :]) as reader:
            plain = reader.read(FACTS_MAX_BYTES + 1)
        return msgspec.msgpack.decode(plain, type=Facts) if len(plain) <= FACTS_MAX_BYTES else None
    except (msgspec.MsgspecError, zstandard.ZstdError, RecursionError, UnicodeDecodeError):
        return None


def facts_of(
    vertex: Vertex,
    stacks: Sequence[Sequence[DiffId]],
    selections: Iterable[Selection],
    *,
    rules: str,
    epoch: int | None,
    images: Mapping[str, str],
) -> Facts:
    """Return what goes into a step.

    Args:
        vertex: The step.
        stacks: The layers of each input.
        selections: The files that it takes.
        rules: Version of what goes into a key.
        epoch: SOURCE_DATE_EPOCH.
        images: Ids of base images by their references.
    """
    op = vertex.op
    fields = {
        name: _short(value)
        for name, value in msgspec.structs.asdict(op).items()
        if name not in ("env", "mounts")
    }
    mounts: dict[str, bytes] = {}
    secrets: dict[str, bool] = {}
    variables: dict[str, bytes] = {}
    if isinstance(op, RunOp):
        pairs = (item.partition("=") for item in op.env)
        variables = {name: _short(value) for name, _, value in pairs}
        for spec in op.mounts:
            mounts[f"{spec.type} {spec.target or spec.env}"] = _short(spec)
            if spec.type in ("secret", "ssh"):
                secrets[f"{spec.type} {spec.id}"] = not spec.absent
    linked = isinstance(op, CopyOp) and op.link
    inputs = [
        _input(each, layers, images) for each, layers in zip(vertex.inputs, stacks, strict=True)
    ]
    if linked:
        inputs[0] = InputFacts("", "", "")
    return Facts(
        rules=rules,
        op=_op_name(op),
        text=_short(vertex.original),
        fields=fields,
        variables=variables,
        mounts=mounts,
        secrets=secrets,
        inputs=tuple(inputs),
        listings=tuple((each.input, each.place, list_matches(each.matches)) for each in selections),
        epoch=epoch,
    )


def _input(vertex: Vertex, layers: Sequence[DiffId], images: Mapping[str, str]) -> InputFacts:
    from layerstore.digest import chain_id

    if isinstance(vertex.op, ContextOp):
        return InputFacts("context", vertex.op.name, "")
    chain = chain_id(layers) or ""
    if isinstance(vertex.op, BaseOp):
        reference = vertex.label.rpartition("FROM ")[2]
        return InputFacts("base", reference, images.get(reference, chain))
    if isinstance(vertex.op, HttpOp | GitOp):
        return InputFacts("remote", text_of(vertex.label), chain)
    return InputFacts("step", stage_of(vertex.label), chain)


def _op_name(op: Op) -> str:
    return str(type(op).__struct_config__.tag)


def _short(value: object) -> bytes:
    return blake3(_encoder.encode(value)).digest(DIGEST_BYTES)
