"""The plugin's process: one server on one unix socket, until somebody ends it.

Source: containerd, docs/PLUGINS.md, "Proxy Plugins"; sd_notify(3).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import grpc

from fuse_mount.lowers import KERNEL, KERNEL_PACKS, KERNELS
from layerstore.errors import InputError, StorageError, UnsupportedError
from layerstore.linux.files import make_private_dir
from layerstore.linux.locks import FileLock, LockBusyError
from layerstore.snapshotter.failures import SnapshotBusyError
from layerstore.snapshotter.service import SnapshotsService
from layerstore.snapshotter.snapshots import Snapshots
from layerstore.store.objects.pack_trial import pack_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from layerstore.store.store import Store

_CALLS_AT_ONCE: Final = 64
"""Threads: as many containers as may begin at once wait for images to be packed, and others ask."""

_DRAIN_S: Final = 20.0
"""What runs may take so long to end; systemd kills after ninety seconds."""

_ADDRESS_MAX_BYTES: Final = 107
"""Of a unix socket. Source: unix(7)."""

_MEANS_SOMETHING: Final = "\\,:"
"""In options of overlays: containerd passes them on as words."""


class Server:
    """Serves a store's snapshots.

    Args:
        store: Open for as long as this is.
        address: Path of the socket; one that is there is replaced if nobody listens on it.
        tell: Gets lines for people.
        backend: How containers read their images: ``kernel`` or ``kernel-packs``.

    Raises:
        InputError: The address cannot be one, or the store's path cannot be mounted.
        UnsupportedError: Not root; or what is mounted here is seen by nobody else.
        SnapshotBusyError: Another process serves this store's snapshots.
    """

    def __init__(
        self, store: Store, address: str, tell: Callable[[str], None], backend: str = KERNEL
    ) -> None:
        _require_root()
        if backend not in KERNELS:
            raise InputError(f"no backend {backend!r}", hint=f"there are {', '.join(KERNELS)}")
        if backend == KERNEL_PACKS and (problem := pack_problem(store.paths.tmp)):
            raise UnsupportedError(
                f"the kernel does not read packs in place: {problem}",
                hint="layerstore doctor says what it needs; or leave --backend out",
            )
        self._address = os.path.abspath(address)
        self._tell = tell
        if len(os.fsencode(self._address)) > _ADDRESS_MAX_BYTES:
            raise InputError(
                f"the address {self._address} is longer than the {_ADDRESS_MAX_BYTES} bytes that a "
                "unix socket may have"
            )
        if any(character in store.paths.root for character in _MEANS_SOMETHING):
            raise InputError(
                f"the store's path {store.paths.root!r} has a character that options of overlays "
                "give a meaning",
                hint="keep the store in a directory without backslash, comma and colon",
            )
        require_propagation(store.paths.root)
        try:
            self._lock = FileLock(f"{store.paths.locks}/snapshotter", wait=False)
        except LockBusyError as err:
            raise SnapshotBusyError(
                f"another process serves the snapshots of {store.paths.root}",
                hint="end it first: systemctl stop layerstore-snapshotter",
            ) from err
        self.snapshots = Snapshots(store, tell, backend)
        self._grpc = grpc.server(
            ThreadPoolExecutor(_CALLS_AT_ONCE, "layerstore-call"),
            options=[("grpc.so_reuseport", 0)],
        )
        service = SnapshotsService(self.snapshots, tell)
        self._grpc.add_generic_rpc_handlers((service.handlers(),))

    def start(self) -> None:
        """Listen: containerd finds the socket when this returns.

        Raises:
            StorageError: The socket could not be made.
            SnapshotBusyError: Somebody listens on it.
        """
        before = os.umask(0o177)
        try:
            make_private_dir(os.path.dirname(self._address), durable=False)
            _remove_stale(self._address)
            self._grpc.add_insecure_port(f"unix:{self._address}")
        except (OSError, RuntimeError) as err:
            raise StorageError(f"could not listen on {self._address}: {err}") from err
        finally:
            os.umask(before)
        self.snapshots.start()
        self._grpc.start()
        self._tell(f"serving snapshots on {self._address}")

    def serve(self, wait_for_end: Callable[[], object]) -> None:
        """Answer until ``wait_for_end`` returns; then let what runs end, and begin nothing new.

        What does not end in time is left to run: the caller ends the process, which harms
        nothing. Mounts and snapshots stay: containers run on, and another process may go on here.
        """
        wait_for_end()
        self._tell("ending")
        self._grpc.stop(_DRAIN_S).wait(_DRAIN_S + 5)
        self.snapshots.stop(_DRAIN_S)
        with contextlib.suppress(OSError):
            os.unlink(self._address)
        self._lock.close()


def notify(address: str, state: str) -> None:
    """Tell systemd how this process is doing; nothing if there is nobody to be told.

    Args:
        address: ``$NOTIFY_SOCKET``, "" if there is none; ``@`` begins an abstract one.
        state: ``READY=1`` or ``STOPPING=1``.

    Source: sd_notify(3).
    """
    if not address:
        return
    where = "\0" + address[1:] if address.startswith("@") else address
    with (
        contextlib.suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel,
    ):
        channel.connect(where)
        channel.sendall(state.encode())


def _remove_stale(address: str) -> None:
    """Remove the socket of a process that is gone.

    Raises:
        InputError: Something else is there.
        SnapshotBusyError: Somebody listens on it: another store's snapshotter, say.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(address).st_mode):
            raise InputError(f"{address} is there and is no socket", hint="name another address")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            if channel.connect_ex(address) != errno.ECONNREFUSED:
                raise SnapshotBusyError(
                    f"another process listens on {address}",
                    hint="end it first, or name another address: --address SOCKET",
                )
        os.unlink(address)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise UnsupportedError(
            "containerd's snapshots are mounted by root", hint="run it as root, as containerd runs"
        )


def require_propagation(root: str, host_pid: int = 1) -> None:
    """Refuse a mount namespace whose mounts containerd does not see: its containers would be empty.

    Args:
        root: Of the store.
        host_pid: A process in the host's mount namespace; of one that cannot be asked nothing is
            known.

    Raises:
        UnsupportedError: This process is in another one than the host's first process, and the
            store is not on a mount that both share.

    Source: mount_namespaces(7), "Shared subtrees"; proc_pid_mountinfo(5).
    """
    try:
        if os.readlink("/proc/self/ns/mnt") == os.readlink(f"/proc/{host_pid}/ns/mnt"):
            return
    except OSError:
        return
    found, shared = "", False
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            fields = line.split(" - ")[0].split()
            place = fields[4].rstrip("/")
            if len(place) >= len(found) and f"{root}/".startswith(f"{place}/"):
                found, shared = place, any(field.startswith("shared:") for field in fields[6:])
    if not shared:
        raise UnsupportedError(
            f"this process has a mount namespace of its own, and containerd would not see what is "
            f"mounted below {root}",
            hint="leave PrivateTmp=, ProtectSystem= and their like out of its unit; in a pod mount "
            "the store with mountPropagation: Bidirectional",
        )
