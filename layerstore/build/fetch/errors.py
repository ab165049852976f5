"""Errors of fetching."""

from __future__ import annotations

from layerstore.errors import BuildError


class FetchError(BuildError):
    """Something could not be fetched; the message names it without its password.

    Attributes:
        transient: Another try may succeed.
    """

    def __init__(self, message: str, *, hint: str | None = None, transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient
