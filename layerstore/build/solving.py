"""What stands around a graph while it is solved: executor, caches, notes; and its settings."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from layerstore.build.contexts import Contexts, context_name
from layerstore.build.executor import BuildExecutor
from layerstore.build.lower_options import PROXY_ARGS, LowerOptions
from layerstore.build.notes import Notes, NotesSettings
from layerstore.build.opening import host_file
from layerstore.build.platforms import native_platform
from layerstore.build.request import source_date_epoch
from layerstore.build.result import StoredImages
from layerstore.build.run.settings import RunSettings
from layerstore.build.solver import Solver
from layerstore.build.step_cache import Forgetful, StoreCache, importing
from layerstore.build.step_locks import StepLocks
from layerstore.build.ui import CountingUi
from layerstore.build.waiting import Patience
from layerstore.linux.namespaces import mapped_ids
from layerstore.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from layerstore.build.contexts import SourceTrees
    from layerstore.build.opening import Sources
    from layerstore.build.request import BuildRequest
    from layerstore.build.result import BaseImage
    from layerstore.build.spec_file import SpecFile
    from layerstore.build.ui import BuildUi
    from layerstore.store.store import Store


class Solving(NamedTuple):
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
def open_solver(
    store: Store, request: BuildRequest, ui: BuildUi, sources: Sources, about: NotesSettings
) -> Iterator[Solving]:
    """Give what solves graphs for a request, until the block is left."""
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
            remember=Forgetful() if request.hostname else local,
            notes=notes,
            ui=counter,
            epoch=epoch,
            jobs=request.jobs or len(os.sched_getaffinity(0)),
            locks=StepLocks(store.paths.steps_lock, Patience(executor.stopping, counter.waiting)),
        )
        yield Solving(solver, executor, context, local, notes, counter, now_ns)


def notes_settings(
    request: BuildRequest, spec: SpecFile, used: Sequence[BaseImage], names: Sequence[str]
) -> NotesSettings:
    """Return what is noted of a build whatever its steps come to.

    Args:
        request: What was asked.
        spec: What is built.
        used: The bases that it has asked for so far.
        names: Of what it makes.
    """
    return NotesSettings(
        context=context_name(request.context),
        dockerfile=_spec_name(request, spec),
        target=request.target or "",
        names=tuple(names),
        images={each.reference: each.record.image_id for each in used},
        epoch=source_date_epoch(request),
        explain=request.explain,
        use_cache=not request.no_cache,
    )


def images_of(store: Store, request: BuildRequest, sources: Sources, ui: BuildUi) -> StoredImages:
    """Return what finds a request's base images."""
    platform = request.platform or native_platform()
    return StoredImages(store, sources.fetcher, platform, puller=request.puller, tell=ui.message)


def _directories(request: BuildRequest) -> dict[str, Path]:
    """Return the named contexts that are directories."""
    named = request.named_contexts.items()
    return {name: source for name, source in named if isinstance(source, Path)}


def _spec_name(request: BuildRequest, spec: SpecFile) -> str:
    """Return what the Dockerfile is called, so that its builds can be found again."""
    path = host_file(request, spec)
    return printable(spec.filename if path is None else str(path.absolute()))


def lower_options(request: BuildRequest) -> LowerOptions:
    """Return what of a request decides its graph."""
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
        hostname=request.hostname,
    )
