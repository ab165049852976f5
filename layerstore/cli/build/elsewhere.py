"""Other surroundings for a build that is to show what it depends on by accident.

What a result should not depend on, and might: the umask, the working directory, time zone and
language of whoever builds; how many processors there are; the name of the host that RUN sees.
All of it is put back. Only for commands whose other threads have ended.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from layerstore.build.request import BuildRequest

T = TypeVar("T")

HOSTNAME: Final = "elsewhere"
"""Not the one that steps have otherwise; docker's classic builder has another in each step."""

_UMASKS: Final = (0o077, 0o022)
_VARIABLES: Final = {"TZ": "ELSEWHERE-11:30", "LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"}
"""Half an hour off, and a language whose letters do not pair as English ones do."""


@contextlib.contextmanager
def elsewhere(request: BuildRequest) -> Iterator[BuildRequest]:
    """Change the surroundings of this process until the block is left.

    Yields:
        The request for a build in them.
    """
    changed = msgspec.structs.replace(
        request,
        hostname=HOSTNAME,
        context=_absolute(request.context),
        dockerfile=_absolute(request.dockerfile),
        named_contexts={name: _absolute(it) for name, it in request.named_contexts.items()},
    )
    with contextlib.ExitStack() as stack:
        umask = os.umask(_UMASKS[0])
        stack.callback(os.umask, umask)
        if umask == _UMASKS[0]:
            os.umask(_UMASKS[1])
        stack.enter_context(contextlib.chdir("/"))
        stack.enter_context(_variables(_VARIABLES))
        stack.enter_context(_one_processor())
        yield changed


def told() -> str:
    """Return what is different, in words."""
    processors = ", one processor" if len(os.sched_getaffinity(0)) > 1 else ""
    return f"another umask, directory, time zone, language and host name{processors}"


def _absolute(place: T) -> T:
    from layerstore.build.contexts import LayoutContext

    if isinstance(place, LayoutContext):
        return msgspec.structs.replace(place, path=place.path.absolute())
    return place.absolute() if isinstance(place, Path) else place


@contextlib.contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    time.tzset()
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        time.tzset()


@contextlib.contextmanager
def _one_processor() -> Iterator[None]:
    """Have this thread, and what it starts, on one processor alone."""
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usable)
