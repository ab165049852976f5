"""What can be wrong with containers."""

from __future__ import annotations

from layerstore.errors import ContainerError

CANNOT_START = 125
"""What docker's ``run`` exits with for everything that is no fault of the command."""


class StartFailedError(ContainerError):
    """A container did not start.

    Attributes:
        status: What ``run`` exits with: 126 and 127 for a command that cannot be run and one
            that is not there, 125 for everything else.
    """

    def __init__(self, message: str, status: int, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
