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
from layerstore.build.outputs import BuiltImage, folder_of, write_outputs
from layerstore.build.platforms import native_platform
from layerstore.build.record import context_keys, made_steps
from layerstore.build.request import (
    BuildRequest,
    BuildResult,
    BuiltVariant,
    ResolvedLock,
    source_date_epoch,
)
from layerstore.build.result import finished_image, known_config
from layerstore.build.solving import (
    Solving,
    images_of,
    lower_options,
    notes_settings,
    open_solver,
)
from layerstore.build.spec_file import NATIVE_SUFFIX, lock_path, read_spec
from layerstore.build.step_cache import export_cache
from layerstore.build.targets import check_outputs, wanted_images
from layerstore.errors import InputError
from layerstore.store.failures import ChunkNotFoundError, LayerNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.build.contexts import MainContext
    from layerstore.build.graph import Vertex
    from layerstore.build.ignore import IgnoreRules
    from layerstore.build.lint.meaning import Surroundings
    from layerstore.build.planning import PlannedVertex
    from layerstore.build.result import BaseImage
    from layerstore.build.spec_file import SpecFile
    from layerstore.build.targets import Wanted
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
    """Build every image that a request is for: one, the variants of a matrix, several platforms.

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
        images = images_of(store, request, sources, ui)

        def solve(vertex: Vertex) -> tuple[DiffId, ...]:
            # A session each: steps are numbered from one, and have directories by number.
            about = notes_settings(request, sources.spec, images.used, ())
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
    spec = sources.spec
    wanted = wanted_images(store, request, sources, ui)
    check_outputs(wanted, request, at_most)
    around = _surroundings(request, wanted[0].images.config_of, spec.ignore)
    findings = sources.frontend.findings(around, [each.target for each in wanted])
    names = [name for each in wanted for name in each.target.names]
    about = notes_settings(request, spec, _bases(wanted), names)
    with (
        told_at_the_end(findings, ui),
        open_solver(store, request, ui, sources, about) as solving,
    ):
        try:
            solving.solver.solve(*(each.vertex for each in wanted))
            built = [_built(spec, each, solving) for each in wanted]
            resources, epoch = solving.executor.resources, source_date_epoch(request)
            written = write_outputs(request.outputs, resources, built, epoch=epoch)
        except BuildStepError:
            solving.notes.finish(())
            raise
        solving.notes.finish([each.image.image_id for each in written])
        vertices = [each.vertex for each in wanted]
        export_cache(store, solving.notes, vertices, request.cache_to, solving.counter)
    inputs = _inputs(request, sources, wanted, solving)
    counter = solving.counter
    return [
        BuiltVariant(
            each.label,
            BuildResult(
                done.image, done.names, counter.total, counter.cached, done.descriptor, inputs,
                counter.new_bytes, counter.reused_bytes, done.is_stored,
                made_steps(each.vertex, solving.solver), made.parts.predicates,
            ),
        )
        for each, made, done in zip(wanted, built, written, strict=True)
    ]  # fmt: skip


def _bases(wanted: Sequence[Wanted]) -> list[BaseImage]:
    return [base for each in wanted for base in each.images.used]


def _built(spec: SpecFile, wanted: Wanted, solving: Solving) -> BuiltImage:
    """Return a solved image with what is attested of it, which is nowhere yet."""
    request, images = wanted.request, wanted.images
    plan, resources, epoch = (
        wanted.target.plan,
        solving.executor.resources,
        source_date_epoch(request),
    )
    vertex, solver = wanted.vertex, solving.solver
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
        parts = attested(resources, parts, facts, wanted.target.names)
    return BuiltImage(parts, wanted.target.names, folder_of(wanted.platform))


def _inputs(
    request: BuildRequest, sources: Sources, wanted: Sequence[Wanted], solving: Solving
) -> BuildInputs:
    vertices = topological(*(each.vertex for each in wanted))
    directory = sources.main.directory
    return BuildInputs(
        root=os.fsencode(directory or ""),
        looked=solving.context.looked,
        given=sources.spec.read,
        absent=sources.spec.absent,
        bases=[(base.reference, base.record.image_id) for base in _bases(wanted)],
        steps=solving.local.records,
        # Native specs read files that are not told of here.
        is_whole=directory is not None
        and not request.named_contexts
        and isinstance(sources.frontend, DockerfileFrontend)
        and all(isinstance(each.op, _STAYING) for each in vertices),
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
        wanted = wanted_images(store, request, sources, ui)
        about = notes_settings(request, sources.spec, _bases(wanted), ())
        with open_solver(store, request, ui, sources, about) as solving:
            return planned(
                [each.vertex for each in wanted],
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
    platform = request.platforms[0] if request.platforms else request.platform or native
    return Surroundings(request.build_args, native, platform, find_image, ignore)
