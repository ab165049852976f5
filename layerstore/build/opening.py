"""Opening what a request is about: its context, its spec, and the frontend that reads that."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from layerstore.build.contexts import GitContext, UrlContext, context_name, main_context
from layerstore.build.fetch.lazy import LazyFetcher
from layerstore.build.frontends import DockerfileFrontend
from layerstore.build.go_text import is_true
from layerstore.build.lower_options import KEEP_GIT_DIR_ARG
from layerstore.build.request import source_date_epoch
from layerstore.build.spec_file import NATIVE_SUFFIX, fetched_dockerfile, read_spec
from layerstore.errors import InputError
from layerstore.formats.reference import parse_tag_name
from layerstore.net.redaction import redacted
from layerstore.units import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator

    from layerstore.build.contexts import MainContext
    from layerstore.build.native.frontend import NativeFrontend
    from layerstore.build.request import BuildRequest
    from layerstore.build.spec_file import SpecFile
    from layerstore.build.ui import BuildUi
    from layerstore.store.store import Store


class Sources(NamedTuple):
    """What a build reads: its spec, its context, and where it fetches from."""

    main: MainContext
    spec: SpecFile
    frontend: DockerfileFrontend | NativeFrontend
    fetcher: LazyFetcher


@contextlib.contextmanager
def opened(
    store: Store, request: BuildRequest, ui: BuildUi, *, read_only: bool = False
) -> Iterator[Sources]:
    """Give what a request is about, read; ``read_only`` makes nothing that it lacks.

    Raises:
        InputError: The request, its context or a tag is wrong.
        SpecError: The spec is wrong; has file, line and column.
    """
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
        yield Sources(main, spec, frontend, fetcher)


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
    return native_frontend(store, request, spec, main, ui, read_only=read_only)


def native_frontend(
    store: Store | None,
    request: BuildRequest,
    spec: SpecFile,
    main: MainContext,
    ui: BuildUi,
    *,
    read_only: bool,
) -> NativeFrontend:
    """Return what reads a native spec.

    Args:
        store: Where bases are looked up; None when there is none.
        request: That the spec belongs to.
        spec: The spec.
        main: The context.
        ui: Hears what is told of it.
        read_only: Make nothing that is lacking.

    Raises:
        InputError: The request asks for what a native spec does not take.
        SpecError: The spec is wrong.
    """
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
    return open_spec(spec, host_file(request, spec), main, sources, choice, epoch)


def host_file(request: BuildRequest, spec: SpecFile) -> Path | None:
    """Return the spec's file, None when it is none of this host."""
    is_given = request.dockerfile_text is not None or bool(request.dockerfile_url)
    if is_given or not isinstance(request.context, Path):
        return None
    return Path(spec.filename)


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
    return msgspec.structs.replace(request, dockerfile=name, dockerfile_text=text)
