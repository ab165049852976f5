"""Errors of what lies between this host and a server."""

from __future__ import annotations

from layerstore.errors import LayerstoreError


class NetworkError(LayerstoreError):
    """A server could not be reached, or what it said cannot be used.

    Who asks for something turns it into an error of its own family: a build's, a registry's.
    Messages name URLs without what stands before their ``@``.

    Attributes:
        transient: Another try may succeed.
    """

    def __init__(self, message: str, *, hint: str | None = None, transient: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient


class SlowServerError(NetworkError):
    """A server says nothing, or too little for the time it takes; another try may find it awake.

    Each such try takes as long as we are patient, so there are few (:data:`SLOW_TRIES`).
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, transient=True)


SLOW_TRIES = 2
"""Of what a server is too slow for: one more, since a line may have died unnoticed."""


class InsecureRedirectError(NetworkError):
    """A redirect from HTTPS to HTTP, where anybody could change what comes."""


class CanceledError(LayerstoreError):
    """A transfer was given up because what wanted it has ended."""

    def __init__(self) -> None:
        super().__init__("the transfer was given up because another one failed")
