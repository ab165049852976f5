"""Errors of fetching."""

from __future__ import annotations

from layerstore.errors import BuildError


class FetchError(BuildError):
    """Something could not be fetched; the message names it without its password."""
