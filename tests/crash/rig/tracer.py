"""Runs one piece of work as a child under ptrace(2) and interferes at the n-th system call.

One counter runs over a whole set of calls (strace counts each name on its own, so "the
n-th of a set" cannot be said to it) and only calls that touch given directories count.
Every thread of the child is followed, processes that it starts are not. What can be
done at the chosen call: end the process before the kernel carries the call out, end it
after the kernel wrote half of the bytes, let the call fail with an errno, let it transfer
fewer bytes than asked (really: the rest is not written), or freeze all threads while
something else runs.

Numbers and registers are those of x86-64; elsewhere :func:`unsupported` says so.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TRACEME, _CONT, _GETREGS, _SETREGS, _SYSCALL = 0, 7, 12, 13, 24
_SETOPTIONS, _GETEVENTMSG = 0x4200, 0x4201
_O_TRACESYSGOOD, _O_TRACECLONE, _O_EXITKILL = 1, 8, 0x100000
_EVENT_CLONE, _EVENT_STOP = 3, 128
_WALL = 0x40000000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_REGISTERS = struct.Struct("27Q")
_RAX, _RDX, _RSI, _RDI, _ORIG_RAX, _R10 = 10, 12, 13, 14, 15, 7
_AT_FDCWD = -100
_SKIP = (1 << 64) - 1
_DENIED_MAX = 20_000

# name -> (number, what its arguments say about files)
# f: descriptor; p: path; d: directory descriptor and path; m: a mount, counts always
_CALLS = {
    "read": (0, "f"),
    "write": (1, "f"),
    "open": (2, "p"),
    "close": (3, "f"),
    "mmap": (9, "mmap"),
    "pread64": (17, "f"),
    "pwrite64": (18, "f"),
    "writev": (20, "f"),
    "flock": (73, "f"),
    "fsync": (74, "f"),
    "fdatasync": (75, "f"),
    "truncate": (76, "p"),
    "ftruncate": (77, "f"),
    "rename": (82, "p"),
    "mkdir": (83, "p"),
    "rmdir": (84, "p"),
    "link": (86, "p"),
    "unlink": (87, "p"),
    "symlink": (88, "p2"),
    "chmod": (90, "p"),
    "fchmod": (91, "f"),
    "chown": (92, "p"),
    "fchown": (93, "f"),
    "lchown": (94, "p"),
    "mount": (165, "m"),
    "umount2": (166, "m"),
    "getdents64": (217, "f"),
    "openat": (257, "d"),
    "mkdirat": (258, "d"),
    "fchownat": (260, "d"),
    "unlinkat": (263, "d"),
    "renameat": (264, "d"),
    "linkat": (265, "d"),
    "symlinkat": (266, "p3"),
    "fchmodat": (268, "d"),
    "fallocate": (285, "f"),
    "renameat2": (316, "d"),
    "move_mount": (429, "m"),
    "fsmount": (432, "m"),
    "openat2": (437, "d"),
}
_BY_NUMBER = {number: (name, shape) for name, (number, shape) in _CALLS.items()}
_MOUNT_TARGETS = {"mount": _RSI, "umount2": _RDI, "move_mount": _R10}
_OPENS = {"open": 1, "openat": 2}
_WRITING_FLAGS = os.O_CREAT | os.O_TRUNC

MUTATING = frozenset(_CALLS) - {
    "read", "pread64", "close", "mmap", "getdents64", "openat2",
}  # fmt: skip
"""Calls that change what is on disk or who holds a lock; opens count when they create."""

TRANSFERS = frozenset({"read", "write", "pread64", "pwrite64"})
EVERYTHING = frozenset(_CALLS)


class Plan(NamedTuple):
    """What to do to a piece of work.

    Attributes:
        action: ``count``, ``kill``, ``torn`` (half a write, then kill), ``errno``,
            ``short`` (transfer ``value`` bytes; negative counts from the full size; 0
            returns 0), ``hold`` (at the first call from ``at`` on where ``while_held`` agrees),
            or ``probe``, which marks with ``*`` the calls where it would agree.
        at: Which call, from 1; 0 never.
        calls: Names of the calls that count.
        sticky: With ``errno`` and ``short``: later calls of the same name meet the same.
    """

    action: str = "count"
    at: int = 0
    calls: frozenset[str] = MUTATING
    value: int = 0
    sticky: bool = False


class Trace(NamedTuple):
    """What happened.

    Attributes:
        code: Exit code, or the negative signal.
        fired: Whether the action was carried out.
        seen: Names of the calls that counted, in order.
        where: The file of the call that the action was carried out on.
        log: Of a counting run: name, file, and new name of what is renamed or linked;
            the name is ``create`` for what makes a file or directory that was not there.
    """

    code: int
    fired: bool
    seen: list[str]
    where: str
    log: list[tuple[str, str, str]]


def unsupported() -> str | None:
    """Return why this host cannot trace, or None."""
    if platform.machine() != "x86_64":
        return f"the tracer knows x86_64, not {platform.machine()}"
    return None


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request: int, pid: int, address: int = 0, data: object = None) -> None:
    if _libc.ptrace(request, pid, address, data) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"ptrace {request}: {os.strerror(code)}")


def run(
    work: Callable[[], int],
    plan: Plan,
    scope: Sequence[str],
    *,
    while_held: Callable[[str], bool] | None = None,
) -> Trace:
    """Run ``work`` in a traced child; calls outside the directories of ``scope`` do not count."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            _ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            code = work()
        finally:
            os._exit(code)
    os.waitpid(child, _WALL)
    _ptrace(_SETOPTIONS, child, 0, _O_TRACESYSGOOD | _O_TRACECLONE | _O_EXITKILL)
    tracer = _Tracer(child, plan, [os.path.realpath(place) for place in scope], while_held)
    return tracer.loop()


class _Tracer:
    def __init__(
        self,
        child: int,
        plan: Plan,
        scope: Sequence[str],
        while_held: Callable[[str], bool] | None,
    ) -> None:
        self.child = child
        self.plan = plan
        self.scope = tuple(scope)
        self.while_held = while_held
        self.seen: list[str] = []
        self.fired = False
        self.where = ""
        self.denied = 0
        self.log: list[tuple[str, str, str]] = []
        self.sticky_name: str | None = None
        self.inside: set[int] = set()  # threads between entry and exit of a call
        self.known = {child}
        self.on_exit: dict[int, str | int] = {}

    def loop(self) -> Trace:
        code: int | None = None
        self._go(self.child)
        while code is None:
            tid, status = os.waitpid(-1, _WALL)
            if os.WIFEXITED(status) or os.WIFSIGNALED(status):
                if tid == self.child:
                    code = os.waitstatus_to_exitcode(status)
                continue
            self._stopped(tid, os.WSTOPSIG(status), status >> 16)
        return Trace(code, self.fired, self.seen, self.where, self.log)

    def _stopped(self, tid: int, number: int, event: int) -> None:
        deliver = 0
        try:
            if number == _SYSCALL_STOP:
                self._syscall_stop(tid)
            elif number == signal.SIGTRAP and event:
                pass
            elif tid not in self.known:
                self.known.add(tid)  # a new thread's first stop
            else:
                deliver = number
            self._go(tid, deliver)
        except ProcessLookupError:
            pass  # killed meanwhile; its end is reported by waitpid

    def _go(self, tid: int, deliver: int = 0) -> None:
        try:
            _ptrace(_SYSCALL, tid, 0, deliver)
        except OSError as err:
            if err.errno != 3:
                raise

    def _syscall_stop(self, tid: int) -> None:
        if tid in self.inside:
            self.inside.discard(tid)
            todo = self.on_exit.pop(tid, None)
            if todo == "kill":
                self._kill()
            elif isinstance(todo, int):
                registers = self._registers(tid)
                registers[_RAX] = todo & _SKIP
                self._set_registers(tid, registers)
            return
        self.inside.add(tid)
        registers = self._registers(tid)
        found = _BY_NUMBER.get(registers[_ORIG_RAX])
        if found is None or found[0] not in self.plan.calls:
            return
        name, shape = found
        place = self._counted(tid, name, shape, registers)
        if place is None:
            return
        if self.sticky_name == name:
            self.denied += 1
            if self.denied > _DENIED_MAX:
                raise AssertionError(f"{name} is tried for ever on {place}")
            if self.plan.action == "short":
                self._shorten(tid, registers)
            else:
                self._answer(tid, registers, -self.plan.value)
            return
        self.seen.append(name)
        if self.plan.action == "count":
            new_name = _string(tid, registers[_RSI]) if name in {"rename", "link"} else ""
            makes = name == "mkdir" or (
                name in _OPENS and registers[(_RSI, _RDX)[name == "openat"]] & os.O_CREAT
            )
            told = "create" if makes and not os.path.lexists(place) else name
            self.log.append((told, place, new_name))
        if self.plan.action == "probe":
            assert self.while_held is not None
            self.seen[-1] += "*" if self.while_held(place) else ""
            return
        due = len(self.seen) == self.plan.at
        if self.plan.action == "hold":
            due = len(self.seen) >= self.plan.at > 0 and not self.fired
        if due:
            self.where = place
            self._fire(tid, name, registers)

    def _fire(self, tid: int, name: str, registers: list[int]) -> None:
        plan = self.plan
        match plan.action:
            case "kill":
                self._kill()
            case "torn":
                if name in TRANSFERS and registers[_RDX] > 1:
                    registers[_RDX] //= 2
                    self._set_registers(tid, registers)
                    self.on_exit[tid] = "kill"
                else:
                    self._kill()
            case "errno":
                self._answer(tid, registers, -plan.value)
                if plan.sticky:
                    self.sticky_name = name
            case "short":
                if name not in TRANSFERS:
                    return
                self._shorten(tid, registers)
                if plan.sticky:
                    self.sticky_name = name
            case "hold":
                # Threads are stopped at their next call as nobody lets them go on meanwhile.
                assert self.while_held is not None
                if not self.while_held(self.where):
                    return
            case other:
                raise ValueError(other)
        self.fired = True

    def _answer(self, tid: int, registers: list[int], value: int) -> None:
        """Skip the call; the child sees ``value`` as its result.

        A close is carried out all the same: Linux lets go of the descriptor and its locks
        whatever it answers.
        """
        if registers[_ORIG_RAX] != _CALLS["close"][0]:
            registers[_ORIG_RAX] = _SKIP
            self._set_registers(tid, registers)
        self.on_exit[tid] = value

    def _shorten(self, tid: int, registers: list[int]) -> None:
        """Let a transfer be of fewer bytes than asked."""
        value, wanted = self.plan.value, registers[_RDX]
        if value == 0:
            self._answer(tid, registers, 0)
            return
        registers[_RDX] = min(value, wanted) if value > 0 else max(1, wanted + value)
        self._set_registers(tid, registers)

    def _kill(self) -> None:
        self.fired = True
        os.kill(self.child, signal.SIGKILL)

    @staticmethod
    def _registers(tid: int) -> list[int]:
        buffer = ctypes.create_string_buffer(_REGISTERS.size)
        _ptrace(_GETREGS, tid, 0, ctypes.addressof(buffer))
        return list(_REGISTERS.unpack(buffer.raw))

    @staticmethod
    def _set_registers(tid: int, registers: Sequence[int]) -> None:
        buffer = ctypes.create_string_buffer(_REGISTERS.pack(*registers), _REGISTERS.size)
        _ptrace(_SETREGS, tid, 0, ctypes.addressof(buffer))

    def _counted(self, tid: int, name: str, shape: str, registers: list[int]) -> str | None:
        """Return the file that a call is about, or None for one that does not count."""
        if shape == "m":
            target = _MOUNT_TARGETS.get(name)
            return _string(tid, registers[target]) if target is not None else ""
        arguments = [registers[_RDI], registers[_RSI], registers[_RDX], registers[_R10]]
        reads_only = name in _OPENS and not arguments[_OPENS[name]] & _WRITING_FLAGS
        if reads_only and self.plan.calls == MUTATING:
            return None
        place = self._place(tid, shape, registers, arguments)
        within = place is not None and any(
            place == top or place.startswith(top + "/") for top in self.scope
        )
        return place if within else None

    def _place(
        self, tid: int, shape: str, registers: list[int], arguments: list[int]
    ) -> str | None:
        match shape:
            case "f":
                return _descriptor(tid, arguments[0])
            case "mmap":
                fd = ctypes.c_int(registers[9]).value  # r8
                return _descriptor(tid, fd) if fd >= 0 else None
            case "p":
                path = _string(tid, arguments[0])
                base = _AT_FDCWD
            case "p2":
                path, base = _string(tid, arguments[1]), _AT_FDCWD
            case "p3":
                path, base = _string(tid, arguments[2]), ctypes.c_int(arguments[1]).value
            case _:
                path, base = _string(tid, arguments[1]), ctypes.c_int(arguments[0]).value
        if path.startswith("/"):
            return path
        top = _link(f"/proc/{tid}/cwd") if base == _AT_FDCWD else _descriptor(tid, base)
        return None if top is None else os.path.normpath(f"{top}/{path}")


def _descriptor(tid: int, fd: int) -> str | None:
    return _link(f"/proc/{tid}/fd/{fd}")


def _link(path: str) -> str | None:
    try:
        return os.readlink(path).removesuffix(" (deleted)")
    except OSError:
        return None


def _string(tid: int, address: int) -> str:
    """Read a path of the child; at a time up to the end of a page."""
    out = b""
    try:
        with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:
            while len(out) < 4096:
                memory.seek(address + len(out))
                part = memory.read(256 - (address + len(out)) % 256)
                head, end, _ = part.partition(b"\0")
                out += head
                if end or not part:
                    break
    except OSError:
        return ""
    return os.fsdecode(out)
