"""The command ``exec``: one more process in a container that runs."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # see attach
import contextlib
import os
import select

from layerstore import light_json as json
from layerstore.cli.container.options import variables
from layerstore.cli.failure import describe, show
from layerstore.containers.errors import CANNOT_START, StartFailedError
from layerstore.containers.known_runtime import runtime_of, runtime_words
from layerstore.errors import BuildError, ConflictError, InputError
from layerstore.light_typing import TYPE_CHECKING, Any
from layerstore.linux.files import write_all

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from layerstore.containers.records import Container

_RUNTIME_FAILED = 255
_CHUNK_BYTES = 64 << 10
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def execute_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``exec`` takes."""
    add = parser.add_argument
    add("-d", "--detach", action="store_true", help="do not wait for it")
    add("-i", "--interactive", action="store_true", help="keep its standard input open")
    add("-t", "--tty", action="store_true", help="give it a terminal")
    add("-e", "--env", action="append", default=[], metavar="NAME[=VALUE]", help=_ENV)
    add("--env-file", action="append", default=[], metavar="FILE", help="variables, one a line")
    add("-w", "--workdir", metavar="DIR", help="where it begins")
    add("-u", "--user", metavar="USER[:GROUP]", help="whom it runs as")
    add("--privileged", action="store_true", help="all of root's rights")
    add("container", metavar="CONTAINER", help="name or id; then COMMAND [ARG...]")


_ENV = "a variable; without value: ours; may be repeated"


def execute(options: argparse.Namespace, root: str) -> int:
    """Run a command in a container and return its status."""
    try:
        return _execute(options, root)
    except BuildError as err:  # of users that the image does not know
        show(describe(err), err)
        return CANNOT_START
    except StartFailedError as err:
        show(describe(err), err)
        return err.status


def _execute(options: argparse.Namespace, root: str) -> int:
    from layerstore.containers.freezing import refuse_paused
    from layerstore.containers.lifecycle import settle
    from layerstore.containers.records import find
    from layerstore.containers.states import RUNNING

    if not options.command:
        raise InputError("no command", hint="layerstore exec CONTAINER COMMAND [ARG...]")
    if options.tty and options.interactive and not options.detach and not os.isatty(0):
        raise InputError("the input device is not a terminal", hint="leave out -t, keep -i")
    container = find(root, options.container)
    state = settle(root, container)
    if state.status != RUNNING:
        raise ConflictError(
            f"container {container.name} is not running",
            hint=f"layerstore start {container.name}",
        )
    refuse_paused(container)
    process = _process(options, container, state.pid)
    path = f"{container.run_dir}/exec-{os.urandom(6).hex()}"
    fd = os.open(f"{path}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(json.dumps(process))
    try:
        return _run(options, container, path)
    finally:
        for name in (f"{path}.json", f"{path}.log"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def _process(options: argparse.Namespace, container: Container, pid: int) -> dict[str, Any]:
    """Return the process as the runtime takes it: the container's own, but for what was asked."""
    from layerstore.cli.container.options import pairs_of_file
    from layerstore.runtime.oci_spec import ALL_CAPABILITIES

    try:
        with open(f"{container.run_dir}/config.json", encoding="utf-8") as file:
            process: dict[str, Any] = json.loads(file.read())["process"]
    except (OSError, ValueError, KeyError) as err:
        raise ConflictError(
            f"container {container.name} cannot be entered: {err}",
            hint=f"layerstore restart {container.name}",
        ) from err
    process["args"] = list(options.command)
    process["terminal"] = options.tty
    added: dict[str, str] = {}
    for name in options.env_file:
        added.update(pairs_of_file(name, "--env-file"))
    added.update(variables(options.env))
    if options.tty:
        added.setdefault("TERM", "xterm")
    if options.user is not None:
        _become(process, options.user, pid, added)
    env = {item.partition("=")[0]: item.partition("=")[2] for item in process["env"]}
    process["env"] = [f"{name}={value}" for name, value in {**env, **added}.items()]
    if options.workdir is not None:
        if not options.workdir.startswith("/"):
            raise InputError(f"--workdir {options.workdir!r} is no absolute path")
        process["cwd"] = options.workdir
    if options.privileged:
        from layerstore.linux.namespaces import held_capabilities

        held = held_capabilities()
        every = [f"CAP_{name}" for bit, name in enumerate(ALL_CAPABILITIES) if held >> bit & 1]
        process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), every)
    return process


def _become(process: dict[str, Any], user: str, pid: int, env: dict[str, str]) -> None:
    """Let a process run as another user of the container's."""
    from layerstore.runtime.users import resolve_run_user, users_of

    found = resolve_run_user(users_of(f"/proc/{pid}/root"), user)
    process["user"] = {
        "uid": found.uid, "gid": found.gid, "additionalGids": list(found.groups),
    }  # fmt: skip
    env.setdefault("HOME", found.home)
    bounding = process["capabilities"].get("bounding", [])
    if found.uid:
        process["capabilities"] = {"bounding": bounding}
    else:
        process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), bounding)


def _run(options: argparse.Namespace, container: Container, path: str) -> int:
    from layerstore.linux.namespaces import mapped_ids

    rootless = bool(mapped_ids())
    runtime = runtime_of(container, rootless=rootless)
    words = [runtime.path, "--root", f"{os.path.dirname(container.run_dir)}/runtime"]
    words += ["--log", f"{path}.log", "--log-format", "json", "exec"]
    if options.detach:
        words.append("--detach")
    words += ["--process", f"{path}.json", container.container_id]
    reads = options.interactive and not options.detach
    status = _wait(words, path, reads=reads, quiet=options.detach)
    failure = _failure(path) if status == _RUNTIME_FAILED or options.detach else b""
    if failure and status:
        from layerstore.containers.monitor_start import start_code

        raise StartFailedError(
            f"the command did not start: {runtime_words(failure)}", start_code(failure)
        )
    return status


def _failure(path: str) -> bytes:
    try:
        with open(f"{path}.log", "rb") as file:
            return file.read(65536)
    except OSError:
        return b""


def _wait(words: Sequence[str], path: str, *, reads: bool, quiet: bool) -> int:
    """Run the runtime to its end, which passes the command's streams, signals and status on."""
    actions: list[tuple[Any, ...]] = []
    if not reads:
        actions.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
    errors = -1
    if quiet:
        actions += [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    else:
        errors, theirs = os.pipe2(os.O_CLOEXEC)
        actions.append((os.POSIX_SPAWN_DUP2, theirs, 2))
    pid = os.posix_spawn(
        words[0], list(words), os.environ, file_actions=actions,
        setsigdef=[signal.SIGPIPE, signal.SIGTERM, signal.SIGINT],
    )  # fmt: skip
    # A terminal sends Ctrl-C to both of us; what is sent to us alone is passed on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in _PASSED_ON:
        signal.signal(number, lambda got, _frame: _pass_on(pid, got))
    if not quiet:
        os.close(theirs)
        _pass_errors_on(errors, pid, path)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _pass_errors_on(errors: int, pid: int, path: str) -> None:
    """Write what comes as standard error until the runtime ends, but for its own last words.

    runc logs why a command did not start, and then prints the same; we say it in our words. Some
    runtimes give the command the pipe itself, which what it left behind may hold for ever.
    """
    ended = os.pidfd_open(pid)
    poll = select.poll()
    for fd in (errors, ended):
        poll.register(fd, select.POLLIN)
    try:
        while True:
            ready = [fd for fd, _ in poll.poll()]
            data = os.read(errors, _CHUNK_BYTES) if errors in ready else b""
            if data and not _is_last_word(data, path):
                write_all(2, data)
            if not data:  # its end, or the runtime's with nothing left to read
                return
    except OSError:
        return  # nobody reads ours: it gets to know when it writes the next time
    finally:
        os.close(errors)
        os.close(ended)


def _is_last_word(data: bytes, path: str) -> bool:
    failure = _failure(path)
    return bool(failure) and runtime_words(failure).encode() == data.strip()


def _pass_on(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
