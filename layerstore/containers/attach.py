"""Being attached to a container: our streams are its streams, our signals its signals.

Output comes as it is, byte for byte; a terminal of ours is made raw while the container has one
of its own. Detach keys (control-P, control-Q) leave it running.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # signal makes enumerations of it, 2 ms
import contextlib
import os
import select

from layerstore.containers import monitor
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.linux.files import write_all

if TYPE_CHECKING:
    import _socket
    from collections.abc import Iterator

DETACH_KEYS = b"\x10\x11"
_SEND_BYTES = 32 << 10
_OWN_SIGNALS = {
    signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGWINCH, signal.SIGPIPE,
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGCONT, signal.SIGURG,
    signal.SIGSEGV, signal.SIGFPE, signal.SIGILL, signal.SIGBUS, signal.SIGABRT, signal.SIGTRAP,
    signal.SIGSYS, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF,
}  # fmt: skip
"""Signals that concern this process and are not the container's."""


class Outcome(NamedTuple):
    """How being attached ended.

    Attributes:
        status: Of the container; None when it runs on: somebody detached, or its monitor is gone.
        detached: Whether that was asked for.
    """

    status: int | None
    detached: bool = False


def attend(
    connection: _socket.socket, *, interactive: bool, tty: bool, proxy_signals: bool = True
) -> Outcome:
    """Join our streams to a container's until it ends or is left.

    Args:
        connection: To its monitor.
        interactive: Whether our standard input is its.
        tty: Whether it has a terminal, so that ours is made raw if it is one.
        proxy_signals: Whether signals to us are passed on.
    """
    with contextlib.ExitStack() as stack:
        wake = stack.enter_context(_signals(proxy=proxy_signals and not tty, window=tty))
        is_terminal = tty and os.isatty(0)
        if is_terminal and interactive:
            stack.enter_context(_raw_terminal())
        if tty and (os.isatty(0) or os.isatty(1)):
            _send_window(connection)
        return _Session(connection, wake, interactive=interactive, tty=tty).run()


def receive(connection: _socket.socket) -> bytes:
    """Return what a monitor says next, nothing once it has ended.

    One that ends with something of ours unread resets the connection: the kernel tells that
    first and once, and gives what was said before, the container's status too, when it is asked
    again.
    """
    try:
        return connection.recv(monitor.READ_BYTES + 1)
    except ConnectionResetError:
        pass
    try:
        return connection.recv(monitor.READ_BYTES + 1)
    except ConnectionResetError:
        return b""


class _Session:
    """One attached client's loop."""

    def __init__(
        self, connection: _socket.socket, wake: int, *, interactive: bool, tty: bool
    ) -> None:
        self._connection = connection
        self._wake = wake
        self._reads = interactive
        self._tty = tty
        self._keys_seen = 0
        self._outputs = {b"1": 1, b"2": 2}

    def run(self) -> Outcome:
        while True:
            poll = select.poll()
            poll.register(self._connection.fileno(), select.POLLIN)
            poll.register(self._wake, select.POLLIN)
            if self._reads:
                poll.register(0, select.POLLIN)
            for fd, _ in poll.poll():
                if fd == self._connection.fileno():
                    outcome = self._receive()
                elif fd == self._wake:
                    self._pass_signals()
                    continue
                else:
                    outcome = self._pass_input()
                if outcome is not None:
                    return outcome

    def _receive(self) -> Outcome | None:
        message = receive(self._connection)
        kind = message[:1]
        if kind in self._outputs:
            self._write(kind, message[1:])
        elif kind == b"X":
            return Outcome(int(message[1:]))
        elif not message:
            return Outcome(None)
        return None

    def _write(self, kind: bytes, data: bytes) -> None:
        fd = self._outputs[kind]
        if fd < 0:
            return
        try:
            write_all(fd, data)
        except BrokenPipeError:
            # Whoever read has gone; the container is not to fail for that, as with docker.
            self._outputs[kind] = -1
        except BlockingIOError:
            os.set_blocking(fd, True)
            write_all(fd, data)

    def _pass_input(self) -> Outcome | None:
        try:
            data = os.read(0, _SEND_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self._reads = False
            self._send(b"E")
            return None
        detached = False
        if self._tty:
            data, detached = self._without_keys(data)
        if data:
            self._send(b"I" + data)
        return Outcome(None, detached=True) if detached else None

    def _without_keys(self, data: bytes) -> tuple[bytes, bool]:
        """Return what of the input is the container's, and whether the detach keys were typed."""
        kept = bytearray()
        for byte in data:
            if byte == DETACH_KEYS[self._keys_seen]:
                self._keys_seen += 1
                if self._keys_seen == len(DETACH_KEYS):
                    return bytes(kept), True
                continue
            kept += DETACH_KEYS[: self._keys_seen]
            self._keys_seen = int(byte == DETACH_KEYS[0])
            if not self._keys_seen:
                kept.append(byte)
        return bytes(kept), False

    def _pass_signals(self) -> None:
        for number in os.read(self._wake, 256):
            if number == signal.SIGWINCH:
                _send_window(self._connection)
            else:
                self._send(b"K" + bytes([number]))

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(message)


def _send_window(connection: _socket.socket) -> None:
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(fd)
            message = size.lines.to_bytes(2, "little") + size.columns.to_bytes(2, "little")
            connection.send(b"W" + message)
            return


@contextlib.contextmanager
def _signals(*, proxy: bool, window: bool) -> Iterator[int]:
    """Yield a descriptor from which the numbers of signals come that are to be passed on."""
    wake, waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    wanted = {signal.SIGWINCH} if window else set()
    if proxy:
        wanted |= {number for number in signal.valid_signals() if _is_passed_on(number)}
    old = {}
    for number in wanted:
        with contextlib.suppress(OSError, ValueError):
            old[number] = signal.signal(number, lambda *_: None)
    old_waker = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    try:
        yield wake
    finally:
        signal.set_wakeup_fd(old_waker)
        for number, handler in old.items():
            signal.signal(number, handler)
        os.close(wake)
        os.close(waker)


def _is_passed_on(number: int) -> bool:
    return number not in _OWN_SIGNALS and number < signal.SIGRTMIN


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Let every key through while the container's own terminal makes something of it."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSANOW)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
