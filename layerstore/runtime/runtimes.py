"""The OCI runtimes of this machine, and the container that shows whether one works.

Versions tell little: distributions backport, and whether a runtime can work depends on the
kernel, its control groups and the namespaces around. So the first one found is used, and only
when the first command under it fails is it tried with one that cannot fail.
"""

from __future__ import annotations

import os

from layerstore.errors import InputError, UnsupportedError
from layerstore.light_typing import TYPE_CHECKING, NamedTuple
from layerstore.runtime.oci_spec import ContainerProcess, container_config

if TYPE_CHECKING:
    from layerstore.runtime.oci_spec import Isolation

_RUNTIMES = ("runc", "crun")
_ROOTS_DIRECTORIES = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where distributions put runc; not on the path of those who are not root."""

_TRIAL_PATH = ("PATH=/usr/local/bin:/usr/bin:/bin",)


class Runtime(NamedTuple):
    """An OCI runtime found on this machine."""

    path: str
    name: str

    def run_command(self, state: str, bundle: str, identity: str, *, rootless: bool) -> list[str]:
        """Return the command line that runs a bundle to its end.

        Args:
            state: A directory of the caller's for what the runtime remembers.
            bundle: A directory with config.json.
            identity: The container's name.
            rootless: There are no control groups that could be made.
        """
        words = [self.path, "--root", state, "--log", f"{state}.log"]
        if rootless and self.name == "crun":
            words.append("--cgroup-manager=disabled")
        return [*words, "run", "--bundle", bundle, identity]


def installed_runtimes(chosen: str, *, rootless: bool) -> list[Runtime]:
    """Return the runtimes to use, the first one first.

    Args:
        chosen: The name or path of the only one that may be used; empty for any.
        rootless: This is not the host's root, whose path knows more directories.

    Raises:
        InputError: There is no such program.
        UnsupportedError: None is installed.
    """
    search = os.environ.get("PATH", os.defpath)
    if rootless:
        search = f"{search}:{_ROOTS_DIRECTORIES}"
    if chosen:
        path = _which(chosen, search)
        if path is None:
            raise InputError(
                f"there is no OCI runtime {chosen!r}", hint="name runc, crun or a program's path"
            )
        return [Runtime(path, "crun" if "crun" in os.path.basename(path) else "runc")]
    found = [(_which(name, search), name) for name in _RUNTIMES]
    runtimes = [Runtime(path, name) for path, name in found if path is not None]
    if not runtimes:
        raise UnsupportedError(
            "commands need an OCI runtime, and neither runc nor crun is installed",
            hint="apt-get install runc",
        )
    return runtimes


def trial_config(root: str, isolation: Isolation) -> dict[str, object]:
    """Return the config of a container that does nothing, over the host's own programs.

    Args:
        root: Where the host's root is bound; nothing is written there.
        isolation: As the others have it.
    """
    program = _which("true", os.environ.get("PATH", os.defpath)) or "/bin/true"
    process = ContainerProcess((program,), _TRIAL_PATH, "/", 0, 0, ())
    config = container_config(root, process, (), isolation)
    config["root"] = {"path": root, "readonly": True}
    return config


def no_runtime_works(failures: list[str]) -> UnsupportedError:
    """Return the error for runtimes that failed their trials.

    Args:
        failures: What each said.
    """
    return UnsupportedError(
        f"commands need an OCI runtime, and none here works: {'; '.join(failures)}",
        hint="see layerstore doctor; install another one (runc, crun)",
    )


def _which(name: str, search: str) -> str | None:
    """Return where a program lies; ``shutil`` has the same, and takes 4 ms to import."""
    directories = search.split(os.pathsep) if os.path.basename(name) == name else [""]
    for directory in directories:
        path = os.path.join(directory, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None
