"""``layerstore warm``: a helper that has everything loaded and runs ``run`` for who asks.

A start costs an interpreter and what it imports, more than all that is done then. Who starts
containers in loops may have one process do that once: it forks for each command line,
and the fork runs it with the asker's streams, directory, environment and mask, as the asker would
have. Nothing depends on it: killed, gone after some idle time, of another version, or unlike
the asker in anything that a process inherits, and the command runs the usual way.

There is no crossing of privileges. Its socket is in a directory of the user's alone, and it
compares what the kernel says of the asker with what it says of itself: ids, groups, capabilities,
namespaces, root, control group, limits, label of the LSM, signals ignored. Unless all is the
same, it declines.

    to us    marshalled request, or "stop"
    from us  P pid      who is to run it
    to us    G          with descriptors of streams and directory; signals are passed on from here
    from us  X code     it has ended
             N          declined, instead of P

A command that made images says so, and hears Y or N: :mod:`layerstore.cli.warm.fresh_images`.
They are prepared for their first start, unless --no-prepare: :mod:`layerstore.cli.warm.preparing`.

A shell asks in another way: :mod:`layerstore.cli.warm.shell_post`.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal makes enumerations of it, 2 ms
import _socket
import contextlib
import errno
import fcntl
import gc
import marshal
import os
import select
import stat
import struct
import sys

from layerstore.cli import warm_client
from layerstore.cli.failure import guarded
from layerstore.cli.warm import afterwards, shell_post
from layerstore.cli.warm.identity import identity_of
from layerstore.cli.warm.preparing import Preparing
from layerstore.cli.warm.shell_post import Asker, Post
from layerstore.digest import sha256_digest
from layerstore.errors import ConflictError, LayerstoreError, NotFoundError, UnsupportedError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.linux.files import make_private_dir
from layerstore.linux.processes import close_others, die_with_parent, own_pages
from layerstore.linux.sockets import bind_private

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any, NoReturn

    from layerstore.cli.parsing.light_parser import LightParser

_DESCRIPTORS = 4
_STOP = b"stop"
_TAKEN = b"T"
_BACKLOG = 64
_LOADING_FAILED = 1
_PATIENCE_S = 5.0
_POLL_MAX_MS = (1 << 31) - 1
_STAND_BACK_MS = 30
"""Before the next fork, unless somebody asks: the one that starts a container needs processors."""

_MODULES = (
    "layerstore.cli.container.run", "layerstore.cli.container.commands", "layerstore.cli.fast",
    "layerstore.cli.main", "layerstore.cli.parsing.light_parser",
    "layerstore.cli.parsing.limit_values",
    "layerstore.containers.attach", "layerstore.containers.image_config",
    "layerstore.containers.lifecycle", "layerstore.containers.starting",
    "layerstore.store.blobs", "layerstore.store.catalog.catalog", "layerstore.store.names.names",
    "layerstore.store.paths", "layerstore.store.names.usage", "encodings.ascii", "encodings.utf_8",
)  # fmt: skip
"""What running a container imports."""


def warm_options(parser: argparse.ArgumentParser) -> None:
    """Declare what ``warm`` takes."""
    parser.add_argument(
        "--idle", default="10m", metavar="TIME", help="end after so long unasked (default: 10m)"
    )
    parser.add_argument("--stop", action="store_true", help="end the one that waits")
    parser.add_argument("--foreground", action="store_true", help="stay, for systemd and the like")
    parser.add_argument(
        "--no-prepare",
        action="store_true",
        help="leave new images packed until their first start; else, as root, what build, pull, "
        "load, import, commit and bootstrap make is unpacked in the background",
    )


def warm(options: argparse.Namespace, _root: str) -> int:
    """Leave a helper waiting, or end it."""
    path = warm_client.socket_path()
    if not path:
        raise UnsupportedError(
            "there is no directory in memory for the helper's socket",
            hint="set XDG_RUNTIME_DIR, or LAYERSTORE_WARM to a path; run works without as well",
        )
    if options.stop:
        return _stop(path)
    from layerstore.units import parse_age

    idle_s = parse_age(options.idle)
    identity = identity_of("self")
    place = _hold_directory(path)
    listener = _bind(path)
    bound = os.lstat(path)
    base = os.path.dirname(path)
    post = shell_post.place_of(path)
    if post and not shell_post.prepare(post, base):
        post = ""
    ready, ours = os.pipe2(os.O_CLOEXEC)
    if not options.foreground and os.fork():
        os.close(ours)
        return 0 if os.read(ready, 1) else _LOADING_FAILED
    os.close(ready)
    if not options.foreground:
        _let_go(place, listener.fileno(), ours)
    _load()
    listener.listen(_BACKLOG)
    if not options.foreground:  # else nobody has the other end
        os.write(ours, b"R")
    os.close(ours)
    fcntl.flock(place, fcntl.LOCK_UN)  # who started us has it, too
    preparing = None if options.no_prepare else _preparing()
    _Helper(listener, post, identity, idle_s, preparing).run()
    listener.close()  # nobody waits for us while we wait
    if preparing is not None:
        preparing.end()
    fcntl.flock(place, fcntl.LOCK_EX)
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.lstat(path), bound):
            os.unlink(path)
            if post:
                shell_post.remove(post, base)
    fcntl.flock(place, fcntl.LOCK_UN)  # our forks that still run something have it, too
    os._exit(0)


def _preparing() -> Preparing | None:
    """Return what prepares images, for who may show them."""
    from fuse_mount.kernel_lowers import require_privileges

    try:
        require_privileges()
    except UnsupportedError:
        return None
    return Preparing()


def _stop(path: str) -> int:
    """End the helper, and return when it has ended; one that does not answer is killed."""
    with contextlib.closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)) as connection:
        connection.settimeout(_PATIENCE_S)
        try:
            connection.connect(path)
            pid, uid, _ = _credentials(connection)
            if uid != os.geteuid():
                raise PermissionError(errno.EPERM, "somebody else's")
            helper = os.pidfd_open(pid)
        except OSError as err:
            raise NotFoundError("no helper waits", hint="layerstore warm") from err
        try:
            with contextlib.suppress(OSError):  # it has just ended
                connection.send(_STOP)
            if not _has_ended(helper):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(helper, signal.SIGKILL)
                _has_ended(helper)
        finally:
            os.close(helper)
    return 0


def _credentials(connection: _socket.socket) -> tuple[int, int, int]:
    """Return pid, user and group of a socket's other end, as the kernel says."""
    size = struct.calcsize("3i")
    found = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, size)
    pid, uid, gid = struct.unpack("3i", found)
    return pid, uid, gid


def _has_ended(pidfd: int) -> bool:
    """Wait for a process to end, and tell whether it did in time."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(_PATIENCE_S * 1000))


def _hold_directory(path: str) -> int:
    """Lock the directory of a socket, from the look for a helper until ours can be found there."""
    directory = os.path.dirname(path)
    make_private_dir(directory, durable=False)
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(place, fcntl.LOCK_EX)
    return place


def _bind(path: str) -> _socket.socket:
    with contextlib.closing(_socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)) as probe:
        try:
            probe.connect(path)
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(os.lstat(path).st_mode):
                    raise ConflictError(
                        f"{path} is there already, and no socket",
                        hint="LAYERSTORE_WARM names the helper's socket",
                    ) from None
                os.unlink(path)
        else:
            raise ConflictError("a helper waits already", hint="layerstore warm --stop")
    return bind_private(path)


def _let_go(*kept: int) -> None:
    """Leave the session of who started us, and close what it had open: locks and pipes, say."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    close_others(*kept)


def _load() -> None:
    """Load what a start needs."""
    import importlib

    os.chdir("/")
    for name in _MODULES:
        importlib.import_module(name)
    from layerstore.cli.fast import parse

    parse("run", ["--rm", "image", "true"])
    sha256_digest(b"")  # which looks for a module, in every directory of the path
    gc.collect()
    gc.freeze()


class _Helper:
    """The loop of who waits."""

    def __init__(
        self,
        listener: _socket.socket,
        post: str,
        identity: dict[str, object],
        idle_s: float,
        preparing: Preparing | None,
    ) -> None:
        self._listener = listener
        self._post = post
        self._identity = identity
        self._idle_s = idle_s
        self._preparing = preparing
        self._stamps = [
            (path, _stamp(path))
            for module in list(sys.modules.values())
            if (path := getattr(module, "__file__", None) or "").endswith(".py")
        ]
        self._executable = sys.executable
        self._flags = list(sys.flags)
        self._parser = _parser()

    def run(self) -> None:
        """Serve until nobody has asked for the idle time, or we are of yesterday.

        One fork is always there already and listens: what a fork costs is paid before.
        """
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects our forks
        waiting = select.poll()
        waiting.register(self._listener.fileno(), select.POLLIN)
        own = os.getpid()
        while True:
            taken, spare = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
            if os.fork() == 0:
                taken.close()
                die_with_parent(signal.SIGKILL)
                if os.getppid() == own:  # or it ended before that was said
                    self._listen(spare)
                os._exit(0)
            spare.close()
            is_over = not self._was_taken(taken)
            taken.close()
            if is_over:
                return
            waiting.poll(_STAND_BACK_MS)

    def _was_taken(self, taken: _socket.socket) -> bool:
        """Wait until the fork that waits runs something, or all is over; prepare images."""
        while True:
            poll = select.poll()
            poll.register(taken.fileno(), select.POLLIN)
            if self._preparing is not None and self._preparing.descriptor >= 0:
                poll.register(self._preparing.descriptor, select.POLLIN)
            if any(fd != taken.fileno() for fd, _ in poll.poll()):
                assert self._preparing is not None
                self._preparing.go_on()
                continue
            message = taken.recv(warm_client.MESSAGE_MAX_BYTES)
            if message in (_TAKEN, b""):
                return bool(message)
            if self._preparing is not None:
                self._preparing.add(*marshal.loads(message))  # noqa: S302 -- of our fork

    def _listen(self, spare: _socket.socket) -> None:
        """Be the fork that waits, until it runs a command line or all is over."""
        poll = select.poll()
        poll.register(self._listener.fileno(), select.POLLIN)
        post = self._announce(poll)
        own_pages()  # who asks already waits for it less than for another way
        goes_on = True
        while goes_on:
            post = post or self._announce(poll)
            events = poll.poll(min(self._idle_s * 1000, _POLL_MAX_MS))
            if not events:
                break
            by_fifo = post is not None and any(fd == post.ask for fd, _ in events)
            asker: _Connected | Asker | None = None
            try:
                if post is not None and by_fifo:
                    asker = post.taken()
                else:
                    fd, _ = self._listener._accept()  # type: ignore[attr-defined]
                    asker = _Connected(_socket.socket(fileno=fd))
                goes_on = asker is None or self._serve(asker, spare, post)
            except (OSError, ValueError, EOFError, TypeError, LookupError, AttributeError):
                pass  # its asker goes the usual way
            finally:
                if asker is not None:
                    asker.close()
            if post is not None and by_fifo:
                poll.unregister(post.ask)
                post.close()
                post = None
        if post is not None:
            post.close()

    def _announce(self, poll: select.poll) -> Post | None:
        """Let shells find us, where they can."""
        if not self._post:
            return None
        post = Post(self._post)
        poll.register(post.ask, select.POLLIN)
        return post

    def _serve(  # noqa: RET503 -- _run is the end
        self, asker: _Connected | Asker, spare: _socket.socket, post: Post | None
    ) -> bool:
        """Serve one asker, or decline; return whether to go on listening."""
        if asker.uid != os.geteuid():
            return True
        if asker.asks_to_stop():
            return False
        if identity_of(str(asker.pid)) != self._identity:
            asker.answer(b"N")
            return True
        told = asker.told()
        if any(_stamp(path) != stamp for path, stamp in self._stamps):
            asker.answer(b"N")
            return False
        if "fresh" in told:
            if self._preparing is not None:
                spare.send(marshal.dumps(told["fresh"]))
            asker.answer(b"N" if self._preparing is None else b"Y")
            return True
        plain = _plain(self._parser, told["arguments"]) if self._is_like(told) else None
        if plain is None:
            asker.answer(b"N")
            return True
        descriptors = asker.begin()
        self._listener.close()
        if post is not None:
            post.withdraw()
        die_with_parent(0)
        spare.send(_TAKEN)
        spare.close()
        _run(asker, told, plain, descriptors)

    def _is_like(self, told: dict[str, Any]) -> bool:
        """Tell whether the asker's interpreter is what ours is."""
        if told["executable"] != self._executable or told["flags"] != self._flags:
            return False
        if told["names"] != warm_client.encoding_of_names():
            return False
        return _of_python(told["environ"]) == _of_python(os.environb)


def _stamp(path: str) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino


def _of_python(environ: Any) -> dict[bytes, bytes]:  # noqa: ANN401 -- the world's, or told by somebody
    return {name: value for name, value in environ.items() if name.startswith(b"PYTHON")}


def _parser() -> LightParser:
    """Return what takes the options of ``run`` apart."""
    from layerstore.cli import fast
    from layerstore.cli.parsing.light_parser import LightParser

    light = LightParser()
    fast.declare("run", light)
    return light


def _plain(
    parser: LightParser, arguments: list[str]
) -> tuple[argparse.Namespace, str | None] | None:
    """Return options and store of a command line that we run: ``run`` without a terminal."""
    from layerstore.cli.settings import take_store_option

    try:
        store, words = take_store_option(arguments)
    except LayerstoreError:
        return None  # the asker says so itself
    options = parser.parse(words[1:]) if words[:1] == ["run"] else None
    return None if options is None or options.tty else (options, store)


def _run(
    asker: _Connected | Asker,
    told: dict[str, Any],
    plain: tuple[argparse.Namespace, str | None],
    descriptors: list[int],
) -> NoReturn:
    """Be the fork that runs a command line as its asker would."""
    code = warm_client.CLIENTS_FAULT
    try:
        for number, fd in enumerate(descriptors[:3]):
            os.dup2(fd, number)
        os.fchdir(descriptors[3])
        for fd in descriptors:
            os.close(fd)
        _end_with(asker.tie)
        os.umask(told["umask"])
        os.environb.clear()
        os.environb.update(told["environ"])
        sys.argv[1:] = told["arguments"]
        _open_streams(told["encodings"])
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        afterwards.postpone()
        code = _dispatch(*plain)
        _part_from(asker.tie)
        asker.answer(b"X%d" % code)
        with contextlib.suppress(LayerstoreError, OSError):  # gc finds what is left
            afterwards.catch_up()
    finally:
        os._exit(code)


def _open_streams(encodings: list[tuple[str, str]]) -> None:
    """Make the streams anew: what was made over the helper's still knows whether those can seek."""
    for number, (name, (encoding, errors)) in enumerate(
        zip(("stdin", "stdout", "stderr"), encodings, strict=True)
    ):
        mode = "w" if number else "r"
        stream = open(number, mode, encoding=encoding, errors=errors, closefd=False)  # noqa: SIM115 -- stays
        setattr(sys, name, stream)


class _Connected:
    """An asker by socket: :mod:`layerstore.cli.warm_client`.

    Attributes:
        pid: Its process, as the kernel says.
        uid: Its user.
        tie: A descriptor that hangs up at its end.
    """

    def __init__(self, connection: _socket.socket) -> None:
        self._connection = connection
        self.tie = connection.fileno()
        self.pid, self.uid, _ = _credentials(connection)
        connection.settimeout(_PATIENCE_S)
        self._message = connection.recv(warm_client.MESSAGE_MAX_BYTES)

    def asks_to_stop(self) -> bool:
        """Tell whether it wants our end, and nothing else."""
        return self._message == _STOP

    def told(self) -> Any:  # noqa: ANN401 -- told by somebody
        """Return what it asks for."""
        return marshal.loads(self._message)  # noqa: S302 -- of somebody who may do what we may

    def begin(self) -> list[int]:
        """Return its three streams, and its directory; it knows that we begin."""
        self.answer(b"P%d" % os.getpid())
        room = _socket.CMSG_SPACE(4 * _DESCRIPTORS)
        word, ancillary, _, _ = self._connection.recvmsg(1, room, _socket.MSG_CMSG_CLOEXEC)
        descriptors = [
            int.from_bytes(words[at : at + 4], sys.byteorder)
            for level, kind, words in ancillary
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS
            for at in range(0, len(words), 4)
        ]
        if word != b"G" or len(descriptors) != _DESCRIPTORS:
            raise EOFError  # it does without us
        self._connection.setblocking(True)
        return descriptors

    def answer(self, message: bytes) -> None:
        """Send it a message."""
        self._connection.send(message)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def _end_with(tie: int) -> None:
    """Be killed when our asker is: its end hangs up."""
    fcntl.fcntl(tie, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(tie, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(tie, fcntl.F_SETFL, fcntl.fcntl(tie, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(tie, 0)
    if poll.poll(0):  # it hung up before we could be told
        raise EOFError


def _part_from(tie: int) -> None:
    """Go on when our asker ends, and hold nothing of it: others wait for the end of its streams."""
    fcntl.fcntl(tie, fcntl.F_SETFL, fcntl.fcntl(tie, fcntl.F_GETFL) & ~os.O_ASYNC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.chdir("/")


_F_SETSIG = 10
"""fcntl(2); Python has no name for it."""


def _dispatch(options: argparse.Namespace, store: str | None) -> int:
    from layerstore.cli import fast, main

    signal.signal(signal.SIGTERM, main.terminate)
    run: Callable[[], int] = lambda: fast.execute("run", options, store)  # noqa: E731 -- guarded calls it
    code = guarded(run)
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    return code
