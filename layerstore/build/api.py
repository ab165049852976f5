"""Building an image: the one function the command line and other programs call."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from layerstore.build.attest import NO_ATTESTATIONS, BuildFacts, attested
from layerstore.build.checking import Checked, findings_of, physical_lines, told_at_the_end
from layerstore.build.contexts import (
    local_context,
)
from layerstore.build.dockerfile.parser import parse_dockerfile
from layerstore.build.errors import BuildStepError
from layerstore.build.frontends import DockerfileFrontend
from layerstore.build.graph import BaseOp, ContextOp, CopyOp, MergeOp, MkdirOp, RunOp, topological
from layerstore.build.known import BuildInputs
from layerstore.build.opening import Sources, host_file, native_frontend, opened
from layerstore.build.outputs import OutputKind, write_outputs
from layerstore.build.platforms import native_platform
from layerstore.build.record import context_keys, made_steps
from layerstore.build.request import (
    BuildRequest,
    BuildResult,
    BuiltVariant,
    ResolvedLock,
    source_date_epoch,
)
from layerstore.build.result import StoredImages, finished_image, known_config
from layerstore.build.solving import (
    Solving,
    images_of,
    lower_options,
    notes_settings,
    open_solver,
)
from layerstore.build.spec_file import NATIVE_SUFFIX, lock_path, read_spec
from layerstore.build.step_cache import export_cache
from layerstore.errors import InputError
from layerstore.store.failures import ChunkNotFoundError, LayerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from layerstore.build.contexts import MainContext
    from layerstore.build.frontends import Target
    from layerstore.build.graph import Vertex
    from layerstore.build.ignore import IgnoreRules
    from layerstore.build.lint.meaning import Surroundings
    from layerstore.build.outputs import Written
    from layerstore.build.planning import PlannedVertex
    from layerstore.build.spec_file import SpecFile
    from layerstore.build.ui import BuildUi
    from layerstore.digest import DiffId
    from layerstore.formats.oci_config import ImageConfig
    from layerstore.store.store import Store

_STAYING = (BaseOp, ContextOp, CopyOp, MergeOp, MkdirOp, RunOp)
"""Operations whose results only depend on what a build looks at here."""

_ATTEMPTS = 3
"""How often a build begins anew because cached layers were collected under it."""


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
    with opened(store, request, ui) as sources:
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

    with opened(store, request, ui) as sources:
        path = host_file(request, sources.spec)
        if isinstance(sources.frontend, DockerfileFrontend) or path is None:
            raise InputError(
                f"{sources.spec.filename} cannot be locked",
                hint="only native specs in files of this host can: layerstore.toml",
            )
        images = images_of(store, request, sources)

        def solve(vertex: Vertex) -> tuple[DiffId, ...]:
            # A session each: steps are numbered from one, and have directories by number.
            about = notes_settings(request, sources.spec, images, ())
            with open_solver(store, request, ui, sources, about) as solving:
                return solving.solver.solve(vertex).layers

        locks = ResolvingLocks(solve, file_reader(store), str(time.time_ns()))
        sources.frontend.resolve(lower_options(request), images, locks)
    return ResolvedLock(lock_path(path), encode(locks.lock()))


def _build_once(
    store: Store,
    request: BuildRequest,
    ui: BuildUi,
    sources: Sources,
    at_most: int | None,
) -> list[BuiltVariant]:
    spec, frontend = sources.spec, sources.frontend
    images = images_of(store, request, sources)
    targets = frontend.targets(lower_options(request), images, ui)
    _check_count(targets, request, at_most)
    findings = frontend.findings(_surroundings(request, images.config_of, spec.ignore), targets)
    names = [name for target in targets for name in target.names]
    about = notes_settings(request, spec, images, names)
    with (
        told_at_the_end(findings, ui),
        open_solver(store, request, ui, sources, about) as solving,
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
    solving: Solving,
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
    sources: Sources,
    images: StoredImages,
    targets: Sequence[Target],
    solving: Solving,
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
    with opened(store, request, ui, read_only=True) as sources:
        images = images_of(store, request, sources)
        targets = sources.frontend.targets(lower_options(request), images, ui)
        about = notes_settings(request, sources.spec, images, ())
        with open_solver(store, request, ui, sources, about) as solving:
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

    frontend = native_frontend(store, request, spec, main, SilentUi(), read_only=True)
    options = lower_options(request)
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
