"""The process behind a FUSE mount: ``python -m fuse_mount.server DIRECTORY``.

It reads ``DIRECTORY/spec.json``:

    store        root of the store
    layers       diff ids, lowest first: the tree at the root of the mount; or
    grow         a directory in which files named by chain list diff ids, one a line:
                 each becomes a directory of the mount when its name is first looked up
    mountpoint   where to mount
    alive        file to hold an exclusive flock on while serving
    record       file to remove at the end: it keeps the layers from the garbage collector
    directory    directory to remove at the end, or null

and reports once on descriptor 3, as one JSON object: ``{"pid": N}`` when the kernel has
mounted the tree, or ``{"error": ..., "hint": ..., "unsupported": ...}``. Descriptor 4, where
given, is a pipe whose end of file means that the owner is gone and the mount shall go too.

Whoever starts it gives it a session of its own. It closes every other descriptor, and
ends when the kernel says that the last mount of its tree is gone. Killing it
harms no data; its mounts then answer ENOTCONN.

No thread of it may look at its own mount: killed at that moment, the process would wait
for its own answer for ever, beyond the reach of any signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from fuse_mount.lowers import LIFE_FD, READY_FD, remove_instance
from layerstore.errors import LayerstoreError, UnsupportedError
from layerstore.linux.files import open_private

if TYPE_CHECKING:
    from fuse_mount._binding import Tree
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
    os.closerange(READY_FD + 1 + bool(spec.get("life")), 1 << 20)
    try:
        status = _run(spec)
    finally:
        sys.stdout.flush()
    os._exit(status)  # no destructor may touch the store once the files are gone


def _run(spec: dict[str, object]) -> int:
    import fcntl

    alive = open_private(str(spec["alive"]), os.O_RDWR | os.O_CREAT)
    fcntl.flock(alive, fcntl.LOCK_EX)
    report = _Report()
    try:
        _serve(spec, report)
    except LayerstoreError as err:
        report.failed(err.message, err.hint, unsupported=isinstance(err, UnsupportedError))
        return err.exit_code
    except Exception as err:  # noqa: BLE001 -- the last frame: the starter has to hear of it
        import traceback

        traceback.print_exc()
        report.failed(f"the FUSE server failed: {type(err).__name__}: {err}", None)
        return 1
    if directory := spec.get("directory"):
        remove_instance(str(directory))
    return 0


class _Report:
    """Tells the starter, once, how it went."""

    def __init__(self) -> None:
        self._open = True

    def failed(self, message: str, hint: str | None, *, unsupported: bool = False) -> None:
        self._send({"error": message, "hint": hint, "unsupported": unsupported})

    def ready(self) -> bool:
        """Say that the mount works; False if nobody is left who wants to know."""
        return self._send({"pid": os.getpid()})

    def _send(self, value: dict[str, object]) -> bool:
        if not self._open:
            return True
        self._open = False
        try:
            os.write(READY_FD, json.dumps(value).encode())
        except OSError:
            return False
        finally:
            os.close(READY_FD)
        return True


def _serve(spec: dict[str, object], report: _Report) -> None:
    import gc
    import threading

    _check_host()
    from fuse_mount import _binding
    from layerstore.store.store import Store

    mountpoint = os.fsencode(str(spec["mountpoint"]))
    if spec.get("life"):
        threading.Thread(target=_die_with_owner, args=(mountpoint,), daemon=True).start()
    _survive_memory_pressure()
    from pathlib import Path

    with Store.open(Path(str(spec["store"]))) as store:
        tree = _tree(store, spec, report, mountpoint)
        gc.collect()
        gc.freeze()  # the tree lives as long as the process: no collection need look at it
        _binding.serve(tree, mountpoint, mount_options())


def _check_host() -> None:
    """Refuse early what libfuse would only complain about on stderr."""
    if not os.path.exists("/dev/fuse"):
        raise UnsupportedError(
            "there is no /dev/fuse on this host",
            hint="load the kernel module: modprobe fuse; in a container, run it with "
            "--device /dev/fuse",
        )
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise UnsupportedError(
            "this user may not open /dev/fuse",
            hint="let every user open it, as udev does by default: chmod 666 /dev/fuse",
        )
    if os.geteuid() != 0 and not _on_path("fusermount"):
        raise UnsupportedError(
            "fusermount is missing, which mounts for users without privileges",
            hint="install FUSE: apt-get install fuse libfuse2",
        )
    if os.geteuid() != 0 and not os.path.exists("/etc/mtab"):
        raise UnsupportedError(
            "there is no /etc/mtab, without which fusermount could not unmount again",
            hint="make it: ln -s /proc/self/mounts /etc/mtab",
        )


def _on_path(program: str) -> bool:
    return any(
        os.access(f"{directory}/{program}", os.X_OK)
        for directory in os.environ.get("PATH", os.defpath).split(":")
    )


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
    if os.geteuid() == 0 or _others_allowed():
        options["allow_other"] = True
    return options


def _others_allowed() -> bool:
    try:
        with open("/etc/fuse.conf", encoding="utf-8", errors="replace") as file:
            return any(line.split("#")[0].strip() == "user_allow_other" for line in file)
    except OSError:
        return False


def _tree(store: Store, spec: dict[str, object], report: _Report, mountpoint: bytes) -> Tree:
    from fuse_mount.operations import GrowingTree, SingleTree

    def ready() -> None:
        import threading

        # Nobody can have joined this instance before its starter heard of it.
        if not report.ready():
            threading.Thread(target=_take_mount_away, args=(mountpoint,), daemon=True).start()

    grow = spec.get("grow")
    if grow is not None:
        return GrowingTree(_Grower(store, str(grow)).load, ready)
    layers = spec["layers"]
    assert isinstance(layers, list)
    return SingleTree(_Grower(store, "").view(layers), ready)


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
        from layerstore.image.stack import stack
        from layerstore.vfs.view import ImageView

        return ImageView(self._store, stack([self._changeset(layer) for layer in layers]))

    def _changeset(self, layer: str) -> Changeset:
        from layerstore.digest import DiffId, parse_digest
        from layerstore.image.layers import load_changeset

        diff_id = DiffId(parse_digest(layer))
        if diff_id not in self._changesets:
            self._changesets[diff_id] = load_changeset(self._store, diff_id)
        return self._changesets[diff_id]


def _survive_memory_pressure() -> None:
    """Ask the kernel to kill others first: every view hangs on this process."""
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "r+b") as file:
        file.write(b"-500")


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
