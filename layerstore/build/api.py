"""Building an image: the one function the command line and other programs call."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.attest import NO_ATTESTATIONS, Attestations, BuildFacts, attested
from layerstore.build.checking import Checked, findings_of, physical_lines, told_at_the_end
from layerstore.build.contexts import (
    Contexts,
    context_name,
    local_context,
    main_context,
)
from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.dockerfile.syntax import Notice, SourceSpan
from layerstore.build.errors import BuildStepError
from layerstore.build.executor import BuildExecutor
from layerstore.build.fetch.lazy import LazyFetcher
from layerstore.build.fetch.redaction import redacted
from layerstore.build.graph import BaseOp, ContextOp, CopyOp, MergeOp, MkdirOp, RunOp, topological
from layerstore.build.known import BuildInputs
from layerstore.build.lower import PROXY_ARGS, LowerOptions, lower
from layerstore.build.notes import Notes, NotesSettings
from layerstore.build.outputs import Output, OutputKind, write_outputs
from layerstore.build.platforms import Platform, normalized
from layerstore.build.record import context_keys, made_steps
from layerstore.build.result import StoredImages, finished_image, known_config
from layerstore.build.run.settings import DEFAULT_OPTIONS, RunOptions, RunSettings, SshSource
from layerstore.build.solver import Solver
from layerstore.build.spec_file import fetched_dockerfile, read_spec
from layerstore.build.squash import Squash
from layerstore.build.step_cache import StoreCache, export_cache, importing
from layerstore.errors import InputError
from layerstore.formats.reference import parse_tag_name
from layerstore.image.images import host_platform
from layerstore.linux.namespaces import mapped_ids
from layerstore.store.failures import ChunkNotFoundError, LayerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.build.cache_exchange import CacheExport, CacheImport
    from layerstore.build.contexts import ContextSource, MainContext
    from layerstore.build.dockerfile.syntax import Dockerfile
    from layerstore.build.ignore import IgnoreRules
    from layerstore.build.lint.meaning import Surroundings
    from layerstore.build.lower import Plan
    from layerstore.build.record import MadeStep
    from layerstore.build.spec_file import SpecFile
    from layerstore.build.ui import BuildUi, StepOutcome
    from layerstore.digest import ImageId
    from layerstore.formats.oci import Descriptor
    from layerstore.formats.oci_config import ImageConfig
    from layerstore.store.catalog_rows import ImageRecord
    from layerstore.store.store import Store

CACHE_MOUNTS = "cache-mounts"
_STAYING = (BaseOp, ContextOp, CopyOp, MergeOp, MkdirOp, RunOp)
"""Operations whose results only depend on what a build looks at here."""

_ATTEMPTS = 3
"""How often a build begins anew because cached layers were collected under it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """What to build.

    Attributes:
        context: What COPY and ADD take files from: a directory, or a
            :class:`~layerstore.build.contexts.StreamContext`, ``UrlContext`` or ``GitContext``.
        dockerfile: The Dockerfile; ``Dockerfile`` in the context when None. May lie outside.
        dockerfile_text: Its content, when it is not in a file (then ``dockerfile`` names it).
        dockerfile_url: Where it is fetched from, instead of both.
        tags: Names of the image.
        target: Stage to build; the last one when None.
        build_args: Values of ARG.
        labels: Set on the image.
        secrets: Values by id, for ``RUN --mount=type=secret``.
        no_cache: Run every step; the results are remembered all the same.
        network: False gives no RUN a network.
        environ: The caller's variables; fetching heeds those of proxies.
        allow: Entitlements that the Dockerfile may use: ``security.insecure``, ``network.host``.
        extra_hosts: Names and addresses that every RUN finds in its ``/etc/hosts``.
        run: How commands run: limits, the runtime.
        ssh: Agents or keys by id, for ``RUN --mount=type=ssh``.
        source_date_epoch: Seconds: no time in the image is later. A build argument
            SOURCE_DATE_EPOCH means the same and goes first.
        outputs: Where the result goes.
        squash: Which layers become one.
        annotations: Of the image's manifest.
        platform: What the image is for, and base images must be; None takes them as they are.
        pulls: Base images must come from a registry, whatever the store has.
        explain: Tell the watcher why steps run.
        cache_from: Where steps are looked up that the store does not know.
        cache_to: What gets the build's steps when it is done.
    """

    context: ContextSource
    dockerfile: Path | None = None
    dockerfile_text: bytes | None = None
    dockerfile_url: str = ""
    tags: Sequence[str] = ()
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    no_cache: bool = False
    network: bool = True
    environ: Mapping[str, str] = field(default_factory=dict)
    allow: frozenset[str] = frozenset()
    extra_hosts: tuple[tuple[str, str], ...] = ()
    run: RunOptions = DEFAULT_OPTIONS
    ssh: Mapping[str, SshSource] = field(default_factory=dict)
    source_date_epoch: int | None = None
    outputs: Sequence[Output] = (Output(kind=OutputKind.IMAGE),)
    squash: Squash = Squash.NOTHING
    annotations: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    pulls: bool = False
    attestations: Attestations = NO_ATTESTATIONS
    explain: bool = False
    cache_from: Sequence[CacheImport] = ()
    cache_to: Sequence[CacheExport] = ()


@dataclass(frozen=True, slots=True)
class BuildResult:
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
    predicates: Mapping[str, str] = field(default_factory=dict)

    @property
    def image_id(self) -> ImageId:
        """The image's id."""
        return self.image.image_id


def build(store: Store, request: BuildRequest, ui: BuildUi) -> BuildResult:
    """Build an image; it is durable and named when this returns.

    Steps that were finished stay cached when a later one fails.

    Raises:
        SpecError: The Dockerfile is wrong; has file, line and column.
        BuildError: A step failed.
        InputError: The request or the build context is wrong.
        UnsupportedError: The host lacks what a RUN needs.
    """
    names = [parse_tag_name(tag) for tag in request.tags]
    with LazyFetcher(store, request.environ, request.secrets) as fetcher:
        main = main_context(request.context, store, fetcher)
        spec = read_spec(_with_fetched_dockerfile(request, store, fetcher), main)
        dockerfile = parse_dockerfile(spec.text, spec.filename)
        for notice in dockerfile.notices:
            if not notice.rule:  # else a build check tells it, at the end
                ui.warning(notice)
        sources = _Sources(main, spec, dockerfile, fetcher)
        return _build(store, request, ui, sources, names)


class _Sources(NamedTuple):
    """What a build reads: its Dockerfile, its context, and where it fetches from."""

    main: MainContext
    spec: SpecFile
    dockerfile: Dockerfile
    fetcher: LazyFetcher


def _build(
    store: Store, request: BuildRequest, ui: BuildUi, sources: _Sources, names: Sequence[str]
) -> BuildResult:
    attempts_left = _ATTEMPTS
    while True:
        attempts_left -= 1
        try:
            return _build_once(store, request, ui, sources, names)
        except BuildStepError as err:
            err.quote(sources.spec.filename, sources.spec.text)
            raise
        except (LayerNotFoundError, ChunkNotFoundError):
            # Nothing holds a layer between finding it in the cache and building on it.
            if not attempts_left:
                raise
            ui.message("layers that the cache knew are gone, gc took them: building again")


def _build_once(
    store: Store,
    request: BuildRequest,
    ui: BuildUi,
    sources: _Sources,
    names: Sequence[str],
) -> BuildResult:
    main, spec, dockerfile, fetcher = sources
    epoch = source_date_epoch(request)
    images = StoredImages(store)
    plan = lower(dockerfile, _lower_options(request), images)
    _warn_of_unused(plan, ui, dockerfile.stages[0].span.file)
    around = _surroundings(request, images.config_of, spec.ignore)
    findings = findings_of(dockerfile, spec.text, around, plan.stages)
    counter = _Counter(ui)
    settings = _run_settings(store, request)
    now_ns = time.time_ns() if epoch is None else epoch * 1_000_000_000
    with (
        told_at_the_end(findings, ui),
        main.open(spec.ignore, now_ns=now_ns) as context,
        BuildExecutor(
            store, Contexts(context, {}), fetcher, settings, counter, epoch=epoch
        ) as executor,
        contextlib.ExitStack() as stack,
    ):
        local = StoreCache(store, executor)
        cache = stack.enter_context(importing(store, local, request.cache_from, counter))
        notes = Notes(store, executor, _notes_settings(request, spec, images, names), counter)
        solver = Solver(
            executor,
            cache=None if request.no_cache else cache,
            remember=cache,
            notes=notes,
            ui=counter,
            epoch=epoch,
        )
        try:
            result = solver.solve(plan.state.vertex)
            parts = finished_image(
                executor.resources, plan, solver, result, images.base_of(plan.state.image),
                epoch=epoch, squash=request.squash, annotations=request.annotations,
            )  # fmt: skip
            if request.attestations != NO_ATTESTATIONS:
                facts = BuildFacts(
                    request=request,
                    spec=spec.text,
                    spec_name=dockerfile.stages[0].span.file,
                    steps=made_steps(plan.state.vertex, solver),
                    bases=images.used,
                    context_keys=context_keys(plan.state.vertex, solver, executor),
                    builder_platform=str(native_platform()),
                    epoch=epoch,
                    started=now_ns / 1e9,
                    finished=time.time(),
                )
                parts = attested(executor.resources, parts, facts, names)
            written = write_outputs(request.outputs, executor.resources, parts, names, epoch=epoch)
        except BuildStepError:
            notes.finish("")
            raise
        notes.finish(written.image.image_id)
        export_cache(store, notes, plan.state.vertex, request.cache_to, counter)
    inputs = BuildInputs(
        root=os.fsencode(main.directory or ""),
        looked=context.looked,
        given=spec.read,
        absent=spec.absent,
        bases=[(base.reference, base.record.image_id) for base in images.used],
        steps=local.records,
        is_whole=main.directory is not None
        and all(isinstance(each.op, _STAYING) for each in topological(plan.state.vertex)),
    )
    return BuildResult(
        written.image, written.names, counter.total, counter.cached, written.descriptor, inputs,
        counter.new_bytes, counter.reused_bytes, written.is_stored,
        made_steps(plan.state.vertex, solver), parts.predicates,
    )  # fmt: skip


class _Counter:
    """Passes everything on and counts steps."""

    def __init__(self, ui: BuildUi) -> None:
        self._ui = ui
        self.total = 0
        self.cached = 0
        self.new_bytes = 0
        self.reused_bytes = 0
        self.planned = ui.planned
        self.started = ui.started
        self.explained = ui.explained
        self.failed = ui.failed
        self.output = ui.output
        self.warning = ui.warning
        self.message = ui.message

    def finished(self, number: int, label: str, outcome: StepOutcome) -> None:
        """Count a finished step and pass it on."""
        self.total += 1
        self.cached += outcome.cached
        self.new_bytes += outcome.new_bytes
        self.reused_bytes += outcome.reused_bytes
        self._ui.finished(number, label, outcome)


def source_date_epoch(request: BuildRequest) -> int | None:
    """Return SOURCE_DATE_EPOCH; the build argument goes first, and an empty one means none."""
    text = request.build_args.get("SOURCE_DATE_EPOCH")
    if text is None:
        return request.source_date_epoch
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise InputError(f"SOURCE_DATE_EPOCH is {text!r}, expected seconds since 1970")
    return int(text)


def _notes_settings(
    request: BuildRequest, spec: SpecFile, images: StoredImages, names: Sequence[str]
) -> NotesSettings:
    return NotesSettings(
        context=context_name(request.context),
        dockerfile=_spec_name(request, spec),
        target=request.target or "",
        names=tuple(names),
        images={each.reference: each.record.image_id for each in images.used},
        epoch=source_date_epoch(request),
        explain=request.explain,
        use_cache=not request.no_cache,
    )


def _spec_name(request: BuildRequest, spec: SpecFile) -> str:
    """Return what the Dockerfile is called, so that its builds can be found again."""
    is_given = request.dockerfile_text is not None or bool(request.dockerfile_url)
    if is_given or not isinstance(request.context, Path):
        return spec.filename
    return str(Path(spec.filename).absolute())


def _with_fetched_dockerfile(
    request: BuildRequest, store: Store, fetcher: LazyFetcher
) -> BuildRequest:
    """Return the request with the Dockerfile's text, if it names a URL for it."""
    if not request.dockerfile_url:
        return request
    text = fetched_dockerfile(request.dockerfile_url, store, fetcher)
    name = Path(redacted(request.dockerfile_url))
    return replace(request, dockerfile=name, dockerfile_text=text)


def check(store: Store | None, request: BuildRequest) -> Checked:
    """Return what the build checks say about a request; nothing runs and nothing is written.

    Args:
        store: Where base images are looked up; None when there is none.
        request: As for :func:`build`.

    Raises:
        SpecError: The Dockerfile is wrong; has file, line and column.
        InputError: The request or the build context is wrong.
    """
    spec = read_spec(request, local_context(request.context))
    dockerfile = parse_dockerfile(spec.text, spec.filename)
    around = _surroundings(request, partial(known_config, store), spec.ignore)
    findings = findings_of(dockerfile, spec.text, around)
    return Checked(spec.filename, physical_lines(spec.text), dockerfile, findings)


def _surroundings(
    request: BuildRequest,
    find_image: Callable[[str], ImageConfig | None],
    ignore: IgnoreRules,
) -> Surroundings:
    from layerstore.build.lint.meaning import Surroundings

    native = native_platform()
    return Surroundings(request.build_args, native, request.platform or native, find_image, ignore)


def _lower_options(request: BuildRequest) -> LowerOptions:
    build_args = dict(request.build_args)
    if request.source_date_epoch is not None:
        build_args.setdefault("SOURCE_DATE_EPOCH", str(request.source_date_epoch))
    return LowerOptions(
        build_args=build_args,
        labels=request.labels,
        target=request.target,
        network=request.network,
        allow=request.allow,
        extra_hosts=request.extra_hosts,
        platform=request.platform or native_platform(),
        build_platform=native_platform(),
        is_platform_given=request.platform is not None,
        pulls=request.pulls,
        secrets=request.secrets.keys(),
        agents=request.ssh.keys(),
        one_id=mapped_ids() == 1,
    )


def native_platform() -> Platform:
    """Return what runs on this host without help."""
    return normalized("linux", *host_platform())


def _run_settings(store: Store, request: BuildRequest) -> RunSettings:
    proxies: dict[str, str] = {}
    for name, value in request.build_args.items():
        if name.lower() in PROXY_ARGS:
            proxies[name.upper()] = proxies[name.lower()] = value
    return RunSettings(
        proxies=proxies,
        secrets=request.secrets,
        cache_root=store.root / CACHE_MOUNTS,
        options=request.run,
        ssh=request.ssh,
    )


def _warn_of_unused(plan: Plan, ui: BuildUi, filename: str) -> None:
    for name in plan.unused_args:
        message = f"the build argument {name} is declared by no ARG and has no effect"
        ui.warning(Notice(message, SourceSpan(filename, 1, 1, 1)))
