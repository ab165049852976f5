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
    GitContext,
    UrlContext,
    context_name,
    local_context,
    main_context,
)
from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.errors import BuildStepError
from layerstore.build.executor import BuildExecutor
from layerstore.build.fetch.lazy import LazyFetcher
from layerstore.build.fetch.redaction import redacted
from layerstore.build.frontends import DockerfileFrontend
from layerstore.build.go_text import is_true
from layerstore.build.graph import BaseOp, ContextOp, CopyOp, MergeOp, MkdirOp, RunOp, topological
from layerstore.build.known import BuildInputs
from layerstore.build.lower import KEEP_GIT_DIR_ARG, PROXY_ARGS, LowerOptions
from layerstore.build.notes import Notes, NotesSettings
from layerstore.build.outputs import Output, OutputKind, write_outputs
from layerstore.build.platforms import Platform, normalized
from layerstore.build.record import context_keys, made_steps
from layerstore.build.result import StoredImages, finished_image, known_config, rfc3339
from layerstore.build.run.settings import DEFAULT_OPTIONS, RunOptions, RunSettings, SshSource
from layerstore.build.solver import Solver
from layerstore.build.spec_file import NATIVE_SUFFIX, fetched_dockerfile, lock_path, read_spec
from layerstore.build.squash import Squash
from layerstore.build.step_cache import StoreCache, export_cache, importing
from layerstore.build.step_locks import StepLocks
from layerstore.build.ui import CountingUi
from layerstore.build.waiting import Patience
from layerstore.errors import InputError
from layerstore.formats.reference import parse_tag_name
from layerstore.image.images import host_platform
from layerstore.linux.namespaces import mapped_ids
from layerstore.store.failures import ChunkNotFoundError, LayerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from layerstore.build.cache_exchange import CacheExport, CacheImport
    from layerstore.build.contexts import ContextSource, MainContext, NamedSource, SourceTrees
    from layerstore.build.frontends import Target
    from layerstore.build.graph import Vertex
    from layerstore.build.ignore import IgnoreRules
    from layerstore.build.lint.meaning import Surroundings
    from layerstore.build.native.frontend import NativeFrontend
    from layerstore.build.outputs import Written
    from layerstore.build.planning import PlannedVertex
    from layerstore.build.record import MadeStep
    from layerstore.build.spec_file import SpecFile
    from layerstore.build.ui import BuildUi
    from layerstore.digest import DiffId, ImageId
    from layerstore.formats.oci import Descriptor
    from layerstore.formats.oci_config import ImageConfig
    from layerstore.store.catalog_rows import ImageRecord
    from layerstore.store.store import Store

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
        named_contexts: What stands in the place of names of stages and images.
        dockerfile: The Dockerfile; ``Dockerfile`` in the context when None. May lie outside.
        dockerfile_text: Its content, when it is not in a file (then ``dockerfile`` names it).
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
        variants: Of a native spec: which to build, all by default.
        locked: Of a native spec: its lock file must be there and up to date.
    """

    context: ContextSource
    named_contexts: Mapping[str, NamedSource] = field(default_factory=dict)
    dockerfile: Path | None = None
    dockerfile_text: bytes | None = None
    dockerfile_url: str = ""
    tags: Sequence[str] = ()
    target: str | None = None
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    no_cache: bool = False
    no_cache_stages: Sequence[str] = ()
    jobs: int | None = None
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
    variants: Sequence[str] = ()
    locked: bool = False


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


def build(store: Store, request: BuildRequest, ui: BuildUi) -> BuildResult:
    """Build an image; it is durable and named when this returns.

    Steps that were finished stay cached when a later one fails.

    Raises:
        SpecError: The Dockerfile is wrong; has file, line and column.
        BuildError: A step failed.
        InputError: The request or the build context is wrong, or it is for several images.
        UnsupportedError: The host lacks what a RUN needs.
    """
    (built,) = build_all(store, request, ui, at_most=1)
    return built.result


def build_all(
    store: Store, request: BuildRequest, ui: BuildUi, *, at_most: int | None = None
) -> list[BuiltVariant]:
    """Build every image that a spec describes: one, or the variants of a native spec's matrix.

    They are solved as one graph, so what they have in common runs once. All are durable and
    named when this returns.

    Args:
        store: Where to.
        request: What.
        ui: Hears of it.
        at_most: Refuse specs with more images.

    Raises:
        As :func:`build`.
    """
    with _opened(store, request, ui) as sources:
        attempts_left = _ATTEMPTS
        while True:
            attempts_left -= 1
            try:
                return _build_once(store, request, ui, sources, at_most)
            except BuildStepError as err:
                err.quote(sources.spec.filename, sources.spec.text)
                raise
            except (LayerNotFoundError, ChunkNotFoundError):
                # Nothing holds a layer between finding it in the cache and building on it.
                if not attempts_left:
                    raise
                ui.message("layers that the cache knew are gone, gc took them: building again")


def resolve_lock(store: Store, request: BuildRequest, ui: BuildUi) -> ResolvedLock:
    """Return what a native spec's lock file must hold today, whatever it holds now.

    Raises:
        InputError: The spec is not a native one, or is no file of this host.
        SpecError: It is wrong.
        BuildError: A package manager cannot find what it asks for.
    """
    from layerstore.build.native.lockfile import encode
    from layerstore.build.native.locking import ResolvingLocks, file_reader

    with _opened(store, request, ui) as sources:
        path = _host_file(request, sources.spec)
        if isinstance(sources.frontend, DockerfileFrontend) or path is None:
            raise InputError(
                f"{sources.spec.filename} cannot be locked",
                hint="only native specs in files of this host can: layerstore.toml",
            )
        images = _images(store, request, sources)

        def solve(vertex: Vertex) -> tuple[DiffId, ...]:
            # A session each: steps are numbered from one, and have directories by number.
            about = _notes_settings(request, sources.spec, images, ())
            with _solving(store, request, ui, sources, about) as solving:
                return solving.solver.solve(vertex).layers

        locks = ResolvingLocks(solve, file_reader(store), str(time.time_ns()))
        sources.frontend.resolve(_lower_options(request), images, locks)
    return ResolvedLock(lock_path(path), encode(locks.lock()))


class _Sources(NamedTuple):
    """What a build reads: its spec, its context, and where it fetches from."""

    main: MainContext
    spec: SpecFile
    frontend: DockerfileFrontend | NativeFrontend
    fetcher: LazyFetcher


@contextlib.contextmanager
def _opened(
    store: Store, request: BuildRequest, ui: BuildUi, *, read_only: bool = False
) -> Iterator[_Sources]:
    """Read what a request is about; ``read_only`` makes nothing that it lacks."""
    for tag in request.tags:
        if "{{" not in tag:
            parse_tag_name(tag)
    with LazyFetcher(store, request.environ, request.secrets, _ssh_agent(request)) as fetcher:
        if isinstance(request.context, UrlContext | GitContext):  # may take a while
            ui.message(f"loading the build context from {context_name(request.context)}")
        keeps_git_dir = is_true(request.build_args.get(KEEP_GIT_DIR_ARG, ""))
        main = main_context(request.context, store, fetcher, keeps_git_dir=keeps_git_dir)
        spec = read_spec(_with_fetched_dockerfile(request, store, fetcher), main)
        frontend = _frontend(store, request, spec, main, ui, read_only=read_only)
        yield _Sources(main, spec, frontend, fetcher)


def _frontend(
    store: Store,
    request: BuildRequest,
    spec: SpecFile,
    main: MainContext,
    ui: BuildUi,
    *,
    read_only: bool,
) -> DockerfileFrontend | NativeFrontend:
    if not spec.filename.endswith(NATIVE_SUFFIX):
        if request.variants or request.locked:
            raise InputError(
                f"{spec.filename} is a Dockerfile: it has no variants and no lock file"
            )
        return DockerfileFrontend(spec.text, spec.filename, request.tags, ui)
    return _native_frontend(store, request, spec, main, ui, read_only=read_only)


def _native_frontend(
    store: Store | None,
    request: BuildRequest,
    spec: SpecFile,
    main: MainContext,
    ui: BuildUi,
    *,
    read_only: bool,
) -> NativeFrontend:
    if request.named_contexts:
        raise InputError(
            f"{spec.filename} is a native spec, which takes no --build-context",
            hint="name its bases in the spec",
        )
    from layerstore.build.native.frontend import Choice, open_spec
    from layerstore.build.native.sources import StoreSources

    epoch = source_date_epoch(request)
    now = rfc3339(time.time() if epoch is None else float(epoch))
    sources = StoreSources(store, main, spec.ignore, now=now, tell=ui.message, read_only=read_only)
    choice = Choice(tuple(request.tags), tuple(request.variants), request.locked)
    return open_spec(spec, _host_file(request, spec), main, sources, choice, epoch)


def _host_file(request: BuildRequest, spec: SpecFile) -> Path | None:
    """Return the spec's file, None when it is none of this host."""
    is_given = request.dockerfile_text is not None or bool(request.dockerfile_url)
    if is_given or not isinstance(request.context, Path):
        return None
    return Path(spec.filename)


def _build_once(
    store: Store,
    request: BuildRequest,
    ui: BuildUi,
    sources: _Sources,
    at_most: int | None,
) -> list[BuiltVariant]:
    spec, frontend = sources.spec, sources.frontend
    images = _images(store, request, sources)
    targets = frontend.targets(_lower_options(request), images, ui)
    _check_count(targets, request, at_most)
    findings = frontend.findings(_surroundings(request, images.config_of, spec.ignore), targets)
    names = [name for target in targets for name in target.names]
    about = _notes_settings(request, spec, images, names)
    with (
        told_at_the_end(findings, ui),
        _solving(store, request, ui, sources, about) as solving,
    ):
        try:
            solving.solver.solve(*(target.plan.state.vertex for target in targets))
            written = [_write(request, spec, target, images, solving) for target in targets]
        except BuildStepError:
            solving.notes.finish(())
            raise
        solving.notes.finish([each.image.image_id for each, _ in written])
        vertices = [target.plan.state.vertex for target in targets]
        export_cache(store, solving.notes, vertices, request.cache_to, solving.counter)
    inputs = _inputs(request, sources, images, targets, solving)
    counter = solving.counter
    return [
        BuiltVariant(
            target.label,
            BuildResult(
                each.image, each.names, counter.total, counter.cached, each.descriptor, inputs,
                counter.new_bytes, counter.reused_bytes, each.is_stored,
                made_steps(target.plan.state.vertex, solving.solver), predicates,
            ),
        )
        for target, (each, predicates) in zip(targets, written, strict=True)
    ]  # fmt: skip


def _write(
    request: BuildRequest,
    spec: SpecFile,
    target: Target,
    images: StoredImages,
    solving: _Solving,
) -> tuple[Written, Mapping[str, str]]:
    """Write a solved target where it is wanted; return what is attested of it, too."""
    plan, resources, epoch = target.plan, solving.executor.resources, source_date_epoch(request)
    vertex, solver = plan.state.vertex, solving.solver
    parts = finished_image(
        resources, plan, solver, solver.result(vertex), images.base_of(plan.state.image),
        epoch=epoch, squash=request.squash, annotations=request.annotations,
    )  # fmt: skip
    if request.attestations != NO_ATTESTATIONS:
        facts = BuildFacts(
            request=request,
            spec=spec.text,
            spec_name=spec.filename,
            steps=made_steps(vertex, solver),
            bases=images.used,
            context_keys=context_keys(vertex, solver, solving.executor),
            commits=solving.executor.commits,
            builder_platform=str(native_platform()),
            epoch=epoch,
            started=solving.began_ns / 1e9,
            finished=time.time(),
        )
        parts = attested(resources, parts, facts, target.names)
    written = write_outputs(request.outputs, resources, parts, target.names, epoch=epoch)
    return written, parts.predicates


def _inputs(
    request: BuildRequest,
    sources: _Sources,
    images: StoredImages,
    targets: Sequence[Target],
    solving: _Solving,
) -> BuildInputs:
    vertices = topological(*(target.plan.state.vertex for target in targets))
    directory = sources.main.directory
    return BuildInputs(
        root=os.fsencode(directory or ""),
        looked=solving.context.looked,
        given=sources.spec.read,
        absent=sources.spec.absent,
        bases=[(base.reference, base.record.image_id) for base in images.used],
        steps=solving.local.records,
        # Native specs read files that are not told of here.
        is_whole=directory is not None
        and not request.named_contexts
        and isinstance(sources.frontend, DockerfileFrontend)
        and all(isinstance(each.op, _STAYING) for each in vertices),
    )


def _check_count(targets: Sequence[Target], request: BuildRequest, at_most: int | None) -> None:
    elsewhere = any(output.kind is not OutputKind.IMAGE for output in request.outputs)
    if len(targets) > (1 if elsewhere else at_most or len(targets)):
        reason = "an output holds one" if elsewhere else "one was asked for"
        raise InputError(
            f"the spec describes {len(targets)} images, {reason}",
            hint=f"choose a variant: --variant {targets[0].label}",
        )


class _Solving(NamedTuple):
    """What a build works with while it runs.

    Attributes:
        began_ns: The build's time: SOURCE_DATE_EPOCH if there is one.
    """

    solver: Solver
    executor: BuildExecutor
    context: SourceTrees
    local: StoreCache
    notes: Notes
    counter: CountingUi
    began_ns: int


@contextlib.contextmanager
def _solving(
    store: Store, request: BuildRequest, ui: BuildUi, sources: _Sources, about: NotesSettings
) -> Iterator[_Solving]:
    """Yield what solves graphs for a request, until the block is left."""
    epoch = source_date_epoch(request)
    counter = CountingUi(ui)
    settings = _run_settings(store, request)
    now_ns = time.time_ns() if epoch is None else epoch * 1_000_000_000
    with (
        sources.main.open(sources.spec.ignore, now_ns=now_ns) as context,
        Contexts(context, _directories(request), now_ns=now_ns) as contexts,
        BuildExecutor(store, contexts, sources.fetcher, settings, counter, epoch=epoch) as executor,
        contextlib.ExitStack() as stack,
    ):
        local = StoreCache(store, executor)
        cache = stack.enter_context(importing(store, local, request.cache_from, counter))
        notes = Notes(store, executor, about, counter)
        solver = Solver(
            executor,
            cache=None if request.no_cache else cache,
            remember=local,
            notes=notes,
            ui=counter,
            epoch=epoch,
            jobs=request.jobs or len(os.sched_getaffinity(0)),
            locks=StepLocks(store.paths.steps_lock, Patience(executor.stopping, counter.waiting)),
        )
        yield _Solving(solver, executor, context, local, notes, counter, now_ns)


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


def _images(store: Store, request: BuildRequest, sources: _Sources) -> StoredImages:
    return StoredImages(store, sources.fetcher, request.platform or native_platform())


def _directories(request: BuildRequest) -> dict[str, Path]:
    """Return the named contexts that are directories."""
    named = request.named_contexts.items()
    return {name: source for name, source in named if isinstance(source, Path)}


def _spec_name(request: BuildRequest, spec: SpecFile) -> str:
    """Return what the Dockerfile is called, so that its builds can be found again."""
    path = _host_file(request, spec)
    return spec.filename if path is None else str(path.absolute())


def _ssh_agent(request: BuildRequest) -> str:
    """Return the socket of the agent that git sources of a Dockerfile may use."""
    given = request.ssh.get("default")
    return given.socket if given is not None else ""


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
    main = local_context(request.context)
    spec = read_spec(request, main)
    if spec.filename.endswith(NATIVE_SUFFIX):
        return _check_native(store, request, spec, main)
    dockerfile = parse_dockerfile(spec.text, spec.filename)
    around = _surroundings(request, partial(known_config, store), spec.ignore)
    findings = findings_of(dockerfile, spec.text, around)
    return Checked(spec.filename, physical_lines(spec.text), dockerfile, findings, around)


def plan_build(store: Store, request: BuildRequest) -> list[PlannedVertex]:
    """Return the graph of a build and what is known of its steps; nothing runs, nothing is written.

    Args:
        store: Where base images and steps are looked up.
        request: As for :func:`build`; what concerns the result does not matter.

    Raises:
        SpecError: The Dockerfile is wrong; has file, line and column.
        BuildStepError: A file that a step takes is not there.
        InputError: The request or the build context is wrong.
    """
    from layerstore.build.planning import planned
    from layerstore.build.ui import SilentUi

    ui = SilentUi()
    with _opened(store, request, ui, read_only=True) as sources:
        images = _images(store, request, sources)
        targets = sources.frontend.targets(_lower_options(request), images, ui)
        about = _notes_settings(request, sources.spec, images, ())
        with _solving(store, request, ui, sources, about) as solving:
            return planned(
                [target.plan.state.vertex for target in targets],
                solving.executor,
                _nothing if request.no_cache else store.cache_get,
                source_date_epoch(request),
            )


def _nothing(_key: str) -> None:
    """Return what a build that uses no cache knows of a step."""


def _check_native(
    store: Store | None, request: BuildRequest, spec: SpecFile, main: MainContext
) -> Checked:
    from layerstore.build.native.checks import AssumedImages
    from layerstore.build.ui import SilentUi

    frontend = _native_frontend(store, request, spec, main, SilentUi(), read_only=True)
    options = _lower_options(request)
    images = AssumedImages(partial(known_config, store), options.platform)
    findings = frontend.check(options, images)
    around = _surroundings(request, images.find, spec.ignore)
    return Checked(spec.filename, physical_lines(spec.text), None, findings, around)


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
        contexts=request.named_contexts,
        one_id=mapped_ids() == 1,
        no_cache_stages=request.no_cache_stages,
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
        cache_root=Path(store.paths.cache_mounts),
        options=request.run,
        ssh=request.ssh,
    )
