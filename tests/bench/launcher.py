"""The small process that a measured command begins in; a program, see :mod:`tests.bench.launching`.

    python -I -S launcher.py FD COUNT [GROUP...] COMMAND...

Imports next to nothing. Tells on descriptor FD how the command ended and what it took, or the
number of the error for which it could not be started.
"""

from __future__ import annotations

import os
import sys
import time


def launch(told: int, groups: list[str], command: list[str]) -> None:
    """Fork a command that joins control groups, wait for it, and tell its end."""
    os.set_inheritable(told, False)  # what the command leaves running would keep it open
    failed, failing = os.pipe()  # closed by exec
    begun = time.perf_counter()
    child = os.fork()
    if child == 0:
        try:
            for group in groups:
                with open(group, "w") as procs:
                    procs.write(str(os.getpid()))
            os.execvp(command[0], command)
        except OSError as err:
            os.write(failing, b"%d" % (err.errno or 0))
        finally:
            os._exit(127)
    os.close(failing)
    error = os.read(failed, 16)
    _, status, usage = os.wait4(child, 0)
    wall = time.perf_counter() - begun
    cpu = usage.ru_utime + usage.ru_stime
    ended = f"{os.waitstatus_to_exitcode(status)} {cpu} {wall} {usage.ru_maxrss * 1024}"
    os.write(told, error or ended.encode())


if __name__ == "__main__":
    _count = int(sys.argv[2])
    launch(int(sys.argv[1]), sys.argv[3 : 3 + _count], sys.argv[3 + _count :])
