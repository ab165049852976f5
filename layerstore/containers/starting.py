"""Starting a container: from its record to a monitor beside a running one.

    client                      child, later the monitor
    lower
    fork  --------------------> session and mount namespace of its own, subreaper
                                runtime started, upper made, root mounted, config.json written
    waits for S or F <--------- becomes the monitor of monitor.py: the light program, or
                                without a new interpreter while a client stays attached

The client keeps one end of a socket. Whatever happens to it, the monitor goes on; whatever
happens to the child, its end of the socket closes and the client says so.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal makes enumerations of it, 2 ms
import _socket  # without socket, whose enumerations take 4 ms to make
import contextlib
import ctypes
import errno
import gc
import marshal
import os
import sys

from fuse_mount import lowers
from fuse_mount.lowers import KERNEL
from fuse_mount.plan import writable_overlay
from fuse_mount.starting import FUSE
from fuse_mount.uppers import make_upper
from layerstore import light_json as json
from layerstore.containers import monitor
from layerstore.containers.early import EarlyRuntime, write_private
from layerstore.containers.errors import CANNOT_START, StartFailedError
from layerstore.containers.records import directory_of, upper_of
from layerstore.containers.roots import (
    container_mounts,
    device_files,
    require_no_swap_of_root,
    working_directory,
)
from layerstore.containers.spec import Prepared, runtime_config
from layerstore.containers.states import alive_path, boot_id, health_path
from layerstore.errors import (
    ConflictError,
    ContainerError,
    IntegrityError,
    LayerstoreError,
    StorageError,
    UnsupportedError,
)
from layerstore.light_typing import TYPE_CHECKING, NamedTuple, NoReturn
from layerstore.linux import mounts
from layerstore.linux.files import make_private_dir, read_file, write_all
from layerstore.linux.locks import FileLock, LockBusyError
from layerstore.linux.namespaces import (
    CLONE_NEWNS,
    held_capabilities,
    in_user_namespace,
    mapped_ids,
    unshare,
)
from layerstore.linux.planned import describe_overlay, execute
from layerstore.runtime.apparmor import default_profile
from layerstore.runtime.cgroups import counts_swap
from layerstore.runtime.limits import require_enforceable
from layerstore.runtime.runtimes import installed_runtimes
from layerstore.runtime.users import resolve_run_user, users_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.containers.records import Container
    from layerstore.containers.settings import HealthCheck
    from layerstore.linux.idmaps import IdMap
    from layerstore.progress import Progress
    from layerstore.runtime.runtimes import Runtime
    from layerstore.runtime.users import RunUser

_PR_SET_CHILD_SUBREAPER = 36
_MESSAGE_MAX_BYTES = monitor.READ_BYTES + 1
_LOCK_TRIES = 50
_PATH_MAX_BYTES = 4096
_LOCK_RETRY_S = 0.02
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from layerstore.containers.monitor import main; main(int(sys.argv[2]))"
)
"""Modules come compiled from their cache this way; a script would be compiled at every start."""

_FALL_BACK = (UnsupportedError, StorageError, IntegrityError)


class Started(NamedTuple):
    """A container that runs, and our end of its monitor.

    Attributes:
        connection: Speaks what :mod:`layerstore.containers.monitor` says.
        monitor: Its pid, a child of ours.
    """

    connection: _socket.socket
    monitor: int


class _Root(NamedTuple):
    """What a container's root is made of.

    Attributes:
        lower: What shows its image.
        upper: The directory that is made to take what is written.
        overlay: What to mount.
        idmap: Who owns what in it.
    """

    lower: lowers.Lower
    upper: str
    overlay: mounts.Overlay
    idmap: IdMap


def hold(store_root: str, container_id: str) -> FileLock:
    """Lock a container whose monitor does not live, for who starts or removes it.

    Raises:
        ConflictError: It runs, or somebody else does the same.
    """
    path = alive_path(store_root, container_id)
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            return FileLock(path, wait=False)
        except LockBusyError:
            if not tries_left:
                break
            import time

            time.sleep(_LOCK_RETRY_S)  # somebody may only be looking whether it is held
    raise ConflictError(
        f"container {container_id[:12]} is running, or about to start or to be removed",
        hint=f"layerstore stop {container_id[:12]}",
    )


def start(
    store_root: str,
    container: Container,
    lock: FileLock,
    *,
    attached: bool,
    progress: Progress | None = None,
    tell: Callable[[str, LayerstoreError], object] = lambda _, __: None,
) -> Started:
    """Start a container; success means that its command runs.

    Args:
        store_root: The store.
        container: Its record.
        lock: Of :func:`hold`; the monitor keeps it, we do not.
        attached: Whether the connection stays ours, and with it the cleaning after the end.
        progress: Told about files that are unpacked for the kernel.
        tell: Given what shows the image, if not the kernel, and the reason.

    Raises:
        StartFailedError: The runtime refused.
        LayerstoreError: Whatever else is missing.
    """
    settings = container.settings
    rootless = bool(mapped_ids())
    require_enforceable(settings.limits, rootless=rootless, pids=settings.pids)
    runtimes = installed_runtimes(settings.runtime, rootless=rootless)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(f"{directory_of(store_root, container.container_id)}/stopped")
    root = _make_root(store_root, container, progress, tell)
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _become(store_root, container, lock, runtimes, root, theirs, attached=attached)
    theirs.close()
    lock.close()
    started = Started(ours, pid)
    try:
        _await_start(started, container)
    except BaseException as err:
        if not isinstance(err, LayerstoreError):
            _call_off(started, container)
        ours.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        raise
    return started


def _call_off(started: Started, container: Container) -> None:
    """End what a start brings about that somebody does not want any more, by Ctrl-C say."""
    with contextlib.suppress(LayerstoreError, OSError):
        _await_start(started, container)
        os.kill(started.monitor, signal.SIGTERM)  # it is not restarted
        started.connection.send(b"K" + bytes([signal.SIGKILL]))
        while message := started.connection.recv(_MESSAGE_MAX_BYTES):
            if message[:1] == b"X":
                return


def _await_start(started: Started, container: Container) -> None:
    message = started.connection.recv(_MESSAGE_MAX_BYTES)
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


def runtime_words(log: bytes) -> str:
    """Return what a runtime's log says of its failure."""
    lines = log.decode("utf-8", "replace").strip().splitlines()
    for line in reversed(lines):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry["level"] in ("error", "fatal"):
                return str(entry["msg"])
    return lines[-1] if lines else "the runtime said nothing"


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
    chain = lowers.chain_name(container.layers)
    lowers.release_everywhere(store_root, chain, container.user)


def _make_root(
    store_root: str,
    container: Container,
    progress: Progress | None,
    tell: Callable[[str, LayerstoreError], object],
) -> _Root:
    lower, backend = acquire(store_root, container, progress, tell)
    upper = upper_of(store_root, container.container_id)
    idmap: IdMap = ()
    if container.settings.userns == "auto":
        from fuse_mount.unshare import map_onto_subordinate_ids

        idmap = map_onto_subordinate_ids()
    overlay = writable_overlay(store_root, backend, lower.directory, upper)
    return _Root(lower, upper, overlay, idmap)


def _become(
    store_root: str,
    container: Container,
    lock: FileLock,
    runtimes: list[Runtime],
    root: _Root,
    connection: _socket.socket,
    *,
    attached: bool,
) -> NoReturn:
    """Be the child: prepare everything, start the runtime, and become the monitor."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        _set_subreaper()
        outside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        spec = _prepare(store_root, container, runtimes, root)
        listener = _listen(f"{container.run_dir}/attach")
        spec["client"] = connection.fileno()
        spec["attached"] = attached
        spec["listener"] = listener.fileno()
        spec["lock"] = lock.fileno()
        spec["outside"] = outside
        _leave_the_client(spec)
        if attached:
            connection.detach()  # the monitor's now, which may close it
            _be_monitor(spec)
        else:
            _exec_monitor(spec)
    except BaseException as err:  # noqa: BLE001 -- told to the client, which raises it
        with contextlib.suppress(OSError):
            connection.send(b"E" + marshal.dumps(_described(err)))
    finally:
        os._exit(1)


def _described(err: BaseException) -> tuple[int, str, str | None]:
    if isinstance(err, LayerstoreError):
        return err.exit_code, err.message, err.hint
    if isinstance(err, OSError):
        where = f"{err.filename}: " if err.filename else ""
        return StorageError.exit_code, f"{where}{err.strerror}", None
    return ContainerError.exit_code, f"{type(err).__name__}: {err}", None


def _set_subreaper() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _prepare(
    store_root: str, container: Container, runtimes: list[Runtime], root: _Root
) -> dict[str, object]:
    """Mount the root, write the bundle, start the runtime, and return what the monitor is told."""
    _make_run_directories(container.run_dir, open_to_all=bool(root.idmap))
    unshare(CLONE_NEWNS)
    mounts.set_propagation("/", mounts.MS_SLAVE)
    ids = mapped_ids()
    parent = container.settings.limits.cgroup_parent.strip("/")
    cgroup = "" if ids else os.path.join("/", parent, f"layerstore-{container.container_id}")
    spec = _monitor_spec(store_root, container, runtimes, cgroup, rootless=bool(ids))
    early = EarlyRuntime(runtimes[0], spec)
    try:
        # It knows nothing of the container until it has its config.
        write_private(runtime_file(container.run_dir), runtimes[0].path.encode())
        spec["boot_id"] = boot_id()
        config = _config(store_root, container, root, cgroup, ids)
        if container.settings.health is not None:
            spec["health"] = _health(container.run_dir, container.settings.health, config)
        spec["started"] = early.configure(json.dumps(config).encode())
    except BaseException:
        early.call_off()
        raise
    return spec


def _config(
    store_root: str, container: Container, root: _Root, cgroup: str, ids: int
) -> dict[str, object]:
    """Make and mount the root, and return the runtime's config.

    Args:
        store_root: The store.
        container: Whose.
        root: What its root is made of.
        cgroup: Path of its control group, "" for none.
        ids: How many ids our user namespace has, 0 outside one.
    """
    place = f"{container.run_dir}/rootfs"
    make_upper(store_root, root.upper, root.lower)
    _mount_root(root, place, keeps=not container.settings.auto_remove)
    require_no_swap_of_root(place)
    settings = container.settings
    prepared = Prepared(
        root=place,
        user=_user(place, container),
        cwd=working_directory(place, settings.cwd),
        mounts=container_mounts(store_root, container, place, _root_id(root.idmap)),
        devices=device_files(settings),
        cgroup=cgroup,
        machine=os.uname().machine,
        held=held_capabilities(),
        # In a user namespace of its own a container may not mount a sysfs of the host's network.
        ids=ids or min((one.size for one in root.idmap), default=0),
        idmap=root.idmap,
        swap=counts_swap() if settings.limits.memory else False,
        apparmor=default_profile(),
    )
    return runtime_config(settings, prepared)


def _health(run_dir: str, check: HealthCheck, config: dict[str, object]) -> dict[str, object]:
    """Write down what a check runs, and return what the monitor is told of it."""
    process = config["process"]
    assert isinstance(process, dict)
    process = {**process, "args": check.args, "terminal": False}
    process.pop("consoleSize", None)
    path = f"{run_dir}/health-process.json"
    write_private(path, json.dumps(process).encode())
    return {
        "process": path,
        "pid_file": f"{run_dir}/health-pid",
        "state": health_path(run_dir),
        "interval": check.interval_s,
        "timeout": check.timeout_s,
        "retries": check.retries,
        "start_period": check.start_period_s,
        "start_interval": check.start_interval_s,
    }


def _root_id(idmap: IdMap) -> int:
    """Return the host's id of a container's root."""
    return next((one.host for one in idmap if one.container == 0), 0)


def _mount_root(root: _Root, place: str, *, keeps: bool) -> None:
    """Mount a container's root.

    Args:
        root: What it is made of.
        place: Where.
        keeps: Whether what is written must last. Else nothing is forced to the disk, neither
            when programs ask for it nor at the end, for which unmounting would wait.
    """
    overlay = root.overlay
    if not keeps:
        fleeting = overlay._replace(options=(*overlay.options, "volatile"))
        try:
            execute(describe_overlay(fleeting, place, (), root.idmap))
        except mounts.MountCallError as err:
            if err.code != errno.EINVAL:  # before Linux 5.10
                raise
        else:
            return
    execute(describe_overlay(overlay, place, (), root.idmap))


def _user(root: str, container: Container) -> RunUser:
    user = resolve_run_user(users_of(root), container.settings.user)
    groups = container.settings.groups
    if groups:
        from layerstore.runtime.users import group_ids

        more = group_ids(users_of(root), groups)
        user = user._replace(groups=tuple(sorted({*user.groups, *more})))
    return user


def _make_run_directories(run_dir: str, *, open_to_all: bool) -> None:
    """Make a container's directory in memory.

    Args:
        run_dir: Its path.
        open_to_all: Whether other ids must get through, those of a user namespace's root.
    """
    base = os.path.dirname(run_dir)
    for directory in (os.path.dirname(base), base, run_dir):
        make_private_dir(directory, durable=False)
        if open_to_all:
            os.chmod(directory, 0o711)  # noqa: S103 -- to pass, not to list
    for directory in (f"{run_dir}/rootfs", f"{base}/runtime"):
        make_private_dir(directory, durable=False)


def _listen(path: str) -> _socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    old = os.umask(0o077)
    try:
        listener.bind(path)
    finally:
        os.umask(old)
    listener.listen(16)
    return listener


def runtime_file(run_dir: str) -> str:
    """Return the file that has the path of the runtime that knows a container."""
    return f"{run_dir}/runtime"


def runtime_of(container: Container, *, rootless: bool) -> Runtime:
    """Return the runtime that knows a container which runs.

    Raises:
        InputError: The one that was asked for is gone.
        UnsupportedError: None is installed any more.
    """
    chosen = container.settings.runtime
    with contextlib.suppress(OSError):
        path = read_file(runtime_file(container.run_dir), max_bytes=_PATH_MAX_BYTES)
        chosen = os.fsdecode(path) or chosen
    return installed_runtimes(chosen, rootless=rootless)[0]


def runtime_options(run_dir: str, runtime: Runtime, *, rootless: bool) -> list[str]:
    """Return the words that every call of a runtime for a container begins with."""
    words = ["--root", f"{os.path.dirname(run_dir)}/runtime"]
    words += ["--log", f"{run_dir}/runtime.log", "--log-format", "json"]
    if rootless and runtime.name == "crun":
        words.append("--cgroup-manager=disabled")
    return words


def _monitor_spec(
    store_root: str, container: Container, runtimes: list[Runtime], cgroup: str, *, rootless: bool
) -> dict[str, object]:
    """Return what :class:`layerstore.containers.monitor.Monitor` is told: plain values only."""
    settings = container.settings
    directory = directory_of(store_root, container.container_id)
    run_dir = container.run_dir
    calls = [(one.path, runtime_options(run_dir, one, rootless=rootless)) for one in runtimes]
    cleaner = [sys.executable, "-P", "-m", "layerstore.containers.cleaner"]
    return {
        "runtime": calls[0][0],
        "runtime_options": calls[0][1],
        "others": calls[1:],
        "runtime_file": runtime_file(run_dir),
        "runtime_state": f"{os.path.dirname(run_dir)}/runtime",
        "runtime_log": f"{run_dir}/runtime.log",
        "container": container.container_id,
        "bundle": run_dir,
        "pid_file": f"{run_dir}/pid",
        "console_socket": f"{run_dir}/console",
        "tty": settings.tty,
        "interactive": settings.interactive,
        "log": f"{directory}/log" if settings.log_max_bytes >= 0 else "",
        "log_max_bytes": max(0, settings.log_max_bytes),
        "log_files": settings.log_files,
        "restart": (settings.restart, settings.restart_max),
        "stop_signal": settings.stop_signal,
        "state": f"{directory}/state.json",
        "stopped": f"{directory}/stopped",
        "durable": not settings.auto_remove,
        "cgroup": cgroup,
        "cleaner": [*cleaner, store_root, container.container_id],
        "environ": dict(os.environ),
    }


def _leave_the_client(spec: dict[str, object]) -> None:
    """Let go of the client's streams, directory and files; keep what the monitor needs."""
    started = spec["started"]
    assert isinstance(started, dict)
    kept = [spec["client"], spec["listener"], spec["lock"], spec["outside"]]
    kept += [started[name] for name in ("stdin", "stdout", "stderr", "console")]
    kept.append(started.get("config", -1))
    spec["inherited"] = inherited = sorted({fd for fd in kept if isinstance(fd, int) and fd >= 0})
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.chdir("/")
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in inherited:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(fd)


def _be_monitor(spec: dict[str, object]) -> None:
    """Attend the container as we are, which spares the start of an interpreter.

    For a client that stays: nearly all our memory is its own, shared since the fork.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # as an interpreter begins
    gc.freeze()  # what we share with the client is not looked through, which would copy it
    gc.enable()
    monitor.Monitor(spec).run()
    os._exit(0)


def _exec_monitor(spec: dict[str, object]) -> NoReturn:
    """Become the light program; its children, our children, stay."""
    inherited = spec["inherited"]
    assert isinstance(inherited, list)
    for fd in inherited:
        os.set_inheritable(fd, True)
    told = os.memfd_create("monitor", 0)
    write_all(told, marshal.dumps(spec))
    os.lseek(told, 0, os.SEEK_SET)
    top = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    words = [sys.executable, "-I", "-S", "-c", _PROGRAM, top, str(told)]
    os.execv(sys.executable, words)  # noqa: S606 -- becoming it is the purpose
