"""Users of the host."""

from __future__ import annotations

import pwd


def user_name(uid: int) -> str:
    """Return what the host calls a user, the number where it has no name for it."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
