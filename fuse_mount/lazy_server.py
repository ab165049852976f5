"""The processes behind a lazy kernel view: ``python -m fuse_mount.lazy_server DIRECTORY``.

Its ``spec.json`` says, as that of :mod:`fuse_mount.server` does: ``store``, ``alive``,
``directory``; and ``remote``, ``image_id``, ``record_trace``, ``ahead`` (see
:class:`fuse_mount.lazy_lowers.LazySource`). It reports once on descriptor 3.

Two processes. The *keeper* describes the image, mounts what the view needs and holds the
FUSE connection; a *server* that it forks answers (:mod:`fuse_mount.object_layer`). If the
server dies, the keeper forks another one, which asks the kernel for what was not answered:
readers wait a moment and see nothing of it. If the keeper dies, the server goes on. If both
die, what was whole can be read on and everything else is an error.

    meta/, meta.erofs  metadata of the image
    objects            its sidecar: keeps objects from eviction
    lazy/              the objects that come when asked for, FUSE
    staged/, partial/  what came (see :mod:`layerstore.image.lazy.lazy_content`)
    root/              the overlay that views show
    fetched            how much came

Neither process may look at the overlay or at lazy/ but through mount(2): it would wait for
its own answer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import json
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final, NoReturn

from blake3 import blake3

from fuse_mount import kernel_lowers
from fuse_mount.lazy_source import Failures, LazyContentService, connect, describe, tell
from fuse_mount.lowers import remove_instance
from fuse_mount.object_layer import ObjectLayer, mount_device
from fuse_mount.serving import Report, survive_memory_pressure
from fuse_mount.starting import READY_FD
from layerstore.errors import FormatError, LayerstoreError, UnsupportedError
from layerstore.formats.erofs import write_image
from layerstore.formats.sidecar import encode_sidecar
from layerstore.image.kernel.kernel_tree import kernel_tree
from layerstore.linux import mounts
from layerstore.linux.files import make_private_dir, open_private, write_all
from layerstore.store.store import Store

if TYPE_CHECKING:
    from fuse_mount.lazy_source import LazyTree

DEATHS_MAX: Final = 5
DEATHS_WITHIN_S: Final = 60.0
"""A server that dies more often than this will go on dying."""

CANNOT_RESUME: Final = 75
"""Exit status of a server that cannot ask for what its predecessor had taken."""

_FLAGS = mounts.MS_RDONLY | mounts.MS_NOSUID | mounts.MS_NODEV


def main(arguments: list[str]) -> NoReturn:
    """Serve until the last view is unmounted, then exit."""
    directory = arguments[0]
    os.chdir("/")
    os.umask(0o077)
    with open(f"{directory}/spec.json", "rb") as file:
        spec = json.load(file)
    os.closerange(READY_FD + 1, 1 << 20)
    alive = open_private(str(spec["alive"]), os.O_RDWR | os.O_CREAT)
    fcntl.flock(alive, fcntl.LOCK_EX)
    report = Report()
    status = 0
    try:
        _Keeper(spec, report).run()
    except LayerstoreError as err:
        report.failed(err.message, err.hint, unsupported=isinstance(err, UnsupportedError))
        status = err.exit_code
    except Exception as err:  # noqa: BLE001 -- the last frame: the starter has to hear of it
        import traceback

        traceback.print_exc()
        report.failed(f"the lazy view's server failed: {type(err).__name__}: {err}", None)
        status = 1
    sys.stdout.flush()
    os._exit(status)


class _Keeper:
    """Makes a lazy view's mounts and sees that a server answers for them."""

    def __init__(self, spec: dict[str, object], report: Report) -> None:
        self._spec = spec
        self._report = report
        self._directory = str(spec["directory"])
        self._server = 0

    def run(self) -> None:
        """Return when the last mount is gone, or no server can be kept alive."""
        kernel_lowers.require_privileges()
        survive_memory_pressure()
        with Store.open(str(self._spec["store"])) as store:
            remote = connect(self._spec)
            try:
                tree = describe(store, remote, str(self._spec["image_id"]))
                self._mount(store, tree)
                if not self._report.ready():
                    _unmount_all(self._directory)  # nobody can have joined it
                self._watch()
            finally:
                remote.close()

    def _mount(self, store: Store, tree: LazyTree) -> None:
        try:
            # Objects may be evicted until the overlay looks for them: then they are fetched.
            make_private_dir(store.paths.objects, durable=False)
            self._mount_metadata(tree)
            for name in ("lazy", "staged"):
                make_private_dir(f"{self._directory}/{name}", durable=False)
            device = mount_device(f"{self._directory}/lazy")
            self._tree = tree
            self._device = device
            self._fork(resume=False)
            kernel_lowers.mount_lazy_root(store.paths.root, self._directory)
        except BaseException:
            _unmount_all(self._directory)
            if self._server:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._server, signal.SIGKILL)
            raise

    def _mount_metadata(self, tree: LazyTree) -> None:
        image = io.BytesIO()
        described = kernel_tree(tree.root)
        uuid = bytes.fromhex(os.path.basename(os.path.dirname(self._directory)))
        try:
            write_image(described.inodes, image, uuid=uuid)
        except FormatError as err:
            raise UnsupportedError(
                f"the kernel cannot show this image: {err.message}",
                hint="mount it with --backend fuse",
            ) from err
        data = image.getbuffer()
        sidecar = encode_sidecar(len(data), blake3(data).digest(), described.objects)
        _write(f"{self._directory}/objects", sidecar)
        fd = _write(f"{self._directory}/meta.erofs", data, keep=True)
        try:
            make_private_dir(f"{self._directory}/meta", durable=False)
            mounts.mount_erofs(fd, f"{self._directory}/meta", _FLAGS)
        finally:
            os.close(fd)

    def _fork(self, *, resume: bool) -> None:
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            self._server = pid
            return
        status = 1
        try:
            self._report.close()
            status = _serve(self._spec, self._tree, self._device, resume=resume)
        except BaseException:  # noqa: BLE001 -- the last frame of the server
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def _watch(self) -> None:
        """Wait for the server; begin another one when it died."""
        deaths: list[float] = []
        while True:
            _, status = os.waitpid(self._server, 0)
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                return
            now = time.monotonic()
            deaths = [when for when in deaths if now - when < DEATHS_WITHIN_S] + [now]
            if code == CANNOT_RESUME or len(deaths) > DEATHS_MAX:
                tell(f"the server ended with status {code} and is not started again")
                return
            tell(f"the server ended with status {code}: another one goes on")
            self._fork(resume=True)


def _serve(spec: dict[str, object], tree: LazyTree, device: int, *, resume: bool) -> int:
    """Answer the kernel until the last mount is gone; return the exit status."""
    store = Store.open(str(spec["store"]))
    failures = Failures()
    service = LazyContentService(store, spec, tree.objects, connect(spec))
    layer = ObjectLayer(
        device,
        service.content,
        tree.objects,
        lambda name, err: failures.tell(tree.paths[name], err),
    )
    if resume:
        try:
            layer.resend()
        except OSError as err:
            tell(f"the kernel does not give unanswered requests again: {err.strerror}")
            return CANNOT_RESUME
    service.begin()
    layer.serve()
    service.end()
    remove_instance(str(spec["directory"]))
    return 0


def _unmount_all(directory: str) -> None:
    for name in ("root", "meta", "lazy"):
        try:
            mounts.unmount(f"{directory}/{name}", lazy=True)
        except mounts.MountCallError as err:
            if err.code not in (errno.EINVAL, errno.ENOENT):
                raise


def _write(path: str, data: bytes | memoryview, *, keep: bool = False) -> int:
    """Write a file of ours alone; return it open for reading if it is kept, else -1."""
    fd = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        os.fchmod(fd, 0o600)
        write_all(fd, data)
        return os.dup(fd) if keep else -1
    finally:
        os.close(fd)


if __name__ == "__main__":
    main(sys.argv[1:])
