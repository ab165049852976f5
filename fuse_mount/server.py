"""The process behind a FUSE mount: ``python -m fuse_mount.server DIRECTORY``.

It reads ``DIRECTORY/spec.json``:

    backend      fuse: the mount is there and its device is given; fusepy: to be mounted
    store        root of the store
    layers       diff ids, lowest first: the tree at the root of the mount; or
    grow         a directory in which files named by chain list diff ids, one a line:
                 each becomes a directory of the mount when its name is first looked up
    remote       for a lazy view: where the content is, with what else
                 fuse_mount.lazy_lowers.LazySource tells
    mountpoint   where it is mounted
    alive        file that is locked exclusively while anybody serves
    directory    directory to remove at the end, or null
    escape       for a lower of overlays that must not obey the image's own attributes: what the
                 names that they obey begin with
    life         whether the owner's pipe is given
    kept         whether a keeper starts another server when this one dies

and finds descriptors open as :mod:`fuse_mount.starting` lists them. It reports once, as one
JSON object: ``{"pid": N}`` when the kernel asks its first question, or
``{"error": ..., "hint": ..., "unsupported": ...}``. A server that follows a dead one reports
nothing. Exit status 0 tells a keeper that no server is wanted any more.

Whoever starts it gives it a session of its own. It closes every other descriptor, gives up
all privileges but reading the store, and ends when the kernel says that the last mount of
its tree is gone. Killing it harms no data; without a keeper its mounts then answer ENOTCONN.

No thread of it may look at its own mount: killed at that moment, the process would wait
for its own answer for ever, beyond the reach of any signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from fuse_mount import starting
from fuse_mount.lowers import remove_instance
from fuse_mount.serving import Report, survive_memory_pressure
from fuse_mount.starting import FUSEPY, LIFE_FD, TAKES_OVER
from layerstore.errors import LayerstoreError, UnsupportedError
from layerstore.linux.files import open_private

if TYPE_CHECKING:
    from fuse_mount._binding import Tree
    from fuse_mount.nodes import NodeTree
    from layerstore.digest import DiffId
    from layerstore.formats.tree import Changeset
    from layerstore.store.store import Store
    from layerstore.vfs.view import ImageView

DAY_SECONDS = 86_400
"""How long the kernel may remember names and attributes: images never change."""


def main(arguments: list[str]) -> NoReturn:
    """Serve until unmounted, then exit."""
    directory = arguments[0]
    os.chdir("/")
    os.umask(0o077)
    with open(f"{directory}/spec.json", "rb") as file:
        spec = json.load(file)
    os.closerange(starting.LAST_FD + 1, 1 << 20)
    try:
        status = _run(spec)
    finally:
        sys.stdout.flush()
    os._exit(status)  # no destructor may touch the store once the files are gone


def _run(spec: dict[str, object]) -> int:
    _log_to_stderr()
    report = Report(wanted=TAKES_OVER not in os.environ)
    try:
        if spec.get("backend") == FUSEPY:
            _serve_through_library(spec, report)
        else:
            _serve(spec, report)
    except LayerstoreError as err:
        if report.failed(err.message, err.hint, unsupported=isinstance(err, UnsupportedError)):
            return 0
        sys.stderr.write(f"server: {err.message}\n")
        return err.exit_code
    except Exception as err:  # noqa: BLE001 -- the last frame: the starter has to hear of it
        import traceback

        traceback.print_exc()
        told = report.failed(f"the FUSE server failed: {type(err).__name__}: {err}", None)
        return 0 if told else 1
    if directory := spec.get("directory"):
        remove_instance(str(directory))
    return 0


def _log_to_stderr() -> None:
    """Send errors to stderr, the log file of whoever started this, and keep that short."""
    import logging

    class Bounded(logging.StreamHandler):  # type: ignore[type-arg]
        def emit(self, record: logging.LogRecord) -> None:
            with contextlib.suppress(OSError):
                # It is appended to: what comes next begins the file anew.
                if os.fstat(2).st_size > starting.LOG_MAX_BYTES:
                    os.ftruncate(2, 0)
                    os.write(2, b"(earlier lines were dropped)\n")
            super().emit(record)

    handler = Bounded(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger("layerstore").addHandler(handler)


def _serve(spec: dict[str, object], report: Report) -> None:
    """Serve the device that we were given."""
    from pathlib import Path

    from fuse_mount import privileges
    from fuse_mount.device import Session, Slot
    from layerstore.store.store import Store

    mountpoint = os.fsencode(str(spec["mountpoint"]))
    survive_memory_pressure()
    reading = _needed_to_read(spec)
    privileges.keep_only({*reading, privileges.CAP_SYS_ADMIN})
    if spec.get("life"):
        _watch_owner(mountpoint)

    def ready() -> None:
        # Nobody can have joined this instance before its starter heard of it.
        if not report.ready():
            _take_mount_away(mountpoint)
        if not spec.get("life"):
            privileges.keep_only(reading)

    with Store.open(Path(str(spec["store"]))) as store:
        nodes = _nodes(store, spec)
        _settle()
        slot = Slot(starting.SLOT_FD if spec.get("kept") else None)
        session = Session(starting.DEVICE_FD, nodes, slot, ready)
        if TAKES_OVER in os.environ:
            session.resume()
            privileges.keep_only(reading)
        session.run()
        nodes.end()


def _needed_to_read(spec: dict[str, object]) -> set[int]:
    """Return the capabilities that reading takes: none, if all of the store is this user's."""
    import stat

    from fuse_mount import privileges

    if "remote" in spec:  # that store may be anybody's, and so may the directory of a trace
        return {privileges.CAP_DAC_OVERRIDE}
    store_root = str(spec["store"])
    status = os.stat(store_root)
    if status.st_uid == os.geteuid() and not status.st_mode & stat.S_ISGID:
        return set()
    return {privileges.CAP_DAC_OVERRIDE}


def _nodes(store: Store, spec: dict[str, object]) -> NodeTree:
    from fuse_mount.nodes import GrowingNodes, SingleNodes

    grow = spec.get("grow")
    if grow is not None:
        return GrowingNodes(_Grower(store, str(grow)).load)
    return SingleNodes(_view(store, spec))


def _view(store: Store, spec: dict[str, object]) -> ImageView:
    """Return the view of one image, of this store or of a remote."""
    if "remote" in spec:
        from fuse_mount.lazy_source import LazyView

        return LazyView(store, spec)
    layers = spec["layers"]
    assert isinstance(layers, list)
    view = _Grower(store, "").view(layers)
    if "escape" not in spec:
        return view
    from layerstore.vfs.beneath import BeneathOverlay

    return BeneathOverlay(store, view.root, os.fsencode(str(spec["escape"])))


def _settle() -> None:
    """Let no garbage collection look at the tree: it lives as long as the process."""
    import gc

    gc.collect()
    gc.freeze()


def _watch_owner(mountpoint: bytes) -> None:
    import threading

    threading.Thread(target=_die_with_owner, args=(mountpoint,), daemon=True).start()


def _serve_through_library(spec: dict[str, object], report: Report) -> None:
    """Mount through libfuse 2 and serve."""
    import fcntl
    from pathlib import Path

    from fuse_mount import _binding
    from layerstore.store.store import Store

    alive = open_private(str(spec["alive"]), os.O_RDWR | os.O_CREAT)
    fcntl.flock(alive, fcntl.LOCK_EX)
    mountpoint = os.fsencode(str(spec["mountpoint"]))
    survive_memory_pressure()
    with Store.open(Path(str(spec["store"]))) as store:
        tree = _tree(store, spec, report, mountpoint)
        _settle()
        _binding.serve(tree, mountpoint, mount_options())
        tree.end()


def mount_options() -> dict[str, object]:
    """Return the options of every mount: immutable, so the kernel may remember everything."""
    options: dict[str, object] = {
        "ro": True,
        "nosuid": True,
        "nodev": True,
        "default_permissions": True,
        "use_ino": True,
        "kernel_cache": True,
        "entry_timeout": DAY_SECONDS,
        "attr_timeout": DAY_SECONDS,
        "negative_timeout": DAY_SECONDS,
        "fsname": "layerstore",
        "subtype": "layerstore",
    }
    if os.geteuid() == 0 or starting.others_allowed():
        options["allow_other"] = True
    return options


def _tree(store: Store, spec: dict[str, object], report: Report, mountpoint: bytes) -> Tree:
    from fuse_mount.operations import SingleTree

    def ready() -> None:
        import threading

        # Nobody can have joined this instance before its starter heard of it.
        if not report.ready():
            threading.Thread(target=_take_mount_away, args=(mountpoint,), daemon=True).start()

    return SingleTree(_view(store, spec), ready)


class _Grower:
    """Loads chains by name; layers that chains share are decoded once."""

    def __init__(self, store: Store, directory: str) -> None:
        self._store = store
        self._directory = directory
        self._changesets: dict[DiffId, Changeset] = {}

    def load(self, name: bytes) -> ImageView:
        """Return the view whose diff ids the file of this name lists."""
        from layerstore.vfs.view import NoSuchPathError

        try:
            # Names are hex: anything else is not ours to open.
            path = os.path.join(self._directory, bytes.fromhex(name.decode("ascii")).hex())
            with open(path, encoding="ascii") as file:
                layers = file.read().split()
        except (ValueError, FileNotFoundError) as err:
            raise NoSuchPathError(f"no chain {name!r}") from err
        return self.view(layers)

    def view(self, layers: list[str]) -> ImageView:
        """Return the view of a chain of layers."""
        from layerstore.image.trees.stack import stack
        from layerstore.vfs.view import ImageView

        return ImageView(self._store, stack([self._changeset(layer) for layer in layers]))

    def _changeset(self, layer: str) -> Changeset:
        from layerstore.digest import DiffId, parse_digest
        from layerstore.image.layers.layers import load_changeset

        diff_id = DiffId(parse_digest(layer))
        if diff_id not in self._changesets:
            self._changesets[diff_id] = load_changeset(self._store, diff_id)
        return self._changesets[diff_id]


def _die_with_owner(mountpoint: bytes) -> None:
    """Wait for the owner's end of the pipe to close, then take the mount away."""
    while True:
        try:
            if not os.read(LIFE_FD, 1):
                break
        except OSError:
            break
    _take_mount_away(mountpoint)


def _take_mount_away(mountpoint: bytes) -> None:
    """Detach our own mount and end at once; closing /dev/fuse fails what still waits."""
    from layerstore.linux import mounts

    with contextlib.suppress(LayerstoreError):
        mounts.unmount(os.fsdecode(mountpoint), lazy=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
