"""Errors of registries."""

from __future__ import annotations

from layerstore.errors import InputError, NotFoundError, RegistryError
from layerstore.net.errors import SLOW_TRIES

TRIES = 6


class RegistryConfigError(InputError):
    """A file that says how registries are reached, or who we are there, is wrong."""


class RegistryAnswerError(RegistryError):
    """A registry could not be asked, or what it says cannot be used.

    Attributes:
        transient: Another try may succeed.
        retry_after_s: What the registry asks to wait before that; None if it says nothing.
        tries: How many there are of what fails so.
    """

    tries = TRIES

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        transient: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.transient = transient
        self.retry_after_s = retry_after_s


class SlowRegistryError(RegistryAnswerError):
    """The registry says nothing, or too little for the time that it takes."""

    tries = SLOW_TRIES


class UnauthorizedError(RegistryAnswerError):
    """The registry wants other credentials, or any."""


class RateLimitedError(RegistryAnswerError):
    """The registry wants to be asked less often."""


class UnknownToRegistryError(RegistryAnswerError, NotFoundError):
    """The registry has no such repository, manifest or blob."""


class UnsafeRealmError(RegistryError):
    """A registry sends us for a token to where nothing of ours may go."""
