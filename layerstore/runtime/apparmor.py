"""AppArmor on this host: whether it is on, and the profile that containers get by default.

docker loads its profile ``docker-default``, podman and CRI-O ``containers-default-VERSION``. We
load none: whichever of these is there is given to containers that name none.
"""

from __future__ import annotations

_ENABLED = "/sys/module/apparmor/parameters/enabled"
_PROFILES = "/sys/kernel/security/apparmor/profiles"
_MAX_BYTES = 1 << 20
UNCONFINED = "unconfined"


def default_profile(enabled: str = _ENABLED, profiles: str = _PROFILES) -> str | None:
    """Return the profile for containers that name none, "" if none is loaded.

    Args:
        enabled: The kernel's file that says whether AppArmor is on.
        profiles: Its list of what is loaded, for who may read it.

    Returns:
        None where AppArmor is off.
    """
    if _read(enabled)[:1] != "Y":
        return None
    lines = _read(profiles).splitlines()
    names = [name for name, _, mode in (line.rpartition(" (") for line in lines) if mode]
    if "docker-default" in names:
        return "docker-default"
    return max((name for name in names if name.startswith("containers-default")), default="")


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_BYTES)
    except OSError:
        return ""
