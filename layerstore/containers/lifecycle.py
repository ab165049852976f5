"""What happens to containers: made, ended, stopped, removed, and what a kill left of one.

Orders that a kill may cut anywhere: the directory comes first and goes last, and tells whoever
sweeps that something is left; what keeps an image from the collector is written before the record
and removed when nothing shows it any more; the record comes when all is there, and goes first.
Who starts or removes a container holds its ``alive``, so never two at once.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal makes enumerations of it, 2 ms
import _socket  # without socket, whose enumerations take 4 ms to make
import contextlib
import os
import select
import time

from layerstore import light_json as json
from layerstore.containers.early import let_go
from layerstore.containers.freezing import cgroup_of, go_on, is_paused
from layerstore.containers.known_runtime import runtime_of, runtime_options
from layerstore.containers.monitor_files import remove_cgroups, thaw
from layerstore.containers.naming import random_name
from layerstore.containers.records import (
    SHORT_ID_HEX,
    Container,
    all_containers,
    check_name,
    container_ids,
    containers_lock,
    directory_of,
    forget_files,
    get_container,
    group_of,
    id_of_name,
    kept_layers,
    new_id,
    put_container,
    remove_files,
    remove_rest,
    run_directory,
    take_name,
    user_of,
    write_keeper,
)
from layerstore.containers.starting import ends, hold, let_go_of, release
from layerstore.containers.states import (
    CREATED,
    EXITED,
    RESTARTING,
    RUNNING,
    UNKNOWN_CODE,
    alive_path,
    is_process,
    read_state,
    state_of,
    unattended_state,
    write_state,
)
from layerstore.containers.volume_users import drop_volume
from layerstore.containers.volumes import make_directories, make_volume
from layerstore.errors import ConflictError, ContainerError, FormatError, LayerstoreError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.files import make_private_dir
from layerstore.linux.locks import FileLock, is_held
from layerstore.linux.namespaces import mapped_ids
from layerstore.linux.removal import remove_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from layerstore.containers.settings import Settings
    from layerstore.containers.states import State
    from layerstore.store.catalog.rows import ImageRecord

_NAME_TRIES = 100
_KILL_WAIT_S = 30.0
_KILL_AGAIN_S = 1.0
"""Who was only starting, or restarting, when it was killed has not heard of it."""

_LOOK_S = 0.05
_POLL_MAX_S = 3600.0
"""poll(2) takes milliseconds as an int; images may ask for more seconds than fit."""


class Allotted(NamedTuple):
    """A container to be.

    Attributes:
        container_id: Its id.
        run_dir: Its directory in memory, which need not be there.
        lock: As of :func:`layerstore.containers.starting.hold`.
    """

    container_id: str
    run_dir: str
    lock: FileLock


def allot(store_root: str, run_base: str) -> Allotted:
    """Make the directory of a container to be, which is nobody's before :func:`create`.

    Args:
        store_root: The store.
        run_base: Directory in memory for what runs of this store.
    """
    container_id = new_id()
    directory = directory_of(store_root, container_id)
    make_private_dir(f"{store_root}/containers", durable=False)
    with containers_lock(store_root):  # whoever sweeps sees it locked, or not at all
        make_private_dir(directory, durable=False)
        lock = FileLock(f"{directory}/alive")
    return Allotted(container_id, run_directory(run_base, container_id), lock)


def give_back(store_root: str, allotted: Allotted) -> None:
    """Remove what :func:`allot` made, and let go of it."""
    remove_files(store_root, allotted.container_id, "", allotted.run_dir)
    allotted.lock.close()


def create(
    store_root: str,
    allotted: Allotted,
    image: ImageRecord,
    reference: str,
    settings: Settings,
    name: str,
    confirm: Callable[[], object],
    directories: Sequence[str] = (),
) -> Container:
    """Make a container, which does not run yet; it is there, and its image kept, on return.

    Args:
        store_root: The store.
        allotted: Of :func:`allot`; whoever called that gives it back if this fails.
        image: Its image.
        reference: What the user called that.
        settings: What the container is to be; an empty host name is chosen here.
        name: What to call it, "" for a name of our own.
        confirm: Called when the image is kept; raises if it went in the meantime.
        directories: Of the host, which it is to be shown: made where they are not there, when
            nothing else can refuse it.

    Raises:
        ConflictError: The name is taken.
        InputError: It cannot be a name, or a directory cannot be made.
    """
    if name:
        check_name(name)
    container_id = allotted.container_id
    with containers_lock(store_root):
        try:
            write_keeper(store_root, container_id, image.image_id, image.layers)
            confirm()
            name = name or _free_name(store_root)
            take_name(store_root, name, container_id)
            container = Container(
                container_id,
                name,
                reference,
                image.image_id,
                tuple(image.layers),
                time.time(),
                allotted.run_dir,
                _completed(settings, container_id),
            )
            for mount in container.settings.mounts:
                if mount.kind == "volume":
                    make_volume(store_root, mount.source)
            make_directories(directories)
            put_container(store_root, container, durable=not settings.auto_remove)
        except BaseException:
            forget_files(store_root, container_id, name)
            raise
    return container


def _completed(settings: Settings, container_id: str) -> Settings:
    hostname = settings.hostname
    if not hostname:
        hostname = os.uname().nodename if settings.network == "host" else ""
    mounts = tuple(
        mount._replace(source=new_id()) if mount.anonymous and not mount.source else mount
        for mount in settings.mounts
    )
    return settings._replace(hostname=hostname or container_id[:SHORT_ID_HEX], mounts=mounts)


def _free_name(store_root: str) -> str:
    for _ in range(_NAME_TRIES):
        name = random_name()
        if not id_of_name(store_root, name):
            return name
    return f"{random_name()}_{os.urandom(4).hex()}"


def end(store_root: str, container: Container) -> None:
    """Clean up after a container that has ended; call it with the container held.

    One that was to be removed at its end is.
    """
    if container.settings.auto_remove:
        discard(store_root, container, volumes=True)
    else:
        release(store_root, container)
        remove_tree(container.run_dir)


def discard(store_root: str, container: Container, *, volumes: bool) -> None:
    """Remove a container that has ended; call it with the container held.

    Args:
        store_root: The store.
        container: Which.
        volumes: Whether its anonymous volumes go, too.
    """
    forget(store_root, container, volumes=volumes)
    remove_rest(store_root, container.container_id, container.run_dir)


def forget(store_root: str, container: Container, *, volumes: bool) -> None:
    """Do of :func:`discard` what others see; :func:`remove_rest` does what is left."""
    release(store_root, container)
    forget_files(store_root, container.container_id, _current_name(store_root, container))
    if volumes:
        for mount in container.settings.mounts:
            if mount.anonymous:
                with contextlib.suppress(LayerstoreError):  # gone, or another container has it
                    drop_volume(store_root, mount.source)


def _current_name(store_root: str, container: Container) -> str:
    """Return what a container is called, which may have changed since its record was read."""
    if id_of_name(store_root, container.name) != container.container_id:
        with contextlib.suppress(FormatError):
            found = get_container(store_root, container.container_id)
            return container.name if found is None else found.name
    return container.name


def settle(store_root: str, container: Container) -> State:
    """Write down, and clean up after, an end that nobody has taken note of; return what is true.

    Harmless for all others: one that runs, or that somebody starts or removes, is left alone.
    What cannot be cleaned up now, on a disk that is full say, is left to whoever looks next.
    """
    state = state_of(store_root, container)
    written = read_state(store_root, container.container_id)
    is_lost = state.status == EXITED and written.status in (RUNNING, RESTARTING)
    left = os.path.exists(f"{container.run_dir}/config.json") and (
        state.status == EXITED
        or (state.status == CREATED and not is_held(alive_path(store_root, container.container_id)))
    )
    if not (is_lost or left or (state.status == EXITED and container.settings.auto_remove)):
        return state
    try:
        lock = hold(store_root, container.container_id)
    except (LayerstoreError, OSError):
        return state
    with lock:
        state = unattended_state(store_root, container)  # nobody changes it from here on
        if state.status not in (CREATED, EXITED):
            return state
        if is_lost:
            state = state._replace(finished=time.time(), exit_code=UNKNOWN_CODE)
        with contextlib.suppress(LayerstoreError, OSError):
            if is_lost:
                write_state(store_root, container.container_id, state)
            clear_runtime(container)
            end(store_root, container)
    return state


def clear_runtime(container: Container) -> None:
    """Remove what a runtime keeps of a container whose monitor was killed, and its groups.

    A monitor that was killed while it started its container took no note of it, so nobody
    knows the process that may run: the runtime does, and kills it.
    """
    let_go(container.run_dir)
    kept = f"{os.path.dirname(container.run_dir)}/runtime/{container.container_id}"
    if os.path.lexists(kept):
        with contextlib.suppress(LayerstoreError, OSError):
            _delete_by_runtime(container)
    remove_tree(kept)
    remove_cgroups(cgroup_of(container))


def _delete_by_runtime(container: Container) -> None:
    rootless = bool(mapped_ids())
    runtime = runtime_of(container, rootless=rootless)
    words = [runtime.path, *runtime_options(container.run_dir, runtime, rootless=rootless)]
    words += ["delete", "--force", container.container_id]
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    os.waitpid(os.posix_spawn(words[0], words, os.environ, file_actions=null), 0)


def sweep(store_root: str, run_base: str) -> None:
    """Settle all containers, and remove what kills left of half made or half removed ones.

    Args:
        store_root: The store.
        run_base: Directory in memory for what runs of this store.
    """
    for container in list(all_containers(store_root, [])):
        settle(store_root, container)
    with containers_lock(store_root):
        for container_id in container_ids(store_root):
            path = f"{directory_of(store_root, container_id)}/container.json"
            if os.path.exists(path):
                continue
            run_dir = run_directory(run_base, container_id)
            # Held is what somebody makes just now.
            with (
                contextlib.suppress(OSError),
                FileLock(alive_path(store_root, container_id), wait=False),
            ):
                let_go(run_dir)
                remove_files(store_root, container_id, "", run_dir)
        _remove_lone_keepers(store_root)


def _remove_lone_keepers(store_root: str) -> None:
    """Remove what keeps images for containers that are not there."""
    prefix, suffix = "container-", ".json"
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(f"{store_root}/views"):
            if not (name.startswith(prefix) and name.endswith(suffix)):
                continue
            container_id = name[len(prefix) : -len(suffix)]
            if not os.path.isdir(directory_of(store_root, container_id)):
                remove_files(store_root, container_id, "", "")


def remove(
    store_root: str, run_base: str, container_id: str, *, force: bool, volumes: bool
) -> None:
    """Remove a container, one whose record is damaged as well.

    Args:
        store_root: The store.
        run_base: Directory in memory for what runs of this store.
        container_id: Its whole id.
        force: Whether one that runs is killed.
        volumes: Whether its anonymous volumes go, too.

    Raises:
        ConflictError: It runs and may not be killed.
        FormatError: Its record is damaged, and nobody said that it may go anyway.
    """
    try:
        container = get_container(store_root, container_id)
    except FormatError:
        if not force:
            raise
        container = None
    if container is None:
        run_dir = run_directory(run_base, container_id)
        if force:
            _kill_unreadable(store_root, container_id, run_dir)
        with hold(store_root, container_id, to_its_end=True):
            let_go(run_dir)
            remove_tree(f"{run_base}/runtime/{container_id}")
            remove_cgroups(_group_by_bundle(run_dir, container_id))
            let_go_of(store_root, kept_layers(store_root, container_id), user_of(container_id))
            remove_files(store_root, container_id, "", run_dir)
        return
    state = settle(store_root, container)
    if state.status in (RUNNING, RESTARTING):
        if not force and is_paused(container):
            raise ConflictError(
                f"container {container.name} is paused",
                hint=f"layerstore stop {container.name} first; or rm --force",
            )
        if not force:
            raise ConflictError(
                f"container {container.name} is {state.status}",
                hint=f"stop it first: layerstore stop {container.name}; or rm --force",
            )
        kill_for_good(store_root, container)
    try:
        with hold(store_root, container_id, to_its_end=True):
            clear_runtime(container)
            discard(store_root, container, volumes=volumes or container.settings.auto_remove)
    except FileNotFoundError:
        return  # it was to be removed at its end, and was


def _kill_unreadable(store_root: str, container_id: str, run_dir: str) -> None:
    """Kill what runs by a damaged record, as far as its state tells, and wait for its end."""
    state = read_state(store_root, container_id)
    _note_stop(store_root, container_id)
    _wake_monitor(state)
    _send(state, signal.SIGKILL)
    thaw(_group_by_bundle(run_dir, container_id))
    until = time.monotonic() + _KILL_WAIT_S
    while (left := until - time.monotonic()) > 0:
        is_attended = is_held(alive_path(store_root, container_id))
        if not (is_attended or is_process(state)):
            return
        _wait_for_process(state.monitor if is_attended else state.pid, left)


def _group_by_bundle(run_dir: str, container_id: str) -> str:
    """Return the path of a control group of which no record can be read: the runtime was told."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        with open(f"{run_dir}/config.json", encoding="utf-8") as file:
            told = json.loads(file.read())["linux"]["cgroupsPath"]
        if os.path.basename(told) == os.path.basename(group_of(container_id, "")):
            return str(told)
    return group_of(container_id, "")


def send_signal(store_root: str, container: Container, number: int, *, heard: bool = False) -> None:
    """Send a signal to a container's first process.

    Args:
        store_root: The store.
        container: Which.
        number: The signal's.
        heard: Whether a container that stands still goes on, to take note of it.

    Raises:
        ConflictError: It does not run.
    """
    state = state_of(store_root, container)
    if state.status != RUNNING or not _send(state, number):
        raise ConflictError(
            f"container {container.name} is not running",
            hint=f"start it: layerstore start {container.name}",
        )
    if heard:
        go_on(container)


def _send(state: State, number: int) -> bool:
    """Send a signal to a container's first process; return whether there is one."""
    if state.pid:
        with contextlib.suppress(ProcessLookupError):
            fd = os.pidfd_open(state.pid)
            try:
                if is_process(state):  # nobody else has got its pid before we held it
                    signal.pidfd_send_signal(fd, number)
                    return True
            finally:
                os.close(fd)
    return False


def stop(
    store_root: str,
    container: Container,
    timeout_s: int | None = None,
    number: int | None = None,
) -> None:
    """Ask a container to end, kill it if it does not, and wait for its end.

    Args:
        store_root: The store.
        container: Which; one that does not run is left as it is.
        timeout_s: Seconds it has; -1 for all it takes, None for what it was made with.
        number: Of the signal that asks it; None for what it was made with.

    Raises:
        ContainerError: It does not end.
    """
    note_stop(store_root, container)
    state = settle(store_root, container)
    if state.status == RESTARTING:
        _wake_monitor(state)
    elif state.status == RUNNING:
        with contextlib.suppress(ConflictError):
            asks = container.settings.stop_signal if number is None else number
            send_signal(store_root, container, asks, heard=True)
    else:
        return
    seconds = container.settings.stop_timeout_s if timeout_s is None else timeout_s
    limit = None if seconds < 0 else seconds
    if not wait_for_end(store_root, container, limit, state.monitor):
        kill_for_good(store_root, container, state.monitor)


def _wake_monitor(state: State) -> None:
    """Let a monitor that waits to restart its container look at once whether it is to."""
    if state.status == RESTARTING and state.monitor:
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.monitor, signal.SIGTERM)


def note_stop(store_root: str, container: Container) -> None:
    """Take note that a container is wanted stopped: whatever its policy, it is not restarted."""
    _note_stop(store_root, container.container_id)


def _note_stop(store_root: str, container_id: str) -> None:
    path = f"{directory_of(store_root, container_id)}/stopped"
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def kill_for_good(store_root: str, container: Container, monitor: int = 0) -> None:
    """Kill a container and wait for its end, and for its monitor as far as time allows.

    Args:
        store_root: The store.
        container: Which.
        monitor: As of :func:`wait_for_end`.

    Raises:
        ContainerError: It does not end.
    """
    note_stop(store_root, container)
    until = time.monotonic() + _KILL_WAIT_S
    while True:
        state = state_of(store_root, container)
        monitor = state.monitor or monitor
        _wake_monitor(state)
        with contextlib.suppress(ConflictError):
            send_signal(store_root, container, signal.SIGKILL, heard=True)
        left = max(0.0, until - time.monotonic())
        if wait_for_end(store_root, container, min(left, _KILL_AGAIN_S), monitor):
            break
        if not left:
            if ends(store_root, container.container_id):
                return  # and its monitor cleans up, on a slow disk say
            raise ContainerError(
                f"container {container.name} was killed and has not ended",
                hint="a process in it may wait for a disk or a server that does not answer",
            )
    if monitor:
        _wait_for_process(monitor, max(0.0, until - time.monotonic()), pause_s=0)


def wait_for_end(
    store_root: str, container: Container, timeout_s: float | None, monitor: int = 0
) -> bool:
    """Wait until a container has ended for good; return whether it has.

    Args:
        store_root: The store.
        container: Which.
        timeout_s: Seconds to wait; None for as long as it takes.
        monitor: Its monitor's pid before anything was done to end it; 0 if there was none. One
            that goes at its end has no files that tell while the last of them are removed.
    """
    until = None if timeout_s is None else time.monotonic() + timeout_s
    if monitor:
        _wait_for_process(monitor, timeout_s, pause_s=0)
    while True:
        state = state_of(store_root, container)
        if state.status not in (RUNNING, RESTARTING) and not state.monitor:
            settle(store_root, container)
            return True
        left = None if until is None else until - time.monotonic()
        if left is not None and left <= 0:
            return False
        _wait_for_process(state.monitor or state.pid, left)


def _wait_for_process(pid: int, timeout_s: float | None, pause_s: float = _LOOK_S) -> None:
    """Wait for the end of a process, or some time; of one that is gone, a moment."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        time.sleep(pause_s)
        return
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(None if timeout_s is None else min(timeout_s, _POLL_MAX_S) * 1000)
    finally:
        os.close(fd)


def wait_for_code(store_root: str, container: Container) -> int:
    """Wait until a container has ended for good and return its status."""
    from layerstore.containers.attach import receive

    try:
        connection = connect(container)
    except ConflictError:
        wait_for_end(store_root, container, None)
        return read_state(store_root, container.container_id).exit_code
    with contextlib.closing(connection):
        with contextlib.suppress(ConnectionError):  # it ends just now
            connection.send(b"Q")
        while message := receive(connection):
            if message[:1] == b"X":
                return int(message[1:])
    wait_for_end(store_root, container, None)
    return read_state(store_root, container.container_id).exit_code


def connect(container: Container) -> _socket.socket:
    """Return a connection to a container's monitor.

    Raises:
        ConflictError: There is none.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        connection.connect(f"{container.run_dir}/attach")
    except OSError as err:
        connection.close()
        raise ConflictError(
            f"nobody attends container {container.name}: {err.strerror}",
            hint="it does not run, or its monitor was killed: layerstore ps -a",
        ) from err
    return connection
