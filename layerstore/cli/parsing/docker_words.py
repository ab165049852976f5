"""Words of docker and podman: what means the same here, and what does the like of the rest.

``image ls`` is ``images``, ``system df`` is ``df``. A command that there is not is refused with
what to type instead, so that nobody has to guess whether it is missing or called otherwise.
"""

from __future__ import annotations

from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "image": {
        "ls": ("images",),
        "list": ("images",),
        "rm": ("rmi",),
        "remove": ("rmi",),
        "inspect": ("inspect", "--type", "image"),
        **{
            name: (name,)
            for name in ("build", "history", "import", "load", "pull", "push", "save", "tag")
        },
        "exists": ("exists",),
    },
    "system": {"df": ("df",)},
    "builder": {"build": ("build",)},
    "buildx": {"build": ("build",)},
}
"""Commands of docker whose first word is a noun, and what is typed here."""

_CACHE = "layerstore gc --all gives up the build cache, --keep-cache-within 7d its older part"
INSTEAD = {
    "builder prune": _CACHE,
    "buildx bake": "layerstore build takes one Dockerfile or layerstore.toml at a time",
    "buildx imagetools": "layerstore manifest create|add|inspect",
    "buildx prune": _CACHE,
    "compose": "one layerstore run -d for each service, and layerstore generate systemd for units",
    "context": "--store DIR names a store, $LAYERSTORE_ROOT the usual one",
    "events": "layerstore ps -a, layerstore wait NAME",
    "image prune": "layerstore gc frees what nothing needs; --keep-last 3 removes old names",
    "info": "layerstore doctor says what works here, layerstore df what the store holds",
    "machine": "layerstore runs on this host: layerstore doctor",
    "network": "containers have the host's network, or none: run --network none",
    "pod": "containers share the host's network: one layerstore run -d for each",
    "prune": "layerstore container prune, layerstore volume prune, layerstore gc",
    "search": "layerstore pull NAME, layerstore find PATTERN looks into images of the store",
    "system info": "layerstore doctor says what works here, layerstore df what the store holds",
    "system prune": "layerstore container prune, layerstore volume prune, layerstore gc",
    "trust": "layerstore sign, layerstore verify",
}
"""What does the like of what is not here, by the words of docker or podman."""


def translated(line: Sequence[str]) -> list[str]:
    """Return a command line that begins with ``help`` or a noun as it is typed here.

    Raises:
        InputError: The noun has no such command.
    """
    first, *rest = line
    if first == "help":
        asked = [*rest[:2], "--help"]
        return translated(asked) if asked[0] in GROUPS else [*rest[:1], "--help"]
    if rest[:1] in (["-h"], ["--help"]):
        return ["--help"]
    commands = GROUPS[first]
    word = next((word for word in rest if not word.startswith("-")), "")
    if word in commands:
        at = rest.index(word)
        return [*commands[word], *rest[:at], *rest[at + 1 :]]
    both = f"{first} {word}"
    if word and both in INSTEAD:
        raise missing(both)
    what = f"{first} has no command {word!r}" if word else f"{first} is not a command alone"
    raise InputError(what, hint=f"layerstore {first} {'|'.join(commands)}")


def missing(words: str) -> InputError:
    """Return the error for words of :data:`INSTEAD`."""
    return InputError(f"there is no 'layerstore {words}'", hint=INSTEAD[words])
