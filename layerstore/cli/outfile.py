"""Where a command's output file comes from: stdout, a special file, or a whole new file."""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import TYPE_CHECKING, BinaryIO

from layerstore.errors import InputError
from layerstore.linux.files import fsync_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

STDIO = "-"


@contextlib.contextmanager
def output_stream(path: str, *, what: str = "a tar") -> Iterator[BinaryIO]:
    """Give a stream to write a file's bytes to.

    A regular file appears whole and durable under its name when the block is left,
    and stays as it was when the block raises. ``-`` is stdout; devices and pipes are
    written directly. ``what`` is it, for who forgot to say where to.

    Raises:
        InputError: Stdout is a terminal, or the path is a directory.
    """
    if path == STDIO:
        if sys.stdout.isatty():
            raise InputError(
                f"refusing to write {what} to a terminal", hint="name a file with --output"
            )
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    mode = _mode_of(path)
    if mode is not None and stat.S_ISDIR(mode):
        raise InputError(f"{path} is a directory, expected a file")
    is_special = mode is not None and not stat.S_ISREG(mode)
    try:
        with open(path, "wb") if is_special else _replacing(path) as stream:
            yield stream
    except OSError as err:
        err.filename = path  # a failed write does not know where, a failed open the temporary name
        raise


def _mode_of(path: str) -> int | None:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    target = os.path.realpath(path)
    temporary = f"{os.path.dirname(target)}/.{os.path.basename(target)}.{os.getpid()}.part"
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, target)
        fsync_directory(os.path.dirname(target))
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
