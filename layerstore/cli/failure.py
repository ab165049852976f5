"""The one place where an error becomes words for a person and an exit code.

``layerstore: error: MESSAGE``, then ``hint: ...`` when there is something to do,
on stderr. Anything that is not one of our errors is our mistake: one line, how to
report it, and the traceback only with ``LAYERSTORE_DEBUG=1``.

Reference: docs/reference/errors.md.
"""

from __future__ import annotations

import errno
import os
import sys

from layerstore.cli.output import printable
from layerstore.cli.settings import DEBUG_VARIABLE
from layerstore.errors import LayerstoreError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TextIO

EXIT_INTERNAL = 70
"""Our own mistake (sysexits.h, EX_SOFTWARE)."""

EXIT_STORAGE = 12
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_BROKEN_PIPE = 141

_HINTS = {
    errno.ENOSPC: "free some space and run it again; what was stored before is unharmed",
    errno.EDQUOT: "the disk quota is used up; free some space and run it again",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.EACCES: "run it as a user who may, or choose another place",
    errno.EPERM: "this needs more privileges; run it as root",
    errno.ENOENT: "check the path",
    errno.EBADF: "stdin or stdout is closed; redirect it to a file or to /dev/null",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
}


class Terminated(BaseException):
    """SIGTERM arrived; unwinds like Ctrl-C so that mounts and leases are released."""


class Report(NamedTuple):
    """What to tell: an exit code, a message and perhaps a hint."""

    exit_code: int
    message: str
    hint: str | None = None


def describe(error: BaseException) -> Report:
    """Return what to tell about an error."""
    if isinstance(error, LayerstoreError):
        return Report(error.exit_code, error.message + _excerpt_of(error), error.hint)
    if isinstance(error, OSError):
        return _describe_os_error(error)
    if isinstance(error, MemoryError) or _is_lack_of_memory(error):
        return Report(EXIT_STORAGE, "out of memory", "close other programs and run it again")
    usage = _usage_error(error)
    if usage is not None:
        return usage
    return Report(
        EXIT_INTERNAL,
        f"internal error: {type(error).__name__}: {error}",
        f"this is a mistake in layerstore; run it again with {DEBUG_VARIABLE}=1 and "
        "report what it prints",
    )


def _is_lack_of_memory(error: BaseException) -> bool:
    """Whether it is one of the other names that Python has for that."""
    if isinstance(error, ImportError):  # the dynamic loader's words
        return "failed to map segment" in str(error)
    if isinstance(error, SystemError):  # of something in C that had no memory for its error either
        return str(error) == "error return without exception set"
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


def show(report: Report, error: BaseException | None = None) -> None:
    """Write a report to stderr; with ``LAYERSTORE_DEBUG`` the traceback as well."""
    if error is not None and os.environ.get(DEBUG_VARIABLE):
        import traceback

        sys.stderr.write("".join(traceback.format_exception(error)))
    lines = [_indented(f"layerstore: error: {report.message}")]
    if report.hint:
        lines.append(_indented(f"hint: {report.hint}"))
    try:
        sys.stderr.write("\n".join(lines) + "\n")
        sys.stderr.flush()
    except OSError:  # nobody reads it; the exit code still tells
        _close(sys.stderr)


def tell_all(failures: Sequence[LayerstoreError]) -> None:
    """Tell every failure but the last, which is raised: one bad image must not stop the others.

    Raises:
        LayerstoreError: The last failure, if there is any.
    """
    for failure in failures[:-1]:
        show(describe(failure))
    if failures:
        raise failures[-1]


def guarded(run: Callable[[], int]) -> int:
    """Run a command and return its exit code; whatever it raises is told and turned into one."""
    try:
        code = run()
        sys.stdout.flush()
    except BrokenPipeError:
        _close(sys.stdout)
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Terminated:
        return EXIT_TERMINATED
    except Exception as err:  # noqa: BLE001 - the one handler
        report = describe(err)
        _flush_quietly()
        show(report, err)
        return report.exit_code
    return code


def _indented(text: str) -> str:
    """Return a message of several lines (output of a tool) with its later lines set off."""
    first, *rest = text.rstrip("\n").split("\n")
    return "\n".join([printable(first), *("  " + printable(line) for line in rest)])


def _excerpt_of(error: LayerstoreError) -> str:
    """Return what of the spec an error points at, on lines of its own: some lines, or a caret."""
    source = getattr(error, "source", "")
    if source:
        return f"\n{source}"
    span = getattr(error, "span", None)
    if span is None:
        return ""
    from layerstore.build.dockerfile.errors import excerpt

    text = excerpt(span)
    return "\n" + text if text else ""


def _describe_os_error(error: OSError) -> Report:
    reason = os.strerror(error.errno) if error.errno else str(error)
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
    return Report(EXIT_STORAGE, f"{where}{reason}", _HINTS.get(error.errno or 0))


def _usage_error(error: BaseException) -> Report | None:
    # The option parser is typer's copy of click or click itself, depending on its version;
    # both mark usage errors the same way.
    format_message = getattr(error, "format_message", None)
    if format_message is None:
        return None
    message = str(format_message()).rstrip(".")
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "layerstore"
    return Report(
        int(getattr(error, "exit_code", 2)),
        message[:1].lower() + message[1:],
        f"'{command} --help' lists what it takes",
    )


def _close(stream: TextIO) -> None:
    # Nobody reads any more; without this the interpreter complains while it ends.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _flush_quietly() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _close(sys.stdout)
