"""What a build is asked for, and what it answers with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.build.attest import NO_ATTESTATIONS, Attestations
from layerstore.build.base_images import Pull
from layerstore.build.outputs import Output, OutputKind
from layerstore.build.squash import Squash
from layerstore.errors import InputError
from layerstore.runtime.settings import DEFAULT_OPTIONS, RunOptions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from layerstore.build.base_images import Puller
    from layerstore.build.cache_exchange import CacheExport, CacheImport
    from layerstore.build.contexts import ContextSource, NamedSource
    from layerstore.build.known import BuildInputs
    from layerstore.build.platforms import Platform
    from layerstore.build.record import MadeStep
    from layerstore.build.run.settings import SshSource
    from layerstore.digest import ImageId
    from layerstore.formats.oci import Descriptor
    from layerstore.store.catalog.rows import ImageRecord


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to build.

    Attributes:
        context: What COPY and ADD take files from: a directory, or a
            :class:`~layerstore.build.contexts.StreamContext`, ``UrlContext`` or ``GitContext``.
        named_contexts: What stands in the place of names of stages and images.
        dockerfile: The Dockerfile; ``Dockerfile`` in the context when None. May lie outside.
        dockerfile_text: Its content, when it is not in a file (then ``dockerfile`` names it).
        dockerignore_text: Beside such a text, what goes before the context's ``.dockerignore``.
        dockerfile_url: Where it is fetched from, instead of both.
        tags: Names of the image.
        target: Stage to build; the last one when None.
        build_args: Values of ARG.
        labels: Set on the image.
        secrets: Values by id, for ``RUN --mount=type=secret``.
        no_cache: Run every step; the results are remembered all the same.
        no_cache_stages: Names of stages whose steps all run; numbers do as well.
        jobs: How many steps run at the same time, at most; None for the number of CPUs.
        network: False gives no RUN a network.
        environ: The caller's variables; fetching heeds those of proxies.
        allow: Entitlements that the Dockerfile may use: ``security.insecure``, ``network.host``.
        extra_hosts: Names and addresses that every RUN finds in its ``/etc/hosts``.
        run: How commands run: limits, the runtime.
        hostname: Of every RUN, instead of the usual one. It is in no key, so what such a build
            makes is not remembered.
        ssh: Agents or keys by id, for ``RUN --mount=type=ssh``.
        source_date_epoch: Seconds: no time in the image is later. A build argument
            SOURCE_DATE_EPOCH means the same and goes first.
        outputs: Where the result goes.
        squash: Which layers become one.
        annotations: Of the image's manifest.
        platform: What the image is for, and base images must be; None takes them as they are.
        platforms: Several that an image is made for, each; empty for one.
        pulls: When base images come from a registry.
        puller: Brings them; None for nothing.
        attestations: What is said of how the image came to be, and of what is in it.
        explain: Tell the watcher why steps run.
        cache_from: Where steps are looked up that the store does not know.
        cache_to: What gets the build's steps when it is done.
        variants: Of a native spec: which to build, all by default.
        locked: Of a native spec: its lock file must be there and up to date.
    """

    context: ContextSource
    named_contexts: Mapping[str, NamedSource] = msgspec.field(default_factory=dict)
    dockerfile: Path | None = None
    dockerfile_text: bytes | None = None
    dockerignore_text: bytes | None = None
    dockerfile_url: str = ""
    tags: Sequence[str] = ()
    target: str | None = None
    build_args: Mapping[str, str] = msgspec.field(default_factory=dict)
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    secrets: Mapping[str, bytes] = msgspec.field(default_factory=dict)
    no_cache: bool = False
    no_cache_stages: Sequence[str] = ()
    jobs: int | None = None
    network: bool = True
    environ: Mapping[str, str] = msgspec.field(default_factory=dict)
    allow: frozenset[str] = frozenset()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    run: RunOptions = DEFAULT_OPTIONS
    hostname: str = ""
    ssh: Mapping[str, SshSource] = msgspec.field(default_factory=dict)
    source_date_epoch: int | None = None
    outputs: Sequence[Output] = (Output(kind=OutputKind.IMAGE),)
    squash: Squash = Squash.NOTHING
    annotations: Mapping[str, str] = msgspec.field(default_factory=dict)
    platform: Platform | None = None
    platforms: Sequence[Platform] = ()
    pulls: Pull = Pull.MISSING
    puller: Puller | None = None
    attestations: Attestations = NO_ATTESTATIONS
    explain: bool = False
    cache_from: Sequence[CacheImport] = ()
    cache_to: Sequence[CacheExport] = ()
    variants: Sequence[str] = ()
    locked: bool = False

    def __eq__(self, other: object) -> bool:
        """Whether the same is asked for, whoever brings base images."""
        if not isinstance(other, BuildRequest):
            return NotImplemented
        names = (name for name in self.__struct_fields__ if name != "puller")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    __hash__ = None  # type: ignore[assignment]  # it holds mappings


class BuildResult(msgspec.Struct, frozen=True):
    """A built image.

    Attributes:
        image: As the store lists it, or would if an output were for the store.
        names: Full names that it got.
        steps: Steps the target needed, ``cached`` of them from the cache.
        new_bytes: Plain bytes that the others added to the store.
        reused_bytes: Plain bytes that these share with what it had.
        descriptor: Of its manifest, or of its index, in the last output that has one.
        is_stored: Whether the store lists it.
        inputs: What decided it.
        made: Every step with its layer, each after those it needed.
        predicates: What is attested of it: JSON texts by predicate type.
    """

    image: ImageRecord
    names: tuple[str, ...]
    steps: int
    cached: int
    descriptor: Descriptor
    inputs: BuildInputs
    new_bytes: int = 0
    reused_bytes: int = 0
    is_stored: bool = True
    made: tuple[MadeStep, ...] = ()
    predicates: Mapping[str, str] = msgspec.field(default_factory=dict)

    @property
    def image_id(self) -> ImageId:
        """The image's id."""
        return self.image.image_id


class BuiltVariant(NamedTuple):
    """One of the images that a spec describes.

    Attributes:
        label: Which variant; empty if the spec has no matrix.
    """

    label: str
    result: BuildResult


class ResolvedLock(NamedTuple):
    """The content of a lock file.

    Attributes:
        path: Where it belongs.
    """

    path: Path
    data: bytes


def source_date_epoch(request: BuildRequest) -> int | None:
    """Return SOURCE_DATE_EPOCH; the build argument goes first, and an empty one means none.

    Raises:
        InputError: It is no number of seconds.
    """
    text = request.build_args.get("SOURCE_DATE_EPOCH")
    if text is None:
        return request.source_date_epoch
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise InputError(f"SOURCE_DATE_EPOCH is {text!r}, expected seconds since 1970")
    return int(text)
