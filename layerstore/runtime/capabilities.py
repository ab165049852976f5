"""Which capabilities a container has: docker's default, and what is added and dropped."""

from __future__ import annotations

from layerstore.errors import InputError
from layerstore.light_typing import TYPE_CHECKING
from layerstore.runtime.oci_spec import ALL_CAPABILITIES, DEFAULT_CAPABILITIES

if TYPE_CHECKING:
    from collections.abc import Sequence

_EVERY = "ALL"


def capabilities_of(added: Sequence[str], dropped: Sequence[str], held: int) -> list[str]:
    """Return the capabilities of a container, sorted, with the prefix ``CAP_``.

    As docker has it: what is added wins over what is dropped, but for ``ALL`` on either side,
    from which single ones are taken.

    Args:
        added: Names as :func:`capability_name` returns them.
        dropped: The same.
        held: Those that we have, as a mask; nobody can give others.
    """
    every = {f"CAP_{name}" for name in ALL_CAPABILITIES}
    chosen = set(DEFAULT_CAPABILITIES)
    if _EVERY in added:
        chosen = every - set(dropped)
    elif _EVERY in dropped:
        chosen = set()
    else:
        chosen -= set(dropped)
    if _EVERY not in added:
        chosen |= set(added)
    there = {f"CAP_{name}" for bit, name in enumerate(ALL_CAPABILITIES) if held >> bit & 1}
    return sorted(chosen & there)


def capability_name(word: str) -> str:
    """Return the full name of a capability written in any of docker's ways: ``net_admin``.

    Raises:
        InputError: There is no such capability.
    """
    name = word.upper().removeprefix("CAP_")
    if name == _EVERY:
        return name
    if name not in ALL_CAPABILITIES:
        raise InputError(
            f"there is no capability {word!r}", hint="see capabilities(7); ALL stands for all"
        )
    return f"CAP_{name}"
