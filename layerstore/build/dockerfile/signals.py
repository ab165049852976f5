"""The signals STOPSIGNAL accepts, by name with or without ``SIG``, or by number.

Source: Linux signal(7) on x86-64 and arm64; real-time names count from 34 up and 64 down.
"""

from __future__ import annotations

# fmt: off
_NAMES = frozenset((
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP",
    "TSTP", "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
))
# fmt: on
_REAL_TIME = frozenset(
    ["RTMIN", "RTMAX"] + [f"RTMIN+{i}" for i in range(1, 16)] + [f"RTMAX-{i}" for i in range(1, 15)]
)
_LAST_SIGNAL = 64


def is_signal(text: str) -> bool:
    """Whether docker would take ``text`` for a signal."""
    if text.isascii() and text.isdigit():
        return len(text) <= 3 and 0 < int(text) <= _LAST_SIGNAL
    name = text.upper().removeprefix("SIG")
    return name in _NAMES or name in _REAL_TIME
