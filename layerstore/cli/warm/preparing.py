"""Images prepared in the background, one at a time, by a child of ``layerstore warm``.

Commands tell the helper of images that they made (:mod:`layerstore.cli.warm.fresh_images`), and
what their first start needs is unpacked before it comes, as ``layerstore prepare`` does. The child
is idle: it works with what nobody else wants, holds no lock then that a start waits for, and ends
with the helper, however that ends. What it cannot do is told to syslog and otherwise nobody's
trouble.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # as in warm
import contextlib
import os
import select

from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.processes import close_others, die_with_parent

if TYPE_CHECKING:
    from collections.abc import Sequence

_WAITING_MAX = 256
"""Images; those that came first are forgotten, since nobody has started them for the longest."""

_PATIENCE_MS = 2000
"""For what a child that is told to end has to remove; below the patience of ``warm --stop``."""

Fresh = tuple[str, str]
"""A store, and an image's id."""


class Preparing:
    """What the helper has to do with it: never more than to fork."""

    def __init__(self) -> None:
        self._waiting: list[Fresh] = []
        self._pid = self._child = -1

    @property
    def descriptor(self) -> int:
        """Is readable when :meth:`go_on` should be called; -1 if nothing is being done."""
        return self._child

    def add(self, store_root: str, image_ids: Sequence[str]) -> None:
        """Prepare images after those that were told of before."""
        fresh = [(store_root, image_id) for image_id in image_ids]
        self._waiting = [*(one for one in self._waiting if one not in fresh), *fresh]
        del self._waiting[:-_WAITING_MAX]
        if self._child < 0:
            self.go_on()

    def go_on(self) -> None:
        """Begin with what waits: the child before has ended."""
        self._forget()
        if not self._waiting:
            return
        todo, self._waiting = self._waiting, []
        own = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _be_child(own, todo)
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            self._child = os.pidfd_open(self._pid)

    def end(self) -> None:
        """End what is being done, and wait for that; a child that takes long is killed."""
        self._waiting = []
        if self._child < 0:
            return
        from layerstore.linux.priority import hasten

        with contextlib.suppress(ProcessLookupError):
            hasten(self._pid)
            signal.pidfd_send_signal(self._child, signal.SIGTERM)
            if not _has_ended(self._child):
                signal.pidfd_send_signal(self._child, signal.SIGKILL)
                _has_ended(self._child)
        self._forget()

    def _forget(self) -> None:
        if self._child >= 0:
            os.close(self._child)
        self._child = -1


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(_PATIENCE_MS))


def _be_child(parent: int, todo: Sequence[Fresh]) -> None:
    """Be the child, to its end."""
    try:
        # Not SIGKILL, as for who waits: what was begun is removed.
        die_with_parent(signal.SIGTERM)
        if os.getppid() != parent:
            return
        close_others()  # the helper's sockets must end with it
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _prepare_all(todo)
    except BaseException:  # noqa: BLE001, S110 -- told to end; it has been undone
        pass
    finally:
        os._exit(0)


def _prepare_all(todo: Sequence[Fresh]) -> None:
    import syslog

    from layerstore.cli.collector import collect_rarely
    from layerstore.cli.failure import describe
    from layerstore.linux.priority import idle

    collect_rarely()
    syslog.openlog("layerstore", syslog.LOG_PID | syslog.LOG_PERROR, syslog.LOG_DAEMON)
    for store_root, image_id in todo:
        try:
            with idle():
                from fuse_mount import kernel_lowers  # noqa: F401 -- with all that it needs
                from layerstore.image.kernel import metadata_image  # noqa: F401
                from layerstore.store import store  # noqa: F401
            _prepare(store_root, image_id)
        except Exception as err:  # noqa: BLE001 -- its first start will say what is wrong, if it is
            said = describe(err).message
            syslog.syslog(syslog.LOG_NOTICE, f"not prepared: {image_id} in {store_root}: {said}")


def _prepare(store_root: str, image_id: str) -> None:
    """Prepare an image. Only what needs none of the catalog's locks is done while being idle."""
    from fuse_mount import kernel_lowers
    from layerstore.linux.priority import idle
    from layerstore.store.store import Store

    with Store.open(store_root) as store:
        image = store.resolve(image_id)
        with store.begin(f"prepare {image_id}") as session:
            session.hold_images([image.image_id])
            with idle():
                kernel_lowers.prepare_beside(store, image.layers, session.temporary("objects-"))
