"""The time that commands give to what they make. On the fast path: imports next to nothing."""

from __future__ import annotations

import os

from layerstore.errors import InputError

MAX_EPOCH_DIGITS = 11
"""Seconds of the year 5138: everything later is a mistake, and 12 digits no longer a date."""


def source_date_epoch() -> int | None:
    """Return ``$SOURCE_DATE_EPOCH``, the time that reproducible builds give to everything.

    Raises:
        InputError: It is set and not a number of seconds.

    Source: reproducible-builds.org, SOURCE_DATE_EPOCH specification 1.1.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_EPOCH_DIGITS):
        raise InputError(f"SOURCE_DATE_EPOCH is {text!r}, expected seconds since 1970")
    return int(text)


def now_rfc3339() -> str:
    """Return the time for new images: now, or ``$SOURCE_DATE_EPOCH`` where a build sets it.

    Raises:
        InputError: The variable is not a number of seconds.
    """
    import time

    from layerstore.units import rfc3339

    epoch = source_date_epoch()
    return rfc3339(time.time() if epoch is None else float(epoch))
