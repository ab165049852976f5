"""The entry point: sorts out ``--store``, takes the fast path where there is one.

Container runtimes call ``mount``, ``umount``, ``mounts`` and ``images`` in loops;
these, and ``import``, are parsed with argparse in :mod:`layerstore.cli.fast` without importing
typer, which costs more than the commands themselves; so is ``build`` when its answer is known
(:mod:`layerstore.cli.build.again`). Everything else goes to :mod:`layerstore.cli.app`.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal makes enumerations of it, 2 ms
import _thread
import atexit
import contextlib
import gc
import os
import sys
import time

from layerstore.cli.failure import Terminated, guarded
from layerstore.cli.settings import take_store_option
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

FAST_COMMANDS = (
    "images", "import", "inspect", "mount", "mounts", "umount", "df",
    "run", "create", "start", "attach", "exec", "ps", "logs", "top", "stats", "stop", "restart",
    "kill", "wait", "cp", "pause", "unpause", "rename", "update", "port", "container", "volume",
    "bundle", "generate", "warm",
)  # fmt: skip

_WITH_LOCKS = frozenset(
    ("threading", "queue", "concurrent.futures.thread", "concurrent.futures._base",
     "importlib._bootstrap")
)  # fmt: skip
_WAITING = ("wait", "_wait_for_tstate_lock")
_AGAIN_S = 0.002

NOUNS = ("help", "image", "system", "builder", "buildx")
"""What :mod:`layerstore.cli.parsing.docker_words` makes commands of."""


def main() -> int:
    """Run the command line of this process and return its exit code."""
    # Imports leave no cycles worth looking for; commands that live longer enable it again.
    gc.disable()
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from layerstore.cli.descriptors import occupy_closed

        occupy_closed()
    for stream in (sys.stdout, sys.stderr):
        if stream.encoding != "utf-8":
            from layerstore.cli.narrow_encodings import never_fail

            never_fail(stream)  # type: ignore[arg-type]  # the interpreter's own
    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored
        signal.signal(signal.SIGINT, interrupt)
    code = guarded(lambda: dispatch(sys.argv[1:]))
    if "layerstore.cli.app" not in sys.modules:
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End at once, when who wants to know was told: taking modules apart takes 5 ms and more."""
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        return
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def dispatch(arguments: Sequence[str]) -> int:
    """Run one command line; errors are raised, not told.

    Raises:
        LayerstoreError: The command failed.
    """
    store, rest = take_store_option(arguments)
    if rest and rest[0] in NOUNS:
        from layerstore.cli.parsing.docker_words import translated

        rest = translated(rest)
    if rest and rest[0] in FAST_COMMANDS:
        from layerstore.cli import fast

        return fast.run(rest[0], rest[1:], store)
    if list(rest) == ["--version"]:
        from layerstore.cli.about.version_line import write_version

        write_version()
        return 0
    if rest and rest[0] == "rm":
        from layerstore.cli.container.either import take_containers

        code, rest = take_containers(rest, store)
        if code is not None:
            return code
    if rest and rest[0] == "build":
        from layerstore.cli.build import again

        code = again.run(rest[1:], store)
        if code is not None:
            return code
    from layerstore.cli import app

    return app.run(rest, store)


def terminate(number: int, frame: FrameType | None) -> None:
    """Unwind at SIGTERM: a handler of signals."""
    if not _asked_again(number, frame):
        raise Terminated


def interrupt(number: int, frame: FrameType | None) -> None:
    """Unwind at SIGINT: a handler of signals."""
    if not _asked_again(number, frame):
        raise KeyboardInterrupt


def _asked_again(number: int, frame: FrameType | None) -> bool:
    """Have the signal come again soon if it came while the library takes or gives back a lock.

    Its locks are taken and given back by Python code, in which an exception can leave one
    taken for good (``queue``, ``threading`` and ``concurrent.futures`` say so of themselves);
    who unwinds then waits for a thread that waits for the lock. Where it waits for something
    to happen is no such place, and the one where a signal finds it nearly always.
    """
    if frame is None or frame.f_globals.get("__name__") not in _WITH_LOCKS:
        return False
    if frame.f_code.co_name in _WAITING:
        return False
    try:
        _thread.start_new_thread(_send_again, (number, _thread.get_ident()))
    except RuntimeError:  # as many threads as there may be
        return False
    return True


def _send_again(number: int, ident: int) -> None:
    time.sleep(_AGAIN_S)
    signal.pthread_kill(ident, number)
