"""All cases of the corpus, by class."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.security.corpus.model import Case

_MODULES = {
    "A": ("tar_paths", "limits"),
    "B": ("tar_links", "limits"),
    "C": ("tar_headers", "limits"),
    "D": ("whiteouts",),
    "E": ("inodes", "limits"),
    "F": ("compression", "limits"),
    "G": ("manifests",),
    "I": ("spec_text",),
    "J": ("context",),
    "K": ("run_steps",),
    "L": ("tar_paths",),
    "M": ("store_attacks",),
}


def cases_of(name: str) -> list[Case]:
    """Return the cases of one class, in the list's order."""
    modules = [
        import_module(f"tests.security.corpus.{module}") for module in _MODULES.get(name, ())
    ]
    found = [case for module in modules for case in module.CASES if case.entry.startswith(name)]
    return sorted(found, key=lambda case: case.entry)
