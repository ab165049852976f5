"""Which run of the kernel this is. On the fast path."""

from __future__ import annotations


def boot_id() -> str:
    """Return what names this run of the host's kernel, "" if it does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
