"""Starting a container: from what is known at first to a monitor beside a running one.

    client                      child, later the monitor
    begin: fork  -------------> session and mount namespace of its own, subreaper,
    image looked up,            runtime started, which waits for its config
    record written
    start: image shown  ------> upper made, root mounted, config.json written
    waits for S or F <--------- becomes the monitor of monitor.py: the light program, or
                                without a new interpreter while a client stays attached

The client keeps one end of a socket. Whatever happens to it once the child knows the image, the
monitor goes on; whatever happens to the child, its end of the socket closes and the client says
so. What the child does: :mod:`layerstore.containers.becoming`.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal makes enumerations of it, 2 ms
import _socket  # without socket, whose enumerations take 4 ms to make
import contextlib
import marshal
import os
import sys
import time

from fuse_mount import lowers
from fuse_mount.lowers import KERNEL
from fuse_mount.starting import FUSE
from layerstore.containers.attach import receive
from layerstore.containers.becoming import NEVER_MIND, Launch, become, tell_root
from layerstore.containers.errors import CANNOT_START, StartFailedError
from layerstore.containers.known_runtime import runtime_words
from layerstore.containers.records import directory_of
from layerstore.containers.states import (
    RESTARTING,
    alive_path,
    boot_id,
    is_process,
    read_state,
    started_at,
)
from layerstore.errors import (
    ConflictError,
    IntegrityError,
    LayerstoreError,
    StorageError,
    UnsupportedError,
)
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.locks import FileLock, LockBusyError
from layerstore.linux.namespaces import in_user_namespace, mapped_ids
from layerstore.runtime.limits import require_enforceable
from layerstore.runtime.runtimes import installed_runtimes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.containers.records import Container
    from layerstore.digest import DiffId
    from layerstore.progress import Progress

_LOCK_PATIENCE_S = 1.0
_END_PATIENCE_S = 30.0
_LOCK_RETRY_S = 0.001
_LOCK_RETRY_MAX_S = 0.02

_FALL_BACK = (UnsupportedError, StorageError, IntegrityError)


class Started(NamedTuple):
    """A container that starts or runs, and our end of its monitor.

    Attributes:
        connection: Speaks what :mod:`layerstore.containers.monitor` says.
        monitor: Its pid, a child of ours.
    """

    connection: _socket.socket
    monitor: int


def hold(store_root: str, container_id: str, *, to_its_end: bool = False) -> FileLock:
    """Lock a container whose monitor does not live, for who starts or removes it.

    Args:
        store_root: The store.
        container_id: Its whole id.
        to_its_end: Whether to wait for a monitor that cleans up after one that has ended, as long
            as that takes; else a moment.

    Raises:
        ConflictError: It runs, or somebody else does the same.
    """
    path = alive_path(store_root, container_id)
    until = time.monotonic() + _LOCK_PATIENCE_S
    wait_s = _LOCK_RETRY_S
    while True:
        try:
            return FileLock(path, wait=False)
        except LockBusyError:
            # Somebody may only be looking whether it is held, or is a monitor that has just said
            # that its container ended.
            late_s = time.monotonic() - until
            is_patient = to_its_end and late_s < _END_PATIENCE_S
            if late_s > 0 and not (is_patient and ends(store_root, container_id)):
                break
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LOCK_RETRY_MAX_S)
    raise ConflictError(
        f"container {container_id[:12]} is running, or about to start or to be removed",
        hint=f"layerstore stop {container_id[:12]}",
    )


def ends(store_root: str, container_id: str) -> bool:
    """Whether a container has ended, and its monitor lives: it cleans up."""
    state = read_state(store_root, container_id)
    return (
        state.status != RESTARTING
        and state.boot_id == boot_id()
        and not is_process(state)
        and bool(state.monitor)
        and started_at(state.monitor) >= 0
    )


def begin(
    store_root: str,
    container_id: str,
    run_dir: str,
    lock: FileLock,
    *,
    runtime: str,
    tty: bool,
    interactive: bool,
    attached: bool,
    userns: str,
) -> Started:
    """Begin to start a container, before its image is known; :func:`start` goes on.

    Args:
        store_root: The store.
        container_id: Its directory is there.
        run_dir: Its directory in memory, which is made.
        lock: Of :func:`hold`; the child has it, too.
        runtime: The only one that may be used, "" for any.
        tty: Whether it has a terminal.
        interactive: Whether it has an input.
        attached: Whether the connection stays ours, and with it the cleaning after the end.
        userns: ``auto``, or ``host``.

    Raises:
        InputError: There is no such runtime.
        UnsupportedError: There is none at all.
    """
    ids = mapped_ids()
    launch = Launch(
        container_id, run_dir, installed_runtimes(runtime, rootless=bool(ids)), ids,
        tty, interactive, attached, open_to_all=userns == "auto",
    )  # fmt: skip
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        ours.close()
        become(store_root, launch, lock, theirs)
    theirs.close()
    return Started(ours, pid)


def begin_again(
    store_root: str, container: Container, lock: FileLock, *, attached: bool
) -> Started:
    """Begin to start a container that is there; see :func:`begin`."""
    settings = container.settings
    return begin(
        store_root, container.container_id, container.run_dir, lock,
        runtime=settings.runtime, tty=settings.tty, interactive=settings.interactive,
        attached=attached, userns=settings.userns,
    )  # fmt: skip


def think_better(begun: Started) -> None:
    """Call off what has only begun, and wait until nothing of it goes on."""
    begun.connection.close()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(begun.monitor, 0)


def start(
    store_root: str,
    container: Container,
    begun: Started,
    lock: FileLock,
    *,
    progress: Progress | None = None,
    tell: Callable[[str, LayerstoreError], object] = lambda _, __: None,
) -> None:
    """Start a container; success means that its command runs, failure that nothing goes on.

    Args:
        store_root: The store.
        container: Its record.
        begun: Of :func:`begin`.
        lock: Of :func:`hold`; the monitor keeps it, we do not.
        progress: Told about files that are unpacked for the kernel.
        tell: Given what shows the image, if not the kernel, and the reason.

    Raises:
        StartFailedError: The runtime refused.
        LayerstoreError: Whatever else is missing.
    """
    settings = container.settings
    try:
        require_enforceable(settings.limits, rootless=bool(mapped_ids()), pids=settings.pids)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{directory_of(store_root, container.container_id)}/stopped")
        lower, backend = acquire(store_root, container, progress, tell)
    except BaseException:
        think_better(begun)
        raise
    lock.close()
    try:
        with contextlib.suppress(OSError):  # the child has ended, and says why
            tell_root(begun.connection, lower, backend)
        _await_start(begun, container)
    except BaseException as err:
        if not isinstance(err, LayerstoreError):
            _call_off(begun, container)
        think_better(begun)
        raise


def _call_off(started: Started, container: Container) -> None:
    """End what a start brings about that somebody does not want any more, by Ctrl-C say."""
    with contextlib.suppress(LayerstoreError, OSError):
        started.connection.send(NEVER_MIND)  # whether it was told or not, nobody knows here
        _await_start(started, container)
        os.kill(started.monitor, signal.SIGTERM)  # it is not restarted
        started.connection.send(b"K" + bytes([signal.SIGKILL]))
        while message := receive(started.connection):
            if message[:1] == b"X":
                return


def _await_start(started: Started, container: Container) -> None:
    message = receive(started.connection)
    kind, words = message[:1], message[1:]
    if kind == b"S":
        return
    if kind == b"E":
        code, text, hint = marshal.loads(words)  # noqa: S302 -- our own child's
        error = StartFailedError(text, CANNOT_START, hint=hint)
        error.exit_code = code
        raise error
    if kind == b"F":
        said = runtime_words(words[1:])
        hint = None
        if words[0] == CANNOT_START:
            hint = "layerstore doctor tries the runtimes that are here; --runtime names another"
        raise StartFailedError(
            f"container {container.container_id[:12]} did not start: {said}", words[0], hint=hint
        )
    raise StartFailedError(
        f"the monitor of container {container.container_id[:12]} has died", CANNOT_START
    )


def acquire(
    store_root: str,
    container: Container,
    progress: Progress | None,
    tell: Callable[[str, LayerstoreError], object],
) -> tuple[lowers.Lower, str]:
    """Have the image of a container shown; return by what directory and which backend."""
    layers, user = container.layers, container.user
    if os.geteuid() == 0 and not in_user_namespace():
        try:
            lower = lowers.acquire(store_root, layers, user, backend=KERNEL, progress=progress)
        except _FALL_BACK as err:
            tell(FUSE, err)
        else:
            return lower, KERNEL
    return lowers.acquire_beneath(store_root, layers, user), FUSE


def release(store_root: str, container: Container) -> None:
    """Let go of what shows a container's image; harmless when repeated."""
    let_go_of(store_root, container.layers, container.user)


def let_go_of(store_root: str, layers: Sequence[DiffId], user: str) -> None:
    """Let go of what shows an image for a user; harmless when repeated."""
    lowers.release_everywhere(store_root, lowers.chain_name(layers), user)
