"""The families of layerstore's errors, with their exit codes.

Leaves live beside the code that raises them and inherit from one of these
families; the command line turns any of them into one message, a hint and the
family's exit code. This module imports nothing: it is on the path of commands
that container runtimes call in loops.

Reference: docs/reference/errors.md.
"""

from __future__ import annotations


class LayerstoreError(Exception):
    """Something layerstore refuses or could not do; the root of all its errors.

    Args:
        message: What happened, the value, what was expected; lower case, no full stop.
        hint: Something the user can type or change to get further.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(LayerstoreError):
    """The user's words or files are wrong: options, references, specs."""

    exit_code = 2


class NotFoundError(LayerstoreError, LookupError):
    """What was named does not exist in the store."""

    exit_code = 3


class ConflictError(LayerstoreError):
    """What was asked collides with what exists or with somebody at work."""

    exit_code = 4


class IntegrityError(LayerstoreError):
    """Bytes are not what their digest, size or format says."""

    exit_code = 10


class FormatError(IntegrityError):
    """Bytes do not follow the format they claim to have."""


class UnsupportedVersionError(FormatError):
    """The format is newer than this version of layerstore."""


class UnsafeContentError(LayerstoreError):
    """Content that would harm the host or hide an attack; never downgraded to a warning."""

    exit_code = 11


class LimitExceededError(UnsafeContentError):
    """Untrusted input is larger than a stated limit; the message names the limit."""


class StorageError(LayerstoreError):
    """The disk below the store failed: full, read-only, or an I/O error."""

    exit_code = 12


class RegistryError(LayerstoreError):
    """A registry refused or failed."""

    exit_code = 13


class BuildError(LayerstoreError):
    """A build step failed."""

    exit_code = 14


class MountError(LayerstoreError):
    """A view could not be mounted or unmounted."""

    exit_code = 15


class UnsupportedError(MountError):
    """The host lacks something; the message names what, the hint how to get it."""


class ContainerError(LayerstoreError):
    """A container cannot do what it is asked."""

    exit_code = 16


class GateError(LayerstoreError):
    """An image does not keep a limit that was set for it: not a failure, but a verdict."""

    exit_code = 17
