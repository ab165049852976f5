"""The child of who starts a container: it prepares everything, and becomes the monitor.

It is there before anybody has looked what image is meant, and has the runtime begin: a Go program
takes some milliseconds until it looks for its config. Then it is told what shows the image, which
by then is kept and shown, mounts the root and writes the config. Told nothing, because who forked
it thought better of it or was killed, it ends the runtime, which has made nothing yet.

Its mount namespace is a copy of the host's from before that. Where mounts do not spread into copies
(a host whose ``/`` is private) an image that has been shown since is missing: then what shows it is
cloned out there and mounted here, too.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal makes enumerations of it, 2 ms
import contextlib
import gc
import marshal
import os
import sys

from fuse_mount.lowers import Lower
from fuse_mount.uppers import make_upper
from layerstore import light_json as json
from layerstore.containers import monitor
from layerstore.containers.early import EarlyRuntime, write_private
from layerstore.containers.known_runtime import runtime_file, runtime_options
from layerstore.containers.mounting import mount_root, root_id, root_of
from layerstore.containers.records import directory_of, get_container, group_of, restart_path
from layerstore.containers.roots import (
    container_mounts,
    device_files,
    require_no_swap_of_root,
    working_directory,
)
from layerstore.containers.spec import Prepared, runtime_config
from layerstore.containers.states import boot_id, health_path
from layerstore.errors import ContainerError, LayerstoreError, StorageError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple, NoReturn
from layerstore.linux import mounts
from layerstore.linux.files import make_private_dir, write_all
from layerstore.linux.libc import libc
from layerstore.linux.namespaces import CLONE_NEWNS, enter_namespace, held_capabilities, unshare
from layerstore.linux.sockets import bind_private
from layerstore.runtime.apparmor import default_profile
from layerstore.runtime.cgroups import counts_swap, is_unified
from layerstore.runtime.users import resolve_run_user, users_of

if TYPE_CHECKING:
    import _socket
    from typing import Any

    from layerstore.containers.mounting import Root
    from layerstore.containers.records import Container
    from layerstore.containers.settings import HealthCheck
    from layerstore.linux.locks import FileLock
    from layerstore.runtime.runtimes import Runtime
    from layerstore.runtime.users import RunUser

_PR_SET_CHILD_SUBREAPER = 36
_TOLD_MAX_BYTES = 1 << 16
NEVER_MIND = b"-"
"""Ends the child that waits to be told; to a monitor, which it may be by then, it means nothing."""

_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from layerstore.containers.monitor import main; main(int(sys.argv[2]))"
)
"""Modules come compiled from their cache this way; a script would be compiled at every start."""


class Launch(NamedTuple):
    """What of a start is known before its image.

    Attributes:
        container_id: Whose.
        run_dir: Its directory in memory.
        runtimes: Which to use, the first one first.
        ids: How many ids our user namespace has, 0 outside one.
        tty: Whether it has a terminal.
        interactive: Whether it has an input.
        attached: Whether who starts it stays.
        open_to_all: Whether other ids must get to its root, those of a user namespace of its own.
    """

    container_id: str
    run_dir: str
    runtimes: list[Runtime]
    ids: int
    tty: bool
    interactive: bool
    attached: bool
    open_to_all: bool


def tell_root(connection: _socket.socket, lower: Lower, backend: str) -> None:
    """Tell the child what shows the image: the record and all that it needs is there now."""
    connection.send(marshal.dumps((*lower, backend)))


def become(store_root: str, launch: Launch, lock: FileLock, connection: _socket.socket) -> NoReturn:
    """Be the child: have the runtime begin, prepare everything, and become the monitor."""
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        _set_subreaper()
        outside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        spec = _prepare(store_root, launch, connection, outside)
        listener = _listen(f"{launch.run_dir}/attach")
        spec["client"] = connection.fileno()
        spec["attached"] = launch.attached
        spec["listener"] = listener.fileno()
        spec["lock"] = lock.fileno()
        spec["outside"] = outside
        _leave_the_client(spec)
        if launch.attached:
            connection.detach()  # the monitor's now, which may close it
            _be_monitor(spec)
        else:
            _exec_monitor(spec)
    except EOFError:
        pass  # whom to tell has gone
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
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _prepare(
    store_root: str, launch: Launch, connection: _socket.socket, outside: int
) -> dict[str, Any]:
    """Start the runtime, mount the root, write the bundle, and return what the monitor is told.

    Args:
        store_root: The store.
        launch: What is known before.
        connection: Says what shows the image.
        outside: The host's mount namespace.
    """
    _make_run_directories(launch.run_dir, open_to_all=launch.open_to_all)
    spec = _runtime_spec(launch)
    _be_apart()
    early = EarlyRuntime(launch.runtimes[0], spec)
    try:
        # It knows nothing of the container until it has its config.
        write_private(runtime_file(launch.run_dir), launch.runtimes[0].path.encode())
        spec["boot_id"] = boot_id()
        told = connection.recv(_TOLD_MAX_BYTES)
        if told in (b"", NEVER_MIND):
            raise EOFError  # nobody wants it any more
        *shown, backend = marshal.loads(told)  # noqa: S302 -- our parent's
        lower = Lower(*shown)
        if not mounts.identify(lower.root).is_root:
            _bring(lower, outside)
        container = get_container(store_root, launch.container_id)
        assert container is not None
        spec |= _monitor_spec(store_root, container, launch)
        root = root_of(store_root, container, lower, backend)
        config = _config(store_root, container, root, spec["cgroup"], launch.ids)
        if container.settings.health is not None:
            spec["health"] = _health(container.run_dir, container.settings.health, config)
        spec["started"] = early.configure(json.dumps(config).encode())
    except BaseException:
        early.call_off()
        raise
    return spec


def _be_apart() -> None:
    """Enter a mount namespace of our own, whose mounts nobody else gets."""
    unshare(CLONE_NEWNS)
    mounts.set_propagation("/", mounts.MS_SLAVE)


def _bring(lower: Lower, outside: int) -> None:
    """Mount here what shows an image out there, since our namespace was made before it.

    The runtime waits in our namespace, and has to see the root that lies over these.

    Args:
        lower: What shows the image.
        outside: The host's mount namespace.

    Raises:
        MountError: The kernel refused.
    """
    with contextlib.ExitStack() as open_until_mounted:
        inside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        open_until_mounted.callback(os.close, inside)
        clones: list[tuple[int, str]] = []
        enter_namespace(outside, CLONE_NEWNS)
        try:
            # An instance of the kernel's has both, one of a server its root alone.
            for place in (f"{lower.directory}/meta", lower.root):
                with contextlib.suppress(FileNotFoundError):
                    if mounts.identify(place).is_root:
                        clones.append((mounts.create_clone(place), place))
                        open_until_mounted.callback(os.close, clones[-1][0])
        finally:
            enter_namespace(inside, CLONE_NEWNS)
        for clone, place in clones:
            mounts.attach(clone, place)
            mounts.set_propagation(place, mounts.MS_SLAVE, recursive=False)


def _config(
    store_root: str, container: Container, root: Root, cgroup: str, ids: int
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
    mount_root(root, place, keeps=not container.settings.auto_remove)
    require_no_swap_of_root(place)
    settings = container.settings
    prepared = Prepared(
        root=place,
        user=_user(place, container),
        cwd=working_directory(place, settings.cwd),
        mounts=container_mounts(store_root, container, place, root_id(root.idmap)),
        devices=device_files(settings),
        cgroup=cgroup,
        machine=os.uname().machine,
        held=held_capabilities(),
        # In a user namespace of its own a container may not mount a sysfs of the host's network.
        ids=ids or min((one.size for one in root.idmap), default=0),
        idmap=root.idmap,
        swap=counts_swap() if settings.limits.memory else False,
        unified=is_unified(),
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
    listener = bind_private(path)
    listener.listen(16)
    return listener


def _runtime_spec(launch: Launch) -> dict[str, Any]:
    """Return what :func:`layerstore.containers.monitor_start.start_runtime` is told."""
    run_dir, rootless = launch.run_dir, bool(launch.ids)
    calls = [
        (one.path, runtime_options(run_dir, one, rootless=rootless)) for one in launch.runtimes
    ]
    return {
        "runtime": calls[0][0],
        "runtime_options": calls[0][1],
        "others": calls[1:],
        "runtime_file": runtime_file(run_dir),
        "runtime_state": f"{os.path.dirname(run_dir)}/runtime",
        "runtime_log": f"{run_dir}/runtime.log",
        "container": launch.container_id,
        "bundle": run_dir,
        "pid_file": f"{run_dir}/pid",
        "console_socket": f"{run_dir}/console",
        "tty": launch.tty,
        "interactive": launch.interactive,
        "environ": dict(os.environ),
    }


def _monitor_spec(store_root: str, container: Container, launch: Launch) -> dict[str, Any]:
    """Return what else :class:`layerstore.containers.monitor.Monitor` is told: plain values."""
    settings = container.settings
    directory = directory_of(store_root, container.container_id)
    group = group_of(container.container_id, settings.limits.cgroup_parent)
    cleaner = [sys.executable, "-P", "-m", "layerstore.containers.cleaner"]
    return {
        "log": f"{directory}/log" if settings.log_max_bytes >= 0 else "",
        "log_max_bytes": max(0, settings.log_max_bytes),
        "log_files": settings.log_files,
        "restart_file": restart_path(store_root, container.container_id),
        "restart": (settings.restart, settings.restart_max),
        "stop_signal": settings.stop_signal,
        "state": f"{directory}/state.json",
        "stopped": f"{directory}/stopped",
        "durable": not settings.auto_remove,
        "cgroup": "" if launch.ids else group,
        "cleaner": [*cleaner, store_root, container.container_id],
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
