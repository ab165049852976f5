"""A warm process that runs commands in forked children, traced or not.

Started by :class:`tests.crash.rig.launcher.Launcher`; requests and answers are lines of
JSON. What layerstore imports is imported here once, so a child costs a fork and not 0.3 s
of imports, and calls the very ``main`` of the command line. A mutant, if one is asked
for, is applied in the child alone. The helper has no threads and no children of its own
beside the one at work, so waiting for any child is waiting for that one.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any

from tests.crash.rig import tracer

if TYPE_CHECKING:
    from collections.abc import Callable

_PRELOADED = (
    "fuse_mount.mounts",
    "layerstore.build.api",
    "layerstore.build.executor",
    "layerstore.cli.main",
    "layerstore.cli.outfile",
    "layerstore.cli.progress",
    "layerstore.image.importing",
    "layerstore.image.layouts.layout",
    "layerstore.image.trees.export_layer",
    "layerstore.store.check.check",
    "layerstore.store.collect.gc",
    "layerstore.store.rebuild.rebuild",
    "layerstore.store.check.repair",
)


_PATIENCE_S = 120
"""After so long a command is ended by SIGALRM: a rig that waits for ever says nothing."""


def _preload() -> None:
    import importlib

    for name in _PRELOADED:
        importlib.import_module(name)
    from layerstore.cli.app import build_app

    build_app()  # imports the commands of all nouns


def _command(request: dict[str, Any], out: str, err: str) -> Callable[[], int]:
    """Return a function for a forked child that becomes one command."""

    def work() -> int:
        signal.alarm(_PATIENCE_S)
        for number, path in ((1, out), (2, err)):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(fd, number)
            os.close(fd)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.environ.update(request.get("env") or {})
        _limit(**request.get("limits") or {})
        try:
            if request.get("mutant"):
                from tests.crash.rig import mutants

                mutants.apply(request["mutant"])
            from layerstore.cli.main import main

            sys.argv = ["layerstore", *request["argv"]]
            code = main()
            sys.stdout.flush()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001 -- the test reads it
            traceback.print_exc()
            code = 98
        sys.stderr.flush()
        return code

    return work


def _limit(*, files: int | None = None, more_memory: int | None = None) -> None:
    """Limit this process: descriptors in all, bytes of address space beyond what it has."""
    if files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if more_memory is not None:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        most = pages * resource.getpagesize() + more_memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _plain(request: dict[str, Any], out: str, err: str) -> int:
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = _command(request, out, err)()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    out, err = request["out"], request["err"]
    if request.get("plan") is None:
        return {
            "code": _plain(request, out, err),
            "fired": False,
            "seen": [],
            "where": "",
            "log": [],
        }
    plan = tracer.Plan(**{**request["plan"], "calls": frozenset(request["plan"]["calls"])})
    held: list[dict[str, object]] = []

    def while_held(place: str) -> bool:
        if not _is_free(request["scope"][0], place):
            return False
        for argv in request.get("held") or ():
            number = len(held)
            code = _plain({**request, "argv": argv}, f"{out}.{number}", f"{err}.{number}")
            held.append({"argv": argv, "code": code, "err": _read(f"{err}.{number}")})
        return True

    trace = tracer.run(_command(request, out, err), plan, request["scope"], while_held=while_held)
    return {**trace._asdict(), "held": held}


def _is_free(store: str, place: str) -> bool:
    """Whether a collection would get every lock it asks for.

    A process stopped with the catalog's lock, or inside SQLite while that opens or closes
    the database, makes everybody wait; that is what locks are for.
    """
    from layerstore.linux.locks import is_held
    from layerstore.store.paths import LEASE_PREFIX

    if place.startswith(f"{store}/catalog.sqlite"):
        return False
    names = [name for name in os.listdir(f"{store}/locks") if not name.startswith(LEASE_PREFIX)]
    return not any(is_held(f"{store}/locks/{name}") for name in names)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def serve() -> None:
    """Answer requests until stdin ends."""
    _preload()
    # Children write to descriptor 1; answers go to a copy that they do not inherit.
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        print(json.dumps(_answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    serve()
