"""Being idle, and coming back."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.views import needs_root

pytestmark = needs_root  # coming back takes CAP_SYS_NICE

_IN_A_SESSION_OF_ITS_OWN = """
import os
from layerstore.linux.priority import idle

def told():
    try:
        with open("/proc/self/autogroup") as file:
            share = file.read().split()[-1]
    except FileNotFoundError:  # a kernel without
        share = "19" if os.sched_getscheduler(0) == os.SCHED_IDLE else "0"
    return os.sched_getscheduler(0), share

before = told()
with idle():
    print(*told())
assert told() == before, told()
try:
    with idle():
        raise KeyError
except KeyError:
    assert told() == before, told()
"""


def test_idle_until_it_is_done_or_fails() -> None:
    command = [sys.executable, "-c", _IN_A_SESSION_OF_ITS_OWN]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [str(os.SCHED_IDLE), "19"]
