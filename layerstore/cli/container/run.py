"""The commands that start containers: ``run``, ``create``, ``start``, ``attach``."""

from __future__ import annotations

import contextlib
import os
import sys

from layerstore.cli.container.flags import add_run_options, refuse_unsupported
from layerstore.cli.container.mounts import directories_to_make, inherited_mounts
from layerstore.cli.container.options import runtime_of, settings_of, userns_of
from layerstore.cli.failure import describe, show, tell_all
from layerstore.cli.output import write_line, write_note
from layerstore.cli.rootless.containers_namespace import be_root
from layerstore.cli.settings import current_run_base
from layerstore.containers.errors import CANNOT_START, StartFailedError
from layerstore.errors import (
    ConflictError,
    InputError,
    LayerstoreError,
    NotFoundError,
)
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from layerstore.containers.lifecycle import Allotted
    from layerstore.containers.records import Container
    from layerstore.containers.settings import Settings
    from layerstore.containers.starting import Started
    from layerstore.linux.locks import FileLock
    from layerstore.progress import Progress
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.catalog.rows import ImageRecord

_DETACHED = 0


def run_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``run`` takes."""
    add_run_options(parser, runs=True)
    parser.add_argument("image", metavar="IMAGE", help="name or id; then COMMAND [ARG...]")


def create_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``create`` takes."""
    add_run_options(parser, runs=False)
    parser.add_argument("image", metavar="IMAGE", help="name or id; then COMMAND [ARG...]")


def run(options: argparse.Namespace, root: str) -> int:
    """Run a container; every failure of ours is 125, as docker has it."""
    try:
        return _run(options, root)
    except BrokenPipeError:
        raise
    except (LayerstoreError, OSError) as err:
        show(describe(err), err)
        return err.status if isinstance(err, StartFailedError) else CANNOT_START


def _run(options: argparse.Namespace, root: str) -> int:
    refuse_unsupported(options, "run")
    _require_terminal(options)
    be_root(root)
    with _allotted(options, root) as allotted:
        started = _begin(root, allotted, options)
        try:
            container = _make(options, root, allotted)
        except BaseException:
            _think_better(started)
            raise
    try:
        _start(root, container, started, allotted.lock)
    except BaseException:
        allotted.lock.close()  # still ours if it failed early
        _give_up(root, container)
        raise
    _note_use(root, container)
    if options.detach:
        started.connection.close()
        write_line(container.container_id)
        return _DETACHED
    return _attend(
        root, container, started,
        interactive=options.interactive, proxy=options.sig_proxy == "true",
    )  # fmt: skip


def _require_terminal(options: argparse.Namespace) -> None:
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise InputError("the input device is not a terminal", hint="leave out -t, keep -i")


@contextlib.contextmanager
def _allotted(options: argparse.Namespace, root: str) -> Iterator[Allotted]:
    """Yield a container to be; its id is written where the options say, once it is one."""
    from layerstore.containers.lifecycle import allot, give_back

    with _cidfile(options.cidfile) as write:
        _require_store(root)
        allotted = allot(root, current_run_base(root))
        try:
            yield allotted
        except BaseException:
            give_back(root, allotted)
            raise
        write(allotted.container_id)


@contextlib.contextmanager
def _cidfile(path: str | None) -> Iterator[Callable[[str], object]]:
    """Yield what writes an id into a new file, which goes if there is none after all."""
    if not path:
        yield lambda _: None
        return
    try:
        file = open(path, "x", encoding="ascii")  # noqa: SIM115 -- before all else
    except FileExistsError as err:
        raise ConflictError(
            f"the file {path} exists: is another container running?",
            hint="remove it, or give --cidfile another name",
        ) from err
    with file:
        try:
            yield file.write
        except BaseException:
            os.unlink(path)
            raise


def _require_store(root: str) -> None:
    from layerstore.store.paths import StorePaths

    paths = StorePaths(root)
    if not os.path.exists(paths.config):  # the catalog tells versions apart, too
        from layerstore.store.config import load_config

        load_config(paths)


def _begin(root: str, allotted: Allotted, options: argparse.Namespace) -> Started:
    # What is imported after a fork copies page by page what both had shared: all of it before.
    import layerstore.containers.image_config
    import layerstore.store.blobs
    import layerstore.store.catalog.catalog
    import layerstore.store.names.names  # noqa: F401 -- what looks images up
    from layerstore.containers.starting import begin

    return begin(
        root, *allotted, runtime=runtime_of(options.runtime), tty=options.tty,
        interactive=options.interactive, attached=not options.detach,
        userns=userns_of(options.userns),
    )  # fmt: skip


def _think_better(started: Started) -> None:
    from layerstore.containers.starting import think_better

    think_better(started)


def _make(options: argparse.Namespace, root: str, allotted: Allotted) -> Container:
    """Make the container that the options ask for."""
    from layerstore.containers.image_config import image_defaults
    from layerstore.containers.lifecycle import create as make
    from layerstore.store.blobs import get_blob
    from layerstore.store.catalog.catalog import Catalog
    from layerstore.store.paths import StorePaths

    paths = StorePaths(root)
    if options.replace and not options.name:
        raise InputError("--replace needs --name", hint="--replace --name NAME")
    with contextlib.closing(Catalog(paths)) as catalog:
        image = _image(catalog, options, root)
        config = image_defaults(get_blob(paths, image.image_id))
        _require_platform(options.platform, config.platform)
        inherited = inherited_mounts(root, options.volumes_from) if options.volumes_from else ()
        settings = settings_of(options, config, options.command, inherited)
        _require_limits(settings)
        if options.replace:  # by something that can be made, as far as is known
            _make_room(root, options.name)

        def confirm() -> None:
            if catalog.image_after_writers(image.image_id) is None:
                raise NotFoundError(f"image {options.image} was removed meanwhile")

        return make(
            root, allotted, image, options.image, settings, options.name, confirm,
            directories_to_make(options.volume),
        )  # fmt: skip


def _require_limits(settings: Settings) -> None:
    """Refuse limits that nothing would enforce before anything is made, as every bad option."""
    from layerstore.linux.namespaces import mapped_ids
    from layerstore.runtime.limits import require_enforceable

    require_enforceable(settings.limits, rootless=bool(mapped_ids()), pids=settings.pids)


def _make_room(root: str, name: str) -> None:
    """Remove the container of a name, if there is one, as podman's ``--replace`` does."""
    from layerstore.containers.lifecycle import remove
    from layerstore.containers.records import id_of_name

    container_id = id_of_name(root, name)
    if container_id:
        with contextlib.suppress(NotFoundError):
            remove(root, current_run_base(root), container_id, force=True, volumes=False)


def _note_use(root: str, container: Container) -> None:
    """Write down that an image was used; later than what somebody waits for."""
    from layerstore.store.names.usage import note_image_use
    from layerstore.store.paths import StorePaths

    note_image_use(StorePaths(root), container.image_id)


def _image(catalog: Catalog, options: argparse.Namespace, root: str) -> ImageRecord:
    """Return the image that is to run, out of its registry if the options say so."""
    from layerstore.store.failures import ImageNotFoundError
    from layerstore.store.names.names import resolve

    if options.pull == "always":
        _pull(options, root)
    try:
        return resolve(catalog, options.image)
    except ImageNotFoundError:
        if options.pull != "missing":
            raise
    if not options.quiet:
        write_note(f"image {options.image} is not here; pulling it")
    _pull(options, root)
    return resolve(catalog, options.image)


def _pull(options: argparse.Namespace, root: str) -> None:
    """Bring the image out of its registry, as ``pull`` does; what it prints goes to stderr."""
    from layerstore.cli import app

    words = ["pull", *(["--platform", options.platform] if options.platform else [])]
    words += ["--quiet"] if options.quiet else []
    with contextlib.redirect_stdout(sys.stderr):
        app.run([*words, options.image], root)


def _require_platform(wanted: str | None, own: str) -> None:
    if not wanted:
        return
    name = wanted.split("/")
    if "/".join(name[:2]) != own and wanted != own.split("/")[1]:
        raise InputError(
            f"the image is for {own}, not for {wanted}", hint="name an image for that platform"
        )


def _start(root: str, container: Container, begun: Started, lock: FileLock) -> None:
    from layerstore.containers.starting import start as start_container

    with _unpacking() as progress:
        start_container(
            root, container, begun, lock, progress=progress,
            tell=lambda became, err: write_note(f"note: shown by {became}: {err.message}"),
        )  # fmt: skip


@contextlib.contextmanager
def _unpacking() -> Iterator[Progress | None]:
    """Show how unpacking moves, on a terminal; elsewhere nothing is imported for it."""
    if not sys.stderr.isatty():
        yield None
        return
    from layerstore.cli.progress import terminal_progress

    with terminal_progress() as progress:
        yield progress


def _give_up(root: str, container: Container) -> None:
    """Clean up after a start that failed: with --rm the container goes, else it stays made."""
    from layerstore.containers.lifecycle import clear_runtime, end
    from layerstore.containers.starting import hold

    with contextlib.suppress(LayerstoreError, OSError), hold(root, container.container_id):
        clear_runtime(container)
        end(root, container)


def _attend(
    root: str, container: Container, started: Started, *, interactive: bool, proxy: bool
) -> int:
    """Be attached to a container that we started, and clean up after it."""
    from layerstore.containers.attach import attend
    from layerstore.containers.starting import hold

    with contextlib.closing(started.connection):
        outcome = attend(
            started.connection, interactive=interactive, tty=container.settings.tty,
            proxy_signals=proxy,
        )  # fmt: skip
    if outcome.status is None:
        if outcome.detached:
            return _DETACHED
        raise StartFailedError(
            f"the monitor of container {container.name} has died; the container may run on",
            CANNOT_START,
            hint=f"layerstore ps; layerstore stop {container.name}",
        )
    with contextlib.suppress(FileNotFoundError, ConflictError):
        lock = hold(root, container.container_id, to_its_end=True)
        _clean_up(root, container, started.monitor, lock)
    return outcome.status


def _clean_up(root: str, container: Container, monitor: int, lock: FileLock) -> None:
    """Clean up after a container that has ended; what nobody sees, in our own time.

    Its monitor has let go of it, and ends: with its mount namespace the root is unmounted.
    """
    from layerstore.cli.warm import afterwards
    from layerstore.containers.lifecycle import end, forget
    from layerstore.containers.records import remove_rest

    if not container.settings.auto_remove:
        with lock:
            os.waitpid(monitor, 0)
            end(root, container)
        return

    def remove() -> None:
        with lock:
            os.waitpid(monitor, 0)
            remove_rest(root, container.container_id, container.run_dir)

    try:
        forget(root, container, volumes=True)
    except BaseException:
        lock.close()
        raise
    afterwards.do(remove)


def create(options: argparse.Namespace, root: str) -> int:
    """Make a container and print its id."""
    refuse_unsupported(options, "create")
    be_root(root)
    with _allotted(options, root) as allotted:
        container = _make(options, root, allotted)
    allotted.lock.close()
    _note_use(root, container)
    write_line(container.container_id)
    return 0


def start_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``start`` takes."""
    parser.add_argument("containers", nargs="*", metavar="CONTAINER", help="names or ids")
    parser.add_argument("-a", "--attach", action="store_true", help="join its streams")
    parser.add_argument("-i", "--interactive", action="store_true", help="its input, too")
    parser.add_argument("--all", action="store_true", help="every container that --filter finds")
    parser.add_argument(
        "-f", "--filter", action="append", default=[], metavar="NAME=VALUE",
        help="with --all: as of ps, such as restart-policy=always",
    )  # fmt: skip


def start(options: argparse.Namespace, root: str) -> int:
    """Start containers, one after the other."""
    from layerstore.containers.records import find

    be_root(root)
    if bool(options.containers) == options.all:
        raise InputError("name containers, or --all", hint="layerstore ps -a")
    if (options.attach or options.interactive) and len(options.containers) != 1:
        raise InputError("one container alone can be attached to", hint="leave out -a")
    if options.all:
        from layerstore.cli.container.ps import filtered
        from layerstore.containers.states import CREATED, EXITED

        rows = filtered(root, options.filter)
        wanted = [row.container for row in rows if row.state.status in (CREATED, EXITED)]
        options.containers = [container.container_id for container in wanted]
    failures: list[LayerstoreError] = []
    code = 0
    for reference in options.containers:
        try:
            code = _start_again(root, find(root, reference), options, reference)
        except LayerstoreError as err:
            failures.append(err)
    tell_all(failures)
    return code


def _start_again(
    root: str, container: Container, options: argparse.Namespace, reference: str
) -> int:
    from layerstore.containers.freezing import refuse_paused
    from layerstore.containers.lifecycle import settle
    from layerstore.containers.states import RESTARTING, RUNNING

    attached = options.attach or options.interactive
    if settle(root, container).status in (RUNNING, RESTARTING):
        refuse_paused(container)
        if not attached:
            write_line(reference)
            return 0
        return _join(root, container, interactive=options.interactive, proxy=True)
    started = start_again(root, container, attached=attached)
    if not attached:
        started.connection.close()
        write_line(reference)
        return 0
    return _attend(root, container, started, interactive=options.interactive, proxy=True)


def start_again(root: str, container: Container, *, attached: bool) -> Started:
    """Start a container that has ended, or was only made.

    Raises:
        ConflictError: It runs.
        StartFailedError: The runtime refused.
    """
    from layerstore.containers.starting import begin_again, hold

    lock = hold(root, container.container_id, to_its_end=True)
    try:
        started = begin_again(root, container, lock, attached=attached)
        _start(root, container, started, lock)
    except BaseException:
        lock.close()
        _give_up(root, container)
        raise
    return started


def attach_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``attach`` takes."""
    parser.add_argument("container", metavar="CONTAINER", help="name or id")
    parser.add_argument("--no-stdin", action="store_true", help="do not send our input")
    parser.add_argument("--sig-proxy", choices=("true", "false"), default="true", help=_SIGNALS)


_SIGNALS = "pass signals on (default: true)"


def attach(options: argparse.Namespace, root: str) -> int:
    """Join a container that runs."""
    from layerstore.containers.records import find

    container = find(root, options.container)
    interactive = container.settings.interactive and not options.no_stdin
    return _join(root, container, interactive=interactive, proxy=options.sig_proxy == "true")


def _join(root: str, container: Container, *, interactive: bool, proxy: bool) -> int:
    from layerstore.containers.attach import attend
    from layerstore.containers.freezing import refuse_paused
    from layerstore.containers.lifecycle import connect, settle
    from layerstore.containers.states import RUNNING

    if settle(root, container).status != RUNNING:
        raise ConflictError(
            f"container {container.name} is not running",
            hint=f"layerstore start --attach {container.name}",
        )
    refuse_paused(container)
    with contextlib.closing(connect(container)) as connection:
        outcome = attend(
            connection, interactive=interactive, tty=container.settings.tty, proxy_signals=proxy
        )
    if outcome.status is None and not outcome.detached:
        raise ConflictError(
            f"the monitor of container {container.name} has died", hint="layerstore ps"
        )
    return outcome.status or 0
